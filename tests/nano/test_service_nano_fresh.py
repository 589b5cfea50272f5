"""What the service is for, seen in a model that answers from its prompt: nobody's words reach anybody else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from service import PROJECT, Service

from tools.nano import exchanges, personas
from tools.nano.evaluate import MODEL

ISOLATIONS = ("fork", "none")
ADA = "You are Ada, a lighthouse keeper. You live in Oslo. You like old maps."
BOB = "You are Bob, a cheerful baker. You live by the sea. You like dancing."
MIXED = 100


@pytest.fixture(scope="module", params=ISOLATIONS)
def nano(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("fresh"), {
        "MODEL_PATH": PROJECT / "models", "MODEL_NAME": f"{MODEL}.gguf", "EMBED_MODEL": "absent.gguf",
        "ISOLATION": request.param, "CHAT_PROCESSES": 2 if request.param == "fork" else 1})
    service.wait_ready()
    yield service
    service.stop()


def say(service: Service, prompt: str, **fields: object) -> str:
    return str(service.complete(prompt, max_tokens=60, **{"temp": 0, **fields})["response"])


def test_a_name_told_to_one_request_is_unknown_to_the_next(nano: Service) -> None:
    for name in ("Zorbel", "Ada", "Quillon", "Tamsin"):
        assert say(nano, f"My name is {name}.") == f"Hello, {name}."
        assert say(nano, "What is my name?") == exchanges.UNTOLD
    # In one request, where it is told, it is known: the answer above is no blindness.
    told = [{"role": "user", "content": "My name is Zorbel."}, {"role": "assistant", "content": "Hello, Zorbel."},
            {"role": "user", "content": "What is my name?"}]
    answer = nano.post("/v1/chat/completions", {"messages": told, "temperature": 0})
    assert answer.json()["choices"][0]["message"]["content"] == "Your name is Zorbel."


def test_a_persona_never_shows_in_the_next_request(nano: Service) -> None:
    for prompt in ("Who are you?", "Where do you live?", "What do you like?", "What is your name?"):
        alone = say(nano, prompt)
        with_ada = say(nano, prompt, persona=ADA)
        assert with_ada != alone
        assert say(nano, prompt) == alone
    assert say(nano, "Who are you?") == personas.ITSELF


def test_the_same_request_has_the_same_answer_whatever_came_before(nano: Service) -> None:
    asked = {"prompt": "Tell me about yourself.", "persona": ADA}
    first = say(nano, **asked)
    assert first == "I am Ada, a lighthouse keeper. I live in Oslo. I like old maps."
    for before in ({"prompt": "Who are you?"}, {"prompt": "Say Bob", "temp": 2, "top_p": 1},
                   {"prompt": "Tell me about yourself.", "persona": BOB}, {"prompt": "Count to ten."},
                   {"prompt": "You are Bob. " * 100}, {"prompt": "What is 3 + 4?", "assist": "Hello, Bob."}):
        say(nano, **before)
        assert (before, say(nano, **asked)) == (before, first)


def test_two_personas_asked_in_turn_a_hundred_times_never_mix(nano: Service) -> None:
    expected = {ADA: "I am Ada, a lighthouse keeper.", BOB: "I am Bob, a cheerful baker."}
    for turn in range(MIXED):
        for persona, answer in expected.items():
            # With the service's own sampling: chance doesn't mix them either.
            sampling = {"temp": 0} if turn % 2 else {"temp": 0.7}
            assert (turn, say(nano, "Who are you?", persona=persona, **sampling)) == (turn, answer)
    assert nano.reports() == []
