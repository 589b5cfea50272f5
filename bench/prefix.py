"""The prefix store: time to the first token with it, without it, and of llama.cpp's own server with its prompt cache.

    python bench/prefix.py [--rounds 5] [--models smollm2,random] [--conversations 20] [--no-results]

In turn, in one run: a persona of 300 tokens that is used again with another question each time; and the last turn of a
conversation of 8 turns, some 2,000 tokens at its end, in which each server has the answers that it gave. Turns follow
one another at once, as a script's do, and after a pause, as those of people who read. Without the store
(PREFIX_MEMORY=none) the same last request is sent again. The service's answers with and without are compared byte by
byte, there and over more conversations of two turns: so many at temperature 0, and so many with a seed. Models:
SmolLM2-135M, and a llama of TinyLlama's shape with random weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import random_llama  # noqa: E402
import requests  # noqa: E402
import results  # noqa: E402
import tiny_llama  # noqa: E402
from contenders import PEERS, Server, Words, free_port  # noqa: E402
from service import Service, until  # noqa: E402

from mayfly.models.defaults import SMOLLM2  # noqa: E402
from mayfly.settings import available_cores, load_settings  # noqa: E402

WITH, WITHOUT, SERVER = "mayfly", "mayfly, PREFIX_MEMORY=none", "llama.cpp's server"
N_CTX = 2304
PERSONA_TOKENS, TURNS, TURN_TOKENS, ANSWER_TOKENS = 300, 8, 170, 72
READING = 2.0  # seconds

Messages = list[dict[str, str]]


class Contender:
    """A server that answers conversations in OpenAI's form."""

    def __init__(self, url: str, stop: Callable[[], object]) -> None:
        self._url = url
        self.stop = stop

    def __call__(self, messages: Messages, max_tokens: int = ANSWER_TOKENS, **sampling: float) -> tuple[float, str]:
        """Return the time to the first token in seconds, and the answer."""
        body = {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True,
                "model": "gpt-3.5-turbo", **sampling}
        first, text = 0.0, ""
        began = time.perf_counter()
        with requests.post(self._url + "/v1/chat/completions", json=body, stream=True, timeout=1800) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines(chunk_size=1):
                if line.startswith(b"data: {"):
                    said = json.loads(line[6:])["choices"][0]["delta"].get("content")
                    if said:
                        first = first or time.perf_counter() - began
                        text += said
        return first, text


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--models", default="smollm2,random", help="these, or paths of GGUF files")
    arguments.add_argument("--conversations", type=int, default=20, help="compared byte by byte, of either kind")
    arguments.add_argument("--no-results", action="store_true", help="leave RESULTS.md as it is")
    chosen = arguments.parse_args()
    described = results.machine()
    rows: list[tuple[str, ...]] = []
    alike: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        folder = Path(name)
        for kind in chosen.models.split(","):
            if kind == "random":
                path = random_llama.write(folder / "random-1.1b.gguf", context=N_CTX,
                                          chat_template=tiny_llama.CHAT_TEMPLATE)
            else:
                path = load_settings().model_path / SMOLLM2.file_name if kind == "smollm2" else Path(kind)
            measured, same = of_model(folder / path.stem, path.resolve(), chosen.rounds,
                                      chosen.conversations if kind != "random" else 0)
            rows += [(path.stem, *row) for row in measured]
            alike.append(f"{path.stem}: {same}")
    body = results.table(("", "", f"{WITH}, s", f"{WITHOUT}, s", f"{SERVER}, s", "with / without (bar 0.15)",
                          "mayfly / server (bar 1.1 for the conversation)"), rows)
    body += "\n\nAnswers with and without the store that were the same bytes: " + "; ".join(alike) + "."
    if chosen.no_results:
        print(body)
    else:
        results.keep("Time to the first token with the prefix store (prefix.py)",
                     f"{described}; THREADS={available_cores()}, medians of {chosen.rounds} (min to max),", body)


