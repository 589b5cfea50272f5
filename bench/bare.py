"""One model in a process of its own with nothing around it: what `completions.py` compares the service with.

    python bench/bare.py llamacpp|gpt4all MODEL.gguf THREADS N_CTX

Started by the benchmark. It says `{}` when it is ready; then each line of JSON on stdin - `prompt` and `max_tokens` -
is answered by a line with `first` and `last`: seconds from the call to the first and the last token, `tokens`, how many
there were, and `prompt_tokens` where the library tells.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from mayfly.compat.process import take_stdout  # noqa: E402

# The sampling of every contender: what it draws doesn't matter, but that it costs the same does.
TEMPERATURE, TOP_K, TOP_P = 0.7, 40, 0.9

Complete = Callable[[str, int], tuple[list[float], int]]


def llamacpp(path: Path, threads: int, n_ctx: int) -> Complete:
    """Return a function that completes a prompt by llama.cpp's C API, in the simplest loop there is."""
    from mayfly.engines.llamacpp.library import ChainParams, load_model, open_library

    llama = open_library()
    model = load_model(path)
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, n_ctx, 512
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model, params)
    vocabulary = llama.llama_model_get_vocab(model)

    def decode(ids: array[int]) -> None:
        tokens = (ctypes.c_int32 * len(ids)).from_buffer(ids)
        assert llama.llama_decode(context, llama.llama_batch_get_one(tokens, len(ids))) == 0

    def complete(prompt: str, max_tokens: int) -> tuple[list[float], int]:
        text = prompt.encode()
        room = (ctypes.c_int32 * (len(text) + 8))()
        count = llama.llama_tokenize(vocabulary, text, len(text), room, len(room), True, False)
        chain = llama.llama_sampler_chain_init(ChainParams(True))
        for sampler in (llama.llama_sampler_init_top_k(TOP_K), llama.llama_sampler_init_top_p(TOP_P, 1),
                        llama.llama_sampler_init_temp(TEMPERATURE), llama.llama_sampler_init_dist(1)):
            llama.llama_sampler_chain_add(chain, sampler)
        llama.llama_memory_clear(llama.llama_get_memory(context), False)
        decode(array("i", room[:count]))
        moments = []
        while True:
            token = llama.llama_sampler_sample(chain, context, -1)
            moments.append(time.perf_counter())
            if len(moments) == max_tokens:
                break
            decode(array("i", [token]))
        llama.llama_sampler_free(chain)
        return moments, count

    return complete


def gpt4all(path: Path, threads: int, n_ctx: int) -> Complete:
    """Return a function that completes a prompt by gpt4all."""
    from gpt4all import GPT4All

    model = GPT4All(path.name, model_path=path.parent, allow_download=False, n_threads=threads, n_ctx=n_ctx,
                    device="cpu")

    def complete(prompt: str, max_tokens: int) -> tuple[list[float], int]:
        moments: list[float] = []

        def note(_token: int, _text: str) -> bool:
            moments.append(time.perf_counter())
            return True

        model.generate(prompt, max_tokens=max_tokens, temp=TEMPERATURE, top_k=TOP_K, top_p=TOP_P, min_p=0.0,
                       n_batch=128, callback=note)
        return moments, 0

    return complete


def main() -> None:
    """Answer until stdin ends."""
    told = os.fdopen(take_stdout(), "w")
    complete = {"llamacpp": llamacpp, "gpt4all": gpt4all}[sys.argv[1]](
        Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    print("{}", file=told, flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        started = time.perf_counter()
        moments, prompt_tokens = complete(wanted["prompt"], wanted["max_tokens"])
        said = {"first": moments[0] - started, "last": moments[-1] - started, "tokens": len(moments),
                "prompt_tokens": prompt_tokens}
        print(json.dumps(said), file=told, flush=True)


if __name__ == "__main__":
    main()
