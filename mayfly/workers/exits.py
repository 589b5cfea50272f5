"""Exit codes of supervised processes: an interface between them and the watchdog's policy."""

from __future__ import annotations

#: The process completed what it lived for (or was asked to end).
DONE = 0
#: The model can't be loaded; an event said why. Restarted with back-off, reported once a start.
CANNOT_LOAD = 10
#: The model's file was replaced; the process ended between two calls to load the new one. No failure.
MODEL_CHANGED = 11
