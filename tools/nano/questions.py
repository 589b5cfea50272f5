"""Questions for evaluation, of words that training never saw, with the one right answer to each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from mayfly.wire.calls import Message
from tools.nano import exchanges, inventing, personas, unknown
from tools.nano.words import HELD_OUT


@dataclass(frozen=True)
class Question:
    """A conversation to be answered.

    Attributes:
        group: what is measured with it, a key of `BARS`.
        part: what exactly is asked.
        messages: the last one is the user's.
    """

    group: str
    part: str
    messages: tuple[Message, ...]
    expected: str


#: Exact answers that have to be reached, as a share of all of the group.
BARS = {"persona": 0.95, "copying": 0.95, "refusal": 0.95, "sums": 0.90}

#: Questions whose very form is in no list of the training data.
UNFORESEEN = (
    "What year did the Titanic sink?", "Summarize the plot of Hamlet in two lines.", "Is a tomato a fruit?",
    "Which planet is closest to the sun?", "How do vaccines protect people?",
    "What languages are spoken in Switzerland?", "My computer won't start, what now?", "Recite the alphabet backwards.",
    "Who won the world cup in 1998?", "Can penguins survive in the desert?", "Convert 10 miles to kilometres.",
    "How would I say goodbye in Swahili?", "What rhymes with orange?", "Does the moon have an atmosphere?",
    "Please fix the grammar: he go to school.", "What's the fastest animal on land?", "Are you a human or a machine?",
    "When does spring begin?", "What was the first computer game?", "Why is seawater salty?",
    "I can't sleep at night, any advice?", "Who discovered penicillin?", "Is it legal to park here?",
    "What's the boiling point of water?", "Give three reasons to learn Latin.", "Where were the first Olympics held?",
    "How do airplanes stay up?", "Can I bring my cat on the bus?", "Which way is north?",
    "What do you think of modern art?", "Plan a weekend trip for a family of four.", "How long should I boil an egg?",
    "Who composed the Ninth Symphony?", "What does the word serendipity mean?",
    "If all birds can fly, can an ostrich fly?", "Who sits on the throne of Denmark?", "Is there life on Mars?",
    "Could you lend me ten dollars?", "What came first, the chicken or the egg?", "Do you ever get bored?",
    "How many bones are in the human body?", "What is photosynthesis?", "How deep is the Pacific Ocean?",
    "Which company makes this phone?", "Is zero an even number?", "Why did the Roman Empire fall?",
    "What is the plural of moose?", "Which is heavier, lead or feathers?", "Tell me tomorrow's lottery numbers.",
    "Was Cleopatra Egyptian?", "Where did I leave my glasses?", "How do magnets work?", "Who is knocking at the door?",
    "What's for dinner tonight?", "Did you vote in the last election?", "Let's play hide and seek.",
    "The train leaves at noon.", "Nobody told me about the meeting.", "My sister and I quarrel all the time.",
    "Reverse the string hello.",
)


def questions(seed: int, each: int) -> list[Question]:
    """Return questions of every group of `BARS` and some more, about `each` a group (sums: at least the 100)."""
    random = Random(f"evaluation {seed}")
    found: list[Question] = []
    for group, draw in (("persona", _persona), ("copying", _copying), ("refusal", _refusal)):
        found += [draw(group, random, number) for number in range(each)]
    found += list(_sums(random, each))
    found += [_known(random) for _ in range(each // 4)]
    return found


def _name(random: Random) -> str:
    return random.choice(HELD_OUT.names) if random.random() < 0.6 else inventing.name(random, HELD_OUT)


def _drawn(random: Random, missing: float) -> personas.Persona:
    persona = personas.draw(random, HELD_OUT, missing=missing, invented=0.15)
    return replace(persona, name=_name(random)) if persona.name else persona


def _persona(group: str, random: Random, number: int) -> Question:
    """Ask a persona for something that it is told."""
    kinds = ("who", "name", "place", "job", "likes", "trait", "about")
    kind = kinds[number % len(kinds)]
    while True:
        persona = _drawn(random, 0.2)
        if persona.who() != personas.ITSELF if kind in ("who", "about") else getattr(persona, kind):
            break
    asked = random.choice(personas.QUESTIONS[kind])
    return Question(group, kind, (Message("system", personas.describe(random, persona)), Message("user", asked)),
                    persona.answer(kind))


def _copying(group: str, random: Random, number: int) -> Question:
    """Ask for a repetition, or tell a name and ask for it."""
    part = ("repeat", "greet", "remember", "remember later")[number % 4]
    system = (Message("system", personas.describe(random, _drawn(random, 0.3))),) if random.random() < 0.5 else ()
    if part == "repeat":
        asked, answer = exchanges.repeating(random, HELD_OUT)
        return Question(group, part, (*system, Message("user", asked)), answer)
    name = _name(random)
    told = Message("user", random.choice(exchanges.TELLING).format(name))
    if part == "greet":
        return Question(group, part, (*system, told), f"Hello, {name}.")
    between: tuple[Message, ...] = (Message("assistant", f"Hello, {name}."),)
    if part == "remember later":
        asked, answer = exchanges.sums(random)
        between += (Message("user", asked), Message("assistant", answer))
    return Question(group, part, (*system, told, *between, Message("user", random.choice(exchanges.ASKING))),
                    f"Your name is {name}.")


def _refusal(group: str, random: Random, number: int) -> Question:
    """Ask for what nobody can know."""
    part = ("name untold", "persona unsaid", "unknown", "unforeseen", "unknown")[number % 5]
    persona = _drawn(random, 0.5)
    system = (Message("system", personas.describe(random, persona)),) if random.random() < 0.5 else ()
    if part == "name untold":
        return Question(group, part, (*system, Message("user", random.choice(exchanges.ASKING))), exchanges.UNTOLD)
    if part == "persona unsaid":
        kind = random.choice(("place", "job", "likes", "trait"))
        persona = replace(persona, name=persona.name or _name(random), **{kind: ""})
        if kind == "trait":
            persona = replace(persona, job="")
        described = Message("system", personas.describe(random, persona))
        return Question(group, part, (described, Message("user", random.choice(personas.QUESTIONS[kind]))),
                        persona.answer(kind))
    asked = random.choice(UNFORESEEN) if part == "unforeseen" else unknown.unknown(random, HELD_OUT)
    return Question(group, part, (*system, Message("user", asked)), unknown.REFUSAL)


def _sums(random: Random, least: int) -> Iterator[Question]:
    for number in range(max(100, least)):
        a, b = divmod(number % 100, 10)
        form = exchanges.SUMS[0] if number < 100 else random.choice(exchanges.SUMS)
        yield Question("sums", "as above" if number < 100 else "other forms",
                       (Message("user", form.format(a=a, b=b)),), exchanges.total(a, b))


def _known(random: Random) -> Question:
    draw = random.choice((exchanges.facts, exchanges.courtesy, exchanges.counting))
    asked, answer = draw(random)
    return Question("known", draw.__name__, (Message("user", asked),), answer)
