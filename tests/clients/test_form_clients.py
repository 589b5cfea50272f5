"""Answers in a form, by other people's clients and the real SmolLM2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from clients import KEY, package, run_client, unavailable
from pydantic import BaseModel, Field
from service import Service

pytest.importorskip("llguidance", reason="there is no wheel of llguidance for this machine")

# It asks for older versions of what others need (jiter, rich), and works with theirs: so it has a folder of its own.
INSTRUCTOR = ("instructor==1.17.0", "docstring-parser==0.18.0")
ANNA = [{"role": "user", "content": "Extract the person: Anna is 31 years old and lives in Rome."}]


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=30)
    age: int = Field(ge=0, le=120)
    city: Literal["Paris", "London", "Rome"]


FOUND = Person(name="Anna", age=31, city="Rome")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("forms"), {
        "MODEL_PATH": smollm2.parent, "MODEL_NAME": smollm2.name, "EMBED_MODEL": "none", "API_KEYS": KEY})
    yield running.wait_ready()
    running.stop()


def test_openais_client_parses_a_model_whole_and_streamed(service: Service) -> None:
    openai: Any = package("openai")
    with openai.OpenAI(base_url=service.url + "/v1", api_key=KEY, max_retries=0) as client:
        asked = {"model": "gpt-4o-mini", "messages": ANNA, "temperature": 0, "max_tokens": 60}
        made = client.chat.completions.parse(**asked, response_format=Person)
        assert made.choices[0].message.parsed == FOUND and made.choices[0].finish_reason == "stop"
        with client.chat.completions.stream(**asked, response_format=Person) as stream:
            assert stream.get_final_completion().choices[0].message.parsed == FOUND
        # What was cut is an error of the client's own, by the reason why it ended.
        with pytest.raises(openai.LengthFinishReasonError):
            client.chat.completions.parse(**{**asked, "max_tokens": 4}, response_format=Person)


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_langchain_gives_structured_output(service: Service, method: str) -> None:
    langchain: Any = package("langchain_openai")
    model = langchain.ChatOpenAI(base_url=service.url + "/v1", api_key=KEY, model="gpt-4o-mini", temperature=0,
                                 max_tokens=80)
    if method == "json_schema":
        assert model.with_structured_output(Person, method=method).invoke(ANNA[0]["content"]) == FOUND
    else:
        # That one leaves the schema to the prompt.
        told = model.with_structured_output(None, method=method).invoke(
            "Answer as JSON with the names name, age and city. " + ANNA[0]["content"])
        assert isinstance(told, dict)


@pytest.fixture(scope="module")
def instructor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with instructor alone."""
    folder = tmp_path_factory.mktemp("instructor")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--target",
                           folder, "--disable-pip-version-check", "--only-binary", ":all:", *INSTRUCTOR],
                          capture_output=True, text=True)
    if done.returncode:
        unavailable("instructor can't be installed: " + (done.stderr.strip().splitlines() or ["no reason"])[-1])
    return folder


_SCRIPT = f"""
import os
import instructor, openai
from typing import Literal
from pydantic import BaseModel, Field

class Person(BaseModel):
    name: str = Field(max_length=30)
    age: int = Field(ge=0, le=120)
    city: Literal["Paris", "London", "Rome"]

opened = openai.OpenAI(base_url=os.environ["MAYFLY_URL"] + "/v1", api_key=os.environ["MAYFLY_KEY"])
client = instructor.from_openai(opened, mode=instructor.Mode.JSON_SCHEMA)
made = client.chat.completions.create(model="gpt-4o-mini", response_model=Person, temperature=0, max_tokens=60,
                                      max_retries=0, messages={ANNA!r})
assert (made.name, made.age, made.city) == ("Anna", 31, "Rome"), made
print("instructor ok")
"""


def test_instructor_extracts_a_model(service: Service, instructor: Path) -> None:
    assert "instructor ok" in run_client([sys.executable, "-c", _SCRIPT], service, PYTHONPATH=str(instructor))
