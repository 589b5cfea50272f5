"""Where things are: in a clone all of them are in the clone; an installed mayfly has a folder of the user's.

The home holds `.env`, and paths in settings are relative to it. A clone is its own home. Where mayfly is installed the
home is what MAYFLY_HOME names, else `~/.mayfly`, and never the folder from which somebody calls it: a key or a model
that one command has made has to be there for the next one.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from mayfly.errors import SettingError

_PACKAGE = Path(__file__).resolve().parent

#: The folder in which the package lies. What runs there finds this mayfly by its name, and no other.
ABOVE = _PACKAGE.parent
# A wheel has it in the package, beside which a clone has it (setup.py).
_INSTALLED = (_PACKAGE / ".env.example").exists()

#: The draft of a `.env`.
ENV_EXAMPLE = (_PACKAGE if _INSTALLED else ABOVE) / ".env.example"
#: The command line's name, and how a person calls it.
PROGRAM, COMMAND = ("mayfly", "mayfly") if _INSTALLED else ("start.sh", "python3 start.sh")


@cache
def home() -> Path:
    """Return the folder of `.env`, models, logs and what runs; it needn't be there yet.

    Raises:
        SettingError: it isn't named, and the user has no folder.
    """
    if not _INSTALLED:
        return ABOVE
    named = os.environ.get("MAYFLY_HOME")
    try:
        return Path(named or "~/.mayfly").expanduser().absolute()
    except RuntimeError as exc:
        raise SettingError("MAYFLY_HOME isn't set, and this user has no home folder; allowed: the path of a folder for "
                           "mayfly's .env, models and logs") from exc
