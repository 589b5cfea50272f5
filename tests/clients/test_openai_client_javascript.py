"""Clients in JavaScript: OpenAI's and Ollama's own from npm, the AI SDK, and a caller written with fetch alone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import scripts
from clients import KEY, RULES, run_client, unavailable
from service import Service

SOURCES = Path(__file__).resolve().parents[1] / "js"


@pytest.fixture(scope="session")
def node() -> str:
    """The node command."""
    return shutil.which("node") or unavailable("node isn't installed")


@pytest.fixture(scope="session")
def installed(node: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts and the packages that they need."""
    npm = shutil.which("npm") or unavailable("npm isn't installed")
    folder = shutil.copytree(SOURCES, tmp_path_factory.mktemp("npm") / "js",
                             ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, capture_output=True,
                          text=True)
    if done.returncode:
        unavailable("npm can't install the clients: " + (done.stderr.strip().splitlines() or ["no reason"])[0])
    return folder


def test_the_official_client_of_npm_embeds_completes_chats_and_streams(
        node: str, installed: Path, served: Service) -> None:
    assert "384 numbers" in run_client([node, installed / "official.mjs"], served)


def test_the_official_client_of_npm_recovers_from_a_full_queue(
        node: str, installed: Path, start: Callable[..., Service], tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    service = start(MODEL_PATH=folder, MODEL_NAME=scripts.write(folder, *RULES), QUEUE_LIMIT=0, API_KEYS=KEY,
                    EMBED_MODEL=scripts.write(folder, name="vectors", kind="embedding"))
    assert "all answered" in run_client([node, installed / "crowded.mjs"], service)


def test_the_ai_sdk_calls_responses_by_default(node: str, installed: Path, served: Service) -> None:
    assert "responses ok" in run_client([node, installed / "responses.mjs"], served)


@pytest.mark.parametrize("before", ["", f"/k/{KEY}"])
def test_the_client_of_ollama_and_the_ai_sdk_chat_stream_and_embed(
        node: str, installed: Path, served: Service, before: str) -> None:
    assert "AI SDK ok" in run_client([node, installed / "ollama.mjs"], served, MAYFLY_BASE=served.url + before)


def test_a_backend_that_uses_fetch_gets_vectors_stops_and_whole_characters(node: str, served: Service) -> None:
    assert "fetch ok" in run_client([node, SOURCES / "convex.mjs"], served)
