"""Folders in a bad state: a second watchdog, a taken port, garbage and links where its files belong, logs that can't be
written. Either the service answers all the while, or it refuses to start in one clear line.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import scripts
from service import Service, until

pytestmark = pytest.mark.settings(EMBED_MODEL=scripts.VECTORS)

EXIT_SECOND, EXIT_ADDRESS, EXIT_FOLDER = 3, 4, 5
VICTIM = b"somebody else's file, every byte of it\n"


def _refusal(service: Service, code: int) -> str:
    """Return the one line with which a service refuses to start; fails if it starts, or says more."""
    assert service.process.wait(120) == code
    service.stop()
    (line,) = service.lines
    assert line.startswith("mayfly: ")
    return line


@pytest.fixture
def scripted(start: Callable[..., Service], model_path: Path) -> Callable[..., Service]:
    """Start a service whose completions crash when told to."""
    model = scripts.write(model_path, {"when": "crash", "do": "crash"}, {"when": "", "pieces": ["Hello", " there."]})
    return lambda **settings: start(**{"MODEL_NAME": model, **settings})


@contextlib.contextmanager
def _answering(service: Service) -> Iterator[None]:
    """Fail unless the service answers all the while."""
    over, asked, failed = threading.Event(), [0], []

    def ask() -> None:
        while not over.is_set():
            try:
                assert len(service.embed("a")) == 1
                assert service.complete("Hello")["response"] == "Hello there."
                asked[0] += 1
            except Exception as exc:
                failed.append(exc)
                return

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        until(lambda: asked[0] or failed)
        yield
        before = asked[0]
        until(lambda: asked[0] >= before + 2 or failed, what="two more answers")
    finally:
        over.set()
        thread.join(60)
    assert not failed, failed


# -- two of them ----------------------------------------------------------------------------------------------


def test_a_second_watchdog_for_the_same_folder_is_refused_and_the_first_is_unharmed(
        start: Callable[..., Service]) -> None:
    first = start(MODEL_NAME="none")
    pids = first.family()
    with _answering_embed(first):
        line = _refusal(start(wait=False), EXIT_SECOND)
    assert f"pid {first.process.pid}" in line and str(first.run_folder) in line and "RUN_FOLDER_NAME" in line
    assert first.family() == pids
    assert first.sentinels() == ["app.watchdog", "embedding.watchdog"]


@contextlib.contextmanager
def _answering_embed(service: Service) -> Iterator[None]:
    service.embed("before")
    yield
    service.embed("after")


def test_a_lock_of_a_killed_watchdog_does_not_keep_the_next_one_out(start: Callable[..., Service]) -> None:
    first = start(MODEL_NAME="none")
    first.process.kill()
    first.process.wait()
    second = start(MODEL_NAME="none")
    second.embed("a")
    # The first one's processes have ended; their files were in the way of nothing.
    second.printed(r"removed what an earlier run left: .*embedding\.watchdog")


def test_a_taken_port_is_refused_in_one_line(start: Callable[..., Service]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = _refusal(start(wait=False, LISTEN_PORT=port), EXIT_ADDRESS)
    assert f"127.0.0.1 port {port}" in line and "LISTEN_PORT" in line


def test_a_second_service_with_its_own_folder_cannot_take_the_port_of_the_first(start: Callable[..., Service]) -> None:
    first = start(MODEL_NAME="none")
    port = first.url.rpartition(":")[2]
    with _answering_embed(first):
        assert f"port {port}" in _refusal(start(wait=False, folder="another", LISTEN_PORT=port), EXIT_ADDRESS)


# -- sentinels ------------------------------------------------------------------------------------------------


def test_sentinels_of_an_earlier_run_are_removed_whatever_is_in_them(
        scripted: Callable[..., Service], tmp_path: Path) -> None:
    run = tmp_path / "service" / "run"
    run.mkdir(parents=True)
    left = {"app.watchdog": json.dumps({"pid": 1, "generation": 7}).encode(), "embedding.watchdog": b"\0\xff" * 5000,
            "completion.watchdog": b"[" * 100_000, "completion-1.watchdog": b"",
            "completion-17.watchdog": b"{\"pid\": \"x\"}",
            ".completion-3.watchdog.4711": b"{", "state.json": b"garbage", "watchdog.lock": b"9\n"}
    for name, content in left.items():
        (run / name).write_bytes(content)
    service = scripted()
    with _answering(service):
        pass
    assert "completion-17.watchdog" not in service.sentinels()
    assert not (run / ".completion-3.watchdog.4711").exists()
    line = service.printed("removed what an earlier run left")[0]
    assert line
    assert service.reports() == []
    assert service.lane("completion")["restarts"]["crashed"] == 0


def test_garbage_written_into_a_sentinel_fools_nobody(scripted: Callable[..., Service]) -> None:
    service = scripted(HANG_SECONDS=5)
    with _answering(service):
        for path in service.run_folder.glob("*.watchdog"):
            # Not created again where a spent generation has just removed it: that would say that it crashed.
            with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
                file.write(b"\x1b[2J" + os.urandom(3000))
        soon = service.lane("completion")["generation"] + 10
        for number in range(soon, soon + 100):
            (service.run_folder / f"completion-{number}.watchdog").write_bytes(b'{"request": {"id": "\\u001b[2J"}}')
    assert service.reports() == []
    # A report quotes nothing of it.
    pid = int(service.lane("embedding")["pid"])
    (service.run_folder / "embedding.watchdog").write_text(json.dumps(
        {"request": {"id": "\x1b[2J\nforged: line", "texts": "\nforged", "characters": 5, "prompt": "smuggled"}}))
    os.kill(pid, signal.SIGKILL)
    text = until(lambda: next((text for text in map(Path.read_text, service.reports()) if "stderr" in text), ""))
    assert "killed by SIGKILL" in text
    assert "smuggled" not in text and "\x1b" not in text and "\nforged" not in text
    until(lambda: service.embed("a"))


def _moved(made: Path, place: Path) -> bool:
    """Move something into the place of a sentinel; False if the process that beats there was faster."""
    # At once again after the place is free: a process that serves has put its sentinel back after milliseconds.
    for _ in range(20):
        with contextlib.suppress(OSError):
            os.rename(made, place)
            return True
        with contextlib.suppress(OSError):  # a folder takes the place of no file, and nothing that of a folder
            if place.is_dir() and not place.is_symlink():
                place.rename(place.with_name(f".{place.name}.{time.monotonic_ns()}"))
            else:
                place.unlink()
    return False


@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "full folder", "pipe"])
def test_something_else_in_the_place_of_a_sentinel_is_neither_followed_nor_trusted(
        scripted: Callable[..., Service], tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(VICTIM)
    os.utime(victim, (1, 1))
    run = tmp_path / "service" / "run"
    run.mkdir(parents=True)

    def place(name: str) -> None:
        made = tmp_path / "made"
        if kind == "pipe":
            os.mkfifo(made)
        elif "folder" in kind:
            made.mkdir()
        else:
            made.symlink_to(victim if kind == "link" else tmp_path / "nothing")
        if kind == "full folder":
            (made / "something").touch()
        until(lambda: _moved(made, run / name), what=f"{kind} in the place of {name}")

    for name in ("app", "embedding", "completion", "completion-1", "completion-2"):
        place(f"{name}.watchdog")
    service = scripted(HANG_SECONDS=5)
    with _answering(service):
        generation = service.lane("completion")["generation"]
        coming = [f"completion-{number}" for number in range(generation, generation + 20)]
        for name in ("app", "embedding", "completion", *coming):
            place(f"{name}.watchdog")
    assert service.post("/gpt4all_api", {"prompt": "crash"}).status_code == 500
    assert (victim.read_bytes(), victim.stat().st_mtime) == (VICTIM, 1)
    assert not (tmp_path / "nothing").exists()
    assert service.stop() == 0


# -- the other files ------------------------------------------------------------------------------------------


def test_links_in_the_place_of_sockets_logs_and_other_files_are_not_followed(
        scripted: Callable[..., Service], tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(VICTIM)
    os.utime(victim, (1, 1))
    for folder, names in (("run", ["embedding.sock", "completion.sock", "state.json"]),
                          ("logs", ["watchdog.log", "access.log"])):
        (tmp_path / "service" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "service" / folder / name).symlink_to(victim)
    service = scripted()
    with _answering(service):
        service.printed(r"watchdog\.log can't be written.*going on without it")
        service.printed(r"access\.log can't be written.*going on without it")
    assert service.post("/gpt4all_api", {"prompt": "crash"}).status_code == 500
    assert len(service.reports()) == 2
    # The links in the run folder were replaced; those in the log folder are left to their owner.
    assert [path.name for path in service.run_folder.iterdir() if path.is_symlink()] == []
    assert (victim.read_bytes(), victim.stat().st_mtime) == (VICTIM, 1)
    assert service.stop() == 0
    assert (victim.read_bytes(), victim.stat().st_mtime) == (VICTIM, 1)


def test_a_link_in_the_place_of_the_lock_is_refused_in_one_line(start: Callable[..., Service], tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(VICTIM)
    (tmp_path / "service" / "run").mkdir(parents=True)
    (tmp_path / "service" / "run" / "watchdog.lock").symlink_to(victim)
    assert "watchdog.lock" in _refusal(start(wait=False), EXIT_FOLDER)
    assert victim.read_bytes() == VICTIM


def test_a_run_folder_that_is_a_file_is_refused_in_one_line(start: Callable[..., Service], tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "run").touch()
    line = _refusal(start(wait=False), EXIT_FOLDER)
    assert str(tmp_path / "service" / "run") in line


def test_a_run_folder_too_deep_for_a_socket_is_refused_in_one_line_that_says_what_to_do(
        start: Callable[..., Service], tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-folder-of-some-length"] * 5)
    line = _refusal(start(wait=False, RUN_FOLDER_NAME=deep), EXIT_FOLDER)
    assert "RUN_FOLDER_NAME" in line and "shorter" in line


def test_the_run_folder_and_what_is_in_it_are_the_users_alone(scripted: Callable[..., Service], tmp_path: Path) -> None:
    (tmp_path / "service" / "run").mkdir(parents=True, mode=0o777)
    (tmp_path / "service" / "run").chmod(0o777)
    service = scripted()
    service.complete("Hello")
    assert service.run_folder.stat().st_mode & 0o777 == 0o700
    for path in service.run_folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a generation's, just spent
            assert path.stat().st_mode & 0o077 == 0 or path.name == "state.json", path
    for path in service.log_folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


# -- logs -----------------------------------------------------------------------------------------------------


def test_without_a_log_folder_the_service_answers_and_says_so_once(
        scripted: Callable[..., Service], tmp_path: Path) -> None:
    logs = tmp_path / "service" / "logs"
    logs.parent.mkdir()
    logs.write_bytes(VICTIM)  # what file modes do to others, this does to root too
    service = scripted()
    with _answering(service):
        service.printed(r"watchdog\.log can't be written")
    assert service.post("/gpt4all_api", {"prompt": "crash"}).status_code == 500
    service.printed("no failure report can be written")
    service.printed(r"completion generation \d+ crashed: killed by SIGSEGV")
    with _answering(service):
        pass
    told = [line for line in service.lines if "going on without it" in line]
    assert len(told) == 2, told  # once for each file
    assert logs.read_bytes() == VICTIM
    # As soon as there is a folder, it is used.
    logs.unlink()
    logs.mkdir(exist_ok=True)  # the service may have been there first
    with _answering(service):
        until(lambda: (logs / "access.log").exists() and (logs / "watchdog.log").exists())
    assert service.post("/gpt4all_api", {"prompt": "crash"}).status_code == 500
    assert len(service.reports()) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"no file system can be mounted here: {exc}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_below_the_logs_stops_nothing(scripted: Callable[..., Service], small_disk: Path) -> None:
    service = scripted(LOG_FOLDER_NAME=small_disk / "logs")
    service.log_folder = small_disk / "logs"
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))
    with _answering(service):
        service.printed("No space left on device; going on without it", within=60)
    assert service.post("/gpt4all_api", {"prompt": "crash"}).status_code == 500
    service.printed("no failure report can be written: No space left on device")
    assert service.reports() == []  # not even an empty one
    filler.unlink()
    assert service.post("/gpt4all_api", {"prompt": "crash"}).status_code == 500
    assert until(service.reports)[0].stat().st_size > 100
    with _answering(service):
        until(lambda: "POST /embed" in (service.log_folder / "access.log").read_text(), what="requests logged again")
    assert service.stop() == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits the files of a running process")
def test_log_files_that_may_not_grow_stop_nothing(scripted: Callable[..., Service]) -> None:
    service = scripted()
    service.complete("Hello")
    # A limit on file sizes below what the logs hold already: every further line fails, as on a full disk.
    for name in ("watchdog.log", "access.log"):
        with (service.log_folder / name).open("ab") as log:
            log.write(b"-" * 20_000 + b"\n")
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (16_384, resource.RLIM_INFINITY))
    with _answering(service):
        service.printed(r"access\.log can't be written.*going on without it")
        service.printed(r"watchdog\.log can't be written.*going on without it")
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    size = (service.log_folder / "access.log").stat().st_size
    with _answering(service):
        until(lambda: (service.log_folder / "access.log").stat().st_size > size)
