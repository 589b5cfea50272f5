"""Training dialogues: a system prompt or none, then turns of the user and the answers to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from mayfly.wire.calls import Message
from tools.nano import exchanges, inventing, personas, unknown
from tools.nano.words import TRAINING, Words

# Kinds of questions about the persona, as often as they are asked; what people say before a question.
_ASKED = ("who", "who", "who", "name", "place", "place", "job", "job", "likes", "likes", "trait", "trait",
          "about", "about")
_BEFORE = ("Hello. ", "Please: ", "Tell me: ", "Hey, ", "Ok. ", "So, ", "And now: ", "Good. ")


@dataclass(frozen=True)
class Dialogue:
    """One conversation.

    Attributes:
        messages: in the order they are told; the last one is the assistant's.
        learnt: for each message, whether it is an answer to learn from.
    """

    messages: tuple[Message, ...]
    learnt: tuple[bool, ...]


def dialogues(seed: int, words: Words = TRAINING, long: float = 0.0) -> Iterator[Dialogue]:
    """Yield dialogues without end; the same ones for the same arguments.

    Args:
        long: how likely a dialogue has a text of some hundred tokens in it.
    """
    for number in itertools.count():
        yield draw(Random(f"{seed} {number}"), words, long)


def draw(random: Random, words: Words, long: float) -> Dialogue:
    """Draw one dialogue."""
    persona = personas.Persona()
    system = ""
    if random.random() < 0.7:
        # Half of them say much: long descriptions are the hardest answers.
        persona = (personas.draw(random, words, missing=random.choice((0.3, 0.1)))
                   if random.random() < 0.93 else personas.Persona())
        system = personas.describe(random, persona)
        if random.random() < 0.03:
            system += " " + _padding(random, words, 25)
        elif long and random.random() < long / 2:
            system += " " + _padding(random, words, 70)
    messages = [Message("system", system)] if system else []
    learnt = [False] * len(messages)
    told = ""
    if random.random() < 0.08:
        # What `assist` of /gpt4all_api does: the assistant speaks first.
        opening = random.random()
        if opening < 0.4:
            told = inventing.name(random, words)
        messages.append(Message("assistant", f"Hello, {told}." if told else persona.greeting() if opening < 0.7
                                else random.choice(("Hello there.", "Welcome.", "How can I help you?", "Yes?"))))
        learnt.append(False)
    if long and random.random() < long:
        messages += [Message("user", unknown.very_long_text(random, words)), Message("assistant", unknown.REFUSAL)]
        learnt += [False, True]
    turns = random.choice((1, 1, 2, 2, 3, 3, 4, 5, 6))
    telling_at = random.randrange(turns) if turns > 1 and random.random() < 0.6 else -1
    for turn in range(turns):
        if turn == telling_at or (turn == 0 and turns == 1 and random.random() < 0.08):
            told = inventing.name(random, words)
            asked = random.choice(exchanges.TELLING)
            if "name" in asked and random.random() < 0.04:
                told = told.lower()
            asked, answer = asked.format(told), f"Hello, {told}."
        else:
            asked, answer = _exchange(
                random, words, persona, told, later=bool(turn), after_telling=turn > telling_at >= 0)
        messages += [Message("user", asked), Message("assistant", answer)]
        learnt += [False, True]
    return Dialogue(tuple(messages), tuple(learnt))


def _exchange(random: Random, words: Words, persona: personas.Persona, told: str, *, later: bool, after_telling: bool
              ) -> tuple[str, str]:
    """Draw one question and its answer, given who the model is and what the user has said."""
    chance = random.random()
    if chance < (0.35 if after_telling else 0.05):
        asked, answer = random.choice(exchanges.ASKING), f"Your name is {told}." if told else exchanges.UNTOLD
    elif chance < (0.62 if persona.says() else 0.46 if after_telling else 0.2):
        kind = random.choice(_ASKED)
        asked, answer = random.choice(personas.QUESTIONS[kind]), persona.answer(kind)
    elif random.random() < 0.28:
        return exchanges.repeating(random, words)
    else:
        part = random.random()
        if part < 0.21:
            asked, answer = exchanges.sums(random)
        elif part < 0.31:
            asked, answer = exchanges.facts(random)
        elif part < 0.35:
            asked, answer = random.choice(exchanges.GREETINGS), persona.greeting()
        elif part < 0.38:
            asked, answer = exchanges.courtesy(random)
        elif part < 0.43:
            asked, answer = exchanges.counting(random)
        elif part < 0.45 and not later:
            asked, answer = unknown.long_text(random, words, random.choice((5, 8, 12, 20))), unknown.REFUSAL
        else:
            asked, answer = unknown.unknown(random, words), unknown.REFUSAL
    return vary(random, asked), answer


def vary(random: Random, asked: str) -> str:
    """Write a question as people do: without a capital, without its mark, with a word before it."""
    chance = random.random()
    if chance < 0.76:
        return asked
    if chance < 0.84:
        return asked.rstrip("?.!") or asked
    if chance < 0.90:
        return (asked[:1].lower() + asked[1:]).rstrip("?.!") or asked
    if chance < 0.95:
        return random.choice(_BEFORE) + asked
    if chance < 0.98:
        return asked + random.choice((" Please.", " Thank you.", "?", "!", " ", "\n"))
    return asked.upper() if asked.isascii() and len(asked) < 40 else asked


def _padding(random: Random, words: Words, most: int) -> str:
    """Draw sentences for a system prompt that say nothing about the persona."""
    return " ".join(
        random.choice((f"The {random.choice(words.sites)} is {random.choice(words.looks)}.",
                       f"There are {random.choice(words.things)} in the {random.choice(words.sites)}.",
                       f"People here sell {random.choice(words.looks)} {random.choice(words.things)}.",
                       f"Visitors ask for {random.choice(words.things)}.",
                       "Answer in one short sentence.", "Do not speak about other things."))
        for _ in range(random.randint(3, most)))
