"""Who may call: this machine's own programs without a key, everybody else with one.

A *direct* call comes from a loopback address and carries no header by which a proxy or tunnel marks what it
forwards (forwarding.py). No proxy is trusted: the mere presence of such a header makes a call *forwarded*, which only
ever demands more. A direct call needs no key if its Host is a name or an address of this machine or in
AUTHORIZED_URLS (a web page whose name was rebound to 127.0.0.1 sends its own name there) and it has no Origin of
another site. A key that isn't needed is never refused: many programs can't but send one, of which nobody knows.
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mayfly import keys, listening
from mayfly.errors import AccessDenied, HostNotAllowed
from mayfly.settings import Settings
from mayfly.web.cross_origin import CrossOrigin
from mayfly.web.forwarding import is_forwarded

_LONGEST_ADDRESS = 64

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.IGNORECASE)


@dataclass(frozen=True)
class Access:
    """The rules, made from the settings.

    Attributes:
        digests: SHA-256 of each key, so that a comparison takes the same time for keys of any length.
        hosts: names and addresses besides the loopback ones under which direct calls are served, in lower case.
        always: REQUIRE_KEY=always: direct calls need a key too.
        cross_origin: whose pages may make direct calls without a key, if they are named.
    """

    digests: tuple[bytes, ...]
    hosts: frozenset[str]
    always: bool
    cross_origin: CrossOrigin

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """Make the rules from API_KEYS, AUTHORIZED_URLS, LISTEN_IP, REQUIRE_KEY and ALLOWED_ORIGINS."""
        digests = tuple(key.digest for key in map(keys.parse, settings.api_keys) if key is not None)
        hosts = listening.names(settings.listen_ip).union(host.lower() for host in settings.authorized_urls)
        return cls(digests, hosts, settings.require_key == "always", CrossOrigin.of(settings))

    def check(self, environ: Mapping[str, Any]) -> None:
        """Let a request pass, or refuse it.

        Args:
            environ: WSGI names and values: REMOTE_ADDR, SERVER_PROTOCOL and the request's headers.

        Raises:
            AccessDenied: 401, a key is needed or the one that was sent is wrong.
            HostNotAllowed: 403, a direct call under a name, or from a page, that isn't this machine's.
        """
        if self.always or not _is_loopback(environ.get("REMOTE_ADDR", "")) or is_forwarded(environ):
            self._demand("A key is needed here and none was sent", environ)
            return
        refusal = self._foreign(environ)
        if refusal is None or self._key_fault(environ) is None:
            return
        wrong = "; the one that was sent is wrong" if _authorization(environ) else ""
        raise HostNotAllowed(f"{refusal}send a key in the header 'Authorization: Bearer <key>'{wrong}.")

    def demand_key(self, environ: Mapping[str, Any]) -> None:
        """Refuse a call without a key, though it may have passed `check`.

        Raises:
            AccessDenied: there is no key, or a wrong one.
        """
        self._demand("This path always needs a key", environ)

    def namespace(self, environ: Mapping[str, Any]) -> str:
        """Return what tells a caller of completions from those with other keys: its key's digest; "" for those of this
        machine that need none and send none."""
        key = self._key(environ)
        return "" if key is None else self.digests[key].hex()

    def _foreign(self, environ: Mapping[str, Any]) -> str | None:
        """Return why a direct call isn't one of this machine's own programs, or None: the beginning of a sentence that
        ends with what a key would do."""
        if not self._is_ours(_host_name(environ.get("HTTP_HOST", ""))) and not _has_no_host(environ):
            return "The Host of this request isn't this machine's: add it to AUTHORIZED_URLS, or "
        origin = environ.get("HTTP_ORIGIN")
        if origin is None or self.cross_origin.known(origin) or self._is_ours(_origin_name(origin)):
            return None
        if self.cross_origin.allowed(origin):
            return "ALLOWED_ORIGINS lets any site call like this, and therefore with a key alone: "
        return "The Origin of this request is another site: add it to ALLOWED_ORIGINS, or "

    def _demand(self, why: str, environ: Mapping[str, Any]) -> None:
        fault = self._key_fault(environ)
        if fault is None:
            return
        if not self.digests:
            raise AccessDenied("A key is needed here, but API_KEYS is empty: set one in .env, start again, and send it "
                               "in the header 'Authorization: Bearer <key>'.")
        if not _authorization(environ):
            raise AccessDenied(f"{why}: add the header 'Authorization: Bearer <key>' with a key from API_KEYS.")
        raise AccessDenied(fault)

    def _key_fault(self, environ: Mapping[str, Any]) -> str | None:
        """Return what is wrong with the key that was sent, or None if it is right."""
        if _sent_key(environ) is None:
            return "The Authorization header has to be 'Bearer <key>' with a key from API_KEYS."
        return None if self._key(environ) is not None else "The key is wrong: send one of those in API_KEYS."

    def _key(self, environ: Mapping[str, Any]) -> int | None:
        """Return which of the keys was sent; None if none of them was."""
        sent = keys.digest(_sent_key(environ) or b"")
        found = None
        for number, digest in enumerate(self.digests):
            found = number if hmac.compare_digest(digest, sent) else found
        return found

    def _is_ours(self, name: str | None) -> bool:
        return name is not None and (name == "localhost" or name in self.hosts or _is_loopback(name))


def _authorization(environ: Mapping[str, Any]) -> str:
    """Return what is sent as a key, in the form of `Authorization`: Anthropic's clients send the key alone, as
    `x-api-key`."""
    sent = str(environ.get("HTTP_AUTHORIZATION", "")).strip()
    key = str(environ.get("HTTP_X_API_KEY", "")).strip()
    return sent or (f"Bearer {key}" if key else "")


def _sent_key(environ: Mapping[str, Any]) -> bytes | None:
    scheme, _, key = _authorization(environ).partition(" ")
    # WSGI hands headers over as Latin-1; every byte the client sent comes back this way.
    return key.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else None


def _is_loopback(address: str) -> bool:
    # Longer ones are no addresses, and what is remembered has to stay small.
    return len(address) <= _LONGEST_ADDRESS and _is_loopback_address(address)


@functools.lru_cache(maxsize=256)
def _is_loopback_address(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def _has_no_host(environ: Mapping[str, Any]) -> bool:
    # HTTP/1.0 has no Host; every browser, the only one to fall for a rebound name, speaks 1.1 and sends it.
    return "HTTP_HOST" not in environ and environ.get("SERVER_PROTOCOL") == "HTTP/1.0"


def _host_name(host: str) -> str | None:
    """Return the name in `name`, `name:port`, `[::1]` or `[::1]:port`, in lower case; None if it is none."""
    match = _HOST.fullmatch(host.strip())
    return match["name"].strip("[]").lower() if match else None


def _origin_name(origin: str) -> str | None:
    """Return the host in an Origin; None for `null` and for anything that is no origin."""
    try:
        parts = urlsplit(origin.strip())
    except ValueError:
        return None
    return _host_name(parts.netloc) if parts.scheme in ("http", "https") and not parts.path else None
