"""Bodies of a given size that are full of something, for every route that takes one; for a test and a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator

CHAT, TEXT, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, ANTHROPICS = "/v1/responses", "/v1/messages"
EMBED, NATIVE, TOKENIZE, CHECK = "/embed", "/gpt4all_api", "/v1/tokenize", "/api/v1/token_check"
# Beside what is hostile each body is right, so that nothing else ends its validation.
RIGHT = {CHAT: '"messages":[{"role":"user","content":"Hi"}]', TEXT: '"prompt":"Hi"', EMBEDDINGS: '"input":"Hi"',
         RESPONSES: '"input":"Hi"', ANTHROPICS: '"messages":[{"role":"user","content":"Hi"}],"max_tokens":1',
         EMBED: '"input":"Hi"', NATIVE: '"prompt":"Hi"', TOKENIZE: '"input":"Hi"',
         CHECK: '"prompts":[{"model":"","prompt":"Hi","max_tokens":1}]'}
FIELD = {CHAT: "messages", RESPONSES: "input", ANTHROPICS: "messages", TEXT: "prompt", EMBEDDINGS: "input",
         EMBED: "input", NATIVE: "prompt", TOKENIZE: "input", CHECK: "prompts"}
# What a list is filled with.
ENTRIES = {
    "numbers": "1", "fractions": "1.5", "long fractions": "0." + "123456789" * 90, "nulls": "null", "strings": '""',
    "lists": "[]", "lists of a number": "[1]", "objects": "{}", "objects of a number": '{"a":1}',
    "lists in lists": "[" * 400 + "]" * 400, "objects in objects": '{"a":' * 400 + "1" + "}" * 400}
MESSAGES = {
    "messages": '{"role":"user","content":"a"}', "empty messages": '{"role":"user","content":""}',
    "messages of parts": '{"role":"user","content":[{"type":"text","text":"a"}]}',
    "messages without a role": '{"content":"a"}',
    "messages with an unknown field": '{"role":"user","content":"a","x":1}'}
# What else may hold much: a field, and how its value begins and ends.
FILLED = {"stop": "[]", "logit_bias": "{}", "metadata": "{}", "tools": "[]", "functions": "[]", "modalities": "[]",
          "model": "[]", "stream_options": "{}", "response_format": "{}", "temperature": "[]", "user": "[]"}


def filled(size: int, head: str, entry: str, tail: str) -> bytes:
    """Return a body of so many bytes at most: the entry as often as it goes in, with commas between."""
    count = (size - len(head) - len(tail)) // (len(entry) + 1)
    return (head + (entry + ",") * (count - 1) + entry + tail).encode()


def keys(size: int, head: str, value: str, tail: str) -> bytes:
    """Return a body that is full of keys, each another one."""
    parts, used = [], len(head) + len(tail)
    while used < size - 40:
        parts.append(f'"{len(parts):x}":{value}')
        used += len(parts[-1]) + 1
    return (head + ",".join(parts) + tail).encode()


def bodies(size: int) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Yield what is sent: the path, its name, and what makes it."""
    for path, field in FIELD.items():
        for name, entry in ENTRIES.items():
            yield path, f"{field}: {name}", lambda f=field, e=entry: filled(size, f'{{"{f}":[', e, "]}")
        right = RIGHT[path]
        yield path, "unknown fields", lambda r=right: keys(size, "{" + r + ",", "1", "}")
        yield path, "unknown fields of lists", lambda r=right: keys(size, "{" + r + ",", "[1]", "}")
        yield path, "one field again and again", lambda r=right: filled(size, "{" + r + ",", '"x":1', "}")
        yield path, "one long unknown field", lambda r=right: (
            "{" + r + ',"' + "k" * (size - len(r) - 8) + '":1}').encode()
        yield path, "one long unknown text", lambda r=right: (
            "{" + r + ',"x":"' + "k" * (size - len(r) - 8) + '"}').encode()
        yield path, "one long model", lambda r=right: (
            "{" + r + ',"model":"' + "k" * (size - len(r) - 16) + '"}').encode()
    for name, entry in MESSAGES.items():
        yield CHAT, f"messages: {name}", lambda e=entry: filled(size, '{"messages":[', e, "]}")
    yield CHAT, "messages: one of many parts", lambda: filled(size,
        '{"messages":[{"role":"user","content":[', '{"type":"text","text":""}', "]}]}")
    yield CHAT, "messages: one with unknown fields", lambda: keys(size,
        '{"messages":[{"role":"user","content":"a",', "1", "}]}")
    yield CHECK, "prompts: right ones", lambda: filled(size,
        '{"prompts":[', '{"model":"","prompt":"a","max_tokens":1}', "]}")
    for path in (CHAT, TEXT, NATIVE):
        for field, form in FILLED.items():
            head = "{" + RIGHT[path] + f',"{field}":{form[0]}'
            if form == "[]":
                yield path, f"{field}: strings", lambda h=head: filled(size, h, '"ab"', "]}")
            else:
                yield path, f"{field}: numbers", lambda h=head: keys(size, h, "1", "}}")
                yield path, f"{field}: texts", lambda h=head: keys(size, h, '"-1"', "}}")
