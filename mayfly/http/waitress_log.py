"""What waitress logs by itself goes to standard error, and must hold nothing that a client sent."""

from __future__ import annotations

import logging

from mayfly.http import access_log


class _NothingOfClients(logging.Filter):
    """Lets waitress's own messages through without anything that a client sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape the message, and reduce an exception to its type."""
        kind = record.exc_info[0] if record.exc_info else None
        text = access_log.escaped(record.getMessage(), 300)
        record.msg = f"{text} ({kind.__name__})" if kind is not None else text
        record.args = None
        record.exc_info = None
        return True


def redact() -> None:
    """Make waitress's loggers harmless, once for the process."""
    logger = logging.getLogger("waitress")
    if not any(isinstance(entry, _NothingOfClients) for entry in logger.filters):
        logger.addFilter(_NothingOfClients())
