"""What the model doesn't know: questions, statements and noise of every kind, with one honest answer to all."""

from __future__ import annotations

from random import Random

from tools.nano import forms, inventing, personas
from tools.nano.words import Words

REFUSAL = "I am only a small demonstration model and do not know that."

# Where runs of letters and signs begin in Unicode.
_ALPHABETS = (0xA1, 0x100, 0x391, 0x410, 0x5D0, 0x627, 0x905, 0xE01, 0x3041, 0x4E00, 0xAC00, 0x2190, 0x2600, 0x1F600)


def unknown(random: Random, words: Words) -> str:
    """Draw a text whose only answer is `REFUSAL`."""
    chance = random.random()
    if chance < 0.52:
        asked = _fill(random, words, random.choice(forms.QUESTIONS))
        return _garbled(random, words, asked) if random.random() < 0.2 else asked
    if chance < 0.64:
        return _fill(random, words, random.choice(forms.REQUESTS))
    if chance < 0.75:
        return _fill(random, words, random.choice(forms.STATEMENTS))
    if chance < 0.80:
        return _fill(random, words, random.choice(forms.FRAGMENTS))
    if chance < 0.85:
        return soup(random, words, random.randint(3, 12), random.random() < 0.5)
    if chance < 0.89:
        return random.choice(forms.FOREIGN)
    if chance < 0.93:
        return _fill(random, words, random.choice(forms.CODE))
    if chance < 0.95:
        return _noise(random)
    if chance < 0.975:
        return _asked_oddly(random, words)
    return " ".join(_fill(random, words, random.choice(forms.STATEMENTS)) for _ in range(random.randint(2, 4)))


def long_text(random: Random, words: Words, pieces: int) -> str:
    """Draw a long text that asks nothing known."""
    parts = [_fill(random, words, random.choice(forms.STATEMENTS)) if random.random() < 0.6
             else soup(random, words, random.randint(3, 15), True) for _ in range(pieces)]
    return random.choice((" ", " ", "\n")).join(parts)


def very_long_text(random: Random, words: Words) -> str:
    """Draw a text of up to some hundred tokens, or the same few words again and again."""
    if random.random() < 0.5:
        return long_text(random, words, random.randint(10, 60))
    said = unknown(random, words) if random.random() < 0.6 else soup(random, words, random.randint(1, 3), False)
    return random.choice((" ", " ", "\n", ", ")).join([said] * random.randint(5, max(6, 1200 // len(said))))


def soup(random: Random, words: Words, length: int, sentence: bool) -> str:
    """Draw words in no order."""
    pool = (*words.things, *words.stuff, *words.looks, *words.doings, *words.sites, *words.traits)
    drawn = []
    for _ in range(length):
        chance = random.random()
        drawn.append(random.choice(forms.SMALL) if chance < 0.4 else inventing.word(random, words) if chance < 0.65
                     else random.choice(pool))
    text = " ".join(drawn)
    return text[0].upper() + text[1:] + random.choice("..?!") if sentence else text


def _garbled(random: Random, words: Words, asked: str) -> str:
    """Put other words in the place of some, so that a question's form says less."""
    parts = asked[:-1].split(" ")
    for _ in range(random.randint(1, 3)):
        parts[random.randrange(len(parts))] = (
            inventing.word(random, words) if random.random() < 0.6 else random.choice((*words.things, *words.doings)))
    return " ".join(parts) + asked[-1]


def _asked_oddly(random: Random, words: Words) -> str:
    """Draw a question of a form that no list has: question words before words in no order."""
    start = random.choice(forms.STARTS)
    return f"{start} {soup(random, words, random.randint(1, 7), False)}{random.choice('????.')}"


def _noise(random: Random) -> str:
    """Draw characters in no order, from the keyboard or from anywhere in Unicode."""
    length = random.randint(1, 16)
    if random.random() < 0.6:
        return "".join(chr(random.randint(0x21, 0x7E)) for _ in range(length))
    start = random.choice(_ALPHABETS)
    return "".join(chr(start + random.randrange(60)) for _ in range(length))


def _fill(random: Random, words: Words, form: str) -> str:
    stuff = inventing.word(random, words) if random.random() < 0.3 else random.choice((*words.stuff, *words.sites))
    job = personas.job(random, words, 0.2)
    thing = inventing.word(random, words) + "s" if random.random() < 0.25 else random.choice(words.things)
    doing = random.choice(words.doings)
    return form.format(
        thing=thing, thing2=random.choice(words.things), stuff=stuff, a_stuff=personas.article(stuff),
        site=random.choice(words.sites), look=random.choice(words.looks), trait=random.choice(words.traits),
        doing=doing, name=inventing.name(random, words), name2=random.choice(words.names),
        town=inventing.town(random, words), town2=random.choice(words.towns), word=_word(random, words),
        word2=inventing.word(random, words), word_c=_word(random, words).capitalize(), job=job,
        a_job=personas.article(job), place=personas.place(random, words, 0.2), n=random.randint(10, 999),
        m=random.randint(10, 99), d=random.randrange(2, 10), d2=random.randrange(2, 10), year=random.randint(900, 2030),
        possessive=random.choice(("his", "her", "their", "our", "the king's")), thing_c=thing.capitalize(),
        doing_c=doing.capitalize())


def _word(random: Random, words: Words) -> str:
    return random.choice(forms.COMMON) if random.random() < 0.4 else inventing.word(random, words)
