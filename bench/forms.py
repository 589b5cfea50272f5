"""What it costs to hold an answer to a form: the same number of tokens freely and held, in turn, pair by pair.

    python bench/forms.py [--pairs 20] [--tokens 48]
    python bench/forms.py --valid 10

A real model answers a fixed prompt until its tokens are used up; the form is sent as a grammar, so the prompt is the
same. Which of both is asked first changes from pair to pair. Bar: held, the whole request takes at most 15 % longer,
pair by pair, at the median.

With --valid it answers freely in each of the tests' thirty forms, so many times, and what comes is validated. Bar: all
answers that weren't cut by max_tokens fit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "rigs"), str(PROJECT / "bench")]

import form_schemas  # noqa: E402
import requests  # noqa: E402
import results  # noqa: E402
from service import Service  # noqa: E402

from mayfly.settings import load_settings  # noqa: E402

TURNS = [{"role": "system", "content": "You are Ada, a lighthouse keeper."},
         {"role": "user", "content": "Tell me of the harbour at night."}]
# None of them is complete before the tokens are used up.
_CAT: dict[str, Any] = {"type": "object", "additionalProperties": False, "required": ["name", "age", "color"],
                        "properties": {
    "name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 30},
    "color": {"enum": ["black", "white", "red"]}}}
FORMS: dict[str, dict[str, Any]] = {
    "objects with bounds": {"type": "array", "items": _CAT, "minItems": 50},
    "numbers": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 999}, "minItems": 200},
    "a long text": {"type": "string", "minLength": 2000}}


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--pairs", type=int, default=20)
    arguments.add_argument("--tokens", type=int, default=48, help="of each answer")
    arguments.add_argument("--valid", type=int, default=0, help="answers in each form that are validated instead")
    chosen = arguments.parse_args()
    described = results.machine()
    settings = load_settings()
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as name:
        service = Service(Path(name), {"MODEL_PATH": settings.model_path, "MODEL_NAME": settings.model_name,
                                       "EMBED_MODEL": "none"})
        service.wait_ready()
        try:
            if chosen.valid:
                validate(service, chosen.valid)
                return
            rows = []
            for name, schema in FORMS.items():
                times = measure(service, chosen.pairs, chosen.tokens, schema)
                rows.append((name, *(results.spread([1000 * pair[place] for pair in times], 1) for place in (0, 1)),
                             results.spread([held / free for free, held in times])))
        finally:
            service.stop()
    results.keep("Answers held to a form (forms.py)",
                 f"{described}; {settings.model_name}, {chosen.tokens} tokens, {chosen.pairs} pairs of each,",
                 results.table(("ms, median (min to max)", "freely", "held", "pair by pair"), rows)
                 + "\n\nBar: 1.15, pair by pair at the median.")


def validate(service: Service, draws: int) -> None:
    """Print how many of the answers in each form fit."""
    total = form_schemas.Tried()
    for name, schema in zip(form_schemas.NAMES, form_schemas.SCHEMAS, strict=True):
        tried = form_schemas.answers(service, schema, draws)
        total.complete, total.cut = total.complete + tried.complete, total.cut + tried.cut
        total.wrong += tried.wrong
        print(f"{name}: {tried.complete} fit, {tried.cut} were cut, {len(tried.wrong)} are wrong", *tried.wrong,
              flush=True)
    print(f"{draws} answers in each of {len(form_schemas.SCHEMAS)} forms: {total.complete} fit, {total.cut} were cut "
          f"by max_tokens, {len(total.wrong)} are wrong")


def measure(service: Service, pairs: int, tokens: int, schema: dict[str, Any]) -> list[tuple[float, float]]:
    """Return what each pair took, freely and held, in seconds."""
    session = requests.Session()
    session.trust_env = False

    def ask(form: dict[str, Any]) -> float:
        body = {"messages": TURNS, "temperature": 0, "max_tokens": tokens, **form}
        began = time.perf_counter()
        answer = session.post(service.url + "/v1/chat/completions", json=body, timeout=300)
        taken = time.perf_counter() - began
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == tokens, answer.text
        return taken

    asked: list[dict[str, Any]] = [{}, {"grammar": f"start: %json {json.dumps(schema)}"}]
    found = []
    with session:
        for number in range(-2, pairs):
            order = (0, 1) if number % 2 else (1, 0)
            taken = {place: ask(asked[place]) for place in order}
            if number >= 0:
                found.append((taken[0], taken[1]))
    return found


if __name__ == "__main__":
    main()
