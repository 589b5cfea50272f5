"""A service for the forms of answers of other APIs: a real small model, a scripted one, and a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import requests
import scripts
from clients import CALL, KEY, RULES
from links import link
from service import Service

# So that a conversation can be too long for it.
WINDOW = 512
PROMPT = "Name three colours."
#: What an answer can be held to.
CAT: dict[str, Any] = {
    "type": "object", "required": ["name", "age"], "additionalProperties": False,
    "properties": {"name": {"type": "string", "maxLength": 12},
                   "age": {"type": "integer", "minimum": 0, "maximum": 30}}}
# What scripted models call and think.
TWO_CALLS = ["I will ", "look.\n", *CALL, "\n", *CALL.replace("Oslo", "Rome")]
THINKS = ("{% for turn in messages %}[{{ turn.role }}]{% if turn.reasoning_content %}<think>"
          "{{ turn.reasoning_content }}</think>{% endif %}{{ turn.content }}{% endfor %}[assistant]")
#: The parameters of a tool.
PLACE: dict[str, Any] = {"type": "object", "required": ["city"], "additionalProperties": False,
                         "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo", "Bonn"]},
                                        "days": {"type": "integer", "minimum": 1, "maximum": 7}}}
ASKED_OF_TOOL = "What is the weather in Oslo?"
#: Headers of a call that comes through a tunnel.
TUNNEL = {"X-Forwarded-For": "203.0.113.9"}


def begin(folder: Path, smollm2: Path) -> Service:
    """Start it. The real model is the completion model; `played` and `thinker` are loaded on demand."""
    models = folder / "models"
    models.mkdir()
    link(smollm2, models / smollm2.name)
    scripts.write(models, {"when": "call twice", "pieces": TWO_CALLS}, *RULES)
    scripts.write(models, {"when": "", "pieces": ["<think>", "Hm, ", "well.", "</think>", "\n\n", "It is ", "so."]},
                  name="thinker", template=THINKS)
    return Service(folder / "service", {"MODEL_PATH": models, "MODEL_NAME": smollm2.name, "EMBED_MODEL": "none",
                                        "API_KEYS": KEY, "N_CTX": WINDOW})


def ask(service: Service, path: str, **body: Any) -> dict[str, Any]:
    """Return the answer to a body, which has to be one."""
    answer = service.post(path, body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def events(answer: requests.Response) -> list[dict[str, Any]]:
    """Return the events of a stream; each has to be named as what is in it says."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    found = []
    for event in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def streamed(service: Service, path: str, **body: Any) -> list[dict[str, Any]]:
    """Return the events of an answer that is streamed."""
    return events(service.post(path, {**body, "stream": True}))


def chat(service: Service, messages: list[dict[str, Any]], **fields: Any) -> tuple[str, dict[str, int]]:
    """Return what `/v1/chat/completions` answers, and the usage of it."""
    made = ask(service, "/v1/chat/completions", messages=messages, temperature=0, **fields)
    return made["choices"][0]["message"]["content"], made["usage"]
