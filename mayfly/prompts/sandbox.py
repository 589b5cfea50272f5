"""The language of chat templates: jinja2's sandbox with what Hugging Face's `apply_chat_template` gives a template, in
which a caller's texts keep their origin (see `provenance`), whatever the template does with them.

A template gets at texts by their methods, operators, filters and calls, and by output; each of them is followed here,
or taken for something that comes as a whole from the texts that went in. Nothing is computed when a template is read:
what costs too much is seen when it is rendered, under the limits that are set for that.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import nodes, pass_context, pass_environment
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_round, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from mayfly.prompts.provenance import joined, origin_of, shown, traced, whole

# Filters that make their texts by the methods of the texts that they are given.
_FOLLOWED = frozenset(("capitalize", "format", "lower", "replace", "string", "trim", "upper"))
# Filters that hand on what they are given, or make numbers or truths of it.
_HANDING_ON = frozenset((
    "abs", "attr", "batch", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "join",
    "last", "length", "list", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "round", "select",
    "selectattr", "slice", "sort", "sum", "unique", "wordcount"))

# Numbers of more bits take processor time that no signal can end.
_MOST_BITS = 1024


class Refused(Exception):
    """The template called raise_exception."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment in which chat templates are read and rendered."""

    intercepted_binops = frozenset(("%", "*", "**"))
    concat = staticmethod(joined)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, finalize=_finalize,
                         extensions=[loopcontrols, _GenerationBlocks])
        self.code_generator_class = _CodeGenerator
        self.filters.update(join=_join, round=_round, sum=_sum, tojson=_tojson)
        self.filters.update({name: _filter(function, followed=name in _FOLLOWED)
                             for name, function in self.filters.items() if name not in _HANDING_ON})
        self.globals["raise_exception"] = _raise

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """See SandboxedEnvironment."""
        if operator == "%" and isinstance(left, str):
            left = traced(left)
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _MOST_BITS:
                raise OverflowError
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """See SandboxedEnvironment; a text's method is called as that of a text that can be followed."""
        owner = getattr(__obj, "__self__", None)
        method = getattr(traced(owner), __obj.__name__) if isinstance(owner, str) else __obj
        return super().call(__context, method, *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """See SandboxedEnvironment. Nobody follows bytes."""
        return attr != "encode" and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """See SandboxedEnvironment."""
        if super().wrap_str_format(value) is None:
            return None

        def formatted(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                (kwargs,), args = args, ()
            return _format(SandboxedFormatter(self), value.__self__, args, kwargs)

        return formatted


class _CodeGenerator(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        """Write the code of `a ~ b`, which jinja2 would join by a function that can't be replaced."""
        self.write("environment.concat((")
        for arg in node.nodes:
            self.write("environment.finalize(context, ")
            self.visit(arg, frame)
            self.write("), ")
        self.write("))")


class _GenerationBlocks(Extension):
    """`{% generation %}`, by which transformers finds the assistant's tokens in training."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """See Extension."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


@pass_context  # which keeps jinja2 from computing constants when it reads a template
def _finalize(context: Context, value: Any) -> str:
    return shown(value)


def _filter(function: Callable[..., Any], *, followed: bool) -> Callable[..., Any]:
    # The first argument of some is the environment or a part of it.
    own = 1 if hasattr(function, "jinja_pass_arg") else 0

    def text(value: Any) -> Any:
        return value if value is None or isinstance(value, (int, float)) else traced(shown(value))

    @functools.wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        if followed:
            value = traced(shown(args[own]))
            others = {name: text(arg) for name, arg in kwargs.items()}
            return function(*args[:own], value, *map(text, args[own + 1:]), **others)
        made = function(*args, **kwargs)
        return whole(made, origin_of((*args[own:], *kwargs.values()))) if isinstance(made, str) else made

    return filtered


@pass_environment
def _join(environment: Sandbox, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    get = make_attrgetter(environment, attribute)
    return str(traced(shown(d)).join(shown(get(item)) for item in value))


@pass_environment
def _sum(environment: Sandbox, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    # In Python, so that a signal can end it: with lists the time grows with the square of their number.
    get = make_attrgetter(environment, attribute)
    for item in iterable:
        start = start + get(item)
    return start


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > _MOST_BITS:
        raise OverflowError
    return do_round(value, precision, method)


def _tojson(x: Any, ensure_ascii: bool = False, indent: int | None = None,
            separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    # The names are those of transformers, which templates use.
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _format(formatter: SandboxedFormatter, form: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Do what `str.format` does."""
    fields = list(formatter.parse(form))
    if origin_of(form) or any(spec or conversion for _, _, spec, conversion in fields):
        return whole(str(formatter.vformat(form, args, kwargs)), origin_of((form, args, dict(kwargs))))
    pieces = []
    numbers = itertools.count()
    for literal, field, _, _ in fields:
        pieces.append(literal)
        if field is not None:
            name = f"{next(numbers)}{field}" if field[:1] in ("", ".", "[") else field
            pieces.append(shown(formatter.get_field(name, args, kwargs)[0]))
    return joined(pieces)


def _raise(message: object) -> NoReturn:
    raise Refused(message)