def of_model(folder: Path, model: Path, rounds: int, conversations: int) -> tuple[list[tuple[str, ...]], str]:
    """Return the rows of a model's table, and how many answers with and without were the same."""
    contenders = started(folder, model)
    try:
        words = Words(contenders[WITH]._url)
        compared: list[bool] = []
        persona = of_persona(contenders, words, rounds, compared)
        at_once, read = (of_conversation(contenders, words, rounds, compared, pause) for pause in (0.0, READING))
        for number in range(conversations):
            for sampling in ({}, {"temperature": 1.0, "seed": number}):
                compared += of_pair(contenders, words, sampling)
    finally:
        for contender in contenders.values():
            contender.stop()
    rows = []
    for what, times in (("persona used again", persona), ("last turn of a conversation, at once", at_once),
                        (f"last turn of a conversation, {READING:g} s after each answer", read)):
        with_it = results.median(times[WITH])
        rows.append((what, *(results.spread(times[name]) for name in (WITH, WITHOUT, SERVER)),
                     *(f"{with_it / results.median(times[name]):.3f}" for name in (WITHOUT, SERVER))))
    return rows, f"{sum(compared)} of {len(compared)}"


def started(folder: Path, model: Path) -> dict[str, Contender]:
    """Start all servers with a model."""
    found = {}
    for name, memory in ((WITH, "5%"), (WITHOUT, "none")):
        service = Service(folder / memory.replace("%", ""), {
            "MODEL_PATH": model.parent, "MODEL_NAME": model.name, "EMBED_MODEL": "none", "CHAT_ENGINE": "llamacpp",
            "THREADS": available_cores(), "N_CTX": N_CTX, "PREFIX_MEMORY": memory})
        service.wait_listening()
        until(lambda service=service: service.lane("completion")["state"] == "ready", within=300, what="ready")
        found[name] = Contender(service.url, service.stop)
    port = free_port()
    command = [sys.executable, str(PEERS / "llama_cpp_server.py"), str(model), str(port), str(available_cores()),
               str(N_CTX)]
    server = Server(command, "/v1/chat/completions", port, folder / "server.log", available_cores(),
                    probe=lambda url, path: Contender(url, lambda: None)([_user("Hello")], 1))
    found[SERVER] = Contender(server.url, server.stop)
    return found


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def of_persona(contenders: dict[str, Contender], words: Words, rounds: int, compared: list[bool]
               ) -> dict[str, list[float]]:
    """Measure a persona that each server has seen before; see the module."""
    persona = {"role": "system", "content": words(PERSONA_TOKENS)}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-2, rounds):
        messages = [persona, _user(words(20))]
        answers = {}
        for name, contender in contenders.items():
            first, answers[name] = contender(messages, 8)
            if turn >= 0:
                times[name].append(first)
                print(f"persona  {name:27} {first:.3f} s", flush=True)
        compared.append(answers[WITH] == answers[WITHOUT])
    return times


def of_conversation(contenders: dict[str, Contender], words: Words, rounds: int, compared: list[bool],
                    pause: float) -> dict[str, list[float]]:
    """Measure the last turn of conversations whose turns come so many seconds after the answer before; see the
    module."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        said = [words(TURN_TOKENS) for _ in range(TURNS)]
        last: Messages = []
        answer = ""
        for name in (WITH, SERVER):
            messages: Messages = []
            for text in said:
                messages.append(_user(text))
                first, given = contenders[name](messages)
                if name == WITH:
                    last, answer = list(messages), given
                messages.append({"role": "assistant", "content": given})
                time.sleep(pause)
            times[name].append(first)
        first, again = contenders[WITHOUT](last)
        times[WITHOUT].append(first)
        compared.append(again == answer)
        print("conversation", pause, {name: round(found[-1], 3) for name, found in times.items()}, flush=True)
    return times


def of_pair(contenders: dict[str, Contender], words: Words, sampling: dict[str, Any]) -> Sequence[bool]:
    """Compare both answers of a short conversation."""
    messages = [{"role": "system", "content": words(60)}]
    same = []
    for tokens in itertools.repeat(70, 2):
        messages.append(_user(words(tokens)))
        answers = [contenders[name](messages, 16, **sampling)[1] for name in (WITH, WITHOUT)]
        same.append(answers[0] == answers[1])
        messages.append({"role": "assistant", "content": answers[0]})
    return same


if __name__ == "__main__":
    main()
