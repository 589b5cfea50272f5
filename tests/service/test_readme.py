"""The README's examples are run as they stand; only the address is the test's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from service import Service

from mayfly import settings

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _environment(service: Service) -> dict[str, str]:
    """Return the environment in which a client calls this service, and not one that this checkout's .env describes."""
    return {**os.environ, "MAYFLY_URL": service.url, "MAYFLY_ENV": str(service.settings["MAYFLY_ENV"])}


def test_every_curl_of_the_readme_answers(start: Callable[..., Service]) -> None:
    service = start()
    commands = re.findall(r"^curl (?:.*\\\n)*.*", "\n".join(blocks("sh")), re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        command = command.replace("http://127.0.0.1:6008", service.url).replace("curl ", "curl -sS --fail-with-body ")
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        if "stream" in command:
            assert done.stdout.endswith("data: [DONE]\n\n")
        else:
            assert json.loads(done.stdout)


def test_the_python_of_the_readme_runs(start: Callable[..., Service]) -> None:
    service = start()
    (code,) = blocks("python")
    code += "\nassert [len(vector) for vector in vectors] == [384, 384] and isinstance(answer, str)\n"
    environ = _environment(service)
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environ, check=True, timeout=120)


def test_the_client_commands_of_the_readme_run(start: Callable[..., Service], tmp_path: Path) -> None:
    service = start()
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
def test_the_readme_names_every_setting(name: str) -> None:
    assert f"`{name}`" in README
