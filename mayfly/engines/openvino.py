"""Embeddings by OpenVINO, from the same GGUF file that gpt4all loads. The only module that imports openvino.

The network (BERT: https://arxiv.org/abs/1810.04805, as sentence-transformers pools it) is built from OpenVINO's own
operators around the file's weights, so no other model file and no converter is needed. Matrices are taken as they
are stored (f16) and multiplied in f32, or in bf16 where the processor does that natively.

A compiled network has a fixed number of threads, and the thread budget changes while the service runs: one is
compiled when its number of threads is first asked for, and the last few are kept.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# `import openvino` imports its model converter, and that reports each import to its makers over the network. Nothing of
# it is used here; OpenVINO itself goes on without it, and is there twice as fast.
sys.modules.setdefault("openvino.tools", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402

from mayfly.engines import self_test  # noqa: E402
from mayfly.engines.base import Part  # noqa: E402
from mayfly.engines.bert_tokens import BertTokens  # noqa: E402
from mayfly.engines.gpt4all.vocabulary import open_vocabulary  # noqa: E402
from mayfly.errors import EngineFailed, ModelUnavailable  # noqa: E402
from mayfly.models.header import Contents, Header, read_contents  # noqa: E402
from mayfly.prompts.segments import Segment  # noqa: E402
from mayfly.wire.calls import LongText  # noqa: E402

_KINDS: dict[str, npt.DTypeLike] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_POOLING = ("mean", "cls")
# Padded tokens that are computed at once at most. More isn't faster: in f32 what lies between two layers no longer fits
# the processor's cache, while the wider units for bf16 want more at once.
_BATCH_TOKENS = {"f32": 384, "bf16": 2048}
# Each takes the memory of the weights once more.
_KEPT = 3
# The runtime prepares its operations for each shape of a batch, and keeps that: 5,000 of a kind unless it is told, more
# than there are shapes in f32, so memory grew for as long as texts of new lengths came. With this many all widths that
# there are (`_padded_width`) stay prepared; of batches, those that were computed last. A network for fewer threads than
# there are serves while others compute, and keeps less.
_PREPARED, _PREPARED_ASIDE = 512, 128
# Widths up to this are taken as they are: with short texts each token counts.
_EXACT_WIDTH = 64
# Padding is hidden from attention by a number that makes its weight zero.
_HIDDEN = -1e9


class OpenVinoEmbeddings:
    """A BERT in this process; see EmbeddingEngine.

    Args:
        path: the model file.
        threads: compute threads at most.
        model: the model's public name.
        precision: "f32", "bf16", or "auto", which is bf16 where the processor computes with it natively.

    Raises:
        ModelUnavailable: not a model that this engine can compute, or it can't be loaded.
    """

    threads_spin = False

    def __init__(self, path: Path, threads: int, model: str, precision: str = "auto") -> None:
        contents = read_contents(path)
        header = contents.header
        _check(path.name, contents)
        self_test.require_weights(path, contents.tensors)
        self.model = model
        self.dimensions = header.embedding_length
        vocabulary = open_vocabulary(path, header.vocabulary_size)
        self._window = header.embedding_window
        try:
            self._tokens = BertTokens(lambda text: vocabulary.tokenize([Segment(text, special=False)]),
                                      self._window)
            self._core = ov.Core()
            native = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            self._precision = "bf16" if precision == "bf16" or (precision == "auto" and native) else "f32"
            self._network = _network(header, float(contents.numbers["bert.attention.layer_norm_epsilon"]),
                                     _read_weights(path, contents))
            self._compiled: collections.OrderedDict[int, _Compiled] = collections.OrderedDict()
            self._most_threads = threads
            self._threads = threads
            compiled = self._current()
            # What is really used: without instructions for bf16 it is f32, whatever was asked for.
            self._precision = compiled.precision
            self_test.require_vectors(path, self)
        except (RuntimeError, ValueError, KeyError, EngineFailed) as exc:
            raise ModelUnavailable(f"OpenVINO can't load {path.name}: {_first_line(exc)}") from exc
        self.facts = {"engine": "openvino", "precision": self._precision}
        self.batch_tokens = _BATCH_TOKENS[self._precision]

    def prepare(self) -> None:
        """See EmbeddingEngine: compile for the one thread that is left beside a completion."""
        before, self._threads = self._threads, 1
        try:
            self_test.vectors(self)
        finally:
            self._threads = before

    def plan(self, text: str, long_text: LongText) -> Iterator[Part | None]:
        """See EmbeddingEngine."""
        return self._tokens.plan(text, long_text)

    def compute(self, chunks: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """See EmbeddingEngine. The shorter chunks are padded to the longest."""
        width = min(_padded_width(max(map(len, chunks))), self._window)
        ids = np.zeros((len(chunks), width), np.int32)
        mask = np.zeros((len(chunks), width), np.float32)
        for row, chunk in enumerate(chunks):
            ids[row, :len(chunk)] = chunk
            mask[row, :len(chunk)] = 1
        try:
            return self._current().compute(ids, mask)
        except RuntimeError as exc:
            raise EngineFailed(f"the embedding engine failed: {_first_line(exc)}") from exc

    def set_threads(self, threads: int) -> None:
        """See EmbeddingEngine."""
        # Halves, so that not every number is compiled for on a machine with many cores.
        allowed = self._most_threads
        while allowed > max(1, threads):
            allowed //= 2
        self._threads = max(1, allowed)

    def _current(self) -> _Compiled:
        """Return the network compiled for the number of threads that is asked for."""
        if self._threads not in self._compiled:
            prepared = _PREPARED if self._threads == self._most_threads else _PREPARED_ASIDE
            self._compiled[self._threads] = _Compiled(self._core, self._network, self._threads, self._precision,
                                                      prepared)
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(self._threads)
        return self._compiled[self._threads]


class _Compiled:
    """The network, ready to compute with a fixed number of threads; it keeps so many operations of a kind prepared."""

    def __init__(self, core: Any, network: Any, threads: int, precision: str, prepared: int) -> None:
        compiled = core.compile_model(network, "CPU", {
            "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads,
            # Threads tied to cores would wait for whatever else runs there.
            "ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": precision,
            "CPU_RUNTIME_CACHE_CAPACITY": prepared})
        hint = compiled.get_property("INFERENCE_PRECISION_HINT")
        self.precision = "bf16" if hint == ov.Type.bf16 else "f32"
        self._request = compiled.create_infer_request()

    def compute(self, ids: npt.NDArray[np.int32], mask: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return a row of norm 1 for each row of token ids; `mask` is 1 for them and 0 for padding."""
        # The arrays live until the end of `infer`, so they needn't be copied; the answer is overwritten by the next.
        self._request.set_input_tensor(0, ov.Tensor(ids, shared_memory=True))
        self._request.set_input_tensor(1, ov.Tensor(mask, shared_memory=True))
        self._request.infer()
        rows: npt.NDArray[np.float32] = self._request.get_output_tensor().data.copy()
        return rows


