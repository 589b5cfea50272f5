"""The public address: what LISTEN_IP means, the addresses that are printed, and that all of them work."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import scripts
from service import PROJECT, Service, until

from mayfly import listening
from mayfly.compat import sockets
from mayfly.errors import AddressTaken, SettingError
from mayfly.settings import parse
from mayfly.supervision import refusals
from mayfly.web.access import Access

KEY = "a-key-for-other-machines"


def _has(address: str) -> bool:
    try:
        sockets.bind_public(address, 0).close()
    except OSError:
        return False
    return True


needs_both = pytest.mark.skipif(not (_has("127.0.0.1") and _has("::1")), reason="this machine has no IPv6, or no IPv4")


@pytest.fixture
def serve(start: Callable[..., Service], tmp_path: Path) -> Callable[..., Service]:
    """Start a service that embeds by a script."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    model = scripts.write(folder, name="vectors", kind="embedding")
    return lambda **settings: start(MODEL_PATH=folder, MODEL_NAME="none", EMBED_MODEL=model, API_KEYS=KEY, **settings)


def status(url: str, **headers: str) -> int:
    session = requests.Session()
    session.trust_env = False
    with session:
        return session.post(url + "/embed", json={"input": "x"}, headers=headers, timeout=120).status_code


def printed(line: str) -> list[str]:
    return re.findall(r"http://\S+", line)


@needs_both
def test_with_the_default_both_loopback_addresses_answer_and_are_printed(serve: Callable[..., Service]) -> None:
    service = serve()
    port = service.url.rpartition(":")[2]
    both = [f"http://127.0.0.1:{port}", f"http://[::1]:{port}"]
    assert printed(service.printed("listening on .*")[0]) == both
    for url in [*both, f"http://localhost:{port}"]:
        assert status(url) == 200, url
    # A web process that takes over inherits both.
    before = service.pid("app")
    os.kill(before, signal.SIGKILL)
    until(lambda: service.sentinel("app").get("pid") not in (None, before))
    assert [status(url) for url in both] == [200, 200]


def test_a_second_port_answers_the_same_and_outlives_the_web_process(serve: Callable[..., Service]) -> None:
    with sockets.bind_public("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
    service = serve(OLLAMA_COMPAT_PORT=port)
    second = f"http://127.0.0.1:{port}"
    assert second in printed(service.printed("listening on .*")[0]) and second != service.url
    for _ in range(2):
        for url in (service.url, second):
            assert status(url) == 200
            assert requests.get(url, timeout=120).text == "Ollama is running"
            assert status(url, Host="evil.example") == 403
        before = service.pid("app")
        os.kill(before, signal.SIGKILL)
        until(lambda before=before: service.sentinel("app").get("pid") not in (None, before))


def test_a_second_port_that_another_program_has_is_refused_by_the_name_of_its_setting(
        serve: Callable[..., Service]) -> None:
    with sockets.bind_public("127.0.0.1", 0) as held:
        service = serve(OLLAMA_COMPAT_PORT=held.getsockname()[1], wait=False)
        service.printed("port .* can't be used .* set OLLAMA_COMPAT_PORT in .env to another port")
        assert service.process.wait(60) == refusals.ADDRESS


def test_both_ports_may_not_be_the_same() -> None:
    with pytest.raises(SettingError, match="OLLAMA_COMPAT_PORT is 6008, which LISTEN_PORT is too"):
        parse({"OLLAMA_COMPAT_PORT": "6008"})


@needs_both
@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_every_address_that_is_printed_works_and_is_a_host_that_is_ours(
        address: str, serve: Callable[..., Service]) -> None:
    service = serve(LISTEN_IP=address)
    port = service.url.rpartition(":")[2]
    own = printed(service.printed("listening on .*")[0])
    assert sorted(own) == [f"http://127.0.0.1:{port}", f"http://[::1]:{port}"]
    others = printed(service.output().partition("with a key")[2])
    assert bool(others) == any(":" not in one or address == "::" for one in listening.own_addresses())
    for url in [*own, f"http://0.0.0.0:{port}", f"http://[::]:{port}"]:
        assert status(url) == 200, url
    for url in others:
        assert (status(url), status(url, Authorization=f"Bearer {KEY}")) == (401, 200), url
        assert status(own[0], Host=url.removeprefix("http://")) == 200, url
    assert status(own[0], Host="192.0.2.77") == status(own[0], Host="evil.example") == 403


@needs_both
def test_the_web_process_alone_answers_at_every_address_too(tmp_path: Path) -> None:
    scripts.write(tmp_path, name="vectors", kind="embedding")
    environ = {**os.environ, "MODEL_PATH": str(tmp_path), "MODEL_NAME": "none", "EMBED_MODEL": "vectors.script.json",
               "LISTEN_PORT": "0", "MAYFLY_ENV": str(tmp_path / "my.env"), "LISTEN_IP": "127.0.0.1"}
    (tmp_path / "my.env").touch()
    with subprocess.Popen([sys.executable, str(PROJECT / "app.py")], cwd=tmp_path, env=environ, text=True,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if "serving on" in line)
            assert len(printed(line)) == 2
            assert [status(url) for url in printed(line)] == [200, 200]
        finally:
            process.terminate()


# -- the sockets ----------------------------------------------------------------------------------------------


@pytest.fixture
def bound() -> Iterator[Callable[[str, int], list[socket.socket]]]:
    """Listen, and close the sockets in the end."""
    sockets: list[socket.socket] = []

    def listen(ip: str, port: int) -> list[socket.socket]:
        made = listening.listen(ip, port)
        sockets.extend(made)
        return made

    yield listen
    for sock in sockets:
        sock.close()


@needs_both
@pytest.mark.parametrize(("ip", "meant"), [
    ("127.0.0.1", ["127.0.0.1", "::1"]), ("0.0.0.0", ["0.0.0.0", "::1"]), ("::", ["::", "0.0.0.0"]), ("::1", ["::1"]),
    ("127.0.0.2", ["127.0.0.2"])])
def test_all_addresses_that_are_meant_have_one_port(
        ip: str, meant: list[str], bound: Callable[[str, int], list[socket.socket]]) -> None:
    names = [sock.getsockname() for sock in bound(ip, 0)]
    assert [name[0] for name in names] == meant
    assert len({name[1] for name in names}) == 1 and names[0][1]


@needs_both
@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
def test_a_port_that_another_program_has_on_one_of_both_is_refused_by_name(taken: str) -> None:
    """Serving the other one alone would send those who say localhost to the other program, with their keys."""
    with sockets.bind_public(taken, 0) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressTaken, match=re.escape(f"{taken} port {port} can't be used")):
            listening.listen("127.0.0.1", port)
    # Nothing is left bound by the try.
    for sock in listening.listen("127.0.0.1", port):
        sock.close()


