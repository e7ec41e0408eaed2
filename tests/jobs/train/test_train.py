"""`nova train`: it learns, resumes exactly, survives a killed worker, and says what is wrong with its input."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from jobs import recipes
from jobs.recipes.registry import config_of
from jobs.train import job as train
from jobs.train.worker import Trainer, initial_state
from nova_model.config import NETWORKS, NovaConfig
from pipelines.dataloading.dataloader import Reader, load_plan
from pipelines.store.tables import Tables
from tests.conftest import train_config
from tests.nova_model.models import one_line_error
from tests.processes import wait_until

ATTEMPTS = 3
"""At killing a run between its second and its last step, which a busy machine may let slip by."""


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "transformer" / "diffusion_pytorch_model.safetensors")


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_logged(trained: Path) -> None:
    entries = metrics(trained)
    assert [entry["step"] for entry in entries] == list(range(1, 9))
    assert any("loss_later_frames" in entry for entry in entries)
    for entry in entries:
        assert {"loss", "loss_first_frame", "grad_norm", "lr", "device_hours"} <= entry.keys()
        assert 0 <= entry["data_wait_share"] <= 1
        assert entry["samples_per_second"] > 0
        assert entry["tokens_per_second"] > entry["samples_per_second"]
    assert [entry["lr"] for entry in entries[:6]] == pytest.approx([8e-5, 1.6e-4, 2.4e-4, 3.2e-4, 4e-4, 4e-4])
    assert entries[-1]["device_hours"] > entries[0]["device_hours"]


def test_only_the_newest_checkpoints_are_kept_and_say_where_they_come_from(trained: Path, curated: Path) -> None:
    kept = sorted(path.name for path in (trained / "checkpoints").glob("step-*"))
    assert kept == ["step-00000006", "step-00000008"]
    parts = json.loads((trained / "model" / "components.json").read_text())
    assert (parts["tables"], parts["version"], parts["step"]) == (str(curated), 1, 8)
    assert (trained / "report.html").exists()


@pytest.mark.drill
@pytest.mark.essential
def test_a_killed_run_resumes_exactly(curated: Path, work: Path, trained: Path, alone: None) -> None:
    runs = (work / f"train_killed{attempt}" for attempt in range(ATTEMPTS))
    run = next((each for each in runs if _killed_on_its_way(each, curated)), None)
    assert run is not None, "no run could be killed on its way; the test shows nothing"
    before = json.loads((run / "mlflow.json").read_text())["run_id"]
    train.train(train_config(tables=str(curated), run=str(run), steps=8))
    assert same(weights(run), weights(trained)), "a resumed run computed something else"
    assert [entry["step"] for entry in metrics(run)] == list(range(1, 9))
    assert json.loads((run / "mlflow.json").read_text())["run_id"] == before


def _killed_on_its_way(run: Path, tables: Path) -> bool:
    """Starts a run of eight steps, kills all its processes, and whether that was before the last step."""
    same_run = ("optimizer.name=muon", "checkpoint.every=2", "log_every=1", "ema.every=2")
    options = [part for each in same_run for part in ("--set", each)]
    command = ["train", "--tables", f"{tables}@1", "--run", str(run), "--steps", "8", *options]
    process = subprocess.Popen([sys.executable, "-m", "jobs.cli", *command], start_new_session=True)
    try:
        wait_until(lambda: train.steps_done(str(run)) >= 2 or process.poll() is not None)
        assert process.poll() in (None, 0), "it failed before it could be killed"
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return 0 < train.steps_done(str(run)) < 8


@pytest.mark.drill
@pytest.mark.essential
def test_a_killed_worker_is_replaced(curated: Path, work: Path, trained: Path) -> None:
    runs = (work / f"train_lost_worker{attempt}" for attempt in range(ATTEMPTS))
    run = next((each for each in runs if _lost_its_worker(each, curated)), None)
    assert run is not None, "there was no worker to kill; the test shows nothing"
    assert same(weights(run), weights(trained))
    assert [entry["step"] for entry in metrics(run)] == list(range(1, 9))


def _lost_its_worker(run: Path, tables: Path) -> bool:
    """Trains eight steps, and whether the worker could be killed before the last one."""
    killed: list[int] = []

    def kill() -> None:
        while train.steps_done(str(run)) < 2:
            time.sleep(0.02)
        if train.steps_done(str(run)) == 8:
            return
        for process in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                killed.append(process.pid)
                process.kill()
                return

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    train.train(train_config(tables=str(tables), run=str(run), steps=8))
    return bool(killed)


@pytest.mark.slow
@pytest.mark.essential
def test_two_workers_learn_together(curated: Path, work: Path) -> None:
    run = work / "train_two"
    train.train(
        train_config(
            {"parallel.workers": 2, "parallel.cpus_per_worker": 0.5, "parallel.accumulate": 2, "checkpoint.every": 12},
            tables=str(curated), run=str(run), steps=12,
        )
    )  # fmt: skip
    losses = [entry["loss_first_frame"] for entry in metrics(run)]
    assert len(losses) == 12
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])


def test_a_run_stays_on_the_version_that_it_began_with(trained: Path, curated: Path, tmp_path: Path) -> None:
    newer, run = tmp_path / "tables", tmp_path / "run"
    shutil.copytree(curated, newer)
    Tables(newer).delete("examples", Tables(newer).read("examples")["example_id"].to_pylist()[:1])
    run.mkdir()
    claim = json.loads((trained / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**claim, "tables": str(newer)}))
    assert train._data_version(train_config(tables=str(newer), run=str(run))) == (str(newer), 1)
    assert train._data_version(train_config(tables=f"{newer}@2", run=str(run))) == (str(newer), 2), "it was asked for"
    assert train._data_version(train_config(tables=str(newer), run=str(tmp_path / "new"))) == (str(newer), 2)


def test_activation_checkpointing_reaches_the_model_and_trains_the_same(trained: Path, curated: Path) -> None:
    config = train_config(tables=str(curated), run=str(trained), steps=8, checkpointing=NETWORKS)
    state = initial_state(config, str(curated), torch.device("cpu"))
    model = state.model
    networks = (model.video_encoder, model.image_encoder, model.image_decoder)
    assert all(network.checkpointing for network in networks)
    trainer = Trainer(state, model, rank=0, world=1, device=torch.device("cpu"))
    batch = Reader(load_plan(str(curated), 1, config.data.batch_size, config.seed)).read(0, 0, 1)
    result, expected = trainer.step(batch, 0), metrics(trained)[0]
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert result["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


def test_ablations_are_changes_of_the_preset() -> None:
    from nova_model.presets import PRESETS

    ablated = train_config(preset="shapes", ablate=("no_temporal", "no_scaling", "post_add_norm")).architecture()
    assert (ablated.sees_frames, ablated.video_mixer_rank, ablated.norm) == (False, None, "post_add")
    assert train_config(preset="shapes").architecture() == PRESETS["shapes"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"ablate": ("no_time",)},
            "ablate='no_time': choose from no_temporal, no_scaling, pre_norm, post_add_norm, no_motion",
        ),
        ({"checkpointing": ("vae",)}, "checkpointing='vae': choose from temporal, spatial, denoiser"),
    ],
)
def test_an_unknown_part_is_a_one_line_error(changes: dict[str, tuple[str, ...]], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        train_config(**changes)


@pytest.mark.parametrize(
    ("prefix", "match"),
    [
        (
            "text_embed.nrm",
            r"freeze=text_embed\.nrm has no effect, as no parameter of .* did you mean text_embed\.norm\?",
        ),
        ("vae", "freeze=vae has no effect, as no parameter of preset shapes begins with it"),
    ],
)
def test_a_prefix_of_no_parameter_cannot_be_frozen(prefix: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        train.check_freeze(train_config(freeze=("text_embed.norm", prefix)))


@pytest.mark.parametrize("recipe", recipes.NAMES)
def test_what_a_recipe_freezes_is_there(recipe: str) -> None:
    train.check_freeze(config_of(recipe, "train"))


def test_init_from_takes_what_fits(trained: Path) -> None:
    from jobs.train.state import copy_weights
    from nova_model.model import Nova
    from nova_model.presets import PRESETS

    model = Nova(PRESETS["shapes"])
    copy_weights(str(trained / "model"), model)
    assert same(model.state_dict(), weights(trained) | dict(model.named_buffers()))
    with pytest.raises(ValueError, match="same preset family"):
        copy_weights(str(trained / "model"), Nova(PRESETS["tiny"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "RUN"}, "--tables is missing"),
        ({"tables": "TABLES"}, "--run is missing"),
        ({"tables": "NOWHERE", "run": "RUN"}, "run `nova curate"),
        ({"tables": "TABLES@0", "run": "RUN"}, "is empty"),
        ({"tables": "TABLES@99", "run": "RUN"}, "no version 99; the newest is 1"),
        ({"tables": "TABLES", "run": "RUN", "preset": "tinny"}, "did you mean tiny"),
        ({"tables": "TABLES", "run": "RUN", "preset": "nova-d48w1024-sd512"}, "preset nova-d48w1024-sd512"),
        ({"tables": "TABLES", "run": "OTHERS"}, "holds other files"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    changes: dict[str, str], message: str, curated: Path, tmp_path: Path
) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "thesis.txt").write_text("mine")
    places = {
        "TABLES": str(curated), "NOWHERE": str(tmp_path / "no"), "RUN": str(tmp_path / "run"),
        "OTHERS": str(tmp_path / "others"),
    }  # fmt: skip
    given = {key: places[value.split("@")[0]] + value[len(value.split("@")[0]) :] if value.split("@")[0] in places
             else value for key, value in changes.items()}  # fmt: skip
    with pytest.raises(ValueError, match=message) as caught:
        train.train(train_config(**given))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_model_of_class_labels_is_not_trained_on_captions() -> None:
    model = NovaConfig.from_dict({"image_dim": 8, "text_token_dim": None, "text_token_len": None})
    example = {"moments_shape": (16, 1, 8, 8), "bucket": "1x8x8", "short_text_shape": (5, 64)}
    with one_line_error("preset mine takes class labels, curated tables have captions; choose a preset that takes"):
        train._check_example(model, "mine", example)


@pytest.mark.odd_input(
    "Moved and changed data",
    "Some media are lost when the VAE or the text encoder changes, and their examples stay stale",
    "`nova train` refuses the mixture, and names the command that removes them.",
)
def test_a_mixture_of_encoders_within_a_bucket_is_refused(curated: Path, work: Path) -> None:
    tables = Tables(work / "mixed")
    shutil.copytree(curated, tables.root)
    rows = tables.read("examples").slice(0, 1)
    position = rows.schema.get_field_index("latents_by")
    rows = rows.set_column(position, rows.schema.field(position), [["latents-other"]])
    tables.commit_files("examples", tables.write_files("examples", rows))
    with pytest.raises(ValueError, match=r"mixes encoders.*--remove-stale"):
        train.check(train_config(), tables.root, tables.version("examples"))


def test_a_run_folder_keeps_to_its_model(trained: Path, curated: Path) -> None:
    claim = (trained / "run.json").read_text()
    with pytest.raises(ValueError, match="was started with seed=0"):
        train.train(train_config(tables=str(curated), run=str(trained), seed=1))
    with pytest.raises(ValueError, match=r"was started with optimizer\.name=muon, not adamw; give another --run"):
        train.train(train_config({"optimizer.name": "adamw"}, tables=str(curated), run=str(trained)))
    with pytest.raises(ValueError, match=r"started with ablate=\[\], not \['pre_norm'\]; give another --run"):
        train.train(train_config(tables=str(curated), run=str(trained), ablate=("pre_norm",)))
    assert (trained / "run.json").read_text() == claim


def test_a_batch_must_be_divisible() -> None:
    with pytest.raises(ValueError, match=r"multiple of parallel\.workers x parallel\.accumulate = 6"):
        train_config({"parallel.workers": 2, "parallel.accumulate": 3})


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    failed = RuntimeError("a worker failed")
    failed.worker_failures = {0: OSError(errno.ENOSPC, "No space left on device")}  # type: ignore[attr-defined]
    assert "is full; free some space" in str(train._explained(failed, tmp_path))
    unknown = RuntimeError("something else")
    assert train._explained(unknown, tmp_path) is unknown
