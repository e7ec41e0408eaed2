"""MLflow's store in a file: its address, and a check that it can be used."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

LOCK_SECONDS = 30
"""A command that creates the store holds it for several seconds."""


def address(file: Path) -> str:
    """The address of the store in a file, for MLFLOW_TRACKING_URI and `mlflow ui --backend-store-uri`."""
    from sqlalchemy.engine import URL

    # SQLAlchemy reads the address, so it also has to write it: `?` in a path would begin options.
    return URL.create("sqlite", database=str(file.absolute())).render_as_string()


def file_of(uri: str) -> Path | None:
    """The file of a store; None for a server."""
    from sqlalchemy.engine import make_url

    if not uri.startswith("sqlite:"):
        return None
    database = make_url(uri).database
    return Path(database).absolute() if database else None


def check(uri: str) -> None:
    """Raises an error where a store in a file cannot be read and written; does nothing for a server.

    MLflow itself would try again and again, and print its errors.
    """
    file = file_of(uri)
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(file, timeout=LOCK_SECONDS)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        database.rollback()
