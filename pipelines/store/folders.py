"""Output folders: what a command may write into, and how folders with other files are refused."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from pipelines.store.filesystems import local_path


def local_folder(name: str, option: str) -> Path:
    """The absolute path of a folder on a disk.

    Args:
        name: path or file:// address; not empty.
        option: option that names the folder, for the message.

    Raises:
        ValueError: an address of an object store.
    """
    path = local_path(name)
    if path is None:
        raise ValueError(f"{option} {name} is not on a disk; give a folder")
    return Path(path)


def create_folder(folder: Path, option: str) -> None:
    """Creates a folder with its parents, unless it exists, and tries to write to it.

    Raises:
        ValueError: it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # By a file: permissions do not tell what a read-only mount, a quota or root's privileges allow.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # a full disk has a remedy of its own
            raise
        raise unwritable(folder, option, error) from error


def unwritable(folder: Path | str, option: str, error: OSError) -> ValueError:
    """The error of a folder that cannot be written."""
    return ValueError(f"cannot write to {option} {folder}: {error.strerror or error}; give another {option}")


def check_output_folder(
    folder: Path,
    option: str,
    *,
    markers: Collection[str] = (),
    contents: Collection[str] = (),
    allow_hidden: bool = True,
) -> None:
    """Refuses a folder with files of others, so that no command mixes its results with them or overwrites them.

    A folder may be written if it does not exist, if it holds one of the marker files, or if it holds nothing but
    `contents` and hidden files, which file managers and notebooks leave everywhere.

    Args:
        folder: folder to write.
        option: option that names the folder, for the message.
        markers: files that only the command itself writes.
        contents: further files that it may have written before a marker; patterns as in `fnmatch`.
        allow_hidden: set this to False where the folder as a whole is going to be replaced.

    Raises:
        ValueError: the folder is a file, or it holds other files.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{option} {folder} is a file; give a folder")
    # A marker outranks foreign files: users put notes into the folders of their runs.
    if any((folder / marker).exists() for marker in markers):
        return
    names = sorted(path.name for path in folder.glob("*") if not (allow_hidden and path.name.startswith(".")))
    foreign = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in contents)]
    if foreign:
        raise ValueError(f"{option} {folder} holds other files ({foreign[0]}); give an empty or new folder")
