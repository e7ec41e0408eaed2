"""Recognises a full disk, whichever library met it."""

from __future__ import annotations

import errno
from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT)
SAID = ("No space left on device", "Disk quota exceeded", f"os error {errno.ENOSPC}")


def is_full(error: BaseException) -> bool:
    """Whether an error, or what it wraps, is that of a full disk."""
    return any(_full(each) for each in causes(error))


def _full(error: BaseException) -> bool:
    # Libraries in other languages give no number: safetensors and Delta say it in words.
    return getattr(error, "errno", None) in FULL or any(words in str(error) for words in SAID)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it wraps, and the errors of each worker of Ray Train."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or each in found:
            continue
        found.append(each)
        yield each
        workers = getattr(each, "worker_failures", {})
        waiting += [each.__cause__, getattr(each, "cause", None), *workers.values()]
