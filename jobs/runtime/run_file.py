"""Remembers the MLflow run of a folder in a file, so that a killed command and its restart are one run.

A folder that is renamed keeps its run. A copy gets a run of its own: two trainings must not write into one.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pipelines.store.files import write_json


def remember(file: Path, *, uri: str, run_id: str) -> None:
    """Writes which run belongs to the folder of the file; where it cannot be written, a restart is another run."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        place = {"folder": str(file.parent), "inode": file.parent.stat().st_ino}
        write_json(file, {"uri": uri, "run_id": run_id, **place}, indent=None)


def recall(file: Path | None, *, uri: str) -> str | None:
    """The run of the file's folder in a store; None where there is none, or where it is that of another folder.

    Args:
        file: what `remember` wrote, if anything.
        uri: store of the run.
    """
    stored = _read(file)
    # Unquoted, as version 0.1 wrote addresses of files without quoting.
    is_same_store = unquote(str(stored.get("uri"))) == unquote(uri)
    return stored.get("run_id") if file is not None and is_same_store and _is_of(file.parent, stored) else None


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing or damaged: the run goes on as another one
        return {}
    return stored if isinstance(stored, dict) else {}


def _is_of(folder: Path, stored: dict[str, Any]) -> bool:
    if "folder" not in stored:  # written by version 0.1
        return True
    before = Path(stored["folder"])
    if before == folder:
        return True
    if before.exists():  # the same folder by another name, or the original of a copy
        return before.samefile(folder)
    # A rename keeps the inode.
    return folder.stat().st_ino == stored.get("inode")
