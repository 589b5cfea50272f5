"""Make the first .env file; change the line of API_KEYS in one, and nothing else in it.

The file is replaced by rename, so whoever reads it sees the old line or the new one; its mode and its owner stay.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mayfly.compat.files import decode_utf8, lock_now, open_new
from mayfly.compat.process import WINDOWS
from mayfly.errors import SettingError

# A value that the command `key` may rewrite: one line, quoted or not, perhaps with a comment behind it. Before the
# first line there may be a byte-order mark, which stays.
_LINE = re.compile(r"""^(?P<head>(?:\A\ufeff)?[ \t]*(?:export[ \t]+)?API_KEYS[ \t]*=[ \t]*)
                       (?P<quote>['"]?)(?P<value>[^'"\r\n\#]*?)(?P=quote)
                       (?P<tail>[ \t]*(?:(?<=[ \t])\#[^\r\n]*)?)(?=\r?$)""",
                   re.VERBOSE | re.MULTILINE)
_ANY_LINE = re.compile(r"^(?:\A\ufeff)?[ \t]*(?:export[ \t]+)?API_KEYS[ \t]*=", re.MULTILINE)


def entries(path: Path) -> list[str]:
    """Return the entries of API_KEYS in a .env file, unchecked; an absent file has none.

    Raises:
        SettingError: the file can't be read, or its line isn't a plain one.
    """
    return _entries(_read(path), path)


def change(path: Path, edit: Callable[[list[str]], list[str]]) -> None:
    """Replace the entries of API_KEYS in a .env file by what `edit` makes of them. The file is made if it is absent.

    Raises:
        SettingError: the file can't be read or written, or its line isn't a plain one; or what `edit` raises.
    """
    path = path.resolve()
    try:
        if not path.exists():
            edit([])  # what is refused leaves no file behind
        with contextlib.suppress(FileExistsError):
            os.close(open_new(path))
        with _alone(path):
            text = _read(path)
            _replace(path, _changed(text, edit(_entries(text, path)), path))
    except OSError as exc:
        raise SettingError(f"{path} can't be changed: {exc.strerror or exc}") from exc


def make(path: Path, example: Path) -> None:
    """Make a .env file of an example, with a random key in it, unless there is one. Its folder is made too.

    Raises:
        SettingError: it can't be written.
    """
    if os.path.lexists(path) or not example.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _draft(path, _changed(_read(example), [secrets.token_urlsafe(32)], example)) as draft:
            _give_name(draft, path)
    except OSError as exc:
        raise SettingError(f"{path} can't be made: {exc.strerror or exc}") from exc


def _give_name(draft: Path, path: Path) -> None:
    """Give a file its name in one step, unless another start was first."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links; Windows' rename refuses to overwrite by itself
        if os.path.lexists(path):
            return
        os.rename(draft, path)
    print(f"mayfly: made {path} with a new API key in it", file=sys.stderr)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Of two commands at once, have the second wait and read what the first has written."""
    if WINDOWS:  # a file that somebody has open can't be replaced there
        yield
        return
    while True:
        with path.open("rb") as held:
            # Once it is this one's turn, the file may be another one.
            if lock_now(held, wait=True) and os.path.samestat(os.fstat(held.fileno()), os.stat(path)):
                yield
                return


def _read(path: Path) -> str:
    try:
        return decode_utf8(path.read_bytes())
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as exc:
        raise SettingError(f"{path} can't be read: {getattr(exc, 'strerror', None) or exc}") from exc


def _last(text: str, path: Path) -> re.Match[str] | None:
    """Return the line that counts, which is the last one."""
    found = list(_LINE.finditer(text))
    if len(found) != len(_ANY_LINE.findall(text)):
        raise SettingError(f"the line of API_KEYS in {path} isn't a plain one: change it by hand")
    return found[-1] if found else None


def _entries(text: str, path: Path) -> list[str]:
    line = _last(text, path)
    return [entry.strip() for entry in line["value"].split(",") if entry.strip()] if line is not None else []


def _changed(text: str, new: list[str], path: Path) -> str:
    line = _last(text, path)
    value = ",".join(new)
    if line is not None:
        return f"{text[:line.start()]}{line['head']}{value}{line['tail']}{text[line.end():]}"
    ending = "\r\n" if "\r\n" in text else "\n"
    return text + (ending if text and not text.endswith("\n") else "") + f"API_KEYS={value}{ending}"


def _replace(path: Path, text: str) -> None:
    found = os.stat(path)
    with _draft(path, text) as draft:
        os.chmod(draft, found.st_mode & 0o777)
        if hasattr(os, "chown"):
            with contextlib.suppress(PermissionError):
                os.chown(draft, found.st_uid, found.st_gid)
        os.replace(draft, path)


@contextlib.contextmanager
def _draft(path: Path, text: str) -> Iterator[Path]:
    """Write a file beside another one, for its owner alone, to take its place; it is gone if it doesn't."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(open_new(draft), "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
