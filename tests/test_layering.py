"""Import rules that import-linter (`make lint`) cannot express: when heavy libraries load, and who calls Ray Data."""

import ast
import subprocess
import sys
from pathlib import Path

from tests.processes import cpu_seconds

ROOT = Path(__file__).parents[1]
FILES = [path for package in ("pipelines", "jobs") for path in sorted((ROOT / package).rglob("*.py"))]
HEAVY = {"torch", "ray", "transformers", "diffusers", "open_clip", "torchvision", "mlflow", "scenedetect"}


def imports(path):
    """Top-level packages that a file imports while it is imported itself; those inside functions load later."""
    packages = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            packages.add(node.module.split(".")[0])
    return packages


def test_heavy_libraries_are_imported_inside_the_functions_that_need_them():
    assert [f"{path.relative_to(ROOT)}: {heavy}" for path in FILES if (heavy := imports(path) & HEAVY)] == []


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
