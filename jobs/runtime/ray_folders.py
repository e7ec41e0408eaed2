"""Folders that a local Ray writes to: its sockets in a short temporary folder, its token in the home folder.

Where they cannot be used, as in containers and on some clusters, Ray ends in a traceback after it has been started.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from pathlib import Path

# A path of a socket may have 107 bytes, or 103 on macOS.
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
SOCKET = "/ray/session_2026-12-01_16-18-23_123456_4194304/sockets/plasma_store"
"""The longest path of a socket below the temporary folder, with the largest process id of Linux."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def prepare() -> None:
    """Sets variables of the environment by which a local Ray finds folders that it can use.

    Raises:
        ValueError: there is no folder for its sockets.
    """
    _choose_temporary_folder()
    _replace_token_file()


def _choose_temporary_folder() -> None:
    # In Ray's own order.
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or SHORT_FOLDERS[0]
    for folder in dict.fromkeys((usual, *SHORT_FOLDERS)):
        if _is_short(folder) and _is_writable(Path(folder) / "ray"):
            if folder != usual:
                os.environ["RAY_TMPDIR"] = folder
            return
    raise ValueError(
        f"Ray cannot keep its sockets in {usual}: it is longer than {SOCKET_BYTES - len(SOCKET)} bytes, or cannot be "
        "written; set RAY_TMPDIR to a short folder"
    )


def _is_short(folder: str) -> bool:
    return len(os.fsencode(os.path.abspath(folder) + SOCKET)) <= SOCKET_BYTES


def _replace_token_file() -> None:
    """Gives Ray a token for its processes where it cannot store one in ~/.ray."""
    if any(os.environ.get(name) for name in TOKEN_VARIABLES):
        return
    folder = Path(os.path.expanduser("~")) / ".ray"
    if not (folder / "auth_token").exists() and not _is_writable(folder):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