def test_any_port_is_one_that_is_free_on_all_addresses(
        monkeypatch: pytest.MonkeyPatch, bound: Callable[[str, int], list[socket.socket]]) -> None:
    tried: list[int] = []

    def bind(address: str, port: int) -> socket.socket:
        if ":" in address:
            tried.append(port)
            if len(tried) < 4:
                raise OSError(errno.EADDRINUSE, "Address already in use")
        return sockets.bind_public("127.0.0.1" if ":" not in address else "127.0.0.2", port)

    monkeypatch.setattr(listening, "bind_public", bind)
    ports = [sock.getsockname()[1] for sock in bound("127.0.0.1", 0)]
    assert len(tried) == 4 and ports == [tried[3]] * 2


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
@pytest.mark.parametrize(("ip", "left"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("::", "0.0.0.0")])
def test_a_machine_without_ipv6_listens_by_ipv4(
        ip: str, left: str, number: int, monkeypatch: pytest.MonkeyPatch,
        bound: Callable[[str, int], list[socket.socket]]) -> None:
    def bind(address: str, port: int) -> socket.socket:
        if ":" in address:
            raise OSError(number, "no IPv6 here")
        return sockets.bind_public(address, port)

    monkeypatch.setattr(listening, "bind_public", bind)
    assert [sock.getsockname()[0] for sock in bound(ip, 0)] == [left]


def test_an_address_of_another_machine_is_refused_in_a_sentence() -> None:
    for address in ("192.0.2.99", "2001:db8::99"):
        with pytest.raises(AddressTaken, match=f"{address} isn't an address of this machine: set LISTEN_IP"):
            listening.listen(address, 0)


def test_addresses_that_only_mean_an_interface_are_not_offered_to_others() -> None:
    for address in listening.own_addresses():
        assert not address.startswith(("fe80:", "127.")) and address != "::1"


def test_ipv4_in_ipv6s_clothes_is_ipv4() -> None:
    assert parse({"LISTEN_IP": "::ffff:127.0.0.1"}).listen_ip == "127.0.0.1"


def test_an_address_that_is_not_listened_on_is_no_host_of_ours() -> None:
    def hosts(ip: str) -> frozenset[str]:
        return Access.of(parse({"LISTEN_IP": ip, "API_KEYS": KEY})).hosts

    assert not {"0.0.0.0", "::", *listening.own_addresses()} & hosts("127.0.0.1")
    assert {"0.0.0.0", "::", *listening.own_addresses()} == hosts("0.0.0.0") == hosts("::")
