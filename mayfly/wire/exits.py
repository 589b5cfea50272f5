"""Exit codes of supervised processes: an interface between them and the watchdog's policy."""

from __future__ import annotations

import signal

#: The process completed what it lived for (or was asked to end).
DONE = 0
#: The model can't be loaded; an event said why. Restarted with back-off.
CANNOT_LOAD = 10
#: The model's file was replaced; the process ended between two calls to load the new one. No failure.
MODEL_CHANGED = 11

# How native code ends a process by itself, perhaps for want of an instruction that this processor hasn't got (as
# subprocess gives it; Windows: illegal instruction, access violation, stack overrun).
_OF_ITSELF = frozenset({*(-getattr(signal, name) for name in ("SIGILL", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT",
                                                             "SIGTRAP", "SIGSYS")
                          if hasattr(signal, name)), 0xC000001D, 0xC0000005, 0xC0000409})


def died_in_native_code(code: int | None) -> bool:
    """Tell from an exit code whether native code ended the process: an abort, a segmentation fault and the like."""
    return code in _OF_ITSELF


def killed_from_outside(code: int | None) -> bool:
    """Tell from an exit code whether a signal that no model sends itself ended the process: SIGKILL where memory ran
    out, SIGTERM by a person. That says nothing about the model."""
    return code is not None and code < 0 and code not in _OF_ITSELF
