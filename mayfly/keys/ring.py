"""The keys in a .env file: make one, name them, take one out."""

from __future__ import annotations

from pathlib import Path

from mayfly import keys
from mayfly.errors import SettingError
from mayfly.keys import env_file


def add(path: Path, name: str) -> str:
    """Keep the hash of a new key under a name; return the key.

    Raises:
        SettingError: the name isn't allowed or is taken, or the file can't be changed.
    """
    if not keys.NAME.fullmatch(name):
        raise SettingError(f"{name[:100]!r} can't be a key's name; allowed: 1 to 64 letters, digits, '_', '-' and '.'")
    key, made = keys.make(name)

    def edit(entries: list[str]) -> list[str]:
        if name in _names(entries):
            raise SettingError(f"there is a key named {name} already: remove it first, or choose another name")
        return [*entries, made]

    env_file.change(path, edit)
    return key


def remove(path: Path, name: str) -> None:
    """Take the key of a name out.

    Raises:
        SettingError: there is none, or the file can't be changed.
    """
    def edit(entries: list[str]) -> list[str]:
        if not name or name not in _names(entries):
            known = ", ".join(filter(None, _names(entries))) or "none"
            raise SettingError(f"there is no key named {name[:100]!r}; the names are: {known}")
        return [entry for entry in entries if _name(entry) != name]

    env_file.change(path, edit)


def describe(path: Path) -> list[str]:
    """Return a line for each key: its name, and how it is kept."""
    lines = []
    for entry in env_file.entries(path):
        key = keys.parse(entry)
        if entry.startswith(keys.FILE):
            lines.append(f"those in the file {entry[1:]}")
        elif key is None:
            lines.append("(not a key; the service refuses it)")
        else:
            lines.append(f"{key.name or '(no name)'}  {'hashed' if key.hashed else 'readable in the file'}")
    return lines


def file_of(text: str) -> str:
    """Return the path of the file that a value of API_KEYS names; "" if it names none."""
    entries = [entry.strip() for entry in text.split(",")]
    return next((entry[1:] for entry in entries if entry.startswith(keys.FILE)), "")


def _name(entry: str) -> str:
    key = keys.parse(entry)
    return key.name if key is not None else ""


def _names(entries: list[str]) -> list[str]:
    return [_name(entry) for entry in entries]
