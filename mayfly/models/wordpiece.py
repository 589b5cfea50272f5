"""Bring a text into the form that a WordPiece vocabulary was made for.

An uncased BERT takes its texts without accents. gpt4all's tokenizer replaces letters that have an accent, but it
knows no Hangul syllables and keeps accents that are characters of their own: a Korean text then gets a vector
with cosine 0.7 to the one of sentence-transformers. With the texts normalised here first, both tokenizers agree on
all but some 500 rare characters of Unicode (docs/models.md).

The rules are those of the BERT tokenizer: `_clean_text` and `_run_strip_accents` in
https://github.com/google-research/bert/blob/master/tokenization.py
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

# Control characters that BERT drops and gpt4all takes for blanks.
_DROPPED = dict.fromkeys((0x0B, 0x0C, 0x85))


def normalise(text: str) -> str:
    """Return `text` decomposed and without accents; text without any comes back as it is."""
    text = text.translate(_DROPPED)
    if text.isascii():
        return text
    return "".join(char for char in unicodedata.normalize("NFD", text) if unicodedata.category(char) != "Mn")


# Characters that are normalised at once: some milliseconds of work.
_AT_ONCE = 16_000
# Accents that one letter may have for a text to be cut only before a letter.
_MOST_ACCENTS = 100


def normalised(text: str) -> Iterator[str]:
    """Normalise a text piece by piece; see `normalise`."""
    start = 0
    while True:
        end = start + _AT_ONCE
        # Accents are put in order within those of one letter.
        while end < len(text) and end < start + _AT_ONCE + _MOST_ACCENTS and _is_accent(text[end]):
            end += 1
        yield normalise(text[start:end])
        start = end
        if start >= len(text):
            return


def _is_accent(character: str) -> bool:
    return unicodedata.combining(unicodedata.normalize("NFD", character)[0]) != 0
