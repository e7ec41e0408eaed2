"""One writer at a time for a folder, or for a set of tables.

The lock is an operating-system lock on a file, so a killed run leaves nothing to clean up. For a folder on disk, the
file lies in it, and a shared disk shares the lock. For an object store, the file lies on the machine that runs the
command (in a cluster the head node, where the entrypoints of Ray jobs run). Across clusters, the scheduler must prevent
simultaneous runs, as `concurrencyPolicy: Forbid` does in `infra/kuberay/`.
"""

from __future__ import annotations

import errno
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.store.filesystems import local_path
from pipelines.store.folders import unwritable


class BusyError(ValueError):
    """Another run is writing to the same place."""


@contextmanager
def exclusive(root: str | Path, purpose: str = "writer", *, option: str = "--tables") -> Iterator[None]:
    """Holds the lock of a folder or of tables for one purpose.

    The folder is created. Check first that it may be written, so that no lock is left in a folder of others.

    Args:
        root: folder, or address of tables.
        purpose: activity that only one run may carry out at a time.
        option: option that names the folder, for the message.

    Raises:
        BusyError: another run holds it.
        ValueError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    path = _lock_file(root, purpose)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        # Without waiting: a scheduled run that finds another one has nothing to do, as that one does its work.
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(
            f"another run ({purpose}) is writing to {root}; wait until it ends, or give another {option}"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise unwritable(root, option, error) from error
    try:
        yield
    finally:
        lock.release()


def _lock_file(root: str | Path, purpose: str) -> Path:
    folder = local_path(root)
    if folder is not None:  # hidden: a folder with nothing but a lock still counts as empty
        return Path(folder) / f".{purpose}.lock"
    digest = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / "nova-locks" / f"{digest}-{purpose}.lock"
