"""Text that knows where each of its characters comes from: the template of a server, or the messages of a caller.

A `Traced` text is the `str` that it is, so a chat template can do with it whatever it does with texts: look for a word,
split, strip, replace, cut. What it takes out of a text still comes from the same message. What can't be followed
character by character (`upper`, a JSON form) comes as a whole from the messages that it was made of. So what a caller
wrote is never taken for the template's, and a plain `str` is the template's own.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, SupportsIndex

#: The messages from which a text comes, by their indices; none: it is the template's.
Origin = frozenset[int]
TEMPLATE: Origin = frozenset()
#: It comes from something whose origin isn't known, so it may be any caller's.
UNKNOWN: Origin = frozenset((-1,))

# What `%` writes as it is; other conversions pad and cut.
_CONVERSION = re.compile(r"%([%s])")


class Traced(str):
    """A text and its origin; see the module's docstring.

    Args:
        runs: for each part of one origin where it ends, and the origin.
    """

    __slots__ = ("_runs",)
    _runs: Sequence[tuple[int, Origin]]

    def __new__(cls, text: str, runs: Sequence[tuple[int, Origin]]) -> Traced:
        """Make one."""
        self = super().__new__(cls, text)
        self._runs = runs
        return self

    def __str__(self) -> str:
        return self

    def __iter__(self) -> Iterator[Any]:
        return (_cut(self, index, index + 1) for index in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        text = str.__getitem__(self, key)
        start, stop, step = (key if isinstance(key, slice) else _at(int(key))).indices(len(self))
        return _cut(self, start, stop) if step == 1 else whole(text, origin_of(self))

    def __add__(self, other: Any) -> Any:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> Any:
        text = str.__mul__(self, times)
        return whole(text, origin_of(self)) if len(self._runs) <= 1 else joined([self] * int(times))

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> Any:
        text = str.__mod__(self, values)
        if "%" in _CONVERSION.sub("", self):
            return whole(text, origin_of((self, values)))
        written = iter(values if isinstance(values, tuple) else (values,))
        pieces: list[str] = []
        end = 0
        for found in _CONVERSION.finditer(self):
            pieces += [_cut(self, end, found.start()), "%" if found[1] == "%" else shown(next(written))]
            end = found.end()
        return joined([*pieces, _cut(self, end, len(self))])

    def join(self, texts: Iterable[str]) -> Any:
        """See str."""
        parts = [part for text in texts for part in (self, text)]
        return joined(parts[1:])

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> Any:
        """See str."""
        return _found(self, str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> Any:
        """See str."""
        return _found(self, str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> Any:
        """See str."""
        lines = _found(self, str.splitlines(self, True), "")
        return [_cut(line, 0, len(text)) for line, text in zip(lines, str.splitlines(self, keepends), strict=True)]

    def partition(self, sep: str) -> Any:
        """See str."""
        return tuple(_found(self, str.partition(self, sep), ""))

    def rpartition(self, sep: str) -> Any:
        """See str."""
        return tuple(_found(self, str.rpartition(self, sep), ""))

    def lstrip(self, chars: str | None = None) -> Traced:
        """See str."""
        return _last(self, str.lstrip(self, chars))

    def rstrip(self, chars: str | None = None) -> Traced:
        """See str."""
        return _cut(self, 0, len(str.rstrip(self, chars)))

    def strip(self, chars: str | None = None) -> Traced:
        """See str."""
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> Traced:
        """See str."""
        return _last(self, str.removeprefix(self, prefix))

    def removesuffix(self, suffix: str) -> Traced:
        """See str."""
        return _cut(self, 0, len(str.removesuffix(self, suffix)))

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Any:
        """See str."""
        if not old:
            return whole(str.replace(self, old, new, count), origin_of((self, new)))
        return Traced("", ()).join(itertools.islice(
            itertools.chain.from_iterable((new, piece) for piece in self.split(old, count)), 1, None))


def _cut(traced: Traced, start: int, stop: int) -> Traced:
    runs = []
    begin = 0
    for end, origin in traced._runs:
        if begin >= stop:
            break
        if end > start:
            runs.append((min(end, stop) - start, origin))
        begin = end
    return Traced(str.__getitem__(traced, slice(start, stop)), runs)


def _last(traced: Traced, text: str) -> Traced:
    return _cut(traced, len(traced) - len(text), len(traced))


def _found(traced: Traced, pieces: Iterable[str], between: str | None) -> list[Traced]:
    """Find pieces that follow one another here, with a text between them, or blanks of any number."""
    found = []
    at = 0
    for piece in pieces:
        if between is None:
            at = str.index(traced, piece, at)
        found.append(_cut(traced, at, at + len(piece)))
        at += len(piece) + len(between or "")
    return found


def _at(index: int) -> slice:
    return slice(index, index + 1 or None)


def _not_followed(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def made(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        return whole(result, origin_of((*args, *kwargs.values()))) if isinstance(result, str) else result

    return made


# Every other method of a text, also one that a later Python adds, makes something that isn't followed.
for _name, _method in vars(str).items():
    if not _name.startswith("_") and _name not in vars(Traced) and _name != "maketrans":
        setattr(Traced, _name, _not_followed(_method))


def traced(text: str) -> Traced:
    """Return a text that can be followed; a plain one is the template's."""
    return text if isinstance(text, Traced) else Traced(text, _runs(text))


def whole(text: str, origin: Origin) -> str:
    """Return a text all of which comes from the same messages.

    What it was until now, a subclass of str with ways of its own for example, it isn't any more.
    """
    plain = "".join((text, ""))
    return Traced(plain, ((len(plain), origin),)) if origin and plain else plain


def followed(value: Any, origin: Origin) -> Any:
    """Return a value as JSON has them, all of whose texts come from the same messages."""
    if isinstance(value, str):
        return whole(value, origin)
    if isinstance(value, dict):
        return {whole(name, origin): followed(entry, origin) for name, entry in value.items()}
    return [followed(entry, origin) for entry in value] if isinstance(value, list) else value


def joined(pieces: Iterable[str]) -> str:
    """Return texts one after the other."""
    texts = list(pieces)
    plain = "".join(texts)
    if all(type(text) is str for text in texts):
        return plain
    runs: list[tuple[int, Origin]] = []
    begin = 0
    for text in texts:
        for end, origin in _runs(text):
            if runs and runs[-1][1] == origin:
                runs.pop()
            runs.append((begin + end, origin))
        begin += len(text)
    return Traced(plain, runs)


def shown(value: Any) -> str:
    """Return what stands for a value in a text."""
    return value if isinstance(value, str) else whole(str(value), origin_of(value))


def origin_of(value: Any) -> Origin:
    """Return where the texts in a value come from."""
    if isinstance(value, str):
        return TEMPLATE.union(*(origin for _, origin in _runs(value)))
    if value is None or isinstance(value, (int, float)):
        return TEMPLATE
    if isinstance(value, dict):
        return TEMPLATE.union(*map(origin_of, itertools.chain.from_iterable(value.items())))
    if isinstance(value, (list, tuple)):
        return TEMPLATE.union(*map(origin_of, value))
    return UNKNOWN


def parts(text: str) -> Iterator[tuple[str, Origin]]:
    """Yield a text's parts, each as plain text of one origin."""
    begin = 0
    for end, origin in _runs(text):
        yield str.__getitem__(text, slice(begin, end)), origin
        begin = end


def _runs(text: str) -> Sequence[tuple[int, Origin]]:
    if isinstance(text, Traced):
        return text._runs
    # Another kind of str may have been made of anything.
    return ((len(text), TEMPLATE if type(text) is str else UNKNOWN),) if text else ()
