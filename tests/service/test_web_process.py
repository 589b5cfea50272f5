"""The web process: started by hand with wrong settings, and as the watchdog starts it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from service import PROJECT, Service, until
from supervised import APP, supervised
from web_rig import KEY, PATIENCE, eventually

from mayfly.wire.codec import from_wire
from mayfly.wire.events import Access, Drains, Event, EventPipe, Log, Told

pytestmark = pytest.mark.skipif(os.name == "nt", reason="descriptors are passed on otherwise there")


def test_supervised_process_serves_reports_and_stops(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        facts = json.loads(service.sentinel.read_text())
        assert (facts["pid"], facts["generation"]) == (service.process.pid, 3)
        assert service.get("/v1/models")[0] == 200
        event = _event(service.output.readline())
        assert isinstance(event, Access)
        assert '"GET /v1/models HTTP/1.1" 200' in event.line
        service.process.send_signal(signal.SIGINT)
        assert service.get("/health")[0] == 200
        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0
        assert not service.sentinel.exists()


def test_heartbeat_goes_on_while_nothing_happens(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        touched = service.sentinel.stat().st_mtime_ns
        eventually(lambda: service.sentinel.stat().st_mtime_ns > touched)
        again = service.sentinel.stat().st_mtime_ns
        eventually(lambda: service.sentinel.stat().st_mtime_ns > again)


def test_key_is_on_no_command_line_and_in_no_output(tmp_path: Path) -> None:
    # DEBUG, or only root may see the environment.
    with supervised(tmp_path, DEBUG="true") as service:
        service.get("/v1/models", Authorization=f"Bearer {KEY}")
        service.get("/nothing", Authorization=f"Bearer {KEY}x")
        if os.path.isdir("/proc/self"):
            for name in ("cmdline", "environ"):
                assert KEY.encode() not in Path(f"/proc/{service.process.pid}/{name}").read_bytes()
        assert KEY not in service.sentinel.read_text()
        service.process.terminate()
        out, err = service.process.communicate(timeout=PATIENCE)
        assert KEY.encode() not in out + err
        assert [type(_event(line)) for line in out.splitlines()] == [Access, Access, Drains]


def test_one_that_is_told_to_stop_by_itself_leaves_the_port_to_the_next(tmp_path: Path) -> None:
    service = Service(tmp_path, {"EMBED_MODEL": "none"})
    try:
        service.wait_listening()
        first = service.pid("app")
        os.kill(first, signal.SIGTERM)
        until(lambda: service.pid("app") not in (None, first), what="the next web process")
        assert service.health()["status"]
    finally:
        service.stop()


def test_lane_without_a_model_says_which_setting_to_fill(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("POST", "/gpt4all_api", b'{"prompt": "x"}', {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 503
            assert answer.headers["Retry-After"]
            assert "MODEL_NAME" in json.loads(answer.read())["error"]["message"]


def test_requests_do_not_wait_for_a_watchdog_that_reads_nothing(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        # Each line is some 1,200 bytes; a pipe holds 64 kB.
        for _ in range(150):
            assert service.get("/" + "a" * 1000)[0] == 404
        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0
        lines = service.output.read().splitlines()
        assert 0 < len(lines) < 150
        assert {type(_event(line)) for line in lines} <= {Access, Drains}


def test_dropped_lines_are_counted_with_the_next_one_that_fits() -> None:
    reading, writing = os.pipe()
    pipe = EventPipe(writing, drops=True)
    sent = 200
    for number in range(sent):
        pipe.send(Access(f"{number} " + "x" * 1000))
    first = _drain(reading)
    pipe.send(Access("last"))
    (told,) = _drain(reading)
    assert (told.event, told.dropped) == (Access("last"), sent - len(first))
    pipe.send(Access("after"))
    (told,) = _drain(reading)
    assert (told.event, told.dropped) == (Access("after"), 0)
    os.close(reading)
    pipe.send(Access("nobody reads any more"))
    os.close(writing)


def test_a_pipe_that_drops_nothing_waits_until_its_lines_fit() -> None:
    reading, writing = os.pipe()
    pipe = EventPipe(writing, drops=False)
    sender = threading.Thread(target=lambda: [pipe.send(Log(f"{number} " + "x" * 1000)) for number in range(200)])
    sender.start()
    heard: list[Told] = []
    while len(heard) < 200:
        heard += _drain(reading)
    sender.join()
    assert [(told.event.line.split()[0], told.dropped) for told in heard if isinstance(told.event, Log)] == [
        (str(number), 0) for number in range(200)]


def _event(line: bytes) -> Event:
    told: Told = from_wire(json.loads(line), Told)
    return told.event


def _drain(descriptor: int) -> list[Told]:
    os.set_blocking(descriptor, False)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(descriptor, 1 << 16):
            data += part
    return [from_wire(json.loads(line), Told) for line in data.splitlines()]


def test_end_of_input_before_the_settings_ends_the_process() -> None:
    done = subprocess.run(APP, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr


def run_alone(folder: Path, *arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    env_file = folder / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    environ = {**os.environ, "MAYFLY_ENV": str(env_file)}
    return subprocess.run([sys.executable, str(PROJECT / "app.py"), *arguments], env=environ, capture_output=True,
                          text=True, timeout=PATIENCE)


def test_wrong_setting_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run_alone(tmp_path, LISTEN_PORT="ninety")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "LISTEN_PORT" in line
    assert "ninety" in line


def test_taken_port_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_alone(tmp_path, LISTEN_PORT=str(taken.getsockname()[1]))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "LISTEN_PORT" in line


def test_unknown_argument_is_refused(tmp_path: Path) -> None:
    assert run_alone(tmp_path, "--superviced").returncode == 2
