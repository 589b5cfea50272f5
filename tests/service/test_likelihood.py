"""The log-probabilities that llama.cpp's engine tells are those of the model's own logits."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_llama

from mayfly.engines.base import Generated
from mayfly.wire.calls import CompletionCall, Sampling, ScoredToken

pytest.importorskip("xllamacpp", reason="there is no wheel of llama.cpp for this machine")

from mayfly.engines.llamacpp.completions import LlamaCompletions

PROMPT = "Paris is the capital of France \U0001f98b \u00e9. Berlin is the capital of"
GREEDY: dict[str, Any] = {"max_tokens": 6, "temperature": 0.0, "repeat_penalty": 1.0}


def run(engine: LlamaCompletions, text: str = PROMPT, **fields: Any
        ) -> tuple[Generated, list[ScoredToken], list[tuple[bytes, ScoredToken]]]:
    """Return how a completion ended, the prompt's scores, and each token's bytes and score."""
    of_prompt: list[ScoredToken] = []
    tokens: list[tuple[bytes, ScoredToken]] = []

    def take(piece: bytes | None, *scores: ScoredToken) -> bool:
        if piece is None:
            of_prompt.extend(scores)
        else:
            tokens.append((piece, *scores))  # type: ignore[arg-type]
        return True

    made = engine.generate(engine.prompt(CompletionCall("test", text=text)), Sampling(**{**GREEDY, **fields}),
                           lambda: True, take)
    return made, of_prompt, tokens


def expected(engine: LlamaCompletions, place: int = -1) -> np.ndarray:
    """Return the log-softmax of what the engine has evaluated last."""
    logits = np.ctypeslib.as_array(engine._llama.llama_get_logits_ith(engine._context, place),
                                   (len(engine._vocabulary),)).astype(np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> LlamaCompletions:
    return LlamaCompletions(smollm2, 1, 512, "cpu", "m")


def test_a_tokens_log_probability_is_the_log_softmax_of_the_logits_whatever_the_samplers_do(
        engine: LlamaCompletions) -> None:
    wanted: list[np.ndarray] = []
    chosen: list[ScoredToken] = []

    def take(piece: bytes | None, *scores: ScoredToken) -> bool:
        wanted.append(expected(engine))
        chosen.extend(scores)
        return True

    odd = Sampling(max_tokens=8, temperature=1.9, top_k=50, top_p=1.0, repeat_penalty=1.5, seed=3, logprobs=5,
                   logit_bias={"30": 5.0}, presence_penalty=1.0)
    engine.generate(engine.prompt(CompletionCall("test", text=PROMPT)), odd, lambda: True, take)
    assert len(chosen) == 8
    for reference, score in zip(wanted, chosen, strict=True):
        best = np.argsort(-reference)[:5]
        assert [each.logprob for each in score.alternatives] == pytest.approx(reference[best], abs=1e-4)
        assert [bytes(each.piece) for each in score.alternatives] == [engine._vocabulary.shown(int(token))
                                                                      for token in best]
        assert score.logprob is not None and np.abs(reference - score.logprob).min() < 1e-4
    # Not always the likeliest was drawn, so one that isn't among the alternatives has its own.
    assert any(score.logprob < score.alternatives[-1].logprob for score in chosen)  # type: ignore[operator]


def test_a_greedy_token_is_the_first_alternative_and_the_tokens_are_those_of_a_call_without(
        engine: LlamaCompletions) -> None:
    made, _, tokens = run(engine, logprobs=2)
    plain: list[bytes] = []
    again = engine.generate(engine.prompt(CompletionCall("test", text=PROMPT)), Sampling(**GREEDY), lambda: True,
                            lambda piece: plain.append(piece) is None)
    assert again == made and [piece for piece, _ in tokens] == plain
    assert [bytes(score.piece) for _, score in tokens] == plain
    assert all(score.logprob == score.alternatives[0].logprob for _, score in tokens)


def test_a_prompts_scores_are_those_that_its_tokens_have_one_by_one(engine: LlamaCompletions) -> None:
    long = PROMPT * 5  # of more than a batch
    made, scores, _ = run(engine, long, logprobs=1, prompt_logprobs=True, max_tokens=1)
    assert b"".join(bytes(score.piece) for score in scores).decode() == long
    assert made.prompt_tokens == len(scores) and scores[0].logprob is None and scores[0].alternatives == ()
    ids = array("i", engine._vocabulary.tokenize(engine.prompt(CompletionCall("test", text=long))))
    for place in (1, 17, 31, 32, 33, len(ids) - 1):
        engine._window.evaluate([ids[:place]], lambda: True)
        assert scores[place].logprob == pytest.approx(expected(engine)[ids[place]], abs=0.05)
    # They can tell a text that is likely from one that isn't.
    [known, strange] = [run(engine, f"Paris is the capital of {land}", logprobs=0, prompt_logprobs=True)[1][-1].logprob
                        for land in ("France", "Peru")]
    assert known is not None and strange is not None and known > strange + 2


@pytest.mark.parametrize("add_bos", [True, False])
def test_what_stands_before_each_prompt_is_not_told(tmp_path: Path, add_bos: bool) -> None:
    """A SentencePiece vocabulary, which also puts a blank before the text."""
    path = tiny_llama.make(tmp_path / "m.gguf", add_bos=add_bos)
    engine = LlamaCompletions(path, 1, 256, "cpu", "m")
    made, scores, _ = run(engine, "the river and", logprobs=1, prompt_logprobs=True)
    assert b"".join(bytes(score.piece) for score in scores) == b"the river and"
    assert len(scores) == made.prompt_tokens - add_bos
    assert (scores[0].logprob is None) is not add_bos


def test_a_token_that_adds_nothing_has_its_name(engine: LlamaCompletions) -> None:
    ends = [each for _, score in run(engine, "The end.", logprobs=20, max_tokens=12)[2]
            for each in score.alternatives if not each.piece]
    assert ends and {each.name for each in ends} <= {"<|im_end|>", "<|endoftext|>", "<|im_start|>"}


def test_a_prompt_is_scored_no_further_when_nobody_waits(engine: LlamaCompletions) -> None:
    asked = [0]

    def refuse() -> bool:
        asked[0] += 1
        return asked[0] < 4

    made = engine.generate(engine.prompt(CompletionCall("test", text=PROMPT * 10)),
                           Sampling(**GREEDY, logprobs=0, prompt_logprobs=True), refuse, lambda *told: True)
    assert made.reason == "refused" and asked[0] == 4
