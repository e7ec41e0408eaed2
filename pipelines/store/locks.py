"""One writer at a time for a set of tables.

The lock is an operating-system lock on a file, so a killed run leaves nothing to clean up. For tables on disk, the file
lies in their folder, and a shared disk shares the lock. For an object store, the file lies on the machine that runs the
command (in a cluster the head node, where the entrypoints of Ray jobs run). Across clusters, the scheduler must prevent
simultaneous runs, as `concurrencyPolicy: Forbid` does in `infra/kuberay/`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BusyError(ValueError):
    """Another run is writing to the same tables."""


@contextmanager
def exclusive(root: str, purpose: str = "writer") -> Iterator[None]:
    """Holds the lock of the tables at `root` for one purpose.

    Args:
        root: address of the tables.
        purpose: activity that only one run may carry out at a time.

    Raises:
        BusyError: another process holds it.
    """
    from filelock import FileLock, Timeout

    path = _lock_file(root, purpose)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        # Without waiting: a scheduled run that finds another one has nothing to do, as that one does its work.
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(
            f"another run ({purpose}) is writing to {root}; wait until it ends, or give other --tables"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _lock_file(root: str, purpose: str) -> Path:
    if "://" not in root:  # hidden: a folder with nothing but a lock still counts as empty
        return Path(root) / f".{purpose}.lock"
    digest = hashlib.sha256(root.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / "nova-locks" / f"{digest}-{purpose}.lock"
