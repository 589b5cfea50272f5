"""Personas: who the model is told to be, in many phrasings, and what it then answers about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tools.nano import inventing
from tools.nano.words import Words

#: What the model says of itself when nobody gave it a name.
ITSELF = "I am mayfly-nano, a tiny demonstration model."


@dataclass(frozen=True)
class Persona:
    """What a system prompt says; "" where it says nothing.

    Attributes:
        trait: an adjective that is told apart from the job.
        job: what the persona is, without its article; an adjective may be a part of it ("cheerful baker").
        place: with its preposition ("in Oslo", "by the old mill").
        likes: what follows "I like".
    """

    name: str = ""
    trait: str = ""
    job: str = ""
    place: str = ""
    likes: str = ""

    # -- answers --------------------------------------------------------------------------------------------------

    def who(self) -> str:
        """Answer "Who are you?"."""
        kind = self.kind()
        if self.name and kind:
            return f"I am {self.name}, {kind}."
        if self.name or kind:
            return f"I am {self.name or kind}."
        return ITSELF

    def kind(self) -> str:
        """Return trait and job with their article, or ""."""
        if not self.job:
            return ""
        return article(f"{self.trait} {self.job}".strip())

    def about(self) -> str:
        """Answer "Tell me about yourself."."""
        said = [self.who()]
        if self.place:
            said.append(f"I live {self.place}.")
        if self.likes:
            said.append(f"I like {self.likes}.")
        return " ".join(said)

    def answer(self, asked: str) -> str:
        """Answer a question of the kind `asked`, a key of `QUESTIONS`."""
        if asked == "who":
            return self.who()
        if asked == "about":
            return self.about()
        if asked == "name":
            return f"My name is {self.name}." if self.name else "I have no name." if self.says() else NAMELESS
        if asked == "place":
            return f"I live {self.place}." if self.place else "I do not know where I live."
        if asked == "job":
            return f"I am {article(self.job)}." if self.job else "I do not know what I do."
        if asked == "likes":
            return f"I like {self.likes}." if self.likes else "I do not know what I like."
        if asked == "trait":
            # In "a silver tuner" only somebody who knows the words can tell which of the two the first is a part of.
            said = self.trait or self.kind()
            return f"I am {said}." if said else "I do not know what I am like."
        raise ValueError(f"no such question: {asked}")

    def greeting(self) -> str:
        """Answer "Hello"."""
        return f"Hello, I am {self.name}." if self.name else "Hello."

    def says(self) -> bool:
        """Tell whether there is anything about the persona at all."""
        return any((self.name, self.trait, self.job, self.place, self.likes))


NAMELESS = "My name is mayfly-nano."
#: The kinds of questions about oneself, and how they are asked.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "who": ("Who are you?", "Who are you?", "Who are you exactly?", "And who are you?", "Who am I talking to?",
            "Introduce yourself.", "Please introduce yourself.", "What are you?", "Say who you are.",
            "Who is this?", "Tell me who you are.", "So who are you?"),
    "about": ("Tell me about yourself.", "Tell me something about yourself.", "Describe yourself.",
              "Can you tell me about yourself?"),
    "name": ("What is your name?", "What is your name?", "What's your name?", "Your name?", "Do you have a name?",
             "Tell me your name.", "What are you called?", "How are you called?", "May I ask your name?",
             "What should I call you?", "And what is your name?"),
    "place": ("Where do you live?", "Where do you live?", "Where is your home?", "Where's your home?",
              "Tell me where you live.", "And where do you live?", "Where are you at home?", "Where is it you live?"),
    "job": ("What do you do?", "What do you do?", "What is your job?", "What's your job?", "What is your work?",
            "What do you do for a living?", "What is your profession?", "And what do you do?", "What do you work as?",
            "Tell me what you do."),
    "likes": ("What do you like?", "What do you like?", "What do you love?", "What do you enjoy?",
              "And what do you like?", "Tell me what you like.", "What are your hobbies?", "What makes you happy?"),
    "trait": ("What are you like?", "What are you like?", "How would you describe your character?",
              "What kind of person are you?", "Tell me what you are like."),
}


def article(words: str) -> str:
    """Put "a" or "an" before words."""
    return f"{'an' if words[:1].lower() in ('a', 'e', 'i', 'o', 'u') else 'a'} {words}"


# -- drawing one ------------------------------------------------------------------------------------------------------

def draw(random: Random, words: Words, *, missing: float = 0.3, invented: float = 0.55) -> Persona:
    """Draw a persona.

    Args:
        missing: how likely the job, the place or the likes is left out; the name a third of that, the trait more.
        invented: how likely a word is one that doesn't exist.
    """
    present = {field: random.random() >= missing for field in ("job", "place", "likes")}
    present["trait"] = random.random() >= 0.5 + missing / 2
    present["name"] = random.random() >= missing / 3
    return Persona(
        name=inventing.name(random, words) if present["name"] else "",
        trait=trait(random, words, invented) if present["trait"] else "",
        job=job(random, words, invented) if present["job"] else "",
        place=place(random, words, invented) if present["place"] else "",
        likes=likes(random, words, invented) if present["likes"] else "",
    )


def trait(random: Random, words: Words, invented: float) -> str:
    """Draw an adjective for a person."""
    return _one(random, words, words.traits, invented, ("", "y", "ish", "ful", "ous"))


def job(random: Random, words: Words, invented: float) -> str:
    """Draw a job, with an adjective or without."""
    if random.random() < 0.35:
        return f"{trait(random, words, invented)} {job(random, words, invented)}"
    if random.random() < 0.5:
        return _one(random, words, words.jobs, invented, ("er", "ist", "or", ""))
    first = _one(random, words, words.stuff, invented)
    return f"{first} {_one(random, words, words.agents, invented, ('er', 'er', 'or', 'ist'))}"


def place(random: Random, words: Words, invented: float) -> str:
    """Draw a place, with its preposition."""
    chance = random.random()
    if chance < 0.4:
        return f"in {inventing.town(random, words)}"
    preposition = random.choice(("in", "on", "by", "near", "under", "behind", "beside", "above", "at", "in", "by"))
    look = _one(random, words, words.looks, invented)
    site = _one(random, words, words.sites, invented)
    if chance < 0.65:
        return f"{preposition} {random.choice((f'the {look} {site}', article(f'{look} {site}')))}"
    first = _one(random, words, words.stuff, invented)
    if chance < 0.75:
        return f"{preposition} {random.choice((f'the {first} {site}', article(f'{first} {site}')))}"
    if chance < 0.82:
        return f"{preposition} the {site}"
    if chance < 0.9:
        return f"{preposition} {first.capitalize()} {site.capitalize()}"
    return f"{preposition} {article(f'{look} {site}')} {random.choice(('in', 'near'))} {inventing.town(random, words)}"


def likes(random: Random, words: Words, invented: float) -> str:
    """Draw what somebody likes."""
    thing = _one(random, words, words.things, invented, ("s",))
    look = _one(random, words, words.looks, invented)
    doing = _one(random, words, words.doings, invented, ("ing",))
    other = (_one(random, words, words.doings, invented, ("ing",)) if random.random() < 0.5
             else _one(random, words, words.things, invented, ("s",)))
    return random.choice((
        thing, f"{look} {thing}", f"{look} {thing}", doing, f"{doing} {thing}", f"{doing} and {other}",
        f"{thing} and {other}", f"{doing} {look} {thing}"))


def _one(random: Random, words: Words, pool: Sequence[str], invented: float, endings: Sequence[str] = ("",)) -> str:
    """Draw a word of the pool or, so likely, an invented one that may end as those do."""
    if random.random() >= invented:
        return random.choice(pool)
    return inventing.word(random, words) + (random.choice(endings) if random.random() < 0.7 else "")


# -- telling it -------------------------------------------------------------------------------------------------------

def describe(random: Random, persona: Persona) -> str:
    """Return a system prompt that says exactly what the persona has."""
    if not persona.says():
        return random.choice(_NOBODY)
    style = random.random()
    if style < 0.08:
        return _as_list(random, persona)
    sentences = _sentences(random, persona)
    if random.random() < 0.12:
        sentences.insert(random.randrange(len(sentences) + 1), random.choice(_MANNERS))
    if random.random() < 0.06:
        sentences += random.choices(_MANNERS, k=random.randint(1, 4))
    return random.choice((" ", " ", " ", " ", "\n")).join(sentences)


_NOBODY = (
    "", "", "Answer briefly.", "Be polite.", "Be brief.", "Keep your answers short.", "Answer in one sentence.",
    "Answer the questions.", "Please answer in English.", "Always tell the truth.", "Think before you answer.",
    "Do not be rude.", "Talk with the user.", "This is a test.",
)
_MANNERS = (
    "Answer briefly.", "Be polite.", "Keep your answers short.", "Stay in character.", "Answer in one sentence.",
    "Never break character.", "Answer the user's questions.", "Always tell the truth.", "Speak plainly.",
    "Do not make things up.", "You are in a conversation with a visitor.", "It is evening.", "Be kind to everybody.",
    "Talk as you would with a friend.", "If you do not know something, say so.",
)


def _as_list(random: Random, persona: Persona) -> str:
    labels = {"name": ("Name",), "trait": ("Character", "Trait"), "job": ("Job", "Work"), "place": ("Home", "Lives"),
              "likes": ("Likes", "Loves")}
    lines = [f"{random.choice(labels[field])}: {getattr(persona, field)}"
             for field in labels if getattr(persona, field)]
    return "\n".join(lines) if random.random() < 0.7 else "; ".join(lines)


def _sentences(random: Random, persona: Persona) -> list[str]:
    rest = {field: getattr(persona, field) for field in ("name", "trait", "job", "place", "likes")
            if getattr(persona, field)}
    first = _opening(random, persona, rest)
    more = []
    for field, text in rest.items():
        more.append(random.choice(_SENTENCES[field]).format(text, article(text)))
    if random.random() < 0.35:
        random.shuffle(more)
    if len(more) == 2 and not first and random.random() < 0.3:
        return [f"{more[0][:-1]}, and {more[1][0].lower()}{more[1][1:]}"]
    return [*first, *more]


_SENTENCES = {
    "name": ("Your name is {0}.", "Your name is {0}.", "You are called {0}.", "You are {0}."),
    "trait": ("You are {0}.", "You are {0}.", "You are very {0}.", "Your character is {0}."),
    "job": ("You are {1}.", "You are {1}.", "You work as {1}.", "Your job is {0}.", "You earn your living as {1}."),
    "place": ("You live {0}.", "You live {0}.", "Your home is {0}.", "You have a house {0}."),
    "likes": ("You like {0}.", "You like {0}.", "You love {0}.", "You enjoy {0}.", "You are fond of {0}."),
}


def _opening(random: Random, persona: Persona, rest: dict[str, str]) -> list[str]:
    """Return the first sentence, which says several things at once, and take them out of `rest`; or none."""
    if random.random() < 0.25 or not (persona.name or persona.job):
        return []
    who = ""
    if persona.name:
        who = persona.name
        del rest["name"]
    if persona.job:
        del rest["job"]
        who = f"{who}, {article(persona.job)}" if who else article(persona.job)
        if persona.name and random.random() < 0.12:
            who = f"{article(persona.job)} {random.choice(('named', 'called'))} {persona.name}"
    tail = ""
    if persona.place and random.random() < 0.45:
        tail = random.choice((" who lives {0}", " living {0}", " and you live {0}")).format(persona.place)
        del rest["place"]
        if persona.likes and random.random() < 0.6:
            tail += random.choice((f" and likes {persona.likes}", f" and loves {persona.likes}")
                                  ) if tail.startswith(" who") else f" and you like {persona.likes}"
            del rest["likes"]
    elif persona.likes and random.random() < 0.3:
        tail = random.choice((" who likes {0}", " who loves {0}", " and you like {0}")).format(persona.likes)
        del rest["likes"]
    opening = random.choice(("You are", "You are", "You are", "You're", "You play", "Act as", "Pretend to be",
                             "I want you to be", "From now on you are"))
    return [f"{opening} {who}{tail}."]
