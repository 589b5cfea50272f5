"""Write a tiny random-weight llama model as GGUF, or a malformed one.

The model is a real one for the engine: llama architecture, a SentencePiece vocabulary with byte fallback, a
chat template. Its text is words in random order. What its random weights alone wouldn't give:

- one dimension of the residual stream is the same number at every position (no block writes to it), so that
  its column of the output matrix is a bias for each token. Llama itself has no output bias. This one keeps
  byte tokens, whose random order is hardly ever UTF-8, and control tokens out of the answers;
- </s> is one of these, so max_tokens governs the length. `eos_bias` changes that.

Run as a script: python tests/rigs/tiny_llama.py OUT [--seed N] [--malformed HOW]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

# The model's everyday words; the pieces "▁w", "▁wo", "▁wor" lead the tokenizer to "▁word".
_TEXT = (
    "the of and to in a is that it for was on are as with his they at be this from or had by but some what "
    "there we can out other were all your when up use word how said each she which their time will way about "
    "many then them would write like so these her long make thing see him two has look more day could go come "
    "did my sound no most number who over know water than call first people may down side been now find any "
    "new work part take get place made live where after back little only round man year came show every good "
    "me give our under name very through just form much great think say help low line before turn cause same "
    "mean differ move right boy old too does tell sentence set three want air well also play small end put "
    "home read hand port large spell add even land here must big high such follow act why ask men change went "
    "light kind off need house picture try us again animal point mother world near build self earth father "
    "river mountain morning window garden bread silver summer winter letter paper candle forest island bridge"
)
WORDS = _TEXT.split()
PUNCTUATION = list(".,!?;:-'\"()")

Tensor = tuple[str, np.ndarray]

_BIAS_DIMENSION = 0
# How much larger than the rest the bias dimension is, so that the rest hardly moves the norm's divisor.
_BIAS_SCALE = 16.0


def make(
    path: Path,
    *,
    seed: int = 0,
    embedding: int = 128,
    blocks: int = 2,
    heads: int = 4,
    context: int = 2048,
    eos_bias: float = -30.0,
    chat_template: str | None = CHAT_TEMPLATE,
    name: str = "tiny llama",
    numbers: Mapping[str, int | float] | None = None,
    control: Mapping[str, float] | None = None,
    words: Mapping[str, float] | None = None,
    ids: Mapping[str, str] | None = None,
    pre: str = "",
    add_bos: bool | None = None,
    joins: Sequence[tuple[str, str]] = (),
    markers: Sequence[str] = (),
    tensors_a_part: int = 0,
    architecture: str = "llama",
    changed: Callable[[list[Tensor]], list[Tensor]] = list,
) -> Path:
    """Write the model to `path` (2.2 MB with these sizes) and return `path`.

    Args:
        seed: of the weights; another seed answers other words.
        embedding, blocks, heads: the width (a multiple of 32 * heads), the depth and the attention heads.
        context: tokens the model says it was trained on.
        eos_bias: added to the logit of </s>. -30: never drawn; 0: about as often as any one word; 30: at once.
        chat_template: put into the file as tokenizer.chat_template, or None for a file without one.
        numbers: more entries for the header, as unsigned 32-bit numbers, or 32-bit floats.
        control: more control pieces, such as "<|im_end|>", with what is added to the logit of each (see eos_bias).
        words: more ordinary pieces, such as "\u2581Human", likewise.
        ids: pieces for tokens that the header names: {"eot": "<|im_end|>"} makes that the end of a turn.
        pre: the name of a pre-tokenizer, such as "llama-bpe" or "qwen2", for a byte-level BPE vocabulary (\u2581 is
            written \u0120 there, here too in the pieces given); "" for a SentencePiece one.
        add_bos: what the file says of a bos token before each prompt; None: nothing.
        joins: neighbours that make a piece of their own, the first before the others and all before the words.
        markers: pieces that are found in a text before anything else ("user-defined" tokens).
        tensors_a_part: split it into files of so many of its 21 tensors: tiny-00001-of-00003.gguf for tiny.gguf, which
            isn't written then. 0: don't.
        architecture: what the file says that it is, and
        changed: makes llama's tensors that one's.
    """
    more = [(piece, 0.0, int(gguf.TokenType.CONTROL), value) for piece, value in (control or {}).items()]
    # Their scores let the tokenizer prefer them to all others.
    more += [(piece, 100.0, int(gguf.TokenType.NORMAL), value) for piece, value in (words or {}).items()]
    more += [(piece, 0.0, int(gguf.TokenType.USER_DEFINED), -30.0) for piece in markers]
    joined = dict.fromkeys(left + right for left, right in joins)
    more += [(piece, 100.0 + len(joined) - rank, int(gguf.TokenType.NORMAL), -8.0) for rank, piece in enumerate(joined)]
    pieces, scores, types, bias = _vocabulary(eos_bias, more, byte_level=bool(pre))
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_a_part)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(context)
    writer.add_embedding_length(embedding)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(2 * embedding)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(embedding // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("gpt2" if pre else "llama")
    writer.add_tokenizer_pre(pre or "default")
    writer.add_token_list(pieces)
    if pre:
        writer.add_token_merges([*(f"{left} {right}" for left, right in joins), *_merges()])
    else:
        writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    for token, piece in {"bos": "<s>", "eos": "</s>", **(ids or {})}.items():
        writer.add_uint32(f"tokenizer.ggml.{token}_token_id", pieces.index(piece.encode()))
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for key, number in (numbers or {}).items():
        (writer.add_float32 if isinstance(number, float) else writer.add_uint32)(key, number)
    for tensor, values in changed(_weights(seed, embedding, blocks, bias)):
        writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary(eos_bias: float, more: Sequence[tuple[str, float, int, float]], *, byte_level: bool
                ) -> tuple[list[bytes], list[float], list[int], np.ndarray]:
    """Return the pieces, their scores and types, and the logit bias of each, shape [pieces]; those of `more` last."""
    kinds = gguf.TokenType
    entries: list[tuple[str, float, int, float]] = [
        ("<unk>", 0.0, kinds.UNKNOWN, -30.0),
        ("<s>", 0.0, kinds.CONTROL, -30.0),
        ("</s>", 0.0, kinds.CONTROL, eos_bias),
    ]
    if not byte_level:
        entries += [(f"<0x{byte:02X}>", 0.0, kinds.BYTE, -30.0) for byte in range(256)]
    marked = [("\u0120" if byte_level else "\u2581") + word for word in WORDS]
    steps = sorted({word[:end] for word in marked for end in range(2, len(word))} - set(marked))
    letters = [chr(code) for code in range(0x21, 0x7F) if chr(code) not in PUNCTUATION]
    # A longer piece has the better score, so that the tokenizer prefers it.
    entries += [(word, float(len(word)), kinds.NORMAL, 0.0) for word in dict.fromkeys(marked)]
    entries += [(mark, -1.0, kinds.NORMAL, -1.0) for mark in PUNCTUATION]
    entries += [(step, float(len(step)) - 0.5, kinds.NORMAL, -8.0) for step in steps]
    if byte_level:
        # The alphabet of bytes: printable ones stand for themselves, the rest for characters from U+0100 on.
        known = {piece for piece, *_ in entries}
        entries += [(letter, -1.0, kinds.NORMAL, -8.0) for letter in alphabet() if letter not in known]
    else:
        entries += [(letter, -1.0, kinds.NORMAL, -8.0) for letter in ["\u2581", *letters]]
    entries = list({entry[0]: entry for entry in [*reversed(more), *reversed(entries)]}.values())[::-1]
    pieces, scores, types, bias = zip(*entries, strict=True)
    return (
        [piece.encode() for piece in pieces],
        list(scores),
        [int(kind) for kind in types],
        np.array(bias, dtype=np.float32),
    )


def alphabet() -> list[str]:
    """Return the character that stands for each byte in a byte-level vocabulary (GPT-2's)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _merges() -> list[str]:
    """Return the merges that lead to each of the words, letter by letter."""
    marked = ["\u0120" + word for word in WORDS]
    return list(dict.fromkeys(f"{word[:end]} {word[end]}" for word in marked for end in range(1, len(word))))


def _weights(seed: int, width: int, blocks: int, bias: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return the tensors by name; `bias`, shape [pieces], goes into the output matrix."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(gain / np.sqrt(columns))

    def from_residual(rows: int) -> np.ndarray:
        # Blind to the bias dimension, which would drown what the tokens say.
        values = matrix(rows, width)
        values[:, _BIAS_DIMENSION] = 0.0
        return values

    def into_residual(columns: int) -> np.ndarray:
        values = matrix(width, columns)
        values[_BIAS_DIMENSION] = 0.0
        return values

    tokens = random.standard_normal((len(bias), width), dtype=np.float32)
    tokens[:, _BIAS_DIMENSION] = _BIAS_SCALE * np.sqrt(width)
    # A norm divides by _BIAS_SCALE, nearly; this gives the rest its size back and leaves sqrt(width) as bias.
    norm = np.full(width, _BIAS_SCALE, dtype=np.float32)
    norm[_BIAS_DIMENSION] = 1.0
    tensors = [("token_embd.weight", tokens)]
    for block in range(blocks):
        tensors += [
            (f"blk.{block}.attn_norm.weight", norm),
            (f"blk.{block}.attn_q.weight", from_residual(width)),
            (f"blk.{block}.attn_k.weight", from_residual(width)),
            (f"blk.{block}.attn_v.weight", from_residual(width)),
            (f"blk.{block}.attn_output.weight", into_residual(width)),
            (f"blk.{block}.ffn_norm.weight", norm),
            (f"blk.{block}.ffn_gate.weight", from_residual(2 * width)),
            (f"blk.{block}.ffn_up.weight", from_residual(2 * width)),
            (f"blk.{block}.ffn_down.weight", into_residual(2 * width)),
        ]
    output = matrix(len(bias), width, 1.5)
    output[:, _BIAS_DIMENSION] = bias / np.sqrt(width)
    return [*tensors, ("output_norm.weight", norm), ("output.weight", output)]


def _corrupted_header(good: bytes) -> bytes:
    # The last tensor's entry: its name, u32 number of dimensions, u64 for each of them, u32 type, u64 offset.
    name = b"output.weight"
    at = good.rindex(name) + len(name)
    at += 4 + 8 * int.from_bytes(good[at : at + 4], "little")
    return good[:at] + (0x7777).to_bytes(4, "little") + good[at + 4 :]


MALFORMATIONS: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "text": lambda good: b"This is a letter to a friend, not a model.\n" * 100,
    "truncated_header": lambda good: good[: good.index(b"tokenizer.ggml.scores")],
    "corrupted_header": _corrupted_header,
    "impossible_header": lambda good: good,
    "truncated_data": lambda good: good[: len(good) * 3 // 4],
}


def malformed(path: Path, how: str) -> Path:
    """Write a malformed model to `path` and return `path`.

    Args:
        how: a key of MALFORMATIONS. What gpt4all 2.8.2 does with each when it loads it:
            empty, text, truncated_header: RuntimeError.
            corrupted_header: a tensor of unknown type; aborts the process with a GGML_ASSERT on stderr.
            impossible_header: well-formed GGUF, but it claims 4096 experts; aborts with a GGML_ASSERT too.
            truncated_data: the last quarter is missing; "Model not loaded" if n_threads is set.
    """
    numbers = {"llama.expert_count": 4096} if how == "impossible_header" else None
    path.write_bytes(MALFORMATIONS[how](make(path, numbers=numbers).read_bytes()))
    return path


def main() -> None:
    """Write one model file as the command line says."""
    parser = argparse.ArgumentParser(description="Write a tiny random-weight llama model as GGUF.")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--malformed", choices=MALFORMATIONS, help="break it in this way")
    arguments = parser.parse_args()
    if arguments.malformed:
        malformed(arguments.out, arguments.malformed)
    else:
        make(arguments.out, seed=arguments.seed)


if __name__ == "__main__":
    main()
