"""What somebody takes away from under a running service: its run folder or parts of it, its logs, its output, its disk.
It makes again what can be made, or ends with a code and a sentence; two never serve one folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import scripts
from processes import state
from service import PROJECT, Service, until

pytestmark = pytest.mark.settings(EMBED_MODEL=scripts.VECTORS)

EXIT_SECOND, EXIT_FOLDER = 3, 5
# An answer takes a moment: so there is always a call on its way, and asking without a pause takes no processor.
GREETING = {"when": "", "pieces": ["Hello", " there."], "seconds": 0.05}


@pytest.fixture
def scripted(start: Callable[..., Service], model_path: Path) -> Callable[..., Service]:
    """Start a service whose completions are scripted."""
    model = scripts.write(model_path, scripts.slowly("slow", 3.0), GREETING)
    return lambda **settings: start(**{"MODEL_NAME": model, **settings})


def _answers(service: Service) -> None:
    assert len(service.embed("a")) == 1
    assert service.complete("Hello")["response"] == "Hello there."


@contextlib.contextmanager
def _answering(service: Service) -> Iterator[None]:
    """Fail unless every call is answered, those that are on their way just now as well."""
    over, failed, asked = threading.Event(), [], [0, 0]

    def ask(which: int, once: Callable[[], object]) -> None:
        while not over.is_set() and not failed:
            try:
                once()
                asked[which] += 1
            except Exception as exc:
                failed.append(exc)

    threads = [threading.Thread(target=ask, args=(0, lambda: service.embed("a"))),
               threading.Thread(target=ask, args=(1, lambda: service.complete("Hello")))]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(asked) or failed)
        yield
        before = list(asked)
        until(lambda: failed or all(now > then + 1 for now, then in zip(asked, before, strict=True)), within=90,
              what="two more answers of each")
    finally:
        over.set()
        for thread in threads:
            thread.join(90)
    assert not failed, failed


def _ended(service: Service, code: int) -> str:
    """Wait for the end of a service; return the sentence with which it ended."""
    assert service.process.wait(60) == code
    service.stop()
    assert "Traceback" not in service.output()
    return next(line for line in service.lines if line.startswith("mayfly: "))


# -- the run folder -------------------------------------------------------------------------------------------------


def _remove_all(run: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)  # while processes put their files back


def _empty(run: Path) -> None:
    for path in list(run.iterdir()):
        path.unlink(missing_ok=True)


def _move(run: Path) -> None:
    run.rename(run.with_name("moved"))


def _remove(*names: str) -> Callable[[Path], None]:
    return lambda run: [(run / name).unlink(missing_ok=True) for name in names] and None


@pytest.fixture(scope="module", params=["fork", "respawn"])
def losing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with scripted models from which one thing after the other is taken away."""
    folder = tmp_path_factory.mktemp("losing")
    vectors = scripts.write(folder, {"when": "", "seconds": 0.05}, name="vectors", kind="embedding")
    service = Service(folder / "service", {
        "ISOLATION": request.param, "MODEL_PATH": folder, "EMBED_MODEL": vectors,
        "MODEL_NAME": scripts.write(folder, GREETING)})
    yield service.wait_ready()
    assert service.reports() == []
    assert service.stop() == 0
    assert [path.name for path in service.run_folder.iterdir()] == ["watchdog.lock"]


@pytest.mark.parametrize("take_away", [
    _remove_all, _empty, _move, _remove("completion.sock"), _remove("embedding.sock", "completion.sock"),
    _remove("state.json"),
    _remove("watchdog.lock"), _remove("app.watchdog", "embedding.watchdog", "completion.watchdog"),
], ids=["folder", "all in it", "moved", "one socket", "sockets", "board", "lock", "sentinels"])
def test_what_is_removed_from_the_run_folder_is_made_again(
        losing: Service, take_away: Callable[[Path], None]) -> None:
    wanted = {"watchdog.lock", "state.json", "embedding.sock", "completion.sock", "app.watchdog", "embedding.watchdog"}
    with _answering(losing):
        said = len(losing.lines)
        take_away(losing.run_folder)
        until(lambda: wanted <= {path.name for path in losing.run_folder.glob("*")}, what="everything there again")
    losing.wait_ready()
    _answers(losing)
    assert losing.run_folder.stat().st_mode & 0o777 == 0o700
    assert [line for line in losing.lines[said:] if "Traceback" in line] == []
    assert len([line for line in losing.lines[said:] if "spent" not in line and "HTTP/1.1" not in line]) < 20
    assert losing.reports() == []
    # And nobody else comes in.
    again = Service(losing.folder, losing.settings)
    assert f"pid {losing.process.pid}" in _ended(again, EXIT_SECOND)
    _answers(losing)


