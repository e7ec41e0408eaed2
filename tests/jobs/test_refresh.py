"""`nova refresh`: only what is new, nothing twice, never two at once, and training that follows the data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import refresh, settings
from jobs.recipes.registry import config_of
from jobs.refresh import RefreshConfig
from jobs.train.config import TrainConfig
from jobs.train.job import steps_done
from pipelines.media.write import write_image
from pipelines.store.locks import BusyError, exclusive
from pipelines.store.tables import Tables
from tests.processes import PATIENCE


def config(**changes: Any) -> RefreshConfig:
    base = config_of("debug", "refresh")
    trainer = settings.updated(base.trainer, {"steps": 3, "checkpoint.every": 3, "log_every": 1})
    return replace(base, trainer=trainer, **changes)


def add_picture(manifest: Path, seed: int) -> None:
    """Lists a picture that no other test has."""
    cells = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    path = manifest.with_suffix("") / f"new{seed}.png"
    write_image(path, np.kron(cells, np.ones((8, 8, 1), np.uint8)))
    with manifest.open("a") as file:
        file.write(json.dumps({"uri": str(path)}) + "\n")


def copy_of(curated: Path, media: Path, work: Path, name: str) -> tuple[Path, Path]:
    """A manifest of `media` that can grow, and tables that are complete for it."""
    manifest, tables = work / f"{name}.jsonl", work / f"{name}_tables"
    manifest.write_text("".join(json.dumps({"uri": str(path)}) + "\n" for path in sorted(media.iterdir())))
    shutil.copytree(curated, tables)
    return manifest, tables


@pytest.fixture(scope="module")
def place(curated: Path, media: Path, work: Path) -> tuple[Path, Path]:
    """A source that can grow, and its tables."""
    return copy_of(curated, media, work, "refresh")


def test_nothing_new_ends_at_once(place: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    source, tables = place
    before = Tables(tables).version("examples")
    capsys.readouterr()
    assert refresh.run(config(input=str(source), tables=str(tables))) == 0
    assert f"nothing new in {source}; examples stay at version {before}" in capsys.readouterr().out
    assert Tables(tables).version("examples") == before


def test_what_is_new_is_curated_and_trained_on(place: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    source, tables = place
    run = tables.parent / "refresh_run"
    wanted = config(input=str(source), tables=str(tables), train=True, run=str(run))
    add_picture(source, 1)
    before = Tables(tables).version("examples")
    refresh.run(wanted)
    said = capsys.readouterr().out
    assert "refreshed: 1 new assets, 1 new clips, 1 examples added, 0 removed" in said
    first = Tables(tables).version("examples")
    assert first > before
    assert steps_done(str(run)) == 3
    assert json.loads((run / "model" / "components.json").read_text())["version"] == first
    refresh.run(wanted)
    assert steps_done(str(run)) == 3, "it trained again though nothing was new"


def test_training_that_was_cut_off_is_finished(place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source, tables = place
    run = tables.parent / "refresh_run"
    state = json.loads((run / "refresh.json").read_text())
    (run / "refresh.json").write_text(json.dumps({**state, "steps": 6}))  # as a killed refresh leaves it
    requests: list[TrainConfig] = []
    monkeypatch.setattr(refresh, "train", requests.append)
    refresh.run(config(input=str(source), tables=str(tables), train=True, run=str(run)))
    (request,) = requests
    assert (request.run, request.steps) == (str(run), 6), "it did not go on from where it was"
    assert request.tables == f"{tables}@{state['version']}"


def test_a_second_refresh_is_refused(place: tuple[Path, Path]) -> None:
    source, tables = place
    with exclusive(str(tables), "refresh"), pytest.raises(BusyError, match=r"another run \(refresh\)"):
        refresh.run(config(input=str(source), tables=str(tables)))


def test_two_at_once_do_the_work_once(media: Path, work: Path, curated: Path, alone: None) -> None:
    source, tables = copy_of(curated, media, work, "twice")
    add_picture(source, 2)
    command = [sys.executable, "-m", "jobs.cli", "refresh", "--input", str(source), "--tables", str(tables)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate(timeout=PATIENCE) for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 2], said
    refused = next(error for run, (_, error) in zip(runs, said, strict=True) if run.returncode == 2)
    assert "another run" in refused
    assert "Traceback" not in refused
    for table, key in (("assets", "asset_id"), ("clips", "clip_id"), ("examples", "example_id")):
        ids, before = (Tables(each).read(table, columns=[key])[key].to_pylist() for each in (tables, curated))
        assert len(ids) == len(set(ids)) == len(before) + 1
        assert set(ids) > set(before)


def test_training_needs_a_run(place: tuple[Path, Path]) -> None:
    source, tables = place
    with pytest.raises(ValueError, match="--train needs --run"):
        refresh.run(config(input=str(source), tables=str(tables), train=True))
