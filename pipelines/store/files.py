"""Files and folders that appear under their name only when they are complete.

Everything is written under a hidden temporary name beside its target and then renamed, which is atomic within one
filesystem: a reader sees the old or the new content, and a killed process leaves only a hidden file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write a file to, which replaces `path` at the end of the block.

    Missing parent folders are created. If the block raises, `path` stays as it was.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name may fill what the file system takes, 255 bytes, to which the parts of the temporary name are added.
    long = len(os.fsencode(target.name)) > 128
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest() if long else target.name
    # Several workers may write the same file at once, such as a digest: each needs a unique name.
    temporary = target.with_name(f".{name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        # `replace` and not `rename`, which fails on some systems where the target exists.
        temporary.replace(target)
    finally:
        # After the move there is nothing left to remove.
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Yields an empty temporary folder, which replaces the folder at `path`, if there is one, at the end of the block.

    Missing parent folders are created. One process at a time may write a folder. If the block raises, `path` stays as
    it was.
    """
    target = Path(path)
    # Always the same name, so that the next run removes what a killed one left: folders can be large.
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(target, ignore_errors=True)  # a rename replaces empty folders only
        # Between the two lines there is no folder: a reader fails then, and never reads half of one.
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8; surrogates, which it cannot hold, become question marks."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def write_json(path: str | Path, values: Any, *, indent: int | None = 1) -> None:
    """Writes a value as a JSON file."""
    write_text(path, json.dumps(values, indent=indent))


def write_parquet(path: str | Path, table: pa.Table) -> None:
    """Writes a table as a Parquet file."""
    # Commands that write text and JSON alone start faster without it.
    import pyarrow.parquet as pq

    with replacing(path) as temporary:
        pq.write_table(table, temporary)
