"""Which personas get a snapshot, and which snapshot leaves: decisions without processes."""

from __future__ import annotations

from dataclasses import dataclass

from mayfly.lanes.calls import NO_PERSONA, CompletionCall, Message
from mayfly.workers.personas import Personas


@dataclass
class Played:
    """A snapshot of which only what the decisions need is there."""

    name: str
    memory: int = 1
    idle: bool = True


def key(*texts: str, **fields: object) -> bytes:
    messages = tuple(Message("system", text) for text in texts)
    return CompletionCall("req_1", (*messages, Message("user", "Hi")), **fields).persona_key()  # type: ignore[arg-type]


def test_a_persona_is_worth_a_snapshot_with_its_call_of_the_number_that_is_set() -> None:
    personas = Personas(after=3, most=4, memory=0)
    assert [personas.see(key("Ada")) for _ in range(4)] == [False, False, True, True]
    assert not personas.see(key("Bob"))


def test_calls_without_a_persona_are_never_worth_one() -> None:
    personas = Personas(after=1, most=4, memory=0)
    assert key() == key("") == key("", "") == NO_PERSONA
    assert CompletionCall("req_1", text="You are Ada.").persona_key() == NO_PERSONA
    assert not personas.see(NO_PERSONA)


def test_a_call_with_batches_of_its_own_is_taken_for_one_without_a_persona() -> None:
    assert key("Ada", prompt_batch=8) == NO_PERSONA


def test_personas_are_told_apart_by_all_of_their_text() -> None:
    keys = [key("Ada"), key("Ada "), key("Ada", ""), key("A", "da"), key("", "Ada"), key("Ada", "Ada")]
    assert len(set(keys)) == len(keys)
    assert key("Ada") == key("Ada")


def test_only_the_system_messages_at_the_beginning_are_the_persona() -> None:
    later = CompletionCall("req_1", (Message("system", "Ada"), Message("user", "x"), Message("system", "Bob")))
    assert later.persona_key() == key("Ada")


def test_none_is_worth_one_where_there_may_be_none() -> None:
    assert not Personas(after=1, most=0, memory=0).see(key("Ada"))


def test_one_that_was_given_up_is_never_tried_again_and_one_that_left_is_counted_anew() -> None:
    personas = Personas(after=2, most=4, memory=0)
    personas.give_up(key("Ada"))
    assert [personas.see(key("Ada")) for _ in range(5)] == [False] * 5
    assert [personas.see(key("Bob")) for _ in range(2)] == [False, True]
    personas.forget(key("Bob"))
    assert [personas.see(key("Bob")) for _ in range(2)] == [False, True]


def test_the_least_recently_used_idle_one_leaves_for_the_next() -> None:
    personas = Personas(after=1, most=2, memory=0)
    old, new = Played("old"), Played("new")
    assert personas.room([old]) == (True, [])
    assert personas.room([old, new]) == (True, [old])
    old.idle = False
    assert personas.room([old, new]) == (True, [new])
    new.idle = False
    assert personas.room([old, new]) == (False, [])


def test_as_many_leave_as_take_too_much_memory_together() -> None:
    personas = Personas(after=1, most=9, memory=100)
    first, second, third = Played("first", 50), Played("second", 50), Played("third", 40)
    assert personas.surplus([first, second]) == []
    assert personas.surplus([first, second, third]) == [first]
    first.idle = False
    assert personas.surplus([first, second, third]) == [second]
    assert Personas(after=1, most=9, memory=0).surplus([first, second, third]) == []


def test_what_is_remembered_of_personas_is_bounded() -> None:
    personas = Personas(after=2, most=4, memory=0)
    for number in range(10_000):
        personas.see(key(str(number)))
        personas.give_up(key(f"unfit {number}"))
    assert personas.see(key("9999"))
    assert not personas.see(key("0"))  # forgotten, so this is its first call again
    assert len(personas._seen) < 5000
    assert len(personas._unfit) < 5000
