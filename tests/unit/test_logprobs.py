"""OpenAI's two forms of log-probabilities."""

from __future__ import annotations

from mayfly.web import logprobs
from mayfly.wire.calls import Likelihood, ScoredToken

END = Likelihood((), "<|im_end|>", -2.0)
WORD = ScoredToken((32, 72, 105), "", -0.5, (Likelihood((32, 72, 105), "", -0.5), END))
HALF = ScoredToken((0xC3,), "", -1.5, (Likelihood((0xC3,), "", -1.5), Likelihood((0xC3,), "", -3.0)))
REST = ScoredToken((0xA9, 33), "", -0.25)


def test_in_a_chat_each_token_has_its_bytes_but_for_one_that_adds_none() -> None:
    assert logprobs.of_chat([WORD, HALF]) == {"refusal": None, "content": [
        {"token": " Hi", "logprob": -0.5, "bytes": [32, 72, 105], "top_logprobs": [
            {"token": " Hi", "logprob": -0.5, "bytes": [32, 72, 105]},
            {"token": "<|im_end|>", "logprob": -2.0, "bytes": None}]},
        {"token": r"\xc3", "logprob": -1.5, "bytes": [0xC3], "top_logprobs": [
            {"token": r"\xc3", "logprob": -1.5, "bytes": [0xC3]},
            {"token": r"\xc3", "logprob": -3.0, "bytes": [0xC3]}]}]}


def test_of_a_text_there_are_lists_and_offsets_that_count_characters_over_all_parts() -> None:
    tell = logprobs.OfText(10)
    assert tell([WORD, HALF]) == {
        "tokens": [" Hi", r"bytes:\xc3"], "token_logprobs": [-0.5, -1.5], "text_offset": [10, 13],
        "top_logprobs": [{" Hi": -0.5, "<|im_end|>": -2.0}, {r"bytes:\xc3": -1.5}]}
    assert tell([REST, WORD])["text_offset"] == [13, 15]


def test_what_nothing_comes_before_has_no_log_probability() -> None:
    told = logprobs.OfText(0)([ScoredToken((72,), "", None)])
    assert told == {"tokens": ["H"], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0]}
