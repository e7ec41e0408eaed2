"""Recognises a full disk, whichever library reports it."""

from __future__ import annotations

import errno

from pipelines.store.errors import causes

FULL = (errno.ENOSPC, errno.EDQUOT)
MESSAGES = ("No space left on device", "Disk quota exceeded", f"os error {errno.ENOSPC}")


def is_full(error: BaseException) -> bool:
    """Whether an error, or one of its causes, reports a full disk."""
    return any(_full(cause) for cause in causes(error))


def _full(error: BaseException) -> bool:
    # Libraries written in other languages give no errno: safetensors and Delta have it in the message alone.
    return getattr(error, "errno", None) in FULL or any(words in str(error) for words in MESSAGES)
