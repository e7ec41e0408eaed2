"""Keeps the user's working directory out of the search path of modules.

`python -m jobs.cli` and an empty entry of PYTHONPATH put it there, and Ray puts it first for its workers: a folder
`torch/` or a file `random.py` of the user's would replace the package of that name. A checkout of this project stays.

This module imports only what Python imports before any script: anything else could be the user's file.
"""

from __future__ import annotations

import os
import sys


def source_folder() -> str | None:
    """The folder that holds the packages of this project if they are not installed, as in a checkout."""
    folder = _packages()
    return None if os.path.basename(folder) in ("site-packages", "dist-packages") else folder


def ignore_working_directory() -> None:
    """Takes the working directory out of the search path, unless it holds the packages of this project."""
    here = os.path.realpath(os.curdir)
    if here != _packages():
        sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or os.curdir) != here]


def _packages() -> str:
    return os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
