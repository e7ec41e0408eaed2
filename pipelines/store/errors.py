"""Whose fault an error is: the item's, passing trouble of the infrastructure, or of something that ends a run.

An item that fails is recorded and not tried again. Trouble that passes is retried, and never recorded as the item's
fault: a network that was away for a minute must not empty a data set for good. A broken device or refused credentials
would fail every item alike, and end the run.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import tenacity

Result = TypeVar("Result")

ATTEMPTS = 4
"""How often an operation is tried that transient trouble disturbs."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 8.0
"""Seconds to wait after the first attempt, which double until the longest one; half of them are drawn at random."""

TRANSIENT_NUMBERS = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETRESET"),
        *("ENETUNREACH", "ENOBUFS", "ENOTCONN", "EPIPE", "ESHUTDOWN", "ETIMEDOUT", "EAGAIN", "EINTR", "EBUSY"),
        *("ESTALE", "EREMOTEIO", "EMFILE", "ENFILE", "ENOMEM"),
    )
)
"""Of sockets, network file systems and resources that run out for a moment."""
# Clients of object stores raise OSErrors without a number, and state the cause in the text.
TRANSIENT_TEXTS = re.compile(
    r"NETWORK_CONNECTION|SLOW_?DOWN|THROTTL|REQUEST_TIMEOUT|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|INTERNAL_ERROR"
    r"|REQUEST_TIME_TOO_SKEWED|curlCode|(?:status|code|error):? ?(?:408|429|5\d\d)\b|\btimed? ?out\b"
    r"|connection (?:reset|refused|aborted|closed)|temporarily unavailable|retry policy exhausted|transient"
    r"|try again|too many (?:requests|open files)|out of memory",
    re.IGNORECASE,
)
FATAL_TEXTS = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN|INVALID_CLIENT_TOKEN|NO_SUCH_BUCKET"
    r"|UNRECOGNIZED_CLIENT|CUDA error|CUDNN_STATUS|NVML|device-side assert|uncorrectable ECC|HIP error",
    re.IGNORECASE,
)


class TransientError(Exception):
    """Trouble of the infrastructure that outlasted all attempts; the item stays due."""


class FatalError(Exception):
    """Trouble that would fail every item alike, such as a broken device; it ends the run."""


class LeftDueError(Exception):
    """Transient trouble left items undone; the same command takes them up again."""


class TooManyFailuresError(Exception):
    """More items failed than a setting allows: something else is wrong than single items."""


def is_transient(error: BaseException) -> bool:
    """Whether an error is trouble of the infrastructure that may pass."""
    for cause in causes(error):
        if isinstance(cause, TransientError | ConnectionError | TimeoutError | MemoryError):
            return True
        if isinstance(cause, OSError) and cause.errno in TRANSIENT_NUMBERS:
            return True
        # A number of another kind tells more than the text, in which the name of a file may stand.
        if isinstance(cause, OSError) and cause.errno is None and TRANSIENT_TEXTS.search(str(cause)):
            return True
        # torch's OutOfMemoryError and others of its runtime, which is not imported for this.
        if isinstance(cause, RuntimeError) and "out of memory" in str(cause) and not FATAL_TEXTS.search(str(cause)):
            return True
    return False


def is_fatal(error: BaseException) -> bool:
    """Whether an error would strike every other item alike."""
    return any(
        isinstance(cause, FatalError)
        or (isinstance(cause, RuntimeError) and "out of memory" not in str(cause) and _states_fatal(cause))
        or (isinstance(cause, OSError) and cause.errno is None and _states_fatal(cause))
        for cause in causes(error)
    )


def _states_fatal(error: BaseException) -> bool:
    return FATAL_TEXTS.search(str(error)) is not None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and the errors of each worker of Ray Train."""
    visited: list[BaseException] = []
    pending = [error]
    while pending:
        current = pending.pop()
        if current is None or current in visited:
            continue
        visited.append(current)
        yield current
        worker_failures = getattr(current, "worker_failures", {})
        pending += [current.__cause__, getattr(current, "cause", None), *worker_failures.values()]


def until_settled(attempt: Callable[[], Result], is_disturbed: Callable[[Result], bool]) -> Result:
    """Calls a function until transient trouble has passed, with growing waits; returns its last result.

    Args:
        attempt: function to call.
        is_disturbed: whether a result shows transient trouble.
    """
    return _retrying(tenacity.retry_if_result(is_disturbed), _last_result)(attempt)


def _last_result(state: tenacity.RetryCallState) -> Any:
    assert state.outcome is not None  # there was an attempt
    return state.outcome.result()


def patiently(call: Callable[[], Result]) -> Result:
    """Calls a function until it raises no transient error, with growing waits; raises the last error."""
    return _retrying(tenacity.retry_if_exception(is_transient), None)(call)


def _retrying(retry: Any, at_end: Callable[[tenacity.RetryCallState], Any] | None) -> tenacity.Retrying:
    wait = tenacity.wait_exponential(FIRST_WAIT, LONGEST_WAIT) + tenacity.wait_random(0, FIRST_WAIT)
    stop = tenacity.stop_after_attempt(ATTEMPTS)
    return tenacity.Retrying(stop=stop, wait=wait, retry=retry, retry_error_callback=at_end, reraise=at_end is None)
