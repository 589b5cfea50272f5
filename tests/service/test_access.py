"""Who may call the running service, and what of a call is ever written down: neither keys nor prompts."""

from __future__ import annotations

import contextlib
import http.client
import re
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import scripts
from service import Service, until

# Who is let in, and what is written down, doesn't depend on what computes.
pytestmark = pytest.mark.settings(EMBED_MODEL=scripts.VECTORS)

KEY = "a-key-that-no-log-may-hold-" + secrets.token_hex(8)
BEARER = {"Authorization": f"Bearer {KEY}"}

WRONG = ["Bearer wrong-key-0", f"Basic {KEY}", "Bearer " + KEY[:-1], f"Bearer {KEY}x", "Bearer", "Bearer ",
         "Bearer not needed for a local LLM", KEY, "Basic dXNlcjpwYXNz"]


def _port(service: Service) -> int:
    return int(service.url.rpartition(":")[2])


def _request(service: Service, path: str, headers: dict[str, str], source: str | None = None
             ) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Embed a text (or GET another path) with exactly these headers besides; return status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", _port(service), timeout=60,
                                            source_address=(source, 0) if source else None)
    with contextlib.closing(connection):
        body = b'{"input": "a"}' if path == "/embed" else b""
        connection.putrequest("POST" if body else "GET", path, skip_host="Host" in headers)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def _another_address() -> str | None:
    """Return an address of this machine that isn't a loopback one, if it has one. Nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))
        address = str(sock.getsockname()[0])
        with socket.create_server(("127.0.0.1", 0)) as probe, socket.create_connection(
                probe.getsockname(), timeout=10, source_address=(address, 0)):
            return None if address.startswith("127.") else address
    return None


@pytest.fixture
def keyed(start: Callable[..., Service], model_path: Path, tmp_path: Path) -> Service:
    """A service with a key in its .env, a completion model that fails on order, and all that workers write printed."""
    (tmp_path / "my.env").write_text(f"API_KEYS={KEY}\n")
    model = scripts.write(
        model_path, {"when": "SEGFAULT", "do": "crash", "pieces": ["a", "b"], "after": 1},
        {"when": "STANDSTILL", "do": "hang"}, {"when": "FAILURE", "do": "error"},
        scripts.slowly("SLOWLY", 20), {"when": "", "pieces": ["Hello", " there."]})
    return start(MAYFLY_ENV=tmp_path / "my.env", MODEL_NAME=model, HANG_SECONDS=3, DEBUG="true",
                 AUTHORIZED_URLS="my.example")


def test_strangers_need_a_key_and_this_machines_programs_do_not(keyed: Service) -> None:
    other = _another_address()
    refused: list[tuple[int, dict[str, str], str | None]] = [
        (401, {"X-Forwarded-For": "203.0.113.5"}, None), (401, {"Forwarded": "for=203.0.113.5"}, None),
        (401, {"Via": "1.1 tunnel"}, None), (401, {"X-Forwarded-For": ""}, None),
        *((401, {"Via": "1.1 tunnel", "Authorization": wrong}, None) for wrong in WRONG),
        (403, {"Host": "rebound.example", "Authorization": "Bearer wrong-key-0"}, None),
        (403, {"Host": "rebound.example"}, None), (403, {"Host": "127.0.0.1.example"}, None), (403, {"Host": ""}, None),
        (403, {"Origin": "https://site.example"}, None), (403, {"Origin": "null"}, None),
    ]
    if other:
        refused += [(401, {}, other), (401, {"Host": "localhost"}, other),
                    *((401, {"Authorization": wrong}, other) for wrong in WRONG)]
    for status, headers, source in refused:
        got, answered, body = _request(keyed, "/embed", headers, source)
        assert (got, answered["Content-Type"]) == (status, "application/json"), (headers, source, body)
        assert b'"code": "' + {401: b"invalid_api_key", 403: b"host_not_allowed"}[status] in body
        assert answered.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
        # Whoever shows the key is served, whatever else the request says.
        if "Authorization" not in headers:
            assert _request(keyed, "/embed", {**headers, **BEARER}, source)[0] == 200, headers
    # A key that isn't needed isn't looked at.
    for wrong in WRONG:
        assert _request(keyed, "/embed", {"Authorization": wrong})[0] == 200, wrong
    for headers in ({}, {"Host": "localhost:1234"}, {"Host": "my.example"}, {"Origin": "http://localhost:3000"}):
        assert _request(keyed, "/embed", headers)[0] == 200, headers
    for path in ("/health", "/ready"):
        assert _request(keyed, path, {"Via": "1.1 tunnel"})[2] in (b'{"status": "ok"}', b'{"status": "ready"}')
        assert b"lanes" in _request(keyed, path, {"Via": "1.1 tunnel", **BEARER})[2] or path == "/ready"
    if other is None:
        pytest.skip("this machine has no address but loopback ones: the call from another address was left out")


def test_every_caller_needs_a_key_where_it_is_always_required(start: Callable[..., Service]) -> None:
    service = start(MODEL_NAME="none", API_KEYS=KEY, REQUIRE_KEY="always")
    assert _request(service, "/embed", {})[0] == 401
    assert all(_request(service, "/embed", {"Authorization": wrong})[0] == 401 for wrong in WRONG)
    assert _request(service, "/embed", BEARER)[0] == 200


# -- nothing is written down ----------------------------------------------------------------------------------


class Secrets:
    """Words that no file, line, command line or environment of the service may hold."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._words: dict[str, str] = {}

    def word(self, what: str) -> str:
        """Return a new secret word; `what` says in which part of a request it is sent."""
        self._words[what] = f"hush{secrets.token_hex(8)}"
        return self._words[what]

    def found(self) -> list[str]:
        """Return where secrets are now: in files, what was printed, or /proc."""
        texts = self._files()
        for pid in [self.service.process.pid, *self.service.family()]:
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    texts[f"/proc/{pid}/{name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
        assert sum(1 for place in texts if place.endswith("/environ")) >= 3
        return self._search(texts)

    def found_in_files(self) -> list[str]:
        """Return where secrets are after the service's end."""
        return self._search(self._files())

    def _files(self) -> dict[str, bytes]:
        texts = {"output": self.service.output().encode()}
        for path in self.service.folder.rglob("*"):
            if path.is_file():
                with contextlib.suppress(OSError):
                    texts[str(path)] = path.read_bytes()
        return texts

    def _search(self, texts: dict[str, bytes]) -> list[str]:
        words = {**self._words, "the key": KEY}
        return [f"{what} in {place}" for place, text in texts.items() for what, word in words.items()
                if word.encode() in text]


def test_no_key_and_no_text_of_a_client_is_ever_written_down(keyed: Service) -> None:
    hidden = Secrets(keyed)

    def ask(**fields: object) -> requests.Response:
        return keyed.post("/gpt4all_api", fields, headers=BEARER)

    assert ask(prompt=hidden.word("prompt"), persona=hidden.word("persona"), assist=hidden.word("assist"),
               stop=[hidden.word("stop")]).status_code == 200
    assert ask(prompt=hidden.word("prompt for nobody"), model=hidden.word("model")).status_code == 404
    assert ask(prompt=hidden.word("refused prompt"), **{hidden.word("field"): 1}).status_code == 400
    assert ask(prompt=hidden.word("other refused prompt"), temp=hidden.word("temperature")).status_code == 400
    assert ask(prompt=hidden.word("long prompt") * 10 + " word" * 3000).status_code == 400
    assert ask(prompt="FAILURE " + hidden.word("prompt of an error")).status_code == 500
    assert ask(prompt="SEGFAULT " + hidden.word("prompt of a crash")).status_code == 500
    texts = [hidden.word("text"), hidden.word("text with NUL") + "\0", ""]
    assert keyed.post("/embed", {"input": texts, "model": hidden.word("model to embed")}).status_code == 200
    url = keyed.url + "/embed"
    for data in (b'{"input": "%s' % hidden.word("cut body").encode(), b"\xff" + hidden.word("no text").encode()):
        assert requests.post(url, data=data, headers={"Content-Type": "application/json"}).status_code == 400
    assert requests.get(f"{keyed.url}/health?key={KEY}&{hidden.word('query')}#x").status_code == 200
    assert requests.get(url.replace("//", f"//{hidden.word('user')}:{KEY}@"), timeout=60).status_code == 405
    wrong = {"Authorization": f"Bearer {hidden.word('wrong key')}", "X-Api-Key": hidden.word("other header"),
             "User-Agent": hidden.word("agent"), "Cookie": hidden.word("cookie"), "Referer": hidden.word("referer")}
    assert requests.post(url, json={"input": "a"}, headers={**wrong, "Via": "1.1 tunnel"}).status_code == 401
    with socket.create_connection(("127.0.0.1", _port(keyed)), timeout=60) as sock:
        sock.sendall(f"{hidden.word('no method')}\x01 ???\r\n\r\n".encode())
        assert b" 400 " in sock.recv(1000)
    # One hangs while this looks; it is found out, reported, tried again and reported again.
    hanging = threading.Thread(target=ask, kwargs={"prompt": "STANDSTILL " + hidden.word("prompt of a hang")})
    hanging.start()
    until(lambda: any("request" in keyed.sentinel(name.removesuffix(".watchdog")) for name in keyed.sentinels()))
    assert hidden.found() == []
    hanging.join(60)
    reports = until(lambda: [text for text in map(Path.read_text, keyed.reports()) if "hung" in text])
    # What a report is for is there: the request's id and sizes.
    assert re.search(r"request: +req_\w+ messages=1 characters=\d+ max_tokens=\d+", reports[0])
    assert {"crashed", "hung"} <= {cause for cause, count in keyed.lane("completion")["restarts"].items() if count}
    keyed.printed(r'"POST /gpt4all_api HTTP/1\.1" 500')
    assert hidden.found() == []
    assert keyed.stop() == 0
    assert hidden.found_in_files() == []


def test_a_key_in_the_environment_is_not_handed_on(start: Callable[..., Service]) -> None:
    service = start(API_KEYS=KEY, DEBUG="true")  # else only root may see the environments
    assert KEY.encode() in Path(f"/proc/{service.process.pid}/environ").read_bytes()  # the user put it there
    family = until(lambda: len(service.family()) >= 4 and service.family())  # app, embed, chat, a generation
    for pid in family:
        assert KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert _request(service, "/embed", {"Via": "1.1 tunnel", **BEARER})[0] == 200


def test_the_token_of_a_ray_cluster_reaches_the_web_process_alone(start: Callable[..., Service]) -> None:
    service = start(RAY_AUTH_TOKEN=KEY, DEBUG="true")
    family = until(lambda: len(service.family()) >= 4 and service.family())
    told = [pid for pid in family if KEY.encode() in Path(f"/proc/{pid}/environ").read_bytes()]
    # It starts the driver, which shows the token; model processes have no use for it.
    assert told == [service.pid("app")]


# -- forged lines ---------------------------------------------------------------------------------------------

FORGED = '127.0.0.1 - - [01/Jan/2030:00:00:00 +0000] "GET /forged HTTP/1.1" 200 5'
_ACCESS = re.compile(r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "[ -~]*" \d{3} (\d+|-)')
_EVENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [ -~]*")


def test_nothing_that_a_client_sends_forges_a_line_or_steers_a_terminal(keyed: Service) -> None:
    escapes = "\x1b[2J\x1b]0;title\x07\x1b[31m"
    in_path = "".join(f"%{ord(char):02x}" for char in f"\r\n{FORGED}\r\n{escapes}\u2028")
    raw = [
        f"GET /a{in_path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("utf-8", "replace"),
        f"GET /b\r{FORGED} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        f"GET /c\n{FORGED}\n HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        f"GET /d{escapes} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        b'GET /e"\xff\xc2\x9b2J\xe2\x80\xa8\x85 HTTP/1.1\r\nHost: localhost\r\n\r\n',
        f"{escapes} /f HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        f"GET /g HTTP/{escapes}\r\nHost: localhost\r\n\r\n".encode(),
        f"GET /h HTTP/1.1\r\nHost: {escapes}\r\nX-Request-Id: {escapes}\r\nUser-Agent: {escapes}\r\n\r\n".encode(),
        f"GET /i HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 1.2.3.4\n{FORGED}\r\n\r\n".encode(),
        b"GET /" + b"j" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b'GET /k" 200 5 HTTP/1.1\r\nHost: localhost\r\n\r\n',
    ]
    for request in raw:
        with socket.create_connection(("127.0.0.1", _port(keyed)), timeout=60) as sock:
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            answered = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))
            assert b"\x1b" not in answered and b"/forged" not in answered
    for identity in (f"SEGFAULT\x1b[2J {escapes}", "a" * 5000):
        keyed.post("/gpt4all_api", {"prompt": f"SEGFAULT {escapes}\n{FORGED}", escapes: 1})
        with contextlib.suppress(requests.exceptions.InvalidHeader):
            keyed.post("/gpt4all_api", {"prompt": f"SEGFAULT {escapes}\r\n{FORGED}\n"},
                       headers={"X-Request-Id": identity})
    keyed.session.get(keyed.url + "/last-of-all", timeout=120)
    keyed.printed("/last-of-all")
    written = {name: (keyed.log_folder / name).read_bytes() for name in ("access.log", "watchdog.log")}
    written |= {report.name: report.read_bytes() for report in keyed.reports()}
    assert len(written) > 2
    for name, content in written.items():
        assert not re.search(rb"[^\n\x20-\x7e]", content), name
        assert FORGED.encode() not in content.splitlines(), name
    access = written["access.log"].decode("ascii").splitlines()
    assert [line for line in access if not _ACCESS.fullmatch(line)] == []
    assert len([line for line in access if not re.search(r'"GET /(ready|health)', line)]) >= len(raw) + 3
    printed = [line for line in keyed.lines if not _ACCESS.fullmatch(line) and not _EVENT.fullmatch(line)]
    assert printed == []
    assert max(map(len, access)) < 1300
