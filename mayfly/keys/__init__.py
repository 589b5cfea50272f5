"""API keys: how an entry of API_KEYS is written, and what of it has to be kept.

    key                     a key without a name, as the first start writes it
    name:key                a key with a name
    name:sha256:<64 hex>    the SHA-256 of a key with a name, as the command `key add` writes it
    @path                   a file with such entries, as containers are given secrets

The hash has no salt and isn't slow on purpose: the keys that are made here are 256 random bits, which nobody finds by
trying, at whatever speed, and of which no table can be made. A slow hash (scrypt) would cost every request what it
costs an attacker.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

#: What an entry begins with that is the path of a file with keys.
FILE = "@"

_HASHED = "sha256:"
_KEY = re.compile(r"(?!@)[\x21-\x2b\x2d-\x39\x3b-\x7e]{8,512}")  # no blank, comma or colon
_DIGEST = re.compile(r"[0-9a-f]{64}")

ALLOWED = ("keys of 8 to 512 printable ASCII characters without blanks and colons, each alone, as name:key, or as "
           "name:sha256:<64 hexadecimal digits>, separated by commas, or @ and the path of a file that holds such")


@dataclass(frozen=True)
class Key:
    """An entry of API_KEYS.

    Attributes:
        name: "" if it has none.
        digest: SHA-256 of the key, 32 bytes: keys of any length are compared in the same time.
        hashed: whether the entry holds the digest alone.
    """

    name: str
    digest: bytes
    hashed: bool


def parse(entry: str) -> Key | None:
    """Return what an entry of API_KEYS means; None if it isn't one."""
    name, colon, rest = entry.rpartition(":")
    if colon and name.endswith(":" + _HASHED.rstrip(":")):
        name = name.removesuffix(":" + _HASHED.rstrip(":"))
        right = NAME.fullmatch(name) and _DIGEST.fullmatch(rest)
        return Key(name, bytes.fromhex(rest), True) if right else None
    if not _KEY.fullmatch(rest) or (colon and not NAME.fullmatch(name)):
        return None
    return Key(name, digest(rest.encode("ascii")), False)


def digest(key: bytes) -> bytes:
    """Return the SHA-256 of a key."""
    return hashlib.sha256(key).digest()


def make(name: str) -> tuple[str, str]:
    """Make a random key; return it, and the entry that API_KEYS needs."""
    key = secrets.token_urlsafe(32)
    return key, entry(name, key)


def entry(name: str, key: str) -> str:
    """Return the entry that keeps of a key its hash."""
    return f"{name}:{_HASHED}{digest(key.encode()).hex()}"
