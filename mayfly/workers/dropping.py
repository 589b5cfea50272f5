"""Which messages of a conversation are left out where the window has no room for all."""

from __future__ import annotations

from collections.abc import Sequence

from mayfly.wire.calls import Message

# Tokens that a template writes for a turn, at most; a token of the text is a byte at least.
_TURN = 32


def without_oldest(messages: Sequence[Message], excess: int) -> tuple[Message, ...]:
    """Return a conversation without some of its oldest messages, but never without those of the system and the last
    one: as many as have to go at least, so that a few tries find how many are enough.

    Args:
        excess: tokens that there are too many; 0 or less if that isn't known.
    """
    gone: set[int] = set()
    for index, message in enumerate(messages[:-1]):
        if message.role == "system":
            continue
        # What a tool has answered goes with its call.
        if excess <= 0 and gone and message.role != "tool":
            break
        gone.add(index)
        excess -= len(message.content.encode("utf-8", "replace")) + message.characters() - len(message.content) + _TURN
    return tuple(message for index, message in enumerate(messages) if index not in gone)
