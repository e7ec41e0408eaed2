"""What the working directory holds is never imported instead of a package."""

import os
import subprocess
import sys

import pytest

from jobs import search_path
from jobs.runtime.cluster import workers_without_working_directory


@pytest.mark.odd_input(
    "Names and places",
    "A folder `torch/` or a file `random.py` in the working directory",
    "Commands and Ray's workers import the installed packages.",
)
def test_files_of_the_working_directory_are_not_imported(tmp_path):
    for name in ("random.py", "tempfile.py", "numpy.py", "torch/__init__.py", "pipelines/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('a file of the user was imported')")
    packages = os.path.dirname(os.path.dirname(os.path.abspath(search_path.__file__)))
    program = (
        "import sys; sys.argv = ['nova', 'shapes', '--help']; sys.path.remove(''); from jobs.cli import main; main()"
    )
    environment = {**os.environ, "PYTHONPATH": packages}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    module = [sys.executable, "-m", "jobs.cli", "shapes", "--help"]
    done = subprocess.run(module, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_working_directory_leaves_the_search_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), "/usr/lib/python"])
    search_path.ignore_working_directory()
    assert sys.path == ["/usr/lib/python"]


def test_a_checkout_stays_in_the_search_path(monkeypatch):
    monkeypatch.chdir(search_path._packages())
    monkeypatch.setattr(sys, "path", ["", "/usr/lib/python"])
    search_path.ignore_working_directory()
    assert sys.path == ["", "/usr/lib/python"]


def test_workers_of_ray_get_the_packages_and_not_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = workers_without_working_directory()
    assert config._py_driver_sys_path == [search_path._packages()]
    # By which Ray decides whether to add the working directory.
    assert config._runtime_env_has_working_dir()
