"""Other names of models: those of MODEL_ALIASES, and those that callers have given, which a file of MODEL_PATH keeps.

Names are compared without case. `latest` is the tag of a name that has none, and `local` is as good.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Mapping

from mayfly.compat.files import replace_file
from mayfly.engines.backends import SETTINGS
from mayfly.models.inventory import Inventory
from mayfly.settings import Settings, parse

_FILE = ".aliases.json"
_MOST = 1000
_TAG = re.compile(r":(latest|local)$", re.IGNORECASE)


def untagged(name: str) -> str:
    """Return a name without the tag that one without a tag has."""
    return _TAG.sub("", name)


def tagged(name: str) -> str:
    """Return a name with its tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def astray(settings: Settings) -> list[str]:
    """Return what a start has to say of names in MODEL_ALIASES that stand for no model that is there: a line, or none.

    They aren't refused, for a model may be pulled later. Those of the default are there whatever the models are.
    """
    usual = parse({}).model_aliases
    inventory = Inventory(settings.model_path)
    lost = [f"{alias}={model}" for alias, model in settings.model_aliases.items()
            if usual.get(alias) != model and model not in SETTINGS and inventory.find(model) is None]
    if not lost:
        return []
    return ["MODEL_ALIASES has names for models that aren't in MODEL_PATH, so they can't be used yet: "
            + ", ".join(lost)]


class Aliases:
    """See the module. May be used by several threads.

    Args:
        settings: MODEL_PATH and MODEL_ALIASES.
    """

    def __init__(self, settings: Settings) -> None:
        self._set = settings.model_aliases
        self._file = settings.model_path / _FILE
        self._lock = threading.Lock()
        self._seen = 0
        self._given: dict[str, str] = {}

    def all(self) -> Mapping[str, str]:
        """Return what each alias stands for: a model's name, or one of the words embedding and completion."""
        with self._lock:
            return {**self._set, **self._read()}

    def add(self, alias: str, model: str) -> None:
        """Give a model another name.

        Raises:
            OSError: it can't be kept, or there are too many.
        """
        with self._lock:
            given = {**self._read(), alias: model}
            if len(given) > _MOST:
                raise OSError(f"{_MOST} names have been given already")
            replace_file(self._file, json.dumps(given, indent=1))

    def remove(self, alias: str) -> bool:
        """Take a name that was given away; tell whether there was one.

        Raises:
            OSError: that can't be kept.
        """
        with self._lock:
            given = {name: model for name, model in self._read().items() if untagged(name) != untagged(alias)}
            if len(given) == len(self._given):
                return False
            replace_file(self._file, json.dumps(given, indent=1))
            return True

    def _read(self) -> dict[str, str]:
        try:
            changed = self._file.stat().st_mtime_ns
        except OSError:
            self._seen, self._given = 0, {}
            return self._given
        if changed != self._seen:
            self._seen, self._given = changed, {}
            with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
                self._given = {str(alias): str(model) for alias, model in json.loads(self._file.read_bytes()).items()}
        return self._given
