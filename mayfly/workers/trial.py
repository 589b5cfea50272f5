"""Load a configured model as its worker would, and tell how that went.

Started by `mayfly doctor`, which loads nothing itself: native code may abort. It reads the settings, takes "embedding"
or "completion" as its argument, writes one JSON object to standard output (`notes`, and `engine` or `reason`), and
ends. What native code prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from mayfly.compat.process import contain_native_code, forbid_core_dumps, take_stdout
from mayfly.engines import choose
from mayfly.errors import ModelUnavailable
from mayfly.models.inventory import Inventory
from mayfly.settings import Settings, load_settings


def try_out(kind: str, settings: Settings) -> dict[str, Any]:
    """Load and test the configured model of a kind; return what is written."""
    notes: list[str] = []
    inventory = Inventory(settings.model_path, (settings.embed_model, settings.model_name))
    try:
        if kind == "embedding":
            model = inventory.require(settings.embed_model)
            facts = choose.load_embeddings(model.path, settings.threads, model.id, engine=settings.embed_engine,
                                           precision=settings.embed_precision, note=notes.append).facts
        else:
            model = inventory.require(settings.model_name)
            engine = choose.load_completions(
                model.path, settings.threads, settings.n_ctx, settings.device, model.id, settings.prompt_template,
                settings.system_template, engine=settings.chat_engine, note=notes.append)
            engine.self_test()
            facts = engine.facts
    except ModelUnavailable as exc:
        return {"reason": str(exc), "notes": notes}
    precision = facts.get("precision", "")
    return {"engine": choose.about(facts["engine"]) + (f", in {precision}" if precision else ""), "notes": notes}


def main() -> None:
    """Run as the command line says."""
    told = os.fdopen(take_stdout(), "w")
    forbid_core_dumps()
    contain_native_code()
    json.dump(try_out(sys.argv[1], load_settings()), told)
    told.flush()
    os._exit(0)  # threads of an engine needn't end in order


if __name__ == "__main__":
    main()
