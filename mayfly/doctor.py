"""What a start needs, looked at without changing anything."""

from __future__ import annotations

import http.client
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mayfly import listening, places, settings, spelling
from mayfly.compat.process import print_out
from mayfly.errors import AddressTaken, ModelUnavailable, SettingError
from mayfly.models import aliases, store
from mayfly.models.defaults import RECIPES
from mayfly.models.ensure import absent
from mayfly.models.inventory import Inventory, Model
from mayfly.settings import Settings


def main() -> int:
    """Print a line for each thing; return 1 if one isn't in place, else 0."""
    good = True
    for right, line in _examine():
        good &= right
        print_out(f"{'ok' if right else 'NO':4}{line}")
    return 0 if good else 1


def _examine() -> Iterator[tuple[bool, str]]:
    """Yield for each thing whether it is in place, and a line that says so, or what to do."""
    yield True, f"Python {platform.python_version()} at {sys.executable}"
    yield _packages()
    file = settings.env_file()
    try:
        doubts = spelling.doubts()
        there = file.exists()
        yield there, f"settings in {file}" if there else f"settings: no file {file} yet; the next start makes it"
        for doubt in doubts:
            yield not doubt.misspelt, doubt.message
        found = settings.load_settings()
    except SettingError as exc:
        for line in str(exc).splitlines():
            yield False, line
        return
    keys = "" if found.api_keys else " (API_KEYS is empty: callers on this machine alone)"
    yield True, f"every setting has an allowed value{keys}"
    if found.api_keys and found.require_key != "always":
        yield True, ("programs of this machine need no key: behind a balancer, or a tunnel that doesn't mark what it "
                     "forwards, nobody would, so set REQUIRE_KEY=always there")
    for name, folder in (("LOG_FOLDER_NAME", found.log_folder_name), ("RUN_FOLDER_NAME", found.run_folder_name)):
        if not _can_write(folder):
            yield False, f"{name}: {folder} can't be written; put a folder there that can, or name another one"
    yield from _models(found)
    for message in aliases.astray(found):
        yield False, message
    yield from store.unlisted(found.model_path)
    yield _port(found.listen_ip, found.listen_port)
    if found.ollama_compat_port:
        yield _port(found.listen_ip, 0, found.ollama_compat_port)


def _packages() -> tuple[bool, str]:
    check = subprocess.run([sys.executable, "-m", "pip", "check", "--disable-pip-version-check"], check=False,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
    if check.returncode:
        return False, "packages: " + check.stdout.strip().replace("\n", "; ")
    return True, "packages that mayfly needs"


def _models(found: Settings) -> Iterator[tuple[bool, str]]:
    inventory = Inventory(found.model_path, (found.embed_model, found.model_name))
    to_make = absent(found)
    limit, taken = found.memory_limit, 0
    for kind, name, none in (
            ("embedding", found.embed_model, "EMBED_MODEL=none): the service completes only"),
            ("completion", found.model_name, "MODEL_NAME=none): the service embeds only")):
        if not name:
            yield True, f"no {kind} model is configured ({none}"
            continue
        if kind in to_make:
            yield False, f"{kind} model {name}: {_how_made(kind, name, found)}"
            continue
        try:
            model = inventory.require(name)
        except ModelUnavailable as exc:
            yield False, f"{kind} model: {exc}"
            continue
        yield from _model(model, kind, found)
        taken += 0 if model.unusable else model.memory(found)
    if limit and taken > limit:
        yield False, (f"MEMORY_LIMIT is {limit >> 20} MB, and the configured models take about {taken >> 20} MB: they "
                      "are loaded all the same, and no others beside them")


def _can_write(folder: Path) -> bool:
    """Tell whether a folder can be written, or made where it would be."""
    there = next((at for at in (folder, *folder.parents) if at.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _how_made(kind: str, name: str, found: Settings) -> str:
    """Say what the next start needs to make a model that isn't there."""
    recipe = RECIPES.get(store.file_name(name))
    what = f"of which it fetches {recipe.megabytes} MB" if recipe else "if gpt4all's list (MODEL_LIST) has it"
    without = "ends with exit code 1" if kind == "embedding" else "embeds only"
    return (f"the next start makes it, {what}; for that it needs a network, and {without} where it can't. Or put the "
            f"file into {found.model_path}")


def _model(model: Model, kind: str, found: Settings) -> Iterator[tuple[bool, str]]:
    tried = {"reason": model.unusable} if model.unusable else _try_out(kind, found.start_seconds)
    if tried.get("reason"):
        yield False, f"{kind} model {model.path}: {tried['reason']}"
        return
    yield True, f"{kind} model {model.path} runs, in about {model.memory(found) >> 20} MB"
    yield True, f"{kind}s by {tried['engine']}"
    if kind == "completion" and tried["engine"].startswith("llamacpp") and found.prefix_memory:
        isolation = model.backend("completion", found.chat_engine).isolation(found.isolation, found.device)
        if isolation != "respawn":
            yield True, f"of prompts up to {found.prefix_memory >> 20} MB are kept besides (PREFIX_MEMORY)"
    for note in tried["notes"]:
        yield True, note


def _try_out(kind: str, seconds: float) -> dict[str, Any]:
    """Have a process of its own load the configured model, as its worker would; return what it told."""
    try:
        done = subprocess.run([sys.executable, "-m", "mayfly.workers.trial", kind], cwd=places.ABOVE, check=False,
                              env={**os.environ, "MAYFLY_HOME": str(places.home())}, capture_output=True,
                              encoding="utf-8", errors="replace", timeout=seconds)
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return {"reason": f"it isn't loaded within {seconds:g} s (START_SECONDS)"}
    except ValueError:
        said = done.stderr.strip().splitlines()
        return {"reason": f"the process that loads it dies (exit code {done.returncode}): {said[-1] if said else ''}"}


def _port(ip: str, port: int, compat_port: int = 0) -> tuple[bool, str]:
    try:
        for sock in listening.listen(ip, port, compat_port):
            sock.close()
    except AddressTaken as exc:
        port = compat_port or port
        if any(_is_mayfly(address, port) for address in dict.fromkeys(("127.0.0.1", "::1", ip))):
            return True, f"{ip} port {port}: a mayfly service is running there"
        return False, str(exc)
    return True, f"{ip} port {compat_port or port} is free"


def _is_mayfly(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/health", headers={"Host": "localhost"})
        answer = connection.getresponse()
        return answer.status == 200 and "version" in json.loads(answer.read())
    except (OSError, ValueError, TypeError, http.client.HTTPException):
        return False
    finally:
        connection.close()