def test_a_run_folder_is_lost_again_and_again_and_made_again_each_time(scripted: Callable[..., Service]) -> None:
    service = scripted()
    for _ in range(3):
        _remove_all(service.run_folder)
        until(lambda: service.lane("completion")["state"] == "ready"
              and (service.run_folder / "completion.sock").exists(),
              what=lambda: f"the lane, ready again: {sorted(service.run_folder.glob('*'))}\n{service.output()}")
        _answers(service)
    assert service.reports() == []


def test_of_two_that_have_the_folder_exactly_one_goes_on(scripted: Callable[..., Service]) -> None:
    first = scripted()
    # It can't put its lock back before the second one has come.
    os.kill(first.process.pid, signal.SIGSTOP)
    try:
        until(lambda: state(first.process.pid) == "T")
        (first.run_folder / "watchdog.lock").unlink()
        second = scripted()
        _answers(second)
    finally:
        os.kill(first.process.pid, signal.SIGCONT)
    with _answering(second):
        line = _ended(first, EXIT_SECOND)
        assert str(first.run_folder) in line and f"pid {second.process.pid}" in line
    assert {"embedding.sock", "completion.sock", "state.json", "embedding.watchdog"} <= {
        path.name for path in second.run_folder.iterdir()}
    _answers(second)


def test_the_file_of_a_lock_that_was_removed_and_left_by_another_one_is_taken_back(
        scripted: Callable[..., Service]) -> None:
    service = scripted()
    lock = service.run_folder / "watchdog.lock"
    (service.run_folder / "other").write_text("1\n")
    (service.run_folder / "other").replace(lock)
    until(lambda: lock.read_text().strip() == str(service.process.pid), what="its pid in the lock")
    _answers(service)


def _put_a_file_in_its_place(service: Service) -> None:
    """Replace the run folder by a file, while the watchdog sleeps: it would make the folder again in between."""
    service.process.send_signal(signal.SIGSTOP)
    until(lambda: state(service.process.pid) == "T", what="the watchdog's sleep")
    service.run_folder.rename(service.run_folder.with_name("moved"))
    service.run_folder.write_text("a file\n")
    service.process.send_signal(signal.SIGCONT)


def test_a_run_folder_in_whose_place_is_a_file_ends_the_service_with_a_sentence(
        scripted: Callable[..., Service]) -> None:
    service = scripted()
    family = service.family()
    _put_a_file_in_its_place(service)
    line = _ended(service, EXIT_FOLDER)
    assert str(service.run_folder) in line and "RUN_FOLDER_NAME" in line
    assert service.run_folder.read_text() == "a file\n"
    assert not [pid for pid in family if state(pid) not in ("", "Z")]


def test_a_call_in_flight_is_answered_when_the_run_folder_is_lost_for_good(scripted: Callable[..., Service]) -> None:
    service = scripted()
    stream = service.stream("slow", max_tokens=100)
    assert next(stream)
    _put_a_file_in_its_place(service)
    assert list(stream)[-1] == "[DONE]"
    _ended(service, EXIT_FOLDER)


