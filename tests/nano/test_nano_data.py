"""The generator of mayfly-nano's training data: the same dialogues for the same seed, and never a held-out word."""

from __future__ import annotations

import itertools
import re
from collections import Counter

from tools.nano import exchanges, personas
from tools.nano.dialogues import Dialogue, dialogues
from tools.nano.questions import BARS, questions
from tools.nano.words import HELD_OUT, SECRET

DIALOGUES = 3000


def some(seed: int) -> list[Dialogue]:
    return list(itertools.islice(dialogues(seed), DIALOGUES))


def test_the_same_seed_makes_the_same_dialogues_and_another_seed_others() -> None:
    assert some(1) == some(1)
    assert some(1)[:20] != some(2)[:20]


def test_training_dialogues_never_hold_a_held_out_word() -> None:
    said = " ".join(message.content for dialogue in some(3) for message in dialogue.messages).lower()
    assert SECRET.isdisjoint(re.findall(r"[a-z]+(?:-[a-z]+)?", said))
    # The look itself finds what is there.
    held_out = " ".join(message.content for question in questions(1, 50) for message in question.messages).lower()
    assert len(SECRET.intersection(re.findall(r"[a-z]+", held_out))) > 50


def test_a_dialogue_ends_with_an_answer_and_only_answers_to_the_user_are_learnt() -> None:
    for dialogue in some(4):
        *_, asked, answer = dialogue.messages
        assert (asked.role, answer.role, dialogue.learnt[-1]) == ("user", "assistant", True)
        assert all(message.content.strip() for message in dialogue.messages)
        for before, message, learnt in zip(dialogue.messages, dialogue.messages[1:], dialogue.learnt[1:], strict=False):
            assert learnt == (message.role == "assistant" and before.role == "user")


def test_a_persona_answers_from_its_facts_and_says_what_it_does_not_know() -> None:
    ada = personas.Persona(name="Ada", trait="old", job="lighthouse keeper", likes="tea")
    assert ada.answer("who") == "I am Ada, an old lighthouse keeper."
    assert ada.answer("job") == "I am a lighthouse keeper."
    assert ada.answer("place") == "I do not know where I live."
    assert ada.answer("about") == "I am Ada, an old lighthouse keeper. I like tea."
    assert personas.Persona().answer("who") == personas.ITSELF
    assert exchanges.total(7, 8) == "7 + 8 = 15."
    assert exchanges.count(3, in_words=True) == "one, two, three."


def test_questions_for_evaluation_are_the_same_each_time_and_cover_every_bar() -> None:
    asked = questions(1, 200)
    assert asked == questions(1, 200)
    groups = Counter(question.group for question in asked)
    assert all(groups[group] >= 200 for group in BARS)
    sums = {question.expected for question in asked if question.group == "sums"}
    assert sums == {f"{a} + {b} = {a + b}." for a in range(10) for b in range(10)}
    used = sum(any(name in message.content for message in question.messages for name in HELD_OUT.names)
               for question in asked)
    assert used > 200
