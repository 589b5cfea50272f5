"""Log-probabilities in OpenAI's two forms: an object for each token of a chat, and lists for a completion of a text."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from mayfly.wire.calls import Likelihood, ScoredToken


def of_chat(tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    """Return the form of chats."""
    return {"content": [{**_entry(token), "top_logprobs": [_entry(each) for each in token.alternatives]}
                        for token in tokens], "refusal": None}


class OfText:
    """The form of completions of texts, for one of them: each call goes on where the one before has ended.

    Args:
        offset: characters before the first token.
    """

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __call__(self, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        """Return what is told of tokens. Each has beside the likeliest ones itself, as OpenAI's have; what nothing
        comes before has none."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(bytes(token.piece)))
        return {"tokens": [_text(token, "bytes:") for token in tokens],
                "token_logprobs": [token.logprob for token in tokens],
                "top_logprobs": [_likeliest(token) for token in tokens],
                "text_offset": offsets}


def _likeliest(token: ScoredToken) -> dict[str, float | None] | None:
    if token.logprob is None:
        return None
    found: dict[str, float | None] = {}
    # Of several tokens of the same text the likeliest is told.
    for each in (*token.alternatives, token):
        found.setdefault(_text(each, "bytes:"), each.logprob)
    return found


def _entry(token: Likelihood) -> dict[str, Any]:
    # What a token is called is no text of the answer, so it has no bytes.
    return {"token": _text(token), "logprob": token.logprob, "bytes": None if token.name else list(token.piece)}


def _text(token: Likelihood, mark: str = "") -> str:
    """Return a token's text. Of one that begins or ends within a character the bytes are spelt, after a mark."""
    piece = bytes(token.piece)
    try:
        return token.name or piece.decode()
    except UnicodeDecodeError:
        return mark + "".join(rf"\x{byte:02x}" for byte in piece)
