"""Asks a running service the held-out questions and says how many answers are exactly right.

Run from the project's folder: python -m tools.nano.evaluate [--url URL] [--each N]
Without --url a service is started for it. It ends with 1 if a bar isn't reached.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import requests

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT / "tests" / "rigs")]

from tools.nano.questions import BARS, Question, questions  # noqa: E402

MODEL = "mayfly-nano-demo"
#: How answers are sampled: always the likeliest token, and as the service does it unless told otherwise.
SAMPLINGS: Mapping[str, Mapping[str, float]] = {
    "greedy": {"temperature": 0, "repeat_penalty": 1},
    "defaults": {"temperature": 0.7, "top_k": 40, "top_p": 0.4, "repeat_penalty": 1.18, "repeat_last_n": 64},
}


@dataclass(frozen=True)
class Answered:
    """A question and what came back."""

    question: Question
    text: str
    finish_reason: str

    @property
    def exact(self) -> bool:
        """Tell whether the answer is the right one, to the letter."""
        return self.text == self.question.expected

    @property
    def well_formed(self) -> bool:
        """Tell whether the answer is a whole text, whatever it says."""
        return (self.finish_reason == "stop" and bool(self.text) and self.text == self.text.strip()
                and "\ufffd" not in self.text and "<|" not in self.text
                and all(sign.isprintable() or sign == "\n" for sign in self.text))


def ask(url: str, question: Question, sampling: Mapping[str, float], model: str = MODEL) -> Answered:
    """Ask a service one question."""
    body = {"model": model, "max_tokens": 200, **sampling,
            "messages": [{"role": message.role, "content": message.content} for message in question.messages]}
    answer = requests.post(url + "/v1/chat/completions", json=body, timeout=120)
    if answer.status_code != 200:
        raise SystemExit(f"{answer.status_code}: {answer.text}")
    (choice,) = answer.json()["choices"]
    return Answered(question, choice["message"]["content"], choice["finish_reason"])


def failures(answered: Iterable[Answered]) -> list[str]:
    """Return the bars that were not reached, and each answer that isn't well-formed."""
    by_group: dict[str, list[Answered]] = defaultdict(list)
    found = []
    for one in answered:
        by_group[one.question.group].append(one)
        if not one.well_formed:
            found.append(f"not well-formed ({one.finish_reason}): {one.text!r} to {_asked(one)}")
    for group, bar in BARS.items():
        share = _share(by_group[group])
        if not share >= bar:
            found.append(f"{group}: {share:.1%} exact answers instead of {bar:.0%}")
    return found


def table(answered: Iterable[Answered]) -> str:
    """Return the shares of exact and of well-formed answers, by group and part."""
    parts: dict[tuple[str, str], list[Answered]] = defaultdict(list)
    for one in answered:
        parts[one.question.group, ""].append(one)
        parts[one.question.group, one.question.part].append(one)
    lines = [f"{'group':10} {'part':16} {'asked':>5} {'exact':>7} {'well-formed':>11} {'bar':>5}"]
    for (group, part), ones in parts.items():
        bar = f"{BARS[group]:.0%}" if group in BARS and not part else ""
        whole = sum(one.well_formed for one in ones) / len(ones)
        lines.append(f"{'' if part else group:10} {part:16} {len(ones):5} {_share(ones):7.1%} {whole:11.1%} {bar:>5}")
    return "\n".join(lines)


def _share(ones: list[Answered]) -> float:
    return sum(one.exact for one in ones) / len(ones) if ones else float("nan")


def _asked(one: Answered) -> str:
    return " / ".join(f"{message.role[0]}: {message.content}" for message in one.question.messages)


def main() -> int:
    """Evaluate as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description="Evaluate mayfly-nano through a running service.")
    parser.add_argument("--url", help="of a service; without it one is started")
    parser.add_argument("--models", type=Path, default=PROJECT / "models", help="the folder of the model to serve")
    parser.add_argument("--model", default=MODEL, help="the model's id")
    parser.add_argument("--each", type=int, default=240, help="questions a group")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sampling", choices=SAMPLINGS, action="append", help="only this one; may be repeated")
    parser.add_argument("--show", type=int, default=0, help="how many wrong answers of each part to print")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = None
        if not arguments.url:
            from service import Service

            service = Service(Path(folder), {"MODEL_PATH": arguments.models.resolve(), "EMBED_MODEL": "none",
                                             "MODEL_NAME": f"{arguments.model}.gguf", "RATE_LIMIT": 0})
            url = service.wait_listening()
            service.complete("Hello")
        try:
            return _evaluate(arguments.url or url, arguments)
        finally:
            if service is not None:
                service.stop()


def _evaluate(url: str, arguments: argparse.Namespace) -> int:
    missed = []
    for sampling in arguments.sampling or SAMPLINGS:
        answered = [ask(url, question, SAMPLINGS[sampling], arguments.model)
                    for question in questions(arguments.seed, arguments.each)]
        print(f"\n{sampling}: {SAMPLINGS[sampling]}\n{table(answered)}", flush=True)
        shown: dict[tuple[str, str], int] = defaultdict(int)
        for one in answered:
            shown[one.question.group, one.question.part] += not one.exact
            if not one.exact and shown[one.question.group, one.question.part] <= arguments.show:
                print(f"  {one.question.part}: {_asked(one)!r}\n    {one.text!r}, not {one.question.expected!r}")
        missed += [f"{sampling}: {failure}" for failure in failures(answered)]
    for failure in missed:
        print(failure)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
