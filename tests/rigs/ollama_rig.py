"""A service for Ollama's clients: real vectors, a real small model, scripted ones, and a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import scripts
from clients import KEY, RULES
from links import link
from service import Service

# As many words as the window of the scripted model holds, but for those that its template writes.
WINDOW = 64


def begin(folder: Path, embedding_model: Path, tiny_model: Path, **settings: Any) -> Service:
    """Start it. `played` is the completion model; `tiny-llama` is loaded on demand."""
    models = folder / "models"
    models.mkdir()
    for model in (embedding_model, tiny_model):
        link(model, models / model.name)
    (models / "damaged.gguf").write_bytes(b"GGUF")
    return Service(folder / "service", {
        "MODEL_PATH": models, "MODEL_NAME": scripts.write(models, *RULES, context_length=WINDOW),
        "API_KEYS": KEY, "CHAT_PROCESSES": 2, "N_CTX": 512, "MODEL_LIST": "http://127.0.0.1:9/models3.json",
        **settings})
