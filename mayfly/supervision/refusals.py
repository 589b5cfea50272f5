"""How the watchdog ends when it can't serve: exit codes, and the sentence that goes with each."""

from __future__ import annotations

#: A setting or a flag is wrong.
SETTING = 2
#: Another watchdog runs for the same folder.
SECOND = 3
#: The address can't be bound.
ADDRESS = 4
#: A folder can't be used.
FOLDER = 5


class Refused(Exception):
    """The service can't start, or can't go on; the message says what to do."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
