"""Exit statuses of the commands, by which a scheduler decides what to do next."""

from __future__ import annotations

from jobs.runtime.disk import is_full
from pipelines.store.errors import FatalError, LeftDueError, TooManyFailuresError, TransientError, is_transient
from pipelines.store.texts import one_line

DONE = 0
FAILED = 1
"""Something could not be done, such as samples that could not be generated; the output says what."""
WRONG_USE = 2
"""An option, an input or a place that the user can correct, or where another run writes; one line names the remedy."""
TOO_MANY_FAILURES = 4
"""More items failed than allowed: something else is wrong than single files."""
LEFT_DUE = 5
"""Trouble of the infrastructure left work undone; the same command takes it up again."""
STOPPED = 130
"""Interrupted by the user (128 + SIGINT, as shells state it)."""


def of_error(error: Exception) -> tuple[int, str] | None:
    """Status and message of an error that a user or a scheduler can act on; None for a fault of the program."""
    message = one_line(error)
    if isinstance(error, TooManyFailuresError):
        return TOO_MANY_FAILURES, message
    if isinstance(error, LeftDueError | FatalError | TransientError):
        return LEFT_DUE, message
    if isinstance(error, ValueError | FileNotFoundError | PermissionError | NotADirectoryError | FileExistsError):
        return WRONG_USE, message
    if is_full(error):
        return WRONG_USE, f"a disk is full; free some space and run the same command again ({message[:200]})"
    if isinstance(error, OSError) and is_transient(error):
        return LEFT_DUE, f"{message[:200]}; nothing is lost, run the same command again"
    return None
