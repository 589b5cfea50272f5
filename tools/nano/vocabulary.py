"""The vocabulary: pieces by byte-pair merging, cut so that a word has the same pieces wherever it stands.

llama.cpp's SentencePiece tokenizer ("llama") merges neighbours as long as the merged piece is in the vocabulary, the
best score first. So the pieces alone decide, and these are chosen for copying: a blank ("▁") merges only with words
in lower case, never with a capital letter, so that a name has the same pieces at the start of an answer as within a
sentence; digits and signs merge with nothing.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import gguf

BLANK = "\u2581"
UNKNOWN, BEGIN, END = "<unk>", "<s>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
#: jinja2 source; without a message of the system there is simply none.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# A word in lower case with its blank; any other run of letters without; or one character.
_UNIT = re.compile(r"▁[a-z]+|[^\W\d_]+|.", re.DOTALL)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SIGNS = "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\n"


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; `kind` is a gguf.TokenType."""

    text: str
    score: float
    kind: int


def learn(texts: Iterable[str], size: int) -> list[Piece]:
    """Return a vocabulary of `size` pieces, the most frequent merges of the texts; no randomness is in it."""
    kinds = gguf.TokenType
    special = [Piece(UNKNOWN, 0.0, kinds.UNKNOWN), Piece(BEGIN, 0.0, kinds.CONTROL), Piece(END, 0.0, kinds.CONTROL),
               *(Piece(role, 0.0, kinds.CONTROL) for role in ROLES),
               *(Piece(f"<0x{byte:02X}>", 0.0, kinds.BYTE) for byte in range(256))]
    single = [BLANK, *_LETTERS, *_SIGNS]
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_UNIT.findall(text.replace(" ", BLANK)))
    known = set(single)
    units = {tuple(unit): count for unit, count in counts.items()
             if len(unit) > 1 and unit.isascii() | (unit[0] == BLANK) and known.issuperset(unit)}
    merged = _merges(units, size - len(special) - len(single))
    # An earlier merge has the better score, as SentencePiece does it; what is never merged has the worst.
    return [*special,
            *(Piece(text, -float(at + 1), kinds.NORMAL) for at, text in enumerate(merged)),
            *(Piece(text, -float(len(merged) + 1), kinds.NORMAL) for text in single)]


def fragments(pieces: Iterable[Piece]) -> tuple[str, ...]:
    """Return the pieces that words are made of, in lower case and without blanks, each once and in order.

    A piece that no training answer holds can't be copied later: words made of these bring every piece up.
    """
    texts = (piece.text.removeprefix(BLANK).lower() for piece in pieces if piece.kind == gguf.TokenType.NORMAL)
    return tuple(dict.fromkeys(text for text in texts if len(text) > 1 and text.isascii() and text.isalpha()))


def _merges(units: dict[tuple[str, ...], int], wanted: int) -> list[str]:
    """Merge the most frequent pair `wanted` times; ties go to the pair that sorts first."""
    words = [(list(unit), count) for unit, count in sorted(units.items())]
    pairs: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], set[int]] = defaultdict(set)
    for at, (parts, count) in enumerate(words):
        for pair in itertools.pairwise(parts):
            pairs[pair] += count
            where[pair].add(at)
    made: dict[str, None] = {}
    while len(made) < wanted:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        joined = "".join(best)
        made[joined] = None
        for at in sorted(where[best]):
            parts, count = words[at]
            for pair in itertools.pairwise(parts):
                pairs[pair] -= count
            new: list[str] = []
            for part in parts:
                if new and (new[-1], part) == best:
                    new[-1] = joined
                else:
                    new.append(part)
            words[at] = (new, count)
            for pair in itertools.pairwise(new):
                pairs[pair] += count
                where[pair].add(at)
        del pairs[best]
    return list(made)
