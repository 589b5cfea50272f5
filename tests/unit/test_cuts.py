"""Long texts are tokenised in pieces, and the ids are those of the whole, whatever is cut."""

from __future__ import annotations

import collections
import functools
import itertools
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
from random_texts import random_texts

from mayfly.engines import cuts
from mayfly.engines.base import Generated
from mayfly.engines.gpt4all.completions import Gpt4AllCompletions
from mayfly.engines.gpt4all.vocabulary import Vocabulary, open_vocabulary
from mayfly.errors import ContextLengthExceeded, InvalidRequest
from mayfly.models.header import read_header
from mayfly.prompts.segments import Segment
from mayfly.wire.calls import Sampling

# Every way in which the llama.cpp of gpt4all 2.8.2 splits a text into words, by the names in model files.
PRE_TOKENIZERS = ["default", "llama-bpe", "deepseek-llm", "deepseek-coder", "falcon", "gpt-2", "starcoder", "qwen2",
                  "poro-chat", "viking", "chatglm-bpe"]
SENTENCEPIECE = ""
# What may be cut at the wrong place: what hangs together with what comes before or after it.
ATOMS = [
    " ", "  ", "\n", "\r\n", "\t", " \n", "\u3000", "\xa0", "'", "'s", "'re", "'LL", "=", "==", ".", ",", "-", "(", "|",
    "\N{GRINNING FACE}", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "a", "aa", "aaa", "the", "Word", "修", "灯塔",
    "。", "ก็", "सी", "ابت", "1", "12", "\u0663", "²", "½", "\u0301", "\u2581", "_", "\x0b", "\x1c", "</s>", "<0x0A>",
    "\u0378", "ß", "ı"]


WORDS = random_texts(200, longest=40)


def odd_text(number: random.Random, length: int) -> str:
    """Return a text of words, runs of one thing, and mixtures, so many characters long."""
    parts: list[str] = []
    while sum(map(len, parts)) < length:
        kind = number.random()
        if kind < 0.3:
            parts.append(number.choice(ATOMS) * number.randint(2, 80))
        elif kind < 0.6:
            few = number.sample(ATOMS, 2)
            parts.extend(number.choice(few) for _ in range(number.randint(2, 60)))
        elif kind < 0.8:
            parts.extend(number.choice(ATOMS) for _ in range(number.randint(2, 60)))
        else:
            parts.append(number.choice(WORDS))
    return "".join(parts)[:length]


def learned(texts: list[str], count: int) -> list[tuple[str, str]]:
    """Return the commonest pairs of neighbours, as BPE is trained but across the borders of words."""
    lines = [list(text.replace(" ", "\u2581")) for text in texts]
    pairs = [collections.Counter(itertools.pairwise(line)) for line in lines]
    of_all = sum(pairs, collections.Counter())
    found = []
    for _ in range(count):
        (left, right), _ = of_all.most_common(1)[0]
        found.append((left, right))
        for line, own in zip(lines, pairs, strict=True):
            if not own[left, right]:
                continue
            of_all.subtract(own)
            merged: list[str] = []
            for piece in line:
                if piece == right and merged and merged[-1] == left:
                    merged[-1] = left + right
                else:
                    merged.append(piece)
            line[:] = merged
            own.clear()
            own.update(itertools.pairwise(line))
            of_all.update(own)
    return found


@functools.cache
def joins(byte_level: bool) -> list[tuple[str, str]]:
    """Return what a vocabulary of these tests joins: of everything that occurs in the texts."""
    number = random.Random(7)
    texts = [odd_text(number, 400) for _ in range(40)]
    if not byte_level:
        return learned(texts, 400)
    letters = tiny_llama.alphabet()
    return learned(["".join(letters[byte] for byte in text.encode()) for text in texts], 400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocabularies")


@functools.cache
def vocabulary_of(folder: Path, pre: str, name: str = "tiny llama", markers: tuple[str, ...] = ()) -> Vocabulary:
    path = tiny_llama.make(folder / f"{pre or 'spm'}-{name}-{len(markers)}.gguf", pre=pre, blocks=1, name=name,
                           joins=joins(bool(pre)), markers=markers, control={"<|endoftext|>": -30.0})
    return open_vocabulary(path, read_header(path).vocabulary_size)


def ids_of_whole(vocabulary: Vocabulary, text: str) -> list[int]:
    return list(vocabulary._raw_ids(text, at_start=True, special=False, space=True))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "PIECE", 80)


def check(vocabulary: Vocabulary, texts: Iterable[str], least: int) -> None:
    """Compare the pieces of texts with the whole; `least` pieces a text have to come of it, on the average."""
    pieces = count = 0
    for text in texts:
        whole = ids_of_whole(vocabulary, text)
        made = list(vocabulary.pieces([Segment(text, special=False)]))
        assert "".join(piece.text for piece, _ in made) == text
        assert [token for _, ids in made for token in ids] == whole, repr(text)
        # Each is one for itself, after the token before it: that is how a model is given them.
        assert vocabulary.tokenize([piece for piece, _ in made]) == whole
        pieces, count = pieces + len(made), count + 1
    assert pieces >= least * count


