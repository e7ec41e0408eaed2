"""Output folders: what a command may write into, and how folders with other files are refused."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path


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
