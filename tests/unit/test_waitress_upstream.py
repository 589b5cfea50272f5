"""What of waitress the HTTP server relies on beyond its documentation is as it was when it was last read."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mayfly.http import answer, connection, request, server

PROJECT = Path(__file__).resolve().parents[2]
VERSION = "3.0.2"
# waitress's class, method or function -> a hash of its code, and what of ours to read again when that has changed.
RELIED_ON = {
    "adjustments.Adjustments.__init__": ("423618117d85be07", "server.Server.__init__: send_bytes is set after it"),
    "buffers.OverflowableBuffer": ("545747c4f2e2e71a", "connection.Connection.write_soon: what is small is kept by it"),
    "buffers.ReadOnlyFileBasedBuffer": ("05800fcb876d6467", "connection._held: what is large is kept by it"),
    "channel.HTTPChannel.__init__": ("a194769af3fd2e35", "connection.Connection.__init__: the lock, sendbuf_len"),
    "channel.HTTPChannel.readable": ("e4722238ce60c915", "connection.Connection.readable"),
    "channel.HTTPChannel.writable": ("d0cbd4ae1b3ba2a3", "connection.Connection.handle_write: when it is called"),
    "channel.HTTPChannel.handle_read": ("5f1fb08c95aa00cc", "connection.Connection.handle_read"),
    "channel.HTTPChannel.received": ("08d6df73fb69da84", "connection.Connection.received"),
    "channel.HTTPChannel.send_continue": ("842ebf929f6dbb14", "connection.Connection.received"),
    "channel.HTTPChannel.service": ("f73afa13748e1128", "connection.Connection.finish, server.Server.add_task"),
    "channel.HTTPChannel.check_client_disconnected": ("bc2391224c854528", "connection.Connection"),
    "channel.HTTPChannel.write_soon": ("20eedb92a8237c47", "connection.Connection.write_soon"),
    "channel.HTTPChannel._flush_outbufs_below_high_watermark": ("27a2b75117abd0d7", "connection.Connection.write_soon"),
    "channel.HTTPChannel.handle_write": ("6c900f395b306f09", "connection.Connection.handle_write"),
    "channel.HTTPChannel._flush_exception": ("c9f3751ffdb057b7", "connection.Connection.handle_write"),
    "channel.HTTPChannel._flush_some": ("fe7a9a752a419402", "connection.Connection.handle_write, .sendbuf_len"),
    "channel.HTTPChannel.handle_close": ("8f59b9aaa45566bb", "connection.Connection: the buffers end with it"),
    "channel.HTTPChannel.add_channel": ("235de3cdfd2c3e8a", "server.Server.active_channels"),
    "channel.HTTPChannel.del_channel": ("a018ed85e5e518cd", "server.Server.active_channels"),
    "parser.HTTPRequestParser": ("f2b09de756c11493", "request.Request"),
    "receiver.ChunkedReceiver": ("7d4fd7a3f8c53daa", "request.Request._received_chunked"),
    "receiver.FixedStreamReceiver": ("434997a7017f1336", "server.Server.add_task: body_rcv.buf"),
    "server.BaseWSGIServer.__init__": ("e70a16b5b63c0a98", "server.Server.__init__"),
    "server.BaseWSGIServer.accept_connections": ("c18b3b1efdba9e30", "server.Server.__init__: the backlog"),
    "server.BaseWSGIServer.readable": ("4eea9c1036b55b41", "server.Server.readable"),
    "server.BaseWSGIServer.handle_accept": ("69bfcf0fc140592a", "server.Server.handle_accept, ._accept"),
    "server.BaseWSGIServer.run": ("f6d4f8a820ec7d93", "server.Server.run"),
    "server.BaseWSGIServer.add_task": ("19e994eb9cc95a9a", "server.Server.add_task"),
    "server.BaseWSGIServer.pull_trigger": ("bf12fa7216edc247", "server.Server.pull_trigger, .wake"),
    "server.BaseWSGIServer.close": ("310014cd5a5bc2b8", "server.Server._close"),
    "server.TcpWSGIServer": ("b2cb32f191a17310", "server.Server._accept: set_socket_options"),
    "task.Task": ("407d67e516390fb5", "answer._Logged, .AnswerTask, .StreamTask"),
    "task.ErrorTask": ("50756541cbe4e25b", "answer.ProblemTask"),
    "task.WSGITask.get_environment": ("3bb57be6c7db4e59", "server.Server._asked"),
    "trigger._triggerbase.pull_trigger": ("50c47b99aa2ddf23", "server.Server.wake: any thread may call it"),
    "wasyncore.loop": ("9c04aac11e1c336c", "server.Server._turn"),
    "wasyncore.poll": ("526c57a46ca9c6ba", "server.Server.handle_accept, waiting.Flows"),
    "wasyncore.poll2": ("f2ea2bd150ff2600", "server.Server.handle_accept, waiting.Flows"),
    "wasyncore.readwrite": ("2467235cc3f4eb51", "connection.Connection.handle_read, waiting.Flows"),
    "wasyncore.dispatcher": ("4d74dc7e94b4be53", "server.Server, connection.Connection: what they inherit"),
}


def found(name: str) -> Any:
    module, *path = name.split(".")
    thing: Any = importlib.import_module(f"waitress.{module}")
    for part in path:
        thing = getattr(thing, part)
    return thing


def digest(thing: Any) -> str:
    return hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", RELIED_ON)
def test_what_the_server_relies_on_is_as_it_was(name: str) -> None:
    known, ours = RELIED_ON[name]
    assert digest(found(name)) == known, (
        f"waitress.{name} has changed: read it, then mayfly/http/{ours}; mend that, and put the new hash here")


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("waitress") == VERSION
    assert f"waitress=={VERSION}" in (PROJECT / "requirements.txt").read_text().split()


@pytest.mark.parametrize("ours", [server.Server, connection.Connection, request.Request, answer.AnswerTask,
                                  answer.StreamTask, answer.ProblemTask], ids=lambda each: each.__name__)
def test_each_method_that_stands_for_one_of_waitresss_is_relied_on(ours: type) -> None:
    """So that a new override comes with its entry above."""
    theirs = [base for base in ours.__mro__ if base.__module__.startswith("waitress.")]
    for name in {name for base in ours.__mro__ if base.__module__.startswith("mayfly.") for name in vars(base)}:
        base = next((base for base in theirs if inspect.isfunction(vars(base).get(name))), None)
        if base is not None:
            whole = f"{base.__module__.removeprefix('waitress.')}.{base.__qualname__}"
            assert whole in RELIED_ON or f"{whole}.{name}" in RELIED_ON, f"{ours.__name__}.{name} overrides {whole}'s"
