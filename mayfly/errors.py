"""The error tree.

    MayflyError
     +- SettingError            a setting's value is not allowed                (start is refused)
     +- AddressTaken            LISTEN_IP and LISTEN_PORT can't be had         (start is refused)
     +- ModelUnavailable        a model file is missing, broken or refused      (a lane can't start)
     |   +- FileUnusable           no other try makes it better
     +- CallError               a call can't be answered; carries what the client is told
         +- InvalidRequest         400, 405, 413, 415  the caller has to change something
         |   +- ContextLengthExceeded  400  the prompt doesn't fit the model's window
         |   +- ModelUnusable          400  the file of the model that is named can't be used
         |   +- NotFound               404  there is no such path or model
         +- AccessDenied           401                      no key, or a wrong one
         |   +- HostNotAllowed         403  a host or an origin that isn't this machine's
         +- QueueFull              429                      too many calls wait already
         +- ModelCrashed           500                      the model process died twice on this call
         +- EngineFailed           500                      the engine answered with nonsense or an error
         +- PullFailed             502                      a model can't be fetched: network, disk, or a wrong sum
         +- LaneUnavailable        503                      the lane isn't up, or the service is stopping
         +- DeadlinePassed         504                      the call took longer than REQUEST_TIMEOUT

Foreign errors are translated into one of these once, where they enter, with ``raise ... from exc``.
Over a lane's socket a CallError travels as `mayfly.wire.calls.Failed`.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

# Of a stack: exceptions that came one from another, and calls of each.
_LONGEST_CHAIN = 5
_DEEPEST = 20


class MayflyError(Exception):
    """Anything this program raises on purpose. The message is one sentence for the person who can mend it."""


class SettingError(MayflyError):
    """A setting is wrong; the message names it, its value and what is allowed."""


class AddressTaken(MayflyError):
    """The public address can't be listened on."""


class ModelUnavailable(MayflyError):
    """A model file is missing, malformed, of another kind, or can't be loaded."""


class FileUnusable(ModelUnavailable):
    """What is in a model's file can't be used here, however often that is tried: it is damaged, or unknown."""


class DeviceAbsent(ModelUnavailable):
    """DEVICE names none of the devices that an engine can compute on.

    Args:
        there: which there are, a sentence for each engine that was asked.
    """

    def __init__(self, device: str, *there: str) -> None:
        super().__init__(f"DEVICE is {device!r}, and there is no such device: {'; '.join(there)}")
        self.device = device
        self.there = there


class CallError(MayflyError):
    """A call can't be answered.

    Attributes:
        status: the HTTP status.
        type, code: the OpenAI-style error type and code.
        param: the field of the request that is wrong, or None.
        retry_after: seconds after which a new try makes sense, or None.
        stack: where it was raised, if that was in another process; see `stack_of`.
    """

    status = 500
    stack: Sequence[str] = ()
    type = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


def stack_of(exc: BaseException) -> list[str]:
    """Return where an exception was raised, and those that it came from: lines without their messages, which may hold a
    client's text."""
    lines: list[str] = []
    seen: list[BaseException] = []
    at: BaseException | None = exc
    while at is not None and at not in seen and len(seen) < _LONGEST_CHAIN:
        seen.append(at)
        lines.append(("" if at is exc else "from ") + type(at).__name__)
        if isinstance(at, CallError):
            lines.extend(at.stack)
        lines.extend("".join(traceback.format_tb(at.__traceback__, limit=-_DEEPEST)).splitlines())
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return lines


class InvalidRequest(CallError):
    """The caller has to change something; 400 unless said otherwise."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """The prompt doesn't fit the model's window; the message holds both numbers.

    Attributes:
        tokens: of the prompt, if they were counted.
    """

    code = "context_length_exceeded"

    def __init__(self, message: str, *, tokens: int | None = None, **told: Any) -> None:
        super().__init__(message, **told)
        self.tokens = tokens


class ModelUnusable(InvalidRequest):
    """The file of the model that the call names can't be used."""

    code = "model_unusable"

    @classmethod
    def of(cls, model: str, why: str) -> ModelUnusable:
        """Return the error for a model."""
        return cls(f"The model '{model}' can't be used: {why}. Name another, or put a good file in its place.",
                   param="model")


class NotFound(InvalidRequest):
    """There is no such path (or, with the code `model_not_found`, no such model)."""

    status = 404
    type = "not_found_error"


class AccessDenied(CallError):
    """A key is needed and there is none, or the one that was sent is wrong."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class HostNotAllowed(AccessDenied):
    """The Host or Origin of a call without a key isn't this machine's and isn't in AUTHORIZED_URLS."""

    status = 403
    type = "permission_error"
    code = "host_not_allowed"


class QueueFull(CallError):
    """QUEUE_LIMIT calls wait on this lane already."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class ModelCrashed(CallError):
    """The model process died twice while it served this one call."""

    status = 500
    code = "model_crashed"


class EngineFailed(CallError):
    """The engine returned an error or an answer that fails its checks."""

    status = 500
    code = "engine_failed"


class PullFailed(CallError):
    """A model can't be fetched: the network or the disk failed, or the file isn't what the list says."""

    status = 502
    code = "pull_failed"


class LaneUnavailable(CallError):
    """The lane isn't configured, can't start, or the service is stopping."""

    status = 503
    code = "model_unavailable"

    @classmethod
    def of(cls, model: str, why: str) -> LaneUnavailable:
        """Return the error for a configured model whose file can't be used, which isn't its callers' to mend."""
        return cls(f"The model '{model}' can't be used: {why}. Put a good file in its place, which is noticed in a few "
                   "seconds, or configure another (MODEL_NAME, EMBED_MODEL).", retry_after=5)


class DeadlinePassed(CallError):
    """The call took longer than REQUEST_TIMEOUT."""

    status = 504
    code = "timeout"

    @classmethod
    def of(cls, begun: bool = True) -> DeadlinePassed:
        """Return the error for a call, which is computed already or still waits for its turn."""
        what, advice = "still waited for its turn", "Try again when fewer wait"
        if begun:
            what, advice = "was not finished", "Ask for less (a shorter prompt, a smaller max_tokens, fewer texts)"
        return cls(f"The request {what} when its deadline (REQUEST_TIMEOUT) passed. {advice}, or raise "
                   "REQUEST_TIMEOUT.")
