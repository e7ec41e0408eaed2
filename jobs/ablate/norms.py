"""What the place of the norms decides: how activations grow with depth, and which learning rates a training bears."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.ablate.ablation import read
from pipelines.store.files import write_json

if TYPE_CHECKING:
    from jobs.train.config import TrainConfig
    from nova_model.tools.activations import Variances
    from pipelines.dataloading.dataloader import Batch

TENTH = 0.1
SPIKE = 2.0
"""Times the loss of an untrained model: a training that goes above it has exploded, even if it finds back."""
LOOKED_AT = 64
"""Batches among which one of videos is looked for."""


def variances(run: Path, config: TrainConfig) -> dict[str, Variances]:
    """Variance of the activations behind each block of both encoders, over one batch of videos (of pictures, where
    there are no videos), before the first step and after the last one.

    Args:
        run: folder of the training.
        config: of it; `tables` names a version.
    """
    import torch

    from jobs.train.inputs import InputBuilder
    from nova_model.checkpoints.weights import load_transformer
    from nova_model.model import Nova
    from nova_model.sampling.schedule import schedule_from_config
    from nova_model.tools.activations import variance_by_depth
    from pipelines.generation.checkpoint_resolution import resolve_checkpoint

    batch = _batch(config)
    schedule = schedule_from_config(config.noise.to_scheduler_config())
    torch.manual_seed(config.seed)  # as a training draws its first weights
    models = {"start": Nova(config.architecture()), "end": load_transformer(resolve_checkpoint(str(run)).transformer)}
    found = {}
    for name, model in models.items():
        build_inputs = InputBuilder(config, model.eval(), schedule, torch.device("cpu"))
        inputs = build_inputs(batch, torch.Generator().manual_seed(config.seed))
        found[name] = variance_by_depth(model, lambda model=model, inputs=inputs: model(**inputs))  # type: ignore[misc]
    return found


def _batch(config: TrainConfig) -> Batch:
    """The first batch of videos, or the first of all where none comes soon."""
    from pipelines.dataloading.dataloader import Reader, load_plan
    from pipelines.store.tables import split_version

    root, version = split_version(config.tables)
    assert version is not None, config.tables
    plan = load_plan(root, version, config.data.batch_size, config.seed)
    position = next((each for each in range(LOOKED_AT) if plan.batch(each)[0].frames > 1), 0)
    return Reader(plan).read(position)


def tries(config: TrainConfig, rates: Sequence[float], steps: int, folder: Path) -> list[dict[str, Any]]:
    """Short trainings at rising learning rates, up to the first one that is not stable. One that was done before is
    not done again. AdamW takes every weight, at a rate that stays: whatever the recipe does, that is what is compared.

    Args:
        config: of the training; its warm-up becomes a quarter of the steps, where it is longer.
        rates: learning rates, rising.
        steps: of each.
        folder: for them.

    Returns:
        Of each: lr; loss of the first frame before the first step, at most, and over the last tenth of the steps (null
        where it was not finite); stable, which is to end no worse than untrained, and to have no spike on the way.
    """
    optimizer = replace(
        config.optimizer, name="adamw", muon_lr=None, cooldown=0.0,
        warmup_steps=min(config.optimizer.warmup_steps, max(1, steps // 4)),
    )  # fmt: skip
    short = replace(
        config, steps=steps, log_every=1, optimizer=optimizer, checkpoint=replace(config.checkpoint, every=steps),
        parallel=replace(config.parallel, max_failures=0),
    )  # fmt: skip
    found: list[dict[str, Any]] = []
    for rate in rates:
        done = folder / f"{rate:g}.json"
        if not done.exists():
            rated = replace(short, optimizer=replace(optimizer, lr=rate), run=str(folder / f"{rate:g}"))
            losses = _losses(rated)
            write_json(done, {"lr": rate, **_judged(losses)})
        found.append(read(done))
        if not found[-1]["stable"]:
            break
    return found


def largest_stable(tries: Sequence[dict[str, Any]]) -> float | None:
    """The largest learning rate that was stable; None where none was."""
    return max((each["lr"] for each in tries if each["stable"]), default=None)


def _losses(config: TrainConfig) -> list[float] | None:
    """Trains; returns the loss of the first frame, step by step; None where one was not finite."""
    from jobs.ablate.table import entries
    from jobs.train.job import train

    try:
        train(config)
    except Exception as error:
        if not _diverged(error):
            raise
        return None
    values = [each["loss_first_frame"] for each in entries(Path(config.run))]
    return values if all(map(math.isfinite, values)) else None


def _judged(losses: list[float] | None) -> dict[str, Any]:
    if losses is None:
        return {"start": None, "peak": None, "end": None, "stable": False}
    last = losses[-max(1, round(TENTH * len(losses))) :]
    start, peak, end = losses[0], max(losses), sum(last) / len(last)
    return {"start": start, "peak": peak, "end": end, "stable": end <= start and peak <= SPIKE * start}


def _diverged(error: Exception) -> bool:
    """Whether a training ended because its loss was not finite."""
    from jobs.runtime import disk

    return any(f"the loss is {value}" in str(each) for each in disk.causes(error) for value in ("nan", "inf", "-inf"))
