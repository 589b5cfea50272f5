"""The client that older programs use, openai 0.28, in a folder of its own: it can't live beside the new one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from clients import run_client, unavailable
from service import Service

SCRIPT = """
import os, openai
openai.api_base, openai.api_key = os.environ["MAYFLY_URL"] + "/v1", os.environ["MAYFLY_KEY"]
assert openai.VERSION.startswith("0.28")
count = [{"role": "user", "content": "count"}]

made = openai.Completion.create(model="gpt-3.5-turbo", prompt="count", max_tokens=3, temperature=0.28, top_p=0.95,
                                n=1, echo=True, stream=False)
assert made["choices"][0]["text"] == "countone two three ", made
chat = openai.ChatCompletion.create(model="gpt-3.5-turbo", messages=count)
assert chat.choices[0].message.content == "one two three four"
text = ""
for chunk in openai.ChatCompletion.create(model="gpt-3.5-turbo", messages=count, stream=True):
    text += chunk["choices"][0]["delta"].get("content", "")
assert text == "one two three four", text
text = "".join(chunk.choices[0].text for chunk in openai.Completion.create(model="played", prompt="greet", stream=True))
assert text == "\\u4f60\\u597d\\U0001f600", text
for named in ({"model": "text-embedding-ada-002"}, {"engine": "all-MiniLM-L6-v2"}):
    made = openai.Embedding.create(input=["one", "two"], **named)
    assert [len(entry["embedding"]) for entry in made["data"]] == [384, 384]
try:
    openai.Completion.create(model="gpt-9", prompt="count")
except openai.error.InvalidRequestError as exc:
    assert exc.code == "model_not_found"
else:
    raise SystemExit("an unknown model was accepted")
print("openai", openai.VERSION, "ok")
"""


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the legacy client alone: what it needs (requests, aiohttp, tqdm, numpy) others need as well."""
    folder = tmp_path_factory.mktemp("legacy")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--target",
                           folder, "--disable-pip-version-check", "--only-binary", ":all:", "openai==0.28.1"],
                          capture_output=True, text=True)
    if done.returncode:
        unavailable("openai 0.28 can't be installed: " + (done.stderr.strip().splitlines() or ["no reason"])[-1])
    return folder


def test_the_legacy_client_completes_chats_streams_and_embeds(legacy: Path, served: Service) -> None:
    assert "0.28.1 ok" in run_client([sys.executable, "-c", SCRIPT], served, PYTHONPATH=str(legacy))
