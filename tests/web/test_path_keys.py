"""A key before the path, of clients that can send no header: it opens what a header would, and is written nowhere."""

from __future__ import annotations

import json

import pytest
from web_rig import ScriptedLane, eventually, http_post, serving

from mayfly.errors import ModelCrashed

CANARY = "canary/of+the=tests-0123456789"
SENT = "canary%2Fof+the=tests-0123456789"
TUNNEL = {"X_Forwarded_For": "203.0.113.9"}
HELLO = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
CALLS = [("/v1/chat/completions", HELLO), ("/api/chat", {**HELLO, "model": "llama3.2", "stream": False}),
         ("/v1/messages", HELLO), ("/v1/responses", {"input": "hi"}), ("/embed", {"input": "x"}),
         ("/gpt4all_api", {"prompt": "x"}), ("/api/embeddings", {"model": "mxbai-embed-large", "prompt": "x"})]


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_a_key_before_the_path_opens_every_route(path: str, body: dict[str, object]) -> None:
    with serving(API_KEYS=CANARY) as service:
        assert service.post(path, body, **TUNNEL)[0] == 401
        assert service.post(f"/k/{SENT}x{path}", body, **TUNNEL)[0] == 401
        for before in (f"/k/{SENT}", f"//k//{SENT}/", f"/%6b/{SENT}", f"http://localhost/k/{SENT}"):
            assert service.post(before + path, body, **TUNNEL)[0] == 200
        # A client that has to send some key sends one of its own.
        assert service.post(f"/k/{SENT}{path}", body, **TUNNEL, Authorization="Bearer ollama")[0] == 200


def test_a_key_before_the_path_opens_what_always_needs_one() -> None:
    with serving(API_KEYS=CANARY, REQUIRE_KEY="always", MODEL_LIST="http://127.0.0.1:9/x") as service:
        for key, status in ((f"/k/{SENT}", 200), ("", 401)):
            assert service.request("GET", key + "/v1/models")[0] == status
            assert service.request("GET", key or "/")[0] == status
            assert service.request("HEAD", key + "/")[0] == status
        assert service.post("/api/pull", {"model": "nobody"})[0] == 401
        assert service.post(f"/k/{SENT}/api/pull", {"model": "nobody"})[0] == 502
        assert service.request("GET", f"/k/{SENT}/nothing")[0] == 404
        # Without a key there is no path.
        assert service.request("GET", "/k/")[0] == service.request("GET", "/k")[0] == 401


def test_callers_with_different_keys_before_their_paths_share_nothing() -> None:
    with serving(API_KEYS=f"{CANARY},another-key-of-the-tests") as service:
        for key in (SENT, "another-key-of-the-tests"):
            service.post(f"/k/{key}/v1/chat/completions", HELLO, **TUNNEL)
        first, second = (call.namespace for call in service.chat.calls)
        assert first and second and first != second


def test_a_key_before_the_path_is_written_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    said = b""
    with serving(ScriptedLane(fails=ModelCrashed("the model process died twice on this request")),
                 API_KEYS=CANARY) as service:
        for path, body in CALLS:
            said += service.raw(http_post(f"/k/{SENT}{path}", json.dumps(body).encode(), "Connection: close"))
            said += service.raw(http_post(f"/k/{SENT}x{path}", b"{", "Via: 1.1 tunnel", "Connection: close"))
        for target in (f"/k/{SENT}", f"/k/{SENT}/nothing", f"/k/{SENT}?x={SENT}", f"http://a@localhost/k/{SENT}/v1/models",
                       f"/k/{SENT}/%00", f"/%6B/{SENT}/k/{SENT}/v1/models"):
            said += service.raw(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        for broken in (f"GET /k/{SENT}/health HTTP/1.1\r\n\r\n", f"GET /k/{SENT}/health HTTP/3.0\r\nHost: a\r\n\r\n",
                       f"GET /k/{SENT}/health HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", f"GET /k/{SENT} x y\r\n\r\n",
                       f"POST /k/{SENT}/embed HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: zip\r\n\r\n",
                       f"GET /k/{SENT}/health HTTP/1.1\r\nHost: localhost\r\nX: {'x' * 70_000}\r\n\r\n"):
            said += service.raw(broken.encode())
        eventually(lambda: len(service.lines) == 2 * len(CALLS) + 12)
    lines = "\n".join(service.lines)
    assert '"POST /api/chat HTTP/1.1" 500' in lines and '"GET /nothing HTTP/1.1" 404' in lines
    written = said.decode() + lines + "".join(capfd.readouterr())
    assert "canary" not in written
