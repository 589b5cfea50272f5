"""The forms that a setting's text may have. Each is a function that returns the value, or raises Refused.

Digits are those of ASCII: Python's own `int` and `\\d` take every script's, and `float` underscores between them.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from mayfly import keys
from mayfly.compat.files import open_utf8
from mayfly.compat.memory import memory_size


class Refused(ValueError):
    """A value isn't allowed; the message says what is."""


def integer(low: int, high: int) -> Callable[[str], int]:
    """Accept whole numbers."""
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise Refused(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def span(low: int, high: int) -> Callable[[str], tuple[int, int]]:
    """Accept a whole number, or two with a dash between them, the smaller first."""
    def parse(text: str) -> tuple[int, int]:
        allowed = f"a whole number from {low} to {high}, or two such as 1-4"
        if not re.fullmatch(r"[0-9]{1,9}(\s*-\s*[0-9]{1,9})?", text):
            raise Refused(allowed)
        first, *rest = map(int, text.split("-"))
        last = rest[0] if rest else first
        if not low <= first <= last <= high or not last:
            raise Refused(allowed)
        return first, last

    return parse


_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]{1,3})?", re.IGNORECASE)


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Accept numbers of seconds."""
    def parse(text: str) -> float:
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not low <= value <= high:
            raise Refused(f"a number of seconds from {low:g} to {high:g}")
        return value

    return parse


_SIZE = re.compile(r"([0-9]{1,15})\s*([KMG]?)B?", re.IGNORECASE | re.ASCII)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(low: int, high: int) -> Callable[[str], int]:
    """Accept sizes in bytes, also with a unit."""
    def parse(text: str) -> int:
        match = _SIZE.fullmatch(text)
        value = int(match[1]) * _SIZE_UNITS[match[2].upper()] if match else -1
        if not low <= value <= high:
            raise Refused(f"a size from {low} to {high} bytes, such as 8388608 or 8MB")
        return value

    return parse


def share_of_memory(text: str) -> int:
    """Accept a part of this machine's memory, a size, or `none`, which is no limit; return bytes, 0 for none."""
    if text.lower() == "none":
        return 0
    if match := re.fullmatch(r"([1-9][0-9]?|100)%", text):
        return memory_size() * int(match[1]) // 100
    try:
        return size(1 << 20, 1 << 50)(text)
    except Refused:
        raise Refused("none, a part of this machine's memory such as 80%, or a size such as 12GB") from None


def share_of_memory_or_nothing(text: str) -> int:
    """Accept the same of what is kept, where none is nothing: 0 too."""
    return 0 if text == "0" else share_of_memory(text)


def one_of(*allowed: str) -> Callable[[str], str]:
    """Accept some words, in capitals too."""
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise Refused("one of " + ", ".join(allowed))
        return text.lower()

    return parse


def truth(text: str) -> bool:
    """Accept the usual words for true and false."""
    truths = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in truths:
        raise Refused("true or false")
    return truths[text.lower()]


def model_name(text: str) -> str:
    """Accept a file's name in MODEL_PATH; `none` is ""."""
    if "\0" in text or text.startswith("/") or ".." in Path(text).parts or re.match(r"[a-z]+://", text):
        raise Refused("the name of a file in MODEL_PATH, or none")
    return "" if text.lower() == "none" else text


def web_address(text: str) -> str:
    """Accept an address of the web."""
    if not re.fullmatch(r"https?://[^\s/?#]+(/[\x21-\x7e]*)?", text):
        raise Refused("an address that begins with https:// or http://")
    return text


def web_address_or_none(text: str) -> str:
    """Accept an address of the web, or nothing."""
    return web_address(text) if text else ""


def secret(text: str) -> str:
    """Accept what can stand in a header behind "Bearer ", or nothing."""
    if not re.fullmatch(r"[\x21-\x7e]*", text):
        raise Refused("visible ASCII characters without blanks")
    return text


def address(text: str) -> str:
    """Accept an IP address."""
    if text.lower() == "localhost":
        return "127.0.0.1"
    try:
        ip = ipaddress.ip_address(text)
        return str(getattr(ip, "ipv4_mapped", None) or ip)
    except ValueError:
        raise Refused("an IP address of this machine: 127.0.0.1 for this machine alone, 0.0.0.0 for all") from None


def ray_address(text: str) -> str:
    """Accept where the head of a Ray cluster is, or nothing; 6379 is Ray's port."""
    if text and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?", text):
        raise Refused("HOST or HOST:PORT")
    return text if not text or re.search(r":[0-9]+$", text) else f"{text}:6379"


