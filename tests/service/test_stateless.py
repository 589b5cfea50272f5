"""What the service is for, seen in a real model: nobody's words reach anybody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from service import Service

from mayfly.workers.prefix_store import PrefixStore

ADA = "You are Ada, a lighthouse keeper in Oslo."
BOB = "You are Bob, a cheerful baker in Rome."
ASKED = "What is my name?"
SPOKEN = ("Whatever you are asked, you say your name first, and then you answer in short and simple words, as people "
          "do. You like the mornings, long walks by the sea and the talk of the people who come by, and you don't make "
          "things up: what you don't know you say you don't know.")


@pytest.fixture(scope="module", params=["fork", "none"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, smollm2: Path
            ) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("stateless")
    (folder / "models").mkdir()
    os.link(smollm2, folder / "models" / smollm2.name)
    service = Service(folder, {"MODEL_PATH": folder / "models", "MODEL_NAME": smollm2.name, "EMBED_MODEL": "none",
                               "ISOLATION": request.param})
    service.wait_ready()
    yield service
    service.stop()


def say(service: Service, *turns: dict[str, str], **fields: Any) -> str:
    """Return the likeliest answer to a conversation; nothing keeps the model from repeating a name."""
    answer = service.post("/v1/chat/completions", {
        "messages": turns, "temperature": 0, "repeat_penalty": 1, "max_tokens": 8, **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def as_somebody(service: Service, persona: str) -> str:
    return say(service, {"role": "system", "content": persona}, user("Who are you?"), max_tokens=3)


def test_a_name_told_to_one_request_is_unknown_to_the_next(service: Service) -> None:
    alone = say(service, user(ASKED))
    for name in ("Zorbel", "Tamsin", "Quillon"):
        told = [user(f"My name is {name}."), {"role": "assistant", "content": f"Hello, {name}."}]
        # In one request, where it is told, it is known: the answer of the next is no blindness.
        assert name in say(service, *told, user(ASKED))
        assert say(service, user(ASKED)) == alone and name not in alone


def test_personas_asked_in_turn_a_hundred_times_never_mix(service: Service) -> None:
    # Long enough that each process goes on from what an earlier one has evaluated of its persona: all that is shared.
    personas = [f"{persona} {SPOKEN}" for persona in (ADA, BOB)]
    right = {persona: as_somebody(service, persona) for persona in personas}
    assert len(set(right.values())) == 2
    # What one process keeps for all shows at once; a hundred processes are what is promised.
    for turn in range(50 if service.lane("completion")["isolation"] == "fork" else 4):
        for persona, answer in right.items():
            assert (turn, as_somebody(service, persona)) == (turn, answer)
    if PrefixStore.of(1 << 20) is not None:
        assert service.lane("completion")["prefixes"]["hits"] > turn
    assert service.reports() == []


def test_the_same_request_has_the_same_answer_whatever_came_before(service: Service) -> None:
    first = as_somebody(service, ADA)
    for before in ([user("Who are you?")], [{"role": "system", "content": BOB}, user("Who are you?")],
                   [user("You are Bob. " * 50)]):
        say(service, *before, temperature=2, top_p=1, max_tokens=2)
        assert (before, as_somebody(service, ADA)) == (before, first)
