"""mayfly: local embeddings and completions over HTTP; every completion runs in a process nobody used before."""

__version__ = "0.2.0"
