"""A Hugging Face Hub that a test plays: it tells of a repository, and sends its files."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from models_rig import FileServer

REPOSITORY = "some-owner/Some-Model-GGUF"
REVISION = "5b1e8a0c" * 5
TOKEN = "hf_aTokenThatNobodyMaySee"


class PlayedHub(FileServer):
    """A hub with one repository; `add` and `publish` say what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self._siblings: dict[str, dict[str, Any]] = {}
        self.api = f"/api/models/{REPOSITORY}?blobs=true"
        self.publish()

    def address(self, path: str) -> str:
        """Return the path by which a file is fetched."""
        return f"/{REPOSITORY}/resolve/{REVISION}/{path}"

    def add(self, path: str, content: bytes, **told: object) -> None:
        """Put a file into the repository; `told` is what the hub says of it instead of what is true."""
        sha256 = hashlib.sha256(content).hexdigest()
        lfs = {"size": len(content), "sha256": sha256, "pointerSize": 130} | told
        self._siblings[path] = {"rfilename": path, "size": len(content), "blobId": "0" * 40, "lfs": lfs}
        self.files[self.address(path)] = content
        self.publish()

    def publish(self) -> None:
        """Tell of the repository as it is now."""
        told = {"id": REPOSITORY, "sha": REVISION, "siblings": list(self._siblings.values())}
        self.files[self.api] = json.dumps(told).encode()

    def ranges(self, path: str) -> list[str | None]:
        """Return from where on a file was asked for, each time."""
        return [wanted for asked, wanted in self.requests if asked == self.address(path)]
