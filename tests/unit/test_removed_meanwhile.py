"""The run folder is made again while somebody is still about to remove it: that ends nothing."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import scripts

from mayfly.settings import parse
from mayfly.supervision.run_folder import RunFolder
from mayfly.supervision.sockets import LaneSockets


def test_the_folder_and_its_sockets_are_there_once_nobody_removes_them_any_more(tmp_path: Path) -> None:
    vectors = scripts.write(tmp_path, name="vectors", kind="embedding")
    settings = parse({"MODEL_PATH": str(tmp_path), "EMBED_MODEL": vectors, "MODEL_NAME": scripts.write(tmp_path)})
    folder = RunFolder(tmp_path / "run")
    sockets = LaneSockets(settings, folder.path)
    lanes = sockets.open_configured()
    over = threading.Event()

    def remove() -> None:
        while not over.is_set():
            shutil.rmtree(folder.path, ignore_errors=True)

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for _ in range(300):
            folder.hold()
            sockets.renew()
    finally:
        over.set()
        remover.join()
    folder.hold()
    sockets.renew()
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "completion.sock", "embedding.sock", "watchdog.lock"]
    assert sorted(lanes) == ["completion", "embedding"]
    for name in lanes:
        sockets.close(name)
    folder.close()