@pytest.mark.parametrize("pre", [SENTENCEPIECE, *PRE_TOKENIZERS])
def test_the_ids_of_the_pieces_are_those_of_the_whole(folder: Path, small_pieces: None, pre: str) -> None:
    number = random.Random(pre)
    texts = (odd_text(number, number.randint(100, 1500)) for _ in range(10))
    check(vocabulary_of(folder, pre), texts, least=4)


@pytest.mark.parametrize("name", ["tiny llama", "phi-3 tiny"])  # those of Phi-3 take the blanks after them along
@pytest.mark.parametrize("pre", [SENTENCEPIECE, "default", "qwen2"])
def test_tokens_that_are_found_before_all_others_are_never_cut(folder: Path, small_pieces: None, pre: str, name: str
                                                               ) -> None:
    markers = ("<tool_call>", "\n\n", "\n\n\n", "aaa a", "=>")
    number = random.Random(pre)
    texts = []
    for _ in range(20):
        parts = [odd_text(number, number.randint(1, 200))]
        parts += [number.choice(markers) * number.randint(1, 30) for _ in range(2)]
        texts.append("".join(number.choice(parts) for _ in range(6)))
    check(vocabulary_of(folder, pre, name, markers), texts, least=3)


@pytest.mark.parametrize("pre", [SENTENCEPIECE, *PRE_TOKENIZERS])
def test_a_long_run_of_anything_is_cut(folder: Path, pre: str) -> None:
    vocabulary = vocabulary_of(folder, pre)
    assert vocabulary.longest >= 32  # as in real vocabularies, which have tokens for long lines of one sign
    for run in ("a", "=", " ", "\n", "1", "修", "😀", "aß", "=-", " \n", "\r\n", "ابت", "</s>", "0a"):
        text = "x = " + run * (2 * cuts.PIECE // len(run))  # which llama.cpp can do in one go, too
        made = list(vocabulary.pieces([Segment(text, special=False)]))
        assert len(made) > 2
        assert "".join(piece.text for piece, _ in made) == text
        assert max(len(piece.text) for piece, _ in made) <= cuts.PIECE, run
        assert [token for _, ids in made for token in ids] == ids_of_whole(vocabulary, text), run


def test_what_cannot_be_cut_is_refused_before_it_ends_the_process(
        folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "may_cut", lambda text, at, start: False)
    vocabulary = vocabulary_of(folder, "qwen2")
    text = "a" * cuts.LONGEST_PIECE
    assert vocabulary.tokenize([Segment(text, special=False)]) == ids_of_whole(vocabulary, text)
    with pytest.raises(InvalidRequest, match="hang together"):
        vocabulary.tokenize([Segment(text + "a", special=False)])


@pytest.mark.parametrize("pre", [SENTENCEPIECE, "qwen2"])
@pytest.mark.parametrize("run", ["a", "修", " ", "the "])
def test_a_prompt_that_cannot_fit_is_refused_without_tokenising_it_all(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pre: str, run: str) -> None:
    path = tiny_llama.make(tmp_path / "tiny.gguf", pre=pre, joins=joins(bool(pre)))
    engine = Gpt4AllCompletions(path, 1, 2048, "cpu", "tiny")
    sizes: list[int] = []
    raw_ids = Vocabulary._raw_ids

    def counted(vocabulary: Vocabulary, text: str, **options: bool) -> Any:
        sizes.append(len(text.encode()))
        return raw_ids(vocabulary, text, **options)

    monkeypatch.setattr(Vocabulary, "_raw_ids", counted)
    steps: list[None] = []

    def generate(text: str) -> Generated:
        return engine.generate([Segment(text, special=False)], Sampling(max_tokens=1),
                               lambda: not steps.append(None), lambda piece: True)

    with pytest.raises(ContextLengthExceeded, match="at least"):
        generate(run * (4_000_000 // len(run.encode())))
    assert sum(sizes) < 400_000  # of 4 MB
    assert max(sizes) < 20_000  # at a time, and between them there is a moment for the heartbeat
    assert len(steps) > 10
    # And nothing of it is left: the next prompt is answered.
    assert generate("the light").prompt_tokens > 1


@pytest.mark.parametrize("pre", [SENTENCEPIECE, "qwen2"])
def test_a_long_prompt_that_fits_is_evaluated_as_its_own_ids(tmp_path: Path, pre: str) -> None:
    path = tiny_llama.make(tmp_path / "tiny.gguf", pre=pre, joins=joins(bool(pre)), context=32_768, blocks=1)
    engine = Gpt4AllCompletions(path, 1, 32_768, "cpu", "tiny")
    text = "".join([odd_text(random.Random(5), 3_000), "a" * 9_000])
    evaluated: list[int] = []
    pieces, counted = engine._fitting([Segment(text, special=False)], lambda: True)
    assert len(pieces) > 2
    engine._run(pieces, Sampling(max_tokens=0), lambda token: not evaluated.append(token), lambda *_: False)
    assert len(evaluated) == counted
    assert evaluated == ids_of_whole(engine._vocabulary, text)
