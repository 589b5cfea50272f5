"""Reading a request: waitress's parser, made to end in a `Problem` whatever arrives.

Beside what waitress checks: a body's limit counts the body alone and not the framing of its chunks; lines inside a
chunked body are bounded; what two servers in a row could read differently is refused (a Content-Length beside a
Transfer-Encoding, any Transfer-Encoding but one `chunked`, folded lines, lines that end in LF or CR alone, more or less
than one Host); bytes that can't become HTTP (a TLS handshake) are answered at once; and no input raises. RFC 9112 is
meant where a status is chosen.

A client that can send no header sends its key before the path, as /k/<key>/v1/chat/completions. It is taken off here,
before anybody looks at the path or writes it down, and put into the header in which others send theirs.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser, ParsingError, TransferEncodingNotImplemented
from waitress.utilities import (
    BadRequest,
    Error,
    RequestEntityTooLarge,
    RequestHeaderFieldsTooLarge,
    ServerNotImplemented,
)

from mayfly import problem as problems
from mayfly.flow import Answer
from mayfly.problem import Problem

if TYPE_CHECKING:
    from mayfly.http.answer import StreamTask

# The longest line that gives a chunk's size, and the longest trailer after the last chunk.
_LONGEST_CHUNK_LINE = 1024
_LONGEST_TRAILER = 8192
# Chunks of one byte have six bytes of framing for each; more framing than that is an attack.
_FRAMING_FACTOR = 8
_FRAMING_FREE = 65536

# Bytes from 0x80 on belong percent-encoded; waitress says so.
_REQUEST_LINE = re.compile(rb"(?P<before>[!#$%&'*+\-.^_`|~0-9A-Za-z]+ (?P<target>[^\x00-\x20\x7f]+) HTTP/)"
                           rb"(?P<major>[0-9])\.(?P<minor>[0-9])")
_TARGET = re.compile(rb"/|\*$|https?://", re.IGNORECASE)
# Whoever puts it there twice doesn't want the second one written down either.
_PATH_KEY = re.compile(rb"([^ \r\n]+ (?i:https?://[^/?# \r\n]*)?)(?:/+(?:k|%6[bB])/+([^/?# \r\n]+))+")
# What servers differ in: some take it for a line's end (RFC 9112, section 2.2), and waitress looks for CR LF alone.
_HALF_LINE_END = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
_CODINGS = re.compile(rb"\r\ntransfer-encoding:[ \t]*([^\r]*?)[ \t]*(?=\r\n)")
_QUOTED = re.compile(r'"[^"]*"')


class Refused(Error):  # type: ignore[misc]
    """A waitress error that holds its Problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.code = problem.status
        self.problem = problem


