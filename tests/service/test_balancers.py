"""Several services behind a balancer, with the files of deploy/: one that is stopped takes no call along, and whatever
the balancer itself says is JSON."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import scripts
from clients import unavailable
from service import PROJECT, Service, until

if sys.platform != "linux":
    pytest.skip("the balancers are Debian's packages", allow_module_level=True)

# Who is asked and who answers doesn't depend on what is said.
pytestmark = pytest.mark.settings(EMBED_MODEL=scripts.VECTORS)

KEY = "a-key-for-the-balancer"
CLIENTS = 8
CALLS = 2000
DUCK = 2.0


@dataclass
class Balancer:
    """One that runs, and the process of it that callers don't see."""

    url: str
    process: subprocess.Popen[bytes]


@pytest.fixture
def balanced(start: Callable[..., Service], tmp_path: Path) -> Iterator[Callable[..., tuple[Balancer, list[Service]]]]:
    """Start two services and a balancer in front of them, by its file in deploy/ with other ports, and with what
    `changed` makes of it."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(name: str, changed: Callable[[str], str] = str, **settings: object) -> tuple[Balancer, list[Service]]:
        program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            unavailable(f"{name} isn't installed (apt-get install haproxy nginx-light)")
        services = [serve(start, folder, **settings) for folder in ("one", "two")]
        (port,) = free_ports(1)
        text = changed((PROJECT / "deploy" / FILES[name]).read_text())
        for usual, other in zip(("6008", "6009", "8080"), (*map(port_of, services), port), strict=True):
            assert f"127.0.0.1:{usual}" in text
            text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{other}")
        file = tmp_path / FILES[name]
        shutil.copytree(PROJECT / "deploy" / "errors", tmp_path / "errors")
        own = f"pid {tmp_path}/nginx.pid;\nerror_log {tmp_path}/nginx.log;\n"
        file.write_text(own + text if name == "nginx" else text)
        command = [program, "-f", file] if name == "haproxy" else [
            program, "-e", tmp_path / "nginx.log", "-c", file, "-p", tmp_path, "-g", "daemon off;"]
        running.append(subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        balancer = Balancer(f"http://127.0.0.1:{port}", running[-1])
        until(lambda: ask(balancer, "GET", "/ready")[0] == 200, what="a balancer that has found them")
        return balancer, services

    yield begin
    for process in running:
        process.terminate()
        process.wait(60)


FILES = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}


def serve(start: Callable[..., Service], folder: str, port: int = 0, **settings: object) -> Service:
    """Start a service as deploy/ wants it: with a key for everybody, and as a lame duck before it stops."""
    return start(folder=folder, wait=False, LISTEN_PORT=port, REQUIRE_KEY="always", API_KEYS=KEY,
                 LAME_DUCK_SECONDS=DUCK, **settings).wait_ready()


def port_of(service: Service) -> int:
    return int(service.wait_listening().rpartition(":")[2])


def free_ports(number: int) -> list[int]:
    """Return ports that nobody has."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def ask(balancer: Balancer, method: str, path: str, body: object = None, key: str = KEY
        ) -> tuple[int, dict[str, str], str]:
    """Return the status, the headers and the text of an answer; status 0 and what happened if none came."""
    connection = http.client.HTTPConnection(balancer.url.removeprefix("http://"), timeout=120)
    try:
        connection.request(method, path, None if body is None else json.dumps(body),
                           {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    except (OSError, http.client.HTTPException) as exc:
        return 0, {}, repr(exc)
    finally:
        connection.close()


@dataclass
class Callers:
    """Clients that ask for vectors, and every fifth time for a completion, and note what they get."""

    balancer: Balancer
    outcomes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def __enter__(self) -> Callers:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(120)

    def _run(self) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            path, body = ("/gpt4all_api", {"prompt": "Hello", "max_tokens": 2}) if turn % 5 == 0 else (
                "/embed", {"input": "a mayfly"})
            status, _, text = ask(self.balancer, "POST", path, body)
            self.outcomes[str(status)] += 1
            if status != 200:
                self.lost.append(text)

    def served(self, more: int) -> None:
        """Wait until so many more have got their answer."""
        wanted = self.outcomes["200"] + more
        until(lambda: self.outcomes["200"] >= wanted, what=lambda: f"{wanted} answers; lost: {self.lost[:5]}")


def without_retries(text: str) -> str:
    """Return HAProxy's file without what asks another one again."""
    return re.sub(r"    (retry-on|option redispatch).*\n", "", text).replace("    retries 3", "    retries 0")


def test_a_rolling_restart_loses_no_call_of_2000_though_the_balancer_asks_nothing_again(
        start: Callable[..., Service], balanced: Callable[..., tuple[Balancer, list[Service]]], model_path: Path
        ) -> None:
    model = scripts.write(model_path, {"when": "", "pieces": ["a", "b"]})
    balancer, services = balanced("haproxy", without_retries, MODEL_NAME=model)
    with Callers(balancer) as callers:
        callers.served(100)
        for name, service in zip(("one", "two"), services, strict=True):
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(120) == 0
            callers.served(100)
            serve(start, name, port_of(service), MODEL_NAME=model)
            # It is asked again.
            callers.served(100)
        until(lambda: callers.outcomes.total() >= CALLS, what=f"{CALLS} calls")
    print(dict(callers.outcomes))
    assert (dict(callers.outcomes).keys(), callers.lost) == ({"200"}, [])


def test_killing_one_loses_at_most_what_it_was_answering_and_says_so_in_json(
        balanced: Callable[..., tuple[Balancer, list[Service]]], model_path: Path) -> None:
    balancer, services = balanced("haproxy", MODEL_NAME=scripts.write(model_path, {"when": "", "pieces": ["a", "b"]}))
    with Callers(balancer) as callers:
        callers.served(100)
        os.kill(services[0].process.pid, signal.SIGKILL)
        callers.served(300)
    print(dict(callers.outcomes))
    assert len(callers.lost) <= CLIENTS
    assert all(json.loads(text)["error"]["code"] == "model_unavailable" for text in callers.lost)


@pytest.mark.parametrize("name", FILES)
def test_behind_it_callers_need_a_key_streams_come_piece_by_piece_and_every_error_is_json(
        balanced: Callable[..., tuple[Balancer, list[Service]]], model_path: Path, name: str) -> None:
    model = scripts.write(model_path, scripts.slowly("", 4.0))
    balancer, services = balanced(name, MODEL_NAME=model)
    assert ask(balancer, "POST", "/embed", {"input": "a"}, key="another-key")[0] == 401
    assert ask(balancer, "POST", "/embed", {"input": "a"})[0] == 200
    pieces = streamed(balancer)
    # Of 40; on a busy machine some come together.
    assert len(pieces) >= 10 and pieces[-1].endswith("[DONE]\n\n"), pieces
    # As many headers as both read before they refuse them.
    for sent in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 16_400 + b"\r\n\r\n"):
        said = raw(balancer, sent)
        assert said == b"" or (name == "nginx" and json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"])
    for service in services:
        os.kill(service.process.pid, signal.SIGKILL)
    _, headers, text = until(lambda: nobody(ask(balancer, "POST", "/embed", {"input": "a"})), what="a refusal")
    assert json.loads(text)["error"]["code"] == "model_unavailable" and int(headers["retry-after"]) >= 1


def nobody(answer: tuple[int, dict[str, str], str]) -> tuple[int, dict[str, str], str] | None:
    check_json(*answer, (200, 502, 503))
    return answer if answer[0] == 503 else None


def check_json(status: int, headers: dict[str, str], text: str, expected: Sequence[int]) -> None:
    assert status in expected, text
    assert headers["content-type"] == "application/json" and isinstance(json.loads(text), dict)


def raw(balancer: Balancer, sent: bytes) -> bytes:
    """Send bytes; return what comes until the connection is closed."""
    host, _, port = balancer.url.removeprefix("http://").partition(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(sent)
        while part := sock.recv(1 << 16):
            said += part
    return said


def streamed(balancer: Balancer) -> list[str]:
    """Return what arrived at once of a stream, again and again."""
    connection = http.client.HTTPConnection(balancer.url.removeprefix("http://"), timeout=120)
    body: dict[str, Any] = {"prompt": "Hello", "max_tokens": 40, "stream": True}
    connection.request("POST", "/gpt4all_api", json.dumps(body),
                       {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"})
    answer = connection.getresponse()
    pieces = []
    while piece := answer.read1():
        pieces.append(piece.decode())
    connection.close()
    return pieces
