"""How near the accelerated engine's vectors are to gpt4all's, over random texts in many languages.

    python bench/fidelity.py [--texts 2000] [--threads 2]

Bar: every cosine at least 0.9999, and every token count the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import numpy as np  # noqa: E402
import results  # noqa: E402
from embedded import embed  # noqa: E402
from random_texts import random_texts  # noqa: E402
from tqdm import tqdm  # noqa: E402

from mayfly.engines import choose  # noqa: E402
from mayfly.settings import available_cores, load_settings  # noqa: E402


def main() -> int:
    """Run the comparison; exit code 1 if the bar isn't met."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--texts", type=int, default=2000)
    arguments.add_argument("--longest", type=int, default=80, help="words of a text at most")
    arguments.add_argument("--threads", type=int, default=available_cores())
    arguments.add_argument("--precision", default="auto", choices=["auto", "f32", "bf16"])
    chosen = arguments.parse_args()
    described = results.machine()
    settings = load_settings()
    path = settings.model_path / settings.embed_model
    plain, fast = (choose.load_embeddings(path, chosen.threads, "m", engine=engine, precision=chosen.precision)
                   for engine in ("gpt4all", "openvino"))
    cosines, counts_differ = [], 0
    for text in tqdm(random_texts(chosen.texts, longest=chosen.longest), unit="text"):
        (first, count), (second, other) = (embed(engine, text) for engine in (plain, fast))
        a, b = np.frombuffer(first, "<f4"), np.frombuffer(second, "<f4")
        cosines.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        counts_differ += count != other
    rows = [(len(cosines), f"{min(cosines):.6f}", f"{statistics.median(cosines):.6f}", counts_differ)]
    results.keep("Vectors of both engines (fidelity.py)",
                 f"{described}; openvino in {fast.facts['precision']} against gpt4all, random texts in 15 languages,",
                 results.table(("texts", "least cosine", "median", "token counts that differ"), rows)
                 + "\n\nBar: 0.9999, and 0.")
    return 0 if min(cosines) >= 0.9999 and not counts_differ else 1


if __name__ == "__main__":
    sys.exit(main())
