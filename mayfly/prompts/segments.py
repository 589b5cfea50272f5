"""A prompt's segments: the template's text and the client's, told apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A part of a prompt.

    Attributes:
        text: what is evaluated.
        special: True for text of the server's template, in which `</s>` means the token; False for text of the
            client, in which it is five characters.
    """

    text: str
    special: bool


def without_bos(segments: Sequence[Segment], bos_token: str) -> list[Segment]:
    """Return a prompt without the bos token at its beginning, for an engine that puts one there by itself.

    Args:
        bos_token: the token's text. In a text of the client it is text, and stays.
    """
    if segments and segments[0].special and bos_token and segments[0].text.startswith(bos_token):
        first = dataclasses.replace(segments[0], text=segments[0].text.removeprefix(bos_token))
        return lay_out([first, *segments[1:]])
    return list(segments)


def without_doubled_blanks(segments: Sequence[Segment], control: Iterable[str]) -> list[Segment]:
    """Return a prompt without the blank that a template writes after a control token, for an engine that puts one there
    by itself ("[INST] Hello" would become "[INST]", " ", " Hello").

    Args:
        control: the texts of control tokens.
    """
    ends = tuple(control)
    parts = list(segments)
    for index in range(1, len(parts)):
        before, part = parts[index - 1], parts[index]
        if before.special and not part.special and part.text.startswith(" ") and before.text.endswith(ends):
            parts[index] = dataclasses.replace(part, text=part.text[1:])
    return [part for part in parts if part.text]


def lay_out(parts: Iterable[Segment]) -> list[Segment]:
    """Return the segments of a prompt that is made of these parts: none empty, no two of the template in a row.

    The blanks before a text of the client go with the text: a word and the blank before it are one token in most
    vocabularies ("[INST] Hello" was trained on as "[INST]", " Hello"), and there is nothing special about a blank.
    """
    segments: list[Segment] = []
    for part in parts:
        if not part.text:
            continue
        last = segments[-1] if segments else None
        if last is None or not last.special:
            segments.append(part)
        elif part.special:
            segments[-1] = dataclasses.replace(last, text=last.text + part.text)
        else:
            kept = last.text.rstrip(" ")
            segments[-1:] = [dataclasses.replace(last, text=kept)] if kept else []
            segments.append(dataclasses.replace(part, text=last.text[len(kept):] + part.text))
    return segments
