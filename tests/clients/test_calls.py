"""embed_client.py as a library, when the service is well: what is sent, where to, and with which key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from played_service import Answer, PlayedService, vector_of

import embed_client
from embed_client import Client, MayflyError, complete, embed
from mayfly import settings

FAR_AWAY = "http://203.0.113.9:6008"  # an address that is reserved for documentation


@pytest.fixture(autouse=True)
def env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The .env of the client under test; nothing else of the surroundings counts."""
    for name in ("MAYFLY_URL", "MAYFLY_API_KEY", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "client.env"
    file.touch()
    monkeypatch.setenv("MAYFLY_ENV", str(file))
    return file


def authorization(client: Client) -> str | None:
    """Return the Authorization header that the client would send."""
    request = embed_client.requests.Request("POST", client.url)
    return client._session.prepare_request(request).headers.get("Authorization")


def test_texts_come_back_as_one_vector_each_in_their_order() -> None:
    texts = ["The cat sat on the mat.", "", "猫坐在垫子上。", "🙂 \" \\ \u2028 end"]
    with PlayedService() as service:
        assert embed(texts, url=service.url) == [vector_of(text) for text in texts]
        assert [request.body for request in service.requests] == [{"input": texts}]


def test_a_single_text_is_a_list_of_one_text() -> None:
    with PlayedService() as service:
        assert embed("one", url=service.url) == [vector_of("one")]
        assert service.requests[0].body == {"input": ["one"]}


def test_no_texts_give_no_vectors_and_no_request() -> None:
    with PlayedService() as service:
        assert embed([], url=service.url) == []
        assert service.requests == []


def test_texts_may_come_from_a_generator_and_long_text_is_passed_on() -> None:
    with PlayedService() as service:
        assert len(embed((word for word in ("a", "b")), url=service.url, long_text="truncate")) == 2
        assert service.requests[0].body == {"input": ["a", "b"], "long_text": "truncate"}


def test_vectors_are_sorted_by_their_index() -> None:
    data = [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]
    with PlayedService(Answer(body={"data": data})) as service:
        assert embed(["a", "b"], url=service.url) == [[1.0], [2.0]]


def test_lists_over_the_limit_are_split_and_joined_in_order() -> None:
    texts = [f"text {number}" for number in range(2 * embed_client.MAX_TEXTS + 5)]
    with PlayedService() as service:
        assert embed(texts, url=service.url) == [vector_of(text) for text in texts]
        assert [len(request.body["input"]) for request in service.requests] == [2048, 2048, 5]


def test_texts_that_would_overfill_a_body_are_split_too() -> None:
    long_text = "猫" * 500_000  # 1.5 MB in UTF-8
    with PlayedService() as service:
        assert len(embed([long_text] * 5, url=service.url)) == 5
        assert [len(request.body["input"]) for request in service.requests] == [2, 2, 1]


def test_half_a_character_or_a_number_among_the_texts_is_refused_and_nothing_sent() -> None:
    with PlayedService() as service:
        with pytest.raises(MayflyError, match="text 1 holds half a character"):
            embed(["fine", "\ud83d"], url=service.url)
        with pytest.raises(MayflyError, match="the stop holds half a character"):
            complete("fine", url=service.url, stop=["fine", "\ud83d"])
        with pytest.raises(TypeError, match="text 0 is of type int"):
            embed([1], url=service.url)  # type: ignore[list-item]
        assert service.requests == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e99])
def test_a_timeout_that_no_socket_can_wait_for_is_refused(timeout: float) -> None:
    for ask in (embed, complete):
        with pytest.raises(ValueError, match=r"timeout is .*; allowed: seconds above 0, at most 86400 \(a day\)"):
            ask("a", url="http://127.0.0.1:1", timeout=timeout)
    assert Client("http://127.0.0.1:1", timeout=86_400).timeout == 86_400


def test_complete_returns_the_text_and_sends_only_what_was_given() -> None:
    with PlayedService() as service:
        assert complete("Why?", url=service.url) == "Because it is."
        assert complete("Why?", "A poet.", url=service.url, max_tokens=5, temperature=None) == "Because it is."
        assert [(request.path, request.body) for request in service.requests] == [
            ("/gpt4all_api", {"prompt": "Why?"}),
            ("/gpt4all_api", {"prompt": "Why?", "persona": "A poet.", "max_tokens": 5})]


def test_repeated_calls_use_one_connection() -> None:
    with PlayedService() as service:
        for _ in range(5):
            embed(["a"], url=service.url)
            complete("b", url=service.url)
        assert len({request.client_port for request in service.requests}) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_opens_a_connection_of_its_own() -> None:
    with PlayedService() as service:
        script = ("import os, sys, embed_client\n"
                  "embed_client.embed('parent')\n"
                  "if not (child := os.fork()):\n"
                  "    embed_client.embed('child')\n"
                  "    os._exit(0)\n"
                  "os.waitpid(child, 0)\n"
                  "embed_client.embed('parent')\n")
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60,
                       cwd=Path(embed_client.__file__).parent, env={**os.environ, "MAYFLY_URL": service.url})
        first, child, last = (request.client_port for request in service.requests)
        assert first == last != child