def route(text: str) -> str:
    """Accept a path that the service doesn't use itself."""
    if not re.fullmatch(r"(/[A-Za-z0-9_.~-]+)+", text):
        raise Refused("a path such as /gpt4all_api")
    own = ("/embed", "/health", "/ready", "/openapi.json", "/docs", "/v1", "/api", "/k")
    if text in own or text.startswith(("/docs/", "/v1/", "/api/", "/k/")):
        raise Refused(f"a path that the service doesn't use itself ({', '.join(own)})")
    return text


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def api_keys(text: str) -> tuple[str, ...]:
    """Accept keys, or their hashes, and files that hold some, one a line or separated by commas: `@` and the path."""
    entries = []
    for entry in _listed(text):
        entries += _in_file(Path(entry[1:])) if entry.startswith(keys.FILE) else [entry]
    if not all(map(keys.parse, entries)):
        raise Refused(keys.ALLOWED)
    return tuple(entries)


def _in_file(path: Path) -> list[str]:
    try:
        text = open_utf8(path).read()
    except (OSError, ValueError) as exc:
        raise Refused(f"{keys.ALLOWED}; {keys.FILE}{path} can't be read: {getattr(exc, 'strerror', None) or exc}"
                      ) from exc
    return [entry for entry in re.split(r"[\s,]+", text) if entry]


def hosts(text: str) -> tuple[str, ...]:
    """Accept host names and URLs; keep the host names, in lower case."""
    hosts = []
    for entry in _listed(text):
        try:
            host = urlsplit(entry if "//" in entry else "//" + entry).hostname
        except ValueError:
            host = None
        if not host or not re.fullmatch(r"[a-z0-9._:-]+", host):
            raise Refused("host names or URLs separated by commas, such as my.ngrok.app")
        hosts.append(host)
    return tuple(hosts)


_ORIGIN = re.compile(r"""\*|null
    | https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?
    # Of an app: all of its scheme, or one.
    | (?!(https?|wss?):)[a-z][a-z0-9+.-]*:(//(\*|[^\s*/?#@\\]*))?""", re.VERBOSE)


def origins(text: str) -> tuple[str, ...]:
    """Accept origins; `scheme:` is kept as `scheme://*`."""
    origins = tuple(origin.lower() for origin in _listed(text))
    if not all(map(_ORIGIN.fullmatch, origins)):
        raise Refused("origins separated by commas, such as https://my.site, http://localhost:5173 or "
                       "app://obsidian.md, without a path; an app's scheme with ://*; null; or *")
    return tuple(f"{origin}//*" if origin.endswith(":") else origin for origin in origins)


def tokens(text: str) -> tuple[str, ...]:
    """Accept names as HTTP writes them: of methods or headers."""
    tokens = tuple(_listed(text))
    if not all(re.fullmatch(r"[A-Za-z0-9-]+|\*", token) for token in tokens):
        raise Refused("names separated by commas, or *")
    return tokens


def aliases(text: str) -> dict[str, str]:
    """Accept ALIAS=MODEL entries."""
    aliases = {}
    for entry in _listed(text):
        alias, equals, target = (part.strip() for part in entry.partition("="))
        if not equals or not re.fullmatch(r"[A-Za-z0-9._:/-]{1,128}", alias) or not target or "\0" in target:
            raise Refused("ALIAS=MODEL entries separated by commas, MODEL being a model's name or one of the words "
                           "embedding and completion")
        aliases[alias] = target
    return aliases


def device(text: str) -> str:
    """Accept a device's name."""
    if not re.fullmatch(r"[A-Za-z0-9 :_().-]{1,128}", text):
        raise Refused("cpu, gpu, cuda, kompute, amd, nvidia, or a device name that gpt4all lists")
    return text


_PLACEHOLDER = re.compile(r"%[12](?![0-9])")


def template(*forms: tuple[str, ...]) -> Callable[[str], str]:
    """Accept a template in gpt4all's form, in which `\\n` is a line break; its placeholders are one of `forms`."""

    def parse(text: str) -> str:
        template = text.replace("\\n", "\n")
        if (template and tuple(_PLACEHOLDER.findall(template)) not in forms) or "\0" in template:
            raise Refused("a text with " + " or with ".join(" and then ".join(form) for form in forms)
                           + ", each once, for what is said; \\n in it is a line break")
        return template

    return parse