def _padded_width(tokens: int) -> int:
    """Return the width that texts are padded to: 127 different ones up to 256 tokens, and never by 1/32 or more."""
    step = 1
    while tokens > _EXACT_WIDTH * step:
        step *= 2
    return -(-tokens // step) * step


def _check(name: str, contents: Contents) -> None:
    """Raise ModelUnavailable unless the file is one that `_network` is right for."""
    header = contents.header
    kinds = {tensor.kind for tensor in contents.tensors.values()}
    if header.architecture != "bert":
        raise ModelUnavailable(f"the accelerated engine computes the architecture bert, and that of {name} is "
                               f"{header.architecture}")
    if header.pooling not in _POOLING:
        raise ModelUnavailable(f"the accelerated engine makes one vector by {' or '.join(_POOLING)}, and {name} wants "
                               f"{header.pooling}")
    if not kinds <= set(_KINDS):
        raise ModelUnavailable(f"the accelerated engine takes weights in F16 or F32, and {name} has "
                               f"{', '.join(sorted(kinds - set(_KINDS)))}")
    if contents.numbers.get("bert.attention.causal") or not header.head_count:
        raise ModelUnavailable(f"{name} isn't a BERT that reads in both directions")


def _read_weights(path: Path, contents: Contents) -> dict[str, npt.NDArray[Any]]:
    """Read all tensors as they are stored. Nothing is mapped: the file may change later."""
    weights = {}
    for name, tensor in contents.tensors.items():
        count = int(np.prod(tensor.shape))
        found = np.fromfile(tensor.file, _KINDS[tensor.kind], count, offset=tensor.offset)
        if len(found) < count:
            raise ModelUnavailable(f"{path.name} was cut short while it was read")
        weights[name] = found.reshape(tensor.shape)
    return weights


def _integers(*numbers: int) -> Any:
    return op.constant(np.array(numbers, np.int32))


def _network(header: Header, epsilon: float, weights: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Build the network: token ids [texts, tokens] (int32) and mask [texts, tokens] (f32) -> vectors [texts, width].

    The tensors' names are llama.cpp's (gguf-py, `MODEL_ARCH.BERT`).

    Raises:
        KeyError: a tensor is missing.
        RuntimeError: one has the wrong shape.
    """
    heads = header.head_count
    assert heads
    width = header.embedding_length

    zero, one = op.constant(np.int32(0)), op.constant(np.int32(1))

    def weight(*names: str) -> Any:
        stored = np.concatenate([weights[name] for name in names])
        return op.constant(stored) if stored.dtype == np.float32 else op.convert(op.constant(stored), "f32")

    def linear(x: Any, *names: str) -> Any:
        """One product for all of these, which is faster than one for each."""
        product = op.matmul(x, weight(*(f"{name}.weight" for name in names)), False, True)
        return op.add(product, weight(*(f"{name}.bias" for name in names)))

    def normalised(x: Any, name: str) -> Any:
        unit = op.mvn(x, _integers(-1), True, epsilon, "INSIDE_SQRT")
        return op.add(op.multiply(unit, weight(f"{name}.weight")), weight(f"{name}.bias"))

    def split_heads(x: Any) -> Any:
        return op.transpose(op.reshape(x, _integers(0, 0, heads, width // heads), True), _integers(0, 2, 1, 3))

    ids = op.parameter([-1, -1], np.int32, name="ids")
    mask = op.parameter([-1, -1], np.float32, name="mask")
    length = op.gather(op.shape_of(ids, "i32"), one, zero)
    # Converted after the look-up, so that the large table stays as small as it is stored.
    table = op.constant(weights["token_embd.weight"])
    x = op.convert(op.gather(table, ids, zero), "f32")
    places = weights["position_embd.weight"].astype(np.float32) + weights["token_types.weight"][0].astype(np.float32)
    x = op.add(x, op.gather(op.constant(places), op.range(zero, length, one, "i32"), zero))
    x = normalised(x, "token_embd_norm")
    hidden = op.unsqueeze(op.multiply(op.subtract(op.constant(np.float32(1)), mask), op.constant(np.float32(_HIDDEN))),
                          _integers(1, 2))
    for block in range(header.block_count):
        name = f"blk.{block}."
        joined = linear(x, *(f"{name}attn_{part}" for part in "qkv"))
        parts = op.variadic_split(joined, op.constant(np.int32(2)), _integers(width, width, width))
        query, key, value = (split_heads(parts.output(part)) for part in range(3))
        seen = op.scaled_dot_product_attention(query, key, value, hidden)
        seen = op.reshape(op.transpose(seen, _integers(0, 2, 1, 3)), _integers(0, 0, width), True)
        x = normalised(op.add(x, linear(seen, f"{name}attn_output")), f"{name}attn_output_norm")
        inner = op.gelu(linear(x, f"{name}ffn_up"), "erf")
        x = normalised(op.add(x, linear(inner, f"{name}ffn_down")), f"{name}layer_output_norm")
    if header.pooling == "mean":
        # The norm is made 1 anyway, so the sum is as good as the mean.
        x = op.reduce_sum(op.multiply(x, op.unsqueeze(mask, _integers(2))), _integers(1))
    else:
        x = op.gather(x, zero, one)
    norm = op.sqrt(op.reduce_sum(op.multiply(x, x), _integers(1), True))
    return ov.Model([op.result(op.divide(x, norm))], [ids, mask])


def _first_line(exc: BaseException) -> str:
    text = str(exc).strip()
    # OpenVINO's first line says where in its source it was.
    lines = [line for line in text.splitlines() if not line.startswith("Exception from")] or [text]
    return lines[0][:300] or type(exc).__name__