def test_the_address_comes_from_the_env_file_and_mayfly_url_wins(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Client().url == "http://127.0.0.1:6008"
    lines = "# LISTEN_PORT=1\nLISTEN_PORT = 7001  # mine\r\nexport ROUTE='/ask'\n"
    env_file.write_text(lines, encoding="utf-8-sig")
    assert (Client().url, Client().route) == ("http://127.0.0.1:7001", "/ask")
    for address, host in {"0.0.0.0": "127.0.0.1", "::": "[::1]", "10.0.0.5": "10.0.0.5"}.items():
        env_file.write_text(f'LISTEN_IP="{address}"\nLISTEN_PORT=\n')
        assert Client().url == f"http://{host}:6008"
    monkeypatch.setenv("MAYFLY_URL", "example.org:80/")
    assert Client().url == "http://example.org:80"
    assert Client("https://other.example").url == "https://other.example"


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:99999", "http://x/?a=b", "http://[::1", "//"])
def test_what_is_no_address_is_refused_in_words(url: str) -> None:
    with pytest.raises(MayflyError, match="is not the address of a service"):
        Client(url)


@pytest.mark.parametrize("kind", ["absent", "folder"])
def test_an_env_file_that_is_named_and_cannot_be_read_is_said(kind: str, env_file: Path) -> None:
    env_file.unlink()
    if kind == "folder":
        env_file.mkdir()
    with pytest.raises(MayflyError, match=r"MAYFLY_ENV is .*client\.env', which can't be read: "):
        Client()


def test_the_key_given_wins_over_the_environment_and_that_over_the_env_file(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert authorization(Client()) is None
    env_file.write_text("API_KEYS=first-key, second-key\n")
    assert authorization(Client()) == "Bearer first-key"
    monkeypatch.setenv("MAYFLY_API_KEY", "from-environment")
    assert authorization(Client()) == "Bearer from-environment"
    assert authorization(Client(key="given")) == "Bearer given"


@pytest.mark.parametrize(
    "line", ["API_KEYS=", "API_KEYS= ", "API_KEYS=''", "API_KEYS= # none yet", "#API_KEYS=x", "X=1"])
def test_no_key_in_the_env_file_is_no_key(line: str, env_file: Path) -> None:
    env_file.write_text(f"{line}\nROUTE=/a\n")
    assert authorization(Client()) is None


@pytest.mark.parametrize(
    "url", ["http://localhost:1", "http://127.8.9.1:1", "http://[::1]:1", "https://far.example"])
def test_a_found_key_is_sent_to_this_machine_and_over_https(url: str, env_file: Path) -> None:
    env_file.write_text("API_KEYS=found-key\n")
    assert authorization(Client(url)) == "Bearer found-key"


@pytest.mark.parametrize("url", [FAR_AWAY, "http://far.example", "http://localhost.far.example",
                                 "http://127.0.0.1.far.example", "http://localhost@far.example"])
def test_a_found_key_is_never_sent_unencrypted_to_another_machine(
    url: str, env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text("API_KEYS=found-key\n")
    assert authorization(Client(url)) is None
    monkeypatch.setenv("MAYFLY_API_KEY", "found-key")
    assert authorization(Client(url)) is None
    assert authorization(Client(url, key="given")) == "Bearer given"


def test_a_password_file_of_the_user_does_not_replace_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert authorization(Client("https://far.example", key="given")) == "Bearer given"
    assert authorization(Client("https://far.example")) is None


def test_a_key_with_a_line_break_forges_no_header() -> None:
    with pytest.raises(MayflyError, match="line break"):
        Client(key="a\r\nX-Forged: 1")


def test_a_proxy_of_the_environment_does_not_stand_between_client_and_own_machine(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    with PlayedService(Answer(502, b"a proxy")) as proxy, PlayedService() as service:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert embed(["a"], url=service.url) == [vector_of("a")]
        assert proxy.requests == []


def test_the_defaults_are_those_of_the_service() -> None:
    service = settings.parse({})
    assert service.listen_port == embed_client.DEFAULT_PORT
    assert service.route == embed_client.DEFAULT_ROUTE
    assert service.max_texts == embed_client.MAX_TEXTS
    assert service.max_body > embed_client.MAX_CALL_BYTES


@pytest.mark.parametrize(("line", "key"), [
    ("laptop:named-key", "named-key"), (f"backend:sha256:{'0' * 64},first-key", "first-key"),
    (f"backend:sha256:{'0' * 64}", None)])
def test_a_named_key_is_found_and_a_hash_is_not_taken_for_one(line: str, key: str | None, env_file: Path) -> None:
    env_file.write_text(f"API_KEYS={line}\n")
    assert authorization(Client()) == (f"Bearer {key}" if key else None)
