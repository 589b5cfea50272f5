"""The naive server that people write first: one Embed4All, one request at a time, a list comprehension over `embed`.

    python naive_flask.py MODEL.gguf PORT THREADS
"""

from __future__ import annotations

import sys
from pathlib import Path

from flask import Flask, Response, jsonify, request
from gpt4all import Embed4All

path, port, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
embedder = Embed4All(path.name, model_path=path.parent, allow_download=False, n_threads=threads, device="cpu")
app = Flask(__name__)


@app.post("/embed")
def embed() -> Response:
    """Answer as the seeds' script did."""
    texts = request.get_json()["input"]
    texts = [texts] if isinstance(texts, str) else texts
    vectors = [embedder.embed(text) for text in texts]
    return jsonify({"data": [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]})


# Two threads in one gpt4all model abort the process.
app.run("127.0.0.1", port, threaded=False)