class _Unserved(Exception):
    """The request is HTTP, and nothing that this server serves."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Request(HTTPRequestParser):  # type: ignore[misc]
    """One request while it arrives. `error` is set when it can't be served; nothing raises.

    Attributes:
        answer: its answer, once that is known whole.
        began: when its first bytes came, on the clock of `time.monotonic`.
        stream: its answer, while that is written piece by piece.
        stamp: the headers that its answer has, whatever it is, if they were asked for.
    """

    error: Error | None
    adj: Adjustments
    answer: Answer | None = None
    stamp: list[tuple[str, str]] | None = None
    stream: StreamTask | None = None
    # What an error is answered in when the request didn't get as far as its version.
    version = "1.1"

    def __init__(self, adj: Adjustments) -> None:
        super().__init__(adj)
        self.began = time.monotonic()
        self._wire = 0
        self._seen_first = False

    def received(self, data: bytes) -> int:
        """Take in some bytes; return how many of them belong to this request."""
        try:
            if self.chunked and not self.completed:
                return self._received_chunked(data)
            if not self._seen_first and data.strip(b"\r\n"):
                self._seen_first = True
                # 0x16 begins a TLS handshake; no method begins with a control or non-ASCII character.
                if not 0x20 < data.lstrip(b"\r\n")[0] < 0x7F:
                    self.refuse(problems.malformed("it begins with bytes that no method has; this port speaks plain "
                                                   "HTTP, not HTTPS"))
                    return len(data)
            if not self.headers_finished and self._has_half_line_end(data):
                self.refuse(problems.malformed("a line of its head ends in LF or CR alone; each has to end in CR LF"))
                return len(data)
            consumed: int = super().received(data)
            if self._overflowed():
                match = _REQUEST_LINE.match((self.header_plus + data).lstrip(b"\r\n"))
                self.version = "1.0" if match is not None and match["minor"] == b"0" else type(self).version
            return consumed
        except OSError:
            # A large body goes through a temporary file.
            self.refuse(problems.NO_SPACE)
        except _Unserved as exc:
            self.refuse(exc.problem)
        except (ValueError, IndexError, OverflowError, RecursionError):
            self.refuse(problems.malformed("its request line or headers can't be read"))
        return len(data)

    def _has_half_line_end(self, data: bytes) -> bool:
        """Tell whether a line of the head ends so in these bytes: whose end is waited for by CR LF might never come."""
        before = self.header_plus[-3:]  # what ends the head, or a line of it, may have begun there
        head = before + data
        end = head.find(b"\r\n\r\n")
        return _HALF_LINE_END.search(head, max(0, len(before) - 1), len(head) if end < 0 else end) is not None

    def _received_chunked(self, data: bytes) -> int:
        receiver = self.body_rcv
        consumed: int = receiver.received(data)
        self._wire += consumed
        most = self.adj.max_request_body_size - 1
        # The announced rest of a chunk counts already: there is no use in receiving it.
        if len(receiver) + receiver.chunk_remainder > most or self._wire > _FRAMING_FACTOR * most + _FRAMING_FREE:
            self.refuse(problems.body_too_large(most))
        elif len(receiver.control_line) > _LONGEST_CHUNK_LINE or len(receiver.trailer) > _LONGEST_TRAILER:
            self.refuse(problems.malformed("a line in its chunked body is too long"))
        elif receiver.chunk_end not in (b"", b"\r") or any(
                map(_HALF_LINE_END.search, (receiver.control_line, receiver.trailer))):
            # The receiver waits there for a CR LF that might never come.
            self.refuse(problems.malformed("a line of its chunked body, or a chunk, doesn't end in CR LF"))
        elif receiver.error:
            self.error = receiver.error
            self.completed = True
        elif receiver.completed:
            self.completed = True
            self.headers["CONTENT_LENGTH"] = str(len(receiver))
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the request line and the headers.

        Raises:
            ParsingError: they aren't HTTP; the message holds nothing that the client sent.
            TransferEncodingNotImplemented, _Unserved: they are, but in a way that isn't served.
        """
        header_plus, key = _without_key(header_plus)
        first = header_plus.partition(b"\r\n")[0]
        match = _REQUEST_LINE.fullmatch(first)
        if match is not None and match["before"].startswith(b"CONNECT "):
            raise _Unserved(problems.NO_PROXY)
        if match is None or not _TARGET.match(match["target"]):
            raise ParsingError("its first line isn't a method, a path and a version, with one blank between them")
        if match["major"] != b"1":
            raise _Unserved(problems.VERSION_NOT_SUPPORTED)
        if match["minor"] > b"1":
            # Whoever speaks a later HTTP/1 understands this one.
            header_plus = match["before"] + b"1.1" + header_plus[len(first):]
        if b"\r\n " in header_plus or b"\r\n\t" in header_plus:
            raise ParsingError("a line of its headers is folded")
        names = header_plus.lower()
        if b"\r\ntransfer-encoding:" in names:
            if b"\r\ncontent-length:" in names:
                raise ParsingError("it has both a Content-Length and a Transfer-Encoding")
            if match["minor"] == b"0":
                raise ParsingError("it has a Transfer-Encoding, which HTTP/1.0 doesn't know")
            if _CODINGS.findall(names) != [b"chunked"]:
                raise TransferEncodingNotImplemented("anything but chunked")
        try:
            super().parse_header(header_plus)
        except ParsingError as exc:
            # After a quotation mark the message quotes the client.
            raise ParsingError(str(exc).partition('"')[0].strip()) from None
        if key is not None:
            self.headers["AUTHORIZATION"] = "Bearer " + unquote_to_bytes(key).decode("latin-1")
        hosts = names.count(b"\r\nhost:")
        if hosts > 1 or (hosts == 0 and match["minor"] != b"0"):
            raise ParsingError("it has no Host" if hosts == 0 else "it has more than one Host")
        self._settle_headers()

    def _settle_headers(self) -> None:
        """Read as one what is said twice, and leave out what asks for another protocol."""
        headers = self.headers
        headers.pop("UPGRADE", None)
        if "," in headers.get("CONTENT_TYPE", ""):
            members = _QUOTED.sub("", headers["CONTENT_TYPE"]).split(",")
            kinds = [member.partition(";")[0].strip().lower() for member in members]
            headers["CONTENT_TYPE"] = ", ".join(dict.fromkeys(kinds))
        if "," in headers.get("CONNECTION", ""):
            options = {option.strip().lower() for option in headers["CONNECTION"].split(",")}
            headers["CONNECTION"] = next((option for option in ("close", "keep-alive") if option in options), "")

    def refuse(self, problem: Problem) -> None:
        """End the request's reception with an error."""
        self.error = Refused(problem)
        self.completed = True

    def close(self) -> None:
        """Drop the body."""
        # On a full disk even this fails, and the file is closed all the same.
        with contextlib.suppress(OSError):
            super().close()

    def method(self) -> str | None:
        """Return the method as far as it is known."""
        return None if self._overflowed() else getattr(self, "command", None)

    def target(self) -> str | None:
        """Return the request target (path and query) as far as it is known."""
        return None if self._overflowed() else getattr(self, "request_uri", None)

    def _overflowed(self) -> bool:
        # waitress then pretends that the request line was "GET / HTTP/1.0".
        return isinstance(self.error, RequestHeaderFieldsTooLarge)

    def environ(self, peer: str) -> dict[str, Any]:
        """Return what the access rules look at, under WSGI's names."""
        named = {"HTTP_" + name: value for name, value in self.headers.items()}
        version = self.version if self.version in ("1.0", "1.1") else "1.0"
        return {**named, "REMOTE_ADDR": peer, "SERVER_PROTOCOL": "HTTP/" + version}


def _without_key(header_plus: bytes) -> tuple[bytes, bytes | None]:
    """Return a request's head without the key before its path, and the key, percent-encoded, if there is one."""
    match = _PATH_KEY.match(header_plus)
    if match is None:
        return header_plus, None
    rest = header_plus[match.end():]
    return match[1] + (b"" if rest.startswith(b"/") else b"/") + rest, match[2]


def problem_of(error: Error, adj: Adjustments) -> Problem:
    """Return what a request's error means to the client."""
    if isinstance(error, Refused):
        return error.problem
    if isinstance(error, RequestEntityTooLarge):
        return problems.body_too_large(adj.max_request_body_size - 1)
    if isinstance(error, RequestHeaderFieldsTooLarge):
        return problems.headers_too_large(adj.max_request_header_size)
    if isinstance(error, ServerNotImplemented):
        return problems.CODING_NOT_IMPLEMENTED
    if isinstance(error, BadRequest):
        return problems.malformed(str(error.body))
    return problems.failed("(not known)")
