"""The flags of the service, as in FastChat: each is the twin of a setting, which it overrides. Needs no package."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mayfly import places
from mayfly.errors import SettingError

# flag -> its setting, what it takes, and what it does
_FLAGS = {
    "--host": ("LISTEN_IP", "ADDRESS", "address to listen on"),
    "--port": ("LISTEN_PORT", "PORT", "port to listen on; 0 is any free one"),
    "--model": ("MODEL_NAME", "NAME", "completion model: the name of a file in MODEL_PATH, or none"),
    "--embed-model": ("EMBED_MODEL", "NAME", "embedding model: the name of a file in MODEL_PATH, or none"),
    "--on": ("SERVE_ON", "this|ray", "where the models are: on this machine, or on a Ray cluster"),
    "--address": ("RAY_ADDRESS", "HOST[:PORT]", "head of the Ray cluster; without it this machine is one"),
    "--api-keys": ("API_KEYS", "KEYS|@FILE",
                   "keys for callers from elsewhere, separated by commas. What is on a command line, every user of "
                   "this machine can see (ps): @FILE names a file that holds the keys, and .env is as good"),
    "--allowed-origins": ("ALLOWED_ORIGINS", "LIST", "origins of web pages that may call"),
    "--allowed-methods": ("ALLOWED_METHODS", "LIST", "methods that these pages may use"),
    "--allowed-headers": ("ALLOWED_HEADERS", "LIST", "headers that these pages may send"),
}


class Parser(argparse.ArgumentParser):
    """A parser that names the flag which is meant by one that there isn't."""

    def error(self, message: str) -> NoReturn:
        """See argparse."""
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        near = difflib.get_close_matches(unknown[1], [*_FLAGS, "--allow-credentials"], 1) if unknown else ()
        super().error(f"{message}; is {near[0]} meant?" if near else message)


def add_to(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the flags to a parser, whose help explains every one; return it."""
    parser.description = ("Run the service. A flag wins over the environment, and that over .env, where every setting "
                          "is explained.")
    parser.epilog = "A LIST is separated by commas, or a JSON list of strings."
    for flag in _FLAGS:
        add_one(parser, flag)
    parser.add_argument("--allow-credentials", action="store_true",
                        help="these pages may send cookies and keys (ALLOW_CREDENTIALS)")
    return parser


def add_one(parser: argparse.ArgumentParser, flag: str) -> None:
    """Add one of the flags to a parser."""
    setting, takes, what = _FLAGS[flag]
    parser.add_argument(flag, metavar=takes, help=f"{what} ({setting})")


def read(arguments: Sequence[str]) -> dict[str, str]:
    """Return the settings that a command line gives, as their environment names and texts.

    A command line that isn't understood, and --help, end the process as argparse does.

    Raises:
        SettingError: a JSON list isn't one of strings.
    """
    parser = Parser(prog=f"{places.PROGRAM} serve", allow_abbrev=False)
    chosen = vars(add_to(parser).parse_args(arguments))
    values = {}
    for flag, (setting, takes, _) in _FLAGS.items():
        text = chosen[flag.removeprefix("--").replace("-", "_")]
        if text is None:
            continue
        if takes == "LIST" and text.lstrip().startswith("["):
            text = _from_json(flag, text)
        elif flag == "--api-keys" and text.startswith("@"):
            # Files are named from where the person is, which the service leaves.
            text = f"@{Path(text[1:]).absolute()}"
        values[setting] = text
    if chosen["allow_credentials"]:
        values["ALLOW_CREDENTIALS"] = "true"
    return values


def _from_json(flag: str, text: str) -> str:
    try:
        entries = json.loads(text)
    except ValueError:
        entries = None
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise SettingError(f"{flag} is {text!r}; allowed: entries separated by commas, or a JSON list of strings")
    return ",".join(entries)
