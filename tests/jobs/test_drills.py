"""Drills: minutes of trouble on purpose. `make drill` runs them, `make test` does not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jobs.train.job import steps_done
from pipelines.media.write import write_image
from pipelines.store.tables import Tables
from tests.processes import run_and_measure_peak

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1800)]


def nova(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], capture_output=True, text=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB; skips where this user may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fills a disk up to some bytes; deleting the file makes room again."""
    status = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(0, status.f_bavail * status.f_bsize - leave)))
    return ballast


def test_training_on_a_full_disk_stops_with_one_line_and_goes_on_later(
    curated: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = small_disk / "run"
    command = ["train", "--tables", str(curated), "--run", str(run), "--steps", "4"]
    ballast = fill(small_disk, leave=500_000)
    ended = nova(*command)
    assert ended.returncode == 2, ended.stderr
    assert "is full; free some space and run the same command again" in ended.stderr
    assert "Traceback" not in ended.stderr
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    ended = nova(*command)
    assert ended.returncode == 0, ended.stderr
    assert steps_done(str(run)) == 4


def test_curating_onto_a_full_disk_stops_with_one_line_and_loses_nothing(
    media: Path, small_disk: Path, curated: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tables = small_disk / "tables"
    Tables(tables).create()
    ballast = fill(small_disk, leave=40_000)
    command = ["curate", "--input", str(media), "--tables", str(tables)]
    ended = nova(*command)
    assert ended.returncode == 2, ended.stderr
    assert "full" in ended.stderr
    assert "Traceback" not in ended.stderr
    ballast.unlink()
    ended = nova(*command)
    assert ended.returncode == 0, ended.stderr
    ids = [sorted(Tables(each).read("examples")["example_id"].to_pylist()) for each in (tables, curated)]
    assert ids[0] == ids[1]


def test_memory_does_not_grow_with_the_number_of_items(tmp_path: Path) -> None:
    peaks = [_peak_megabytes(tmp_path / str(count), count) for count in (200, 1000)]
    assert peaks[1] < peaks[0] * 1.15, peaks


def _peak_megabytes(folder: Path, count: int) -> float:
    """Peak memory of the driver process that curates so many pictures."""
    for index in range(count):
        picture = np.random.default_rng(index).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        write_image(folder / "media" / f"{index}.png", np.kron(picture, np.ones((16, 16, 1), np.uint8)))
    program = "import sys; from jobs import cli; sys.exit(cli.run(sys.argv[1:]))"
    settings = ["--set", "commits.round_items=100", "--set", "commits.rows=100"]
    command = ["curate", "--input", str(folder / "media"), "--tables", str(folder / "tables"), *settings]
    _, peak = run_and_measure_peak(program, command)
    assert Tables(folder / "tables").count("assets") == count
    return peak / 2**20
