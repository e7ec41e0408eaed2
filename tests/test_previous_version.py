"""Tables, runs, checkpoints and samples that version 0.1 wrote are read, and a run of it continues as it would have.

`previous_version/version_0.1.tar.xz` was written by that version with the recipe `debug`: three pictures and two videos
curated, a training of four steps, two samples and their scores. Its weights are sparse, so that the archive is small.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from jobs import settings
from jobs.generate import build_stage, plan_requests
from jobs.recipes.registry import config_of
from jobs.train.config import TrainConfig
from jobs.train.job import train
from nova_model.config import SamplingConfig
from pipelines.curation.curator import Curator
from pipelines.generation.checkpoint_resolution import resolve_checkpoint
from pipelines.generation.manifest import sample_rows
from pipelines.store.tables import Tables
from tests.nova_model.test_pinned_values import STORED, machine

ARCHIVE = Path(__file__).parent / "previous_version" / "version_0.1.tar.xz"
NEXT_STEPS = [  # step, loss and gradient norm of the steps that version 0.1 took next
    (5, 2.807615041732788, 4.517795085906982),
    (6, 5.499838829040527, 7.154557228088379),
    (7, 2.5667498111724854, 4.2668232917785645),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("previous_version")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "work"


def test_tables_hold_what_the_same_recipe_would_compute_now(workspace: Path) -> None:
    """No fingerprint has changed, so nothing is computed again."""
    tables = Tables(workspace / "tables")
    tables.create()
    assert {name: tables.count(name) for name in ("assets", "clips", "examples", "failures")} == {
        "assets": 5, "clips": 6, "examples": 6, "failures": 1,
    }  # fmt: skip
    assert Curator(tables, config_of("debug", "curate")).is_settled()


def test_samples_have_the_ids_that_they_would_get_now(workspace: Path) -> None:
    config = settings.updated(
        config_of("debug", "generate"),
        {
            "checkpoint": str(workspace / "run"), "prompt": "a red circle moves left", "frames": 5, "samples": 2,
            "output": str(workspace / "samples"), "precision": "fp32",
            "sampling": SamplingConfig(set_steps=2, diffusion_steps=3, guidance_scale=2.0),
        },
    )  # fmt: skip
    stored = pq.read_table(workspace / "samples" / "manifest.parquet").to_pylist()
    rows = sample_rows(build_stage(config), plan_requests(config))
    assert [row["sample_id"] for row in rows] == [row["sample_id"] for row in stored]


def test_a_run_is_a_checkpoint(workspace: Path) -> None:
    checkpoint = resolve_checkpoint(str(workspace / "run"))
    assert (checkpoint.vae, checkpoint.text_encoder, checkpoint.data_version) == ("zoo/vae", "zoo/text_encoder", 1)


def test_a_run_continues_with_the_losses_that_it_would_have_had(workspace: Path, ray_session: None) -> None:
    config = settings.updated(
        config_of("debug", "train"),
        {
            "tables": f"{workspace / 'tables'}@1", "run": str(workspace / "run"), "steps": 7, "log_every": 1,
            "precision": "fp32", "optimizer.name": "muon", "ema.every": 2, "checkpoint.every": 7,
            "parallel.accumulate": 2,
        },
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"was started with optimizer\.name=muon, not adamw"):
        train(settings.updated(config, {"optimizer.name": "adamw"}))
    assert isinstance(config, TrainConfig)
    train(config)
    entries = [json.loads(line) for line in (workspace / "run" / "metrics.jsonl").read_text().splitlines()]
    tolerance = 0 if _same_machine() else 1e-3
    for entry, (step, loss, norm) in zip(entries[4:], NEXT_STEPS, strict=True):
        assert entry["step"] == step
        assert (entry["loss"], entry["grad_norm"]) == pytest.approx((loss, norm), rel=tolerance, abs=0)


def _same_machine() -> bool:
    with safe_open(STORED, "pt") as file:
        return file.metadata() == machine()
