"""Comparison of norm positions: growth of activations with depth, and the largest stable learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.ablate.ablation import read
from jobs.ablate.table import entries
from jobs.train import job
from jobs.train.config import TrainConfig
from pipelines.dataloading.dataloader import Batch, Reader, load_plan
from pipelines.generation.checkpoint_resolution import resolve_checkpoint
from pipelines.store.errors import causes
from pipelines.store.files import write_json
from pipelines.store.tables import split_version

if TYPE_CHECKING:
    from nova_model.tools.activations import Variances

# The model's modules import torch: `nova ablate --help` and the recipes import this file without them.

# Share of the steps that an end is averaged over: a single step depends on its draw of the mask and the timesteps.
TENTH = 0.1
SPIKE = 2.0
"""Multiple of the untrained model's loss above which a training counts as unstable, even if it recovers."""
MAX_POSITION = 64
"""Number of batches that are searched for one of videos."""


def variances(run: Path, config: TrainConfig) -> dict[str, Variances]:
    """Variance of the activations after each block of both encoders, before the first and after the last step.

    It is measured on one batch of videos, or of pictures where the tables have no videos.

    Args:
        run: folder of the training.
        config: its config, with the version of its tables.
    """
    import torch

    from jobs.train.inputs import InputBuilder
    from nova_model.checkpoints.weights import load_transformer
    from nova_model.model import Nova
    from nova_model.sampling.schedule import schedule_from_config
    from nova_model.tools.activations import variance_by_depth

    batch = _batch(config)
    schedule = schedule_from_config(config.noise.to_scheduler_config())
    # The same order of draws as `jobs.train.worker`, so these are the initial weights of the training.
    torch.manual_seed(config.seed)  # gives the same initial weights as the training
    models = {"start": Nova(config.architecture()), "end": load_transformer(resolve_checkpoint(str(run)).transformer)}
    result = {}
    for name, model in models.items():
        build_inputs = InputBuilder(config, model.eval(), schedule, torch.device("cpu"))
        inputs = build_inputs(batch, torch.Generator().manual_seed(config.seed))
        result[name] = variance_by_depth(model, lambda model=model, inputs=inputs: model(**inputs))  # type: ignore[misc]
    return result


def _batch(config: TrainConfig) -> Batch:
    """The first batch of videos, or the first batch where there are none among the first MAX_POSITION."""
    root, version = split_version(config.tables)
    assert version is not None, config.tables
    plan = load_plan(root, version, config.data.batch_size, config.seed)
    position = next((index for index in range(MAX_POSITION) if plan.batch(index)[0].frames > 1), 0)
    return Reader(plan).read(position)


def try_rates(config: TrainConfig, rates: Sequence[float], steps: int, folder: Path) -> list[dict[str, Any]]:
    """Runs short trainings at rising learning rates, up to the first unstable one; finished trainings are not repeated.

    All weights are trained by AdamW at a constant rate after the warm-up, whatever optimizer and schedule the recipe
    has, so that results can be compared across recipes.

    Args:
        config: config of the training; its warm-up is shortened to at most a quarter of the steps.
        rates: learning rates in rising order.
        steps: number of steps of each training.
        folder: folder for the trainings.

    Returns:
        For each training: lr; start, peak and end, which are the loss of the first frame before the first step, its
        largest value, and its mean over the last tenth of the steps (null where a loss was not finite); and stable,
        which means that the loss ends no higher than it started and never exceeded SPIKE times its start.
    """
    # Without a cooldown, which lowers the loss at the end whatever the rate was before.
    optimizer = replace(
        config.optimizer, name="adamw", muon_lr=None, cooldown=0.0,
        warmup_steps=min(config.optimizer.warmup_steps, max(1, steps // 4)),
    )  # fmt: skip
    # One checkpoint, at the end: these trainings are not resumed in the middle. A divergence is the result and no
    # reason for Ray to start over, hence no failures.
    short = replace(
        config, steps=steps, log_every=1, optimizer=optimizer, checkpoint=replace(config.checkpoint, every=steps),
        parallel=replace(config.parallel, max_failures=0),
    )  # fmt: skip
    trials: list[dict[str, Any]] = []
    for rate in rates:
        done = folder / f"{rate:g}.json"
        if not done.exists():
            rated = replace(short, optimizer=replace(optimizer, lr=rate), run=str(folder / f"{rate:g}"))
            losses = _losses(rated)
            write_json(done, {"lr": rate, **_summary(losses)})
        trials.append(read(done))
        # Higher rates are not stable either, and a training that diverges costs as much as one that does not.
        if not trials[-1]["stable"]:
            break
    return trials


def largest_stable(trials: Sequence[dict[str, Any]]) -> float | None:
    """The largest stable learning rate; None where none was stable."""
    return max((trial["lr"] for trial in trials if trial["stable"]), default=None)


def _losses(config: TrainConfig) -> list[float] | None:
    """Trains; returns the losses of the first frame in order of steps, or None where one is not finite."""
    try:
        job.train(config)
    # Ray Train wraps the worker's error in classes of its own; `_diverged` looks at the causes and lets all others
    # pass.
    except Exception as error:
        if not _diverged(error):
            raise
        return None
    values = [entry["loss_first_frame"] for entry in entries(Path(config.run))]
    return values if all(map(math.isfinite, values)) else None


def _summary(losses: list[float] | None) -> dict[str, Any]:
    if losses is None:
        return {"start": None, "peak": None, "end": None, "stable": False}
    last = losses[-max(1, round(TENTH * len(losses))) :]
    start, peak, end = losses[0], max(losses), sum(last) / len(last)
    return {"start": start, "peak": peak, "end": end, "stable": end <= start and peak <= SPIKE * start}


def _diverged(error: Exception) -> bool:
    """Whether a training ended because of a loss that was not finite."""
    messages = [str(cause) for cause in causes(error)]
    return any(f"the loss is {value}" in message for message in messages for value in ("nan", "inf", "-inf"))
