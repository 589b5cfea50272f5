"""What is listed of models, as their lanes come and go."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import tiny_llama

from mayfly.lanes.switchboard import Switchboard
from mayfly.models.inventory import Inventory
from mayfly.settings import load_settings
from mayfly.web.catalogue import Catalogue


def test_why_a_file_could_not_be_loaded_is_told_when_its_lane_is_gone_until_it_is_loaded_or_another(
        tmp_path: Path) -> None:
    path = tiny_llama.make(tmp_path / "second.gguf")
    said: dict[str, Any] = {}
    lane = SimpleNamespace(status=lambda: said)
    switchboard = SimpleNamespace(configured={}, lane_of=lambda model, kind: f"model:{model}", lane=lambda name: lane)
    settings = load_settings({"MAYFLY_ENV": os.devnull, "MODEL_PATH": str(tmp_path)})
    catalogue = Catalogue(settings, cast(Switchboard, switchboard), Inventory(tmp_path))

    def told(**status: Any) -> tuple[bool, str]:
        said.clear()
        said.update(status)
        shown = catalogue.shown(catalogue.resolve("second", None))
        return shown["usable"], shown.get("reason", "")

    assert told(state="loading") == (True, "")
    assert told(state="failing", reason="llama.cpp can't load it") == (False, "llama.cpp can't load it")
    assert told(state="loading") == (False, "llama.cpp can't load it")
    assert told(state="ready") == told(state="loading") == (True, "")
    failing = {"state": "failing", "reason": "llama.cpp can't load it", "generation": 7}
    assert told(**failing)[0] is False
    tiny_llama.make(path, seed=2)
    assert told(**failing) == told(state="loading") == (True, "")
    assert told(**{**failing, "generation": 8})[0] is False
