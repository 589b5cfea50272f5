"""The keys' command line, for start.sh; it needs no package.

    python -m mayfly.keys add NAME       make a key, print it once, and keep its hash in .env
    python -m mayfly.keys list           name the keys in .env
    python -m mayfly.keys remove NAME    take a key out of .env

Exit code 0: done. 1: not done; one line on stderr says why. 2: used wrongly.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mayfly import keys, settings
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
        if key is None:
            lines.append("(not a key; the service refuses it)")
        else:
            lines.append(f"{key.name or '(no name)'}  {'hashed' if key.hashed else 'readable in the file'}")
    return lines


def _name(entry: str) -> str:
    key = keys.parse(entry)
    return key.name if key is not None else ""


def _names(entries: list[str]) -> list[str]:
    return [_name(entry) for entry in entries]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="start.sh key", description="Keys for callers from elsewhere.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, what in (("add", "make a key, print it once, and keep its hash in .env"),
                          ("remove", "take a key out of .env")):
        commands.add_parser(command, help=what).add_argument("name")
    commands.add_parser("list", help="name the keys in .env")
    chosen = parser.parse_args(arguments)
    path = settings.env_file()
    try:
        if chosen.command == "add":
            # The key alone goes to stdout, so that a script can take it.
            print(add(path, chosen.name))
            print("This key is shown only now; .env has its hash.", file=sys.stderr)
        elif chosen.command == "remove":
            remove(path, chosen.name)
        else:
            print("\n".join(describe(path) or ["no keys"]))
            return 0
    except SettingError as exc:
        print(f"mayfly: {exc}", file=sys.stderr)
        return 1
    print("Start the service again to have it know.", file=sys.stderr)
    if settings.in_environment("API_KEYS"):
        print("The environment sets API_KEYS too, and that wins over .env.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
