"""mayfly-nano-demo, the completion model that comes with the project: a demonstration.

Its file lies in the repository, in `models/`, and in the package where mayfly is installed. Where MODEL_PATH is another
folder it is used from there while MODEL_NAME names it, and nothing is copied: a copy would stay as it is when the
project brings a new one, and MODEL_PATH may be read-only. A file of that name in MODEL_PATH comes first.
"""

from __future__ import annotations

from mayfly.places import OWN_MODELS

FILE_NAME = "mayfly-nano-demo.gguf"
ID = "mayfly-nano-demo"
PATH = OWN_MODELS / FILE_NAME

#: What is printed at the start of a service that uses it.
ANNOUNCEMENT = f"completions by {ID}, a demonstration model; set MODEL_NAME in .env for a real one"

#: Why it isn't pulled, and how it can be used.
ORIGIN = (f"{FILE_NAME} is not fetched, it comes with mayfly: MODEL_NAME={FILE_NAME} in .env uses it; to have it "
          "beside another model, copy it from mayfly's own models/ into MODEL_PATH")


def absent() -> str:
    """Return what to do when MODEL_NAME names it and its file isn't there."""
    return (f"{FILE_NAME}, the demonstration model that comes with mayfly, is missing in mayfly's own models/: bring "
            f"it back ('git checkout models/{FILE_NAME}', or install mayfly again), or set MODEL_NAME in .env to "
            "another model, or to none for embeddings alone")
