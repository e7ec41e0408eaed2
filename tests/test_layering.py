"""The architecture's import rules: each subject knows only what it may, and heavy libraries wait for a command."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import cpu_seconds

ROOT = Path(__file__).parents[1]
FILES = [path for package in ("nova_model", "pipelines", "jobs") for path in sorted((ROOT / package).rglob("*.py"))]


@functools.cache
def imports(path):
    """Top-level package names that a file imports anywhere, and those it imports when it is imported itself."""
    tree = ast.parse(path.read_text())
    everywhere, at_once = set(), set()

    def names(node):
        if isinstance(node, ast.Import):
            return {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            return {node.module.split(".")[0]}
        return set()

    for node in ast.walk(tree):
        everywhere |= names(node)
    for node in tree.body:
        at_once |= names(node)
    return everywhere, at_once


def files_that_import(libraries, *packages, at_once=False):
    """Files of the packages that import any of the libraries, anywhere or while they are imported themselves."""
    files = [path.relative_to(ROOT) for path in FILES if path.relative_to(ROOT).parts[0] in packages]
    return [f"{path}: {names}" for path in files if (names := imports(ROOT / path)[1 if at_once else 0] & libraries)]


def test_imports_run_one_way():
    assert files_that_import({"ray", "mlflow", "pipelines", "jobs", "deltalake"}, "nova_model") == []
    assert files_that_import({"jobs", "mlflow"}, "pipelines") == []


def test_heavy_libraries_are_imported_inside_the_functions_that_need_them():
    heavy = {"torch", "ray", "transformers", "diffusers", "open_clip", "torchvision", "mlflow", "scenedetect"}
    assert files_that_import(heavy, "pipelines", "jobs", at_once=True) == []


@pytest.mark.parametrize(
    ("library", "only"), [("deltalake", "pipelines/store/tables.py"), ("mlflow", "jobs/runtime/tracking.py")]
)
def test_one_file_knows_each_library(library, only):
    users = [str(path.relative_to(ROOT)) for path in FILES if library in imports(path)[0]]
    assert users == [only]


def test_one_file_hands_work_to_ray_data():
    users = [str(path.relative_to(ROOT)) for path in FILES if ".map_batches(" in path.read_text()]
    assert users == ["pipelines/core/ray_data.py"]


def test_the_command_line_answers_in_under_a_second(monkeypatch):
    monkeypatch.chdir(ROOT)
    command = [sys.executable, "-m", "jobs.cli", "--help"]
    assert "curate" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds = cpu_seconds(command)
    # An empty interpreter starts in 0.02 to 0.05 s; where it takes longer, the machine is slow and not the command.
    limit = max(1.0, 20 * cpu_seconds([sys.executable, "-c", "pass"]))
    assert seconds < limit, f"nova --help took {seconds:.2f} s of CPU time"
