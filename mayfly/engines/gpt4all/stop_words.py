"""gpt4all's own stop words, and how they are switched off.

Whatever the model and its template, gpt4all 2.8.2 ends an answer in which one of six texts such as "### Human" appears
(`LLModel::generateResponse` in its llmodel_shared.cpp), so an answer that merely quotes one is cut there. It has no
option for it, and the cut can't be mended afterwards: what was withheld is told to no callback, and from outside it
looks like the end of the model's turn. So the six texts, which are constants of the loaded library, are overwritten in
this process's memory with ones that no text holds. The file on the disk stays as it is.

Done on Linux, where a process can ask where its libraries lie. Elsewhere, or if the system forbids it, gpt4all's stop
words stay in force, and such an answer is cut with the reason "stop".

In a template that marks the turns with these words and not with tokens, a line that begins with one does end the
answer: see `turn_marks`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mayfly.prompts.turn_marks import STOP_WORDS

# A byte that UTF-8 never uses stands where a stop word began.
_NEVER = b"\xff"
_READ, _WRITE = 1, 2  # PROT_READ and PROT_WRITE of mprotect(2)


def switch_off() -> bool:
    """Switch gpt4all's stop words off in this process and in all that it forks; tell whether they are off now.

    To be called when a model has been loaded, since gpt4all's libraries are then, and while none computes.
    """
    try:
        places = list(_places())
        for address, word in places:
            if ctypes.string_at(address, len(word)) == word:
                _overwrite(address)
    except OSError as exc:
        print(f"gpt4all's own stop words stay in force: {exc}", file=sys.stderr)
        return False
    return {word for _, word in places} == {word.encode() for word in STOP_WORDS}


def _places() -> Iterator[tuple[int, bytes]]:
    """Yield the address of each stop word in the read-only data of gpt4all's libraries, and the word.

    Raises:
        OSError: the system doesn't tell where libraries lie, or one can't be read.
    """
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        # address range, permissions, offset in the file, device, inode, file
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or fields[1] != "r--p" or not _is_gpt4alls(Path(fields[5])):
            continue
        begin, end = (int(address, 16) for address in fields[0].split("-"))
        offset = int(fields[2], 16)
        with open(fields[5], "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for word in map(str.encode, STOP_WORDS):
                found = content.find(b"\0" + word + b"\0", max(0, offset - 1), offset + end - begin)
                if found >= 0:
                    yield begin + found + 1 - offset, word


def _is_gpt4alls(file: Path) -> bool:
    return file.name.startswith(("libllmodel.", "libllamamodel-mainline-"))


def _overwrite(address: int) -> None:
    """Replace a constant's first byte.

    Raises:
        OSError: the system forbids it.
    """
    page = address - address % mmap.PAGESIZE
    _protect(page, _READ | _WRITE)
    ctypes.memmove(address, _NEVER, len(_NEVER))
    _protect(page, _READ)


def _protect(page: int, protection: int) -> None:
    process = ctypes.CDLL(None, use_errno=True)
    if process.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), protection) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