# -- a disk that is full, or can't be written -------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], check=True,
                       capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"no file system can be mounted here: {exc}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(disk: Path, *, but: int = 0) -> Path:
    """Fill a file system but for so many bytes; return the file to remove."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))
    os.truncate(filler, filler.stat().st_size - but)
    return filler


@pytest.mark.parametrize("free", [0, 4096, 8192, 16384, 32768])
def test_a_nearly_full_run_folder_is_refused_in_one_line_that_names_it(
        start: Callable[..., Service], disk: Path, free: int) -> None:
    _fill(disk, but=free)
    service = start(wait=False, RUN_FOLDER_NAME=disk / "run")
    line = _ended(service, EXIT_FOLDER)
    assert str(disk / "run") in line and "No space left" in line
    assert len(service.lines) == 1


def test_a_disk_that_fills_below_the_run_folder_stops_nothing(
        start: Callable[..., Service], model_path: Path, disk: Path) -> None:
    for name in "ab":
        scripts.write(model_path, {"when": "", "pieces": [name]}, name=name)
    service = start(MODEL_NAME="a.script.json", RUN_FOLDER_NAME=disk / "run", HANG_SECONDS=5)
    service.run_folder = disk / "run"
    filler = _fill(disk)
    said = len(service.lines)
    for _ in range(5):
        assert service.complete("Hello")["response"] == "a"
        service.embed("a")
    pid = service.pid("embedding")
    os.kill(pid, signal.SIGKILL)
    service.embed("a")
    # What another model's lane would be called by finds no room; nobody waits for it longer than for any other reason.
    assert len([line for line in service.lines[said:] if "state.json can't be written" in line]) <= 1
    filler.unlink()

    def asked() -> bool:
        body = {"model": "b", "prompt": "Hello", "max_tokens": 4}
        return service.post("/v1/completions", body).status_code == 200

    until(asked, what="the other model, as soon as there is room")
    assert service.complete("Hello")["response"] == "a"
    assert service.stop() == 0


# -- logs and output --------------------------------------------------------------------------------------------------


def test_logs_that_are_removed_are_made_again(scripted: Callable[..., Service]) -> None:
    service = scripted()
    _answers(service)
    for _ in range(2):
        # At once: between its files and itself the service could make one anew.
        shutil.rmtree(service.log_folder.rename(service.folder / "removed"))
        _answers(service)
        until(lambda: "POST /embed" in (service.log_folder / "access.log").read_text()
              if (service.log_folder / "access.log").exists() else "", what="the request in the log")
    shutil.rmtree(service.log_folder.rename(service.folder / "removed"))
    os.kill(service.pid("embedding"), signal.SIGKILL)
    until(service.reports, what="a report")
    (service.log_folder / "watchdog.log").unlink(missing_ok=True)
    _answers(service)
    until(lambda: (service.log_folder / "watchdog.log").exists())
    assert "can't be written" not in service.output()


@pytest.mark.parametrize("closed", [(1, 2), (0, 1, 2), (0,), (2,)], ids=str)
@pytest.mark.parametrize("program", ["watchdog.py", "app.py"])
def test_a_service_whose_standard_streams_are_closed_serves(
        tmp_path: Path, model_path: Path, closed: tuple[int, ...], program: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    (tmp_path / "empty.env").touch()
    environ = {**os.environ, "MAYFLY_ENV": str(tmp_path / "empty.env"), "MODEL_PATH": str(model_path), "THREADS": "1",
               "MODEL_NAME": "tiny-llama.gguf", "LISTEN_PORT": str(port), "RUN_FOLDER_NAME": str(tmp_path / "run"),
               "LOG_FOLDER_NAME": str(tmp_path / "logs")}
    command = f'exec "$0" "$@" {" ".join(f"{number}>&-" for number in closed)}'
    process = subprocess.Popen(["sh", "-c", command, sys.executable, str(PROJECT / program)], env=environ,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        def ready() -> bool:
            assert process.poll() is None
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(url + "/ready", timeout=120).status_code == 200
            return False

        until(ready, within=60)
        assert requests.post(url + "/embed", json={"input": "a"}, timeout=60).status_code == 200
        answer = requests.post(url + "/gpt4all_api", json={"prompt": "Hello", "max_tokens": 4}, timeout=60)
        assert answer.status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    assert code == 0
    if program == "watchdog.py":
        events = (tmp_path / "logs" / "watchdog.log").read_text()
        assert re.search(r"ready after", events) and "stopped" in events
