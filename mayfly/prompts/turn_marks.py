"""Turns that are marked with words and not with tokens."""

from __future__ import annotations

# Those that gpt4all knows.
STOP_WORDS = ("### Instruction", "### Prompt", "### Response", "### Human", "### Assistant", "### Context")



def turn_marks(template: str) -> tuple[str, ...]:
    """Return the texts that begin a turn in a template which writes turns with gpt4all's stop words.

    A model that was trained on such a template ends its answer by writing how the next turn begins, on its own line.

    Args:
        template: its source. Without one of the words there are no such texts: the model ends its turn with a token.
    """
    words = [word for word in STOP_WORDS if word in template]
    return tuple(f"\n{word}:" if f"{word}:" in template else f"\n{word}" for word in words)
