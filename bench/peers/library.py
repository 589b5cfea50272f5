"""One embedding library in a process of its own, driven by JSON lines, in the library's environment.

    python library.py NAME MODEL.gguf HUGGING_FACE_FOLDER THREADS

Each line on stdin is {"texts": [...], "per_call": n, "seconds": s}: the texts are embedded in calls of n, again and
again, for so long. The answer is a line {"times": [seconds of each call], "texts": done, "peak_mb": ..., "vectors":
[...]}; with "seconds" 0 each text is embedded once and the vectors are answered.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(PROJECT))

Embed = Callable[[list[str]], Any]


def mayfly(model: Path, folder: Path, threads: int) -> Embed:
    """The accelerated engine, with the scheduler that the embed worker uses."""
    from mayfly.engines import choose
    from mayfly.workers.batches import Queue, Scheduler, Text

    engine = choose.load_embeddings(model, threads, "m", engine="openvino")

    def embed(texts: list[str]) -> Any:
        import numpy as np

        made = [Text(text, "truncate") for text in texts]
        queue, scheduler = Queue.of(made), Scheduler(engine)
        queue.short = False
        while batch := scheduler.next_batch([queue]):
            for chunk, row in zip(batch, engine.compute([chunk.ids for chunk in batch]), strict=True):
                chunk.text.take(chunk.number, row)
        return np.stack([np.frombuffer(text.vector, "<f4") for text in made])

    return embed


def gpt4all(model: Path, folder: Path, threads: int) -> Embed:
    """Embed4All with the list as it is."""
    from gpt4all import Embed4All

    embedder = Embed4All(model.name, model_path=model.parent, allow_download=False, n_threads=threads, device="cpu")
    return lambda texts: embedder.embed(texts, long_text_mode="truncate")


def sentence_transformers(model: Path, folder: Path, threads: int) -> Embed:
    """sentence-transformers, torch in f32."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    loaded = SentenceTransformer(str(folder), device="cpu")
    return lambda texts: loaded.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)


def onnxruntime(model: Path, folder: Path, threads: int) -> Embed:
    """ONNX Runtime in f32, with the fused operators that its own optimiser makes of a BERT."""
    import numpy as np
    import onnxruntime as ort
    from onnx_file import make
    from tokenizers import Tokenizer

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(make(model), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()

    def embed(texts: list[str]) -> Any:
        encoded = tokenizer.encode_batch(texts)
        ids = np.array([entry.ids for entry in encoded], np.int64)
        mask = np.array([entry.attention_mask for entry in encoded], np.float32)
        return session.run(None, {"ids": ids, "mask": mask})[0]

    return embed


def main() -> None:
    """Load, say so, and answer."""
    name, model, folder, threads = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    embed = globals()[name](model, folder, threads)
    embed(["a first text"])
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        calls = [asked["texts"][at:at + asked["per_call"]] for at in range(0, len(asked["texts"]), asked["per_call"])]
        answer: dict[str, Any] = {}
        if not asked["seconds"]:
            answer["vectors"] = [[float(number) for number in row] for call in calls for row in embed(call)]
        else:
            embed(calls[0])
            times, texts, began = [], 0, time.perf_counter()
            while time.perf_counter() - began < asked["seconds"]:
                call = calls[len(times) % len(calls)]
                start = time.perf_counter()
                embed(call)
                times.append(time.perf_counter() - start)
                texts += len(call)
            answer.update(times=times, texts=texts, seconds=time.perf_counter() - began)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer["peak_mb"] = peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
