"""Scripted models: model files that answer, crash, hang or refuse on order (`mayfly.engines.scripted`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# What EMBED_MODEL is, in a mark `settings`, where any vectors will do: the fixture `start` writes that script.
VECTORS = "vectors.script.json"
# Seconds between tokens that are sent one by one: those that come sooner are sent together.
APART = 0.05


def write(folder: Path, *rules: dict[str, Any], name: str = "played", **script: Any) -> str:
    """Write a script into a MODEL_PATH; return what MODEL_NAME (or EMBED_MODEL) has to be.

    Args:
        rules: the first one that matches a prompt is played; if none does, the answer is "Hello there.".
        script: `kind`, `load`, `context_length`.
    """
    file = folder / f"{name}.script.json"
    file.write_text(json.dumps({**script, "rules": rules}))
    return file.name


def slowly(when: str, seconds: float, *, pieces: int = 40) -> dict[str, Any]:
    """Return a rule that answers "0 1 2 ..." in about so many seconds."""
    return {"when": when, "do": "answer", "pieces": [f"{number} " for number in range(pieces)],
            "seconds": seconds / pieces}


def counted(pieces: int = 40) -> str:
    """Return what a rule of `slowly` answers."""
    return "".join(f"{number} " for number in range(pieces))
