"""The least that HTTP and a process of its own for the model take: what overhead.py compares the service with.

    python prototype.py MODEL.gguf PORT ENGINE THREADS

Flask on waitress, a Unix socket to one process with the model, orjson; nothing is checked, queued, watched or logged.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs")]


def compute(listener: socket.socket, model: Path, engine: str, threads: int) -> None:
    """Answer each connection's text with its vector."""
    from embedded import embed

    from mayfly.engines import choose

    loaded = choose.load_embeddings(model, threads, "m", engine=engine)
    while True:
        connection, _ = listener.accept()
        with connection:
            vector, _ = embed(loaded, connection.recv(1 << 16).decode())
            connection.sendall(vector)


def serve(path: str, port: int) -> None:
    """Serve `/embed` for single texts."""
    import numpy as np
    import orjson
    import waitress
    from flask import Flask, Response, request

    app = Flask("prototype")

    @app.post("/embed")
    def embed() -> Response:
        text = orjson.loads(request.get_data())["input"]
        text = text if isinstance(text, str) else text[0]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(text.encode())
            vector = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        entry = {"object": "embedding", "index": 0, "embedding": np.frombuffer(vector, np.float32)}
        return Response(orjson.dumps({"object": "list", "data": [entry]}, option=orjson.OPT_SERIALIZE_NUMPY),
                        mimetype="application/json")

    waitress.serve(app, host="127.0.0.1", port=port, threads=4, _quiet=True)


def main() -> None:
    """Start both processes; the one with the model ends with the other."""
    model, port, engine, threads = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = f"{folder}/s"
        listener.bind(path)
        listener.listen()
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            import threading

            # The other process never writes: what can be read is its end.
            threading.Thread(target=lambda: (theirs.recv(1), os._exit(0)), daemon=True).start()
            compute(listener, model, engine, threads)
        theirs.close()
        serve(path, port)


if __name__ == "__main__":
    main()
