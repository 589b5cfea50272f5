"""The server with a watchdog that mayfly comes from: each request is answered by a process that loads the
model for it and ends with it, so that nobody gets a used one.

    python naive_completions.py MODEL.gguf PORT THREADS N_CTX
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from flask import Flask, Response, jsonify, request

BARE = Path(__file__).resolve().parents[1] / "bare.py"
path, port, threads, n_ctx = sys.argv[1:]
app = Flask(__name__)


@app.post("/v1/completions")
def complete() -> Response:
    """Answer with the whole text, as the seed's script did."""
    body = request.get_json()
    wanted = json.dumps({"prompt": body["prompt"], "max_tokens": body["max_tokens"]})
    done = subprocess.run([sys.executable, str(BARE), "gpt4all", path, threads, n_ctx], input=wanted + "\n", text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    return jsonify({"usage": {"completion_tokens": said["tokens"], "prompt_tokens": said["prompt_tokens"]}})


app.run("127.0.0.1", int(port), threaded=False)
