"""One line per request in the common log form: host ident authuser [date] "request" status bytes.

The query is left out (it may carry secrets), and whatever a client could choose is escaped and cut, so that no
request can forge a line or send codes to a terminal.
"""

from __future__ import annotations

import re
import time

# A line has to fit into one atomic write to a pipe (4096 bytes), wherever it is passed on.
_LONGEST_PATH = 1024
_LONGEST_METHOD = 32
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def line(host: str, method: str | None, target: str | None, version: str | None, status: int, size: int,
         when: float) -> str:
    """Return the log line of a request.

    Args:
        host: the peer's address.
        method, target, version: the request line's parts as they were sent; None if they couldn't be read.
        size: bytes of the answer's body.
        when: the time of the answer's end, in seconds since 1970.
    """
    request = "-"
    if method is not None and target is not None:
        request = f"{escaped(method, _LONGEST_METHOD)} {escaped(_path(target), _LONGEST_PATH)} HTTP/{version or '0.9'}"
    return f'{host} - - [{_date(when)}] "{request}" {status} {size or "-"}'


def escaped(text: str, longest: int) -> str:
    r"""Return text with everything but harmless ASCII as \xNN (or \uNNNN), cut to `longest` characters."""
    shown = "".join(
        char if " " <= char <= "~" and char not in "\"\\" else (
            f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")
        for char in text[:longest]
    )
    return shown if len(shown) <= longest and len(text) <= longest else shown[: longest - 3] + "..."


def _path(target: str) -> str:
    """Return a request target without its query, and without the host of an absolute one (it may hold a password)."""
    path = re.split(r"[?#]", target, maxsplit=1)[0]
    return re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/]*", "", path) or "/"


def _date(when: float) -> str:
    # strftime would write the month in the locale's language.
    local = time.localtime(when)
    zone = time.strftime("%z", local)
    return (f"{local.tm_mday:02d}/{_MONTHS[local.tm_mon - 1]}/{local.tm_year}:"
            f"{local.tm_hour:02d}:{local.tm_min:02d}:{local.tm_sec:02d} {zone}")
