"""`nova train`: from a version of the tables to a trained NOVA, with Ray Train.

    nova train --recipe debug --tables work/tables@3 --run work/run

The same command again resumes from the last checkpoint. `jobs/train/worker.py` is what each worker does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from jobs import settings
from jobs.runtime import disk, tracking
from jobs.runtime.cluster import connect
from jobs.train import progress
from jobs.train.config import TrainConfig, TrainingConfig
from jobs.train.worker import WorkerArguments, stop_note, train_worker
from nova_model.config import NovaConfig
from pipelines.core import model_hub
from pipelines.dataloading.dataloader import BatchPlan, load_plan
from pipelines.report.page import write_report
from pipelines.report.training import training_section
from pipelines.store.errors import causes
from pipelines.store.files import write_json
from pipelines.store.folders import check_output_folder, local_folder
from pipelines.store.locks import exclusive
from pipelines.store.tables import Tables, split_version
from pipelines.store.texts import first_line

RUN_FILES = {"run.json", "metrics.jsonl", "checkpoints", "model", "mlflow.json", "refresh.json", "report.html"}
FIXED_KEYS = ("preset", "ablate", "noise.schedule", "noise.shift", "seed", "optimizer.name")
"""Settings that cannot change within a run."""
OLDER_DEFAULTS = {"ablate": [], "optimizer.name": "adamw"}
"""Settings of runs that were started before there was a choice."""


def run(config: TrainConfig) -> int:
    """Trains, or continues training; 0 on success."""
    train(config)
    return 0


def train(config: TrainConfig) -> Path:
    """Trains under an MLflow run and returns the folder of the finished model.

    Raises:
        ValueError: missing or empty tables, examples that the model cannot take, a run folder of another run, a full
            disk.
    """
    root, version = _data_version(config)
    folder = local_folder(config.run, "--run")
    # All that can be wrong with the request is checked before the folder is claimed and Ray, which takes seconds,
    # starts.
    plan = check(config, root, version)
    check_output_folder(folder, "--run", markers=("run.json",), contents=RUN_FILES)
    with exclusive(folder, option="--run"):
        return _train(config, folder, root, version, plan)


def _train(config: TrainConfig, folder: Path, root: str, version: int, plan: BatchPlan) -> Path:
    """Trains in a folder that this process has to itself."""
    _claim(folder, config, root, version)
    flat = settings.flatten(config) | {"tables": root, "version": version}
    with tracking.start(
        "train", config=flat, beside=tracking.store_folder(str(folder)), parent=config.parent_run,
        resume=folder / "mlflow.json",
    ) as tracked:  # fmt: skip
        tracked.log_dataset(root, version, "training")
        print(f"training on {sum(plan.examples.values())} examples of {root} at version {version}", flush=True)
        # Inside the MLflow run, so that a run that finds no cluster is recorded as FAILED.
        connect(config.address)
        arguments = WorkerArguments(
            config=config, tables=root, version=version, run=str(folder), tracking=tracked.handle(),
            model_sources=model_hub.registered(),
        )  # fmt: skip
        _fit(arguments, folder)
        tracked.log_artifact(folder / "model" / "transformer" / "config.json", "model")
        section = training_section(folder)
        if section is not None:
            tracked.log_artifact(write_report(folder / "report.html", title="Training", sections=[section]))
    print(f"model: {folder / 'model'}", f"report: {folder / 'report.html'}", sep="\n")
    return folder / "model"


def _fit(arguments: WorkerArguments, folder: Path) -> None:
    """Runs Ray Train until all steps are taken; raises what a user can act on where they are not."""
    import ray.train
    from ray.train.torch import TorchTrainer

    config = arguments.config
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"arguments": arguments},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.parallel.workers,
            use_gpu=config.parallel.gpus_per_worker > 0,
            resources_per_worker=config.parallel.resources_per_worker,
        ),
        run_config=ray.train.RunConfig(
            storage_path=str(folder),
            # Ray Train resumes by itself where it finds the same storage_path and name (its `restore` is gone), and
            # keeps its own state and our step-* folders under RUN/checkpoints.
            name="checkpoints",
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.checkpoint.keep),
            # A lost worker takes the whole group down; Ray restarts all of them from the newest checkpoint.
            failure_config=ray.train.FailureConfig(max_failures=config.parallel.max_failures),
        ),
    )
    note = stop_note(folder)
    # A note of an earlier attempt must not explain a failure of this one.
    note.unlink(missing_ok=True)
    try:
        with progress.show(folder / "metrics.jsonl", config.steps):
            trainer.fit()
        # A single worker that gives up ends without an error (see `train_worker`), so that Ray does not restart it:
        # only the missing steps tell. Without a note, it was the disk that was too full to write one.
        if steps_done(config.run) < config.steps:
            raise ValueError(note.read_text() if note.exists() else _full_disk_message(folder))
    except Exception as error:
        raise _explained(error, folder) from error


def steps_done(run: str) -> int:
    """Steps up to the newest checkpoint of a run, 0 where there is none."""
    checkpoints = sorted((local_folder(run, "--run") / "checkpoints").glob("step-*"))
    return int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else 0


def _data_version(config: TrainConfig) -> tuple[str, int]:
    """Address and version of the data: the requested version, else that of the run, else the newest."""
    if not config.tables:
        raise ValueError("--tables is missing; give the folder that `nova curate` wrote")
    if not config.run:
        raise ValueError("--run is missing; give a folder for checkpoints and metrics")
    address, version = split_version(config.tables)
    tables = Tables(address)
    newest = tables.version("examples")
    started = _read_json(local_folder(config.run, "--run") / "run.json")
    if version is None and started.get("tables") == tables.root:
        version = started["version"]
        if version != newest:
            print(
                f"continuing with version {version}; the newest is {newest}, choose it with --tables {address}@{newest}"
            )
    return tables.root, newest if version is None else version


def check(config: TrainingConfig, root: str, version: int) -> BatchPlan:
    """Checks, before anything heavy, that the model can be trained on the version; returns the plan of its batches.

    Raises:
        ValueError: no such version, no examples, examples of other shapes than the model takes, or no parameter to
            freeze.
    """
    plan = load_plan(root, version, config.data.batch_size, config.seed, config.data.images_first)
    model = config.architecture()
    if config.freeze:
        check_freeze(config)
    # One row of each bucket is enough, without its moments: all rows of a bucket have the same shape, and `head` with a
    # filter stops at the first one.
    columns = ["bucket", "moments_shape", "short_text_shape"]
    for bucket in plan.examples:
        in_bucket = ds.field("bucket") == str(bucket)
        example = Tables(root).dataset("examples", version).head(1, columns=columns, filter=in_bucket).to_pylist()[0]
        _check_example(model, config.preset, example)
    # Latents and features of different encoders have nothing in common. Captions of different captioners mix well.
    fingerprints = Tables(root).values("examples", ["latents_by", "text_by"], version)
    if len(fingerprints) > 1:
        raise ValueError(
            f"{root}@{version} mixes encoders {sorted(fingerprints)}; run `nova curate` again to complete it, and with "
            "--remove-stale if media are lost"
        )
    return plan


def check_freeze(config: TrainingConfig) -> None:
    """Raises ValueError unless every prefix of `freeze` is that of a parameter."""
    # Lazy, because torch takes seconds to import.
    import torch

    from nova_model.model import Nova

    with torch.device("meta"):  # names need no weights
        names = [name for name, _ in Nova(config.architecture()).named_parameters()]
    for prefix in config.freeze:
        if not any(name.startswith(prefix) for name in names):
            choices = dict.fromkeys(name.rpartition(".")[0] for name in names)
            raise ValueError(
                f"freeze={prefix} has no effect, as no parameter of preset {config.preset} begins with it"
                f"{settings.nearest(prefix, choices)}"
            )


def _check_example(model: NovaConfig, preset: str, example: Mapping[str, Any]) -> None:
    channels, frames, height, width = example["moments_shape"]
    bucket, patch = example["bucket"], 2 * model.patch_size
    if channels != 2 * model.image_dim:
        raise ValueError(
            f"bucket {bucket} holds latents of {channels // 2} channels, preset {preset} takes {model.image_dim}; "
            "choose the preset of the VAE that encoded the tables"
        )
    if height % patch or width % patch:
        raise ValueError(
            f"bucket {bucket} has latents of {height}x{width}, which patches of {patch} do not divide; "
            "curate with other latents.sizes"
        )
    if frames > 1 and not model.makes_videos:
        raise ValueError(f"bucket {bucket} holds videos, preset {preset} is for images; choose a video preset")
    if model.takes_labels:
        raise ValueError(
            f"preset {preset} takes class labels, curated tables have captions; choose a preset that takes prompts, or "
            "train in Python with nova_model.Nova and labels"
        )
    dim = example["short_text_shape"][1]
    if dim != model.text_token_dim:
        raise ValueError(
            f"text features of {dim} values, preset {preset} takes {model.text_token_dim}; "
            "choose the preset of the text encoder that encoded the tables"
        )


def _claim(folder: Path, config: TrainConfig, root: str, version: int) -> None:
    """Checks that the folder's run has the same fixed settings, and stores the config."""
    started = _read_json(folder / "run.json")
    # Through JSON and back, as tuples would never equal the lists that the file holds.
    stored = json.loads(json.dumps(asdict(config)))  # as the file has it: lists for tuples
    if started:
        before = OLDER_DEFAULTS | settings.current_keys(started["config"], TrainingConfig.RENAMED)
        now = settings.current_keys(stored, {})
        for key in FIXED_KEYS:
            if before.get(key) != now[key]:
                raise ValueError(
                    f"--run {folder} was started with {key}={before.get(key)}, not {now[key]}; give another --run"
                )
    write_json(folder / "run.json", {"tables": root, "version": version, "config": stored})


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _explained(error: Exception, folder: Path) -> Exception:
    """An error that tells a user how to fix a failed run, where a remedy is known; else the error itself."""
    # Ray Train wraps what a worker raised; the cause is several levels down, and its own message is a page long.
    if disk.is_full(error):
        return ValueError(_full_disk_message(folder))
    for cause in causes(error):
        if isinstance(cause, ValueError):
            return ValueError(first_line(cause))
    return error


def _full_disk_message(folder: Path) -> str:
    return f"the disk of {folder} is full; free some space and run the same command again"
