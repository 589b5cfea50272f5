"""The id by which a request is known: in its answer's X-Request-Id, in logs and in failure reports."""

from __future__ import annotations

import re
import secrets

_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(sent: str | None) -> str:
    """Return the id that the client sent in X-Request-Id if it is a harmless one, else a fresh one."""
    if sent is not None and _SANE.fullmatch(sent):
        return sent
    return "req_" + secrets.token_hex(12)
