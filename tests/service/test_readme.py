"""The examples of README and docs/ are run as they stand; only the address is the test's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import clients
import pytest
from service import Service

from mayfly import settings

PROJECT = Path(__file__).resolve().parents[2]
ADDRESS = "http://127.0.0.1:6008"
PAGES = {page.relative_to(PROJECT).as_posix(): page.read_text(encoding="utf-8")
         for page in (PROJECT / "README.md", *sorted(PROJECT.glob("docs/*.md")))}


def blocks(language: str) -> list[str]:
    return [block for page in PAGES.values()
            for block in re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]


def _environment(service: Service) -> dict[str, str]:
    """Return the environment in which a client calls this service, and not one that this checkout's .env describes."""
    return {**os.environ, "MAYFLY_URL": service.url, "MAYFLY_ENV": str(service.settings["MAYFLY_ENV"])}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, embedding_model: Path, tiny_model: Path) -> Iterator[Service]:
    """A service with both real models."""
    folder = tmp_path_factory.mktemp("readme")
    for model in (embedding_model, tiny_model):
        (folder / model.name).write_bytes(model.read_bytes())
    service = Service(folder / "service", {"MODEL_PATH": folder, "MODEL_NAME": tiny_model.name})
    yield service.wait_ready()
    service.stop()


def test_every_curl_answers(service: Service) -> None:
    commands = re.findall(r"^curl (?:.*\\\n)*.*", "\n".join(blocks("sh")), re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        command = command.replace(ADDRESS, service.url).replace("curl ", "curl -sS --fail-with-body ")
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        if "stream" in command:
            assert done.stdout.endswith("data: [DONE]\n\n")
        else:
            assert json.loads(done.stdout)


def test_the_python_runs(service: Service) -> None:
    clients.package("openai")
    own, openai = blocks("python")
    own += "\nassert [len(vector) for vector in vectors] == [384, 384] and isinstance(answer, str)\n"
    openai += "\nassert [len(vector.embedding) for vector in vectors] == [384] and isinstance(answer, str)\n"
    environ = {**_environment(service), "NO_PROXY": "*"}
    for code in (own, openai.replace(ADDRESS, service.url)):
        subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environ, check=True, timeout=120)


def test_the_client_commands_run(service: Service, tmp_path: Path) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if "embed_client.py" in line]
    assert len(commands) == 2
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    for command in commands:
        command = command.replace("python embed_client.py", f"'{sys.executable}' '{PROJECT / 'embed_client.py'}'")
        environ = _environment(service)
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True,
                              timeout=120)
        assert done.returncode == 0, (command, done.stderr)
    assert [len(vector) for vector in json.loads((tmp_path / "vectors.json").read_text())] == [384, 384]


@pytest.mark.parametrize("name", settings.names())
def test_the_page_of_settings_names_every_one(name: str) -> None:
    assert f"`{name}`" in PAGES["docs/settings.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_are_there(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page])
    assert [link for link in links if not (PROJECT / page).parent.joinpath(link).exists()] == []
