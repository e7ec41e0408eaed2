"""`nova refresh`: curates what is new in a source and, on request, trains on it. Made for schedules.

    nova refresh --recipe debug --input s3://bucket/media --tables work/tables --train --run work/run

It ends at once if nothing is new, and refuses to overlap with another refresh of the same tables. A refresh that was
killed is completed by the next one, including its training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs import settings
from jobs.curate import CurateConfig, curate, new_curator
from jobs.runtime import tracking
from jobs.train.config import TrainConfig, TrainingConfig
from jobs.train.job import steps_done, train
from pipelines.curation.summary import Summary
from pipelines.report.audit import Auditor
from pipelines.store.files import write_json
from pipelines.store.folders import local_folder
from pipelines.store.locks import exclusive
from pipelines.store.tables import Tables


@dataclass(frozen=True, kw_only=True)
class RefreshConfig(CurateConfig):
    """Curates what is new in a source since the last time; with --train, continues training on it.

    Example: nova refresh --recipe debug --input s3://bucket/media --tables work/tables --train --run work/run
    """

    train: bool = False
    """Continue training on the new version, for trainer.steps more steps."""
    run: str = ""
    """Training run to continue; created if missing."""
    trainer: TrainingConfig = field(default_factory=TrainingConfig)
    """How to train; `steps` is the number of steps per refresh."""

    def unused_settings(self) -> dict[str, str]:
        return {} if self.train else {"trainer": "without --train; add --train, or leave it out"}


def run(config: RefreshConfig, auditors: Sequence[Auditor] = ()) -> int:
    """Refreshes; 0 also if nothing was new.

    Args:
        config: the source, the tables, and whether to train.
        auditors: auditors of the tables, passed to `curate`.

    Raises:
        BusyError: another refresh of these tables is running.
        ValueError: as `nova curate` and `nova train`.
    """
    if config.train and not config.run:
        raise ValueError("--train needs --run, the training run to continue")
    if config.run and not config.train:
        raise ValueError("--run has no effect without --train; add --train, or leave --run out")
    sources, curator = new_curator(config)
    tables = curator.tables
    # A lock of its own beside the writer's, which `curate` takes inside and which is free while this run trains:
    # Kubernetes' CronJob has a concurrency policy, KubeRay's RayCronJob has none.
    with exclusive(tables.root, "refresh"):
        curating = curator.has_work(sources)
        training = config.train and (curating or _training_due(config, tables))
        version = tables.version("examples")
        # Before Ray and MLflow start: on a schedule, most calls end here.
        if not curating and not training:
            print(f"nothing new in {config.input}; examples stay at version {version}")
            return 0
        with (
            tracking.start(
                "refresh",
                config=settings.flatten(config),
                beside=tracking.store_folder(tables.root),
                resume=tracking.resume_file("refresh", tables.root),
                forget=True,
            ) as tracked,
            tracking.stored_with(tracked),
        ):
            if curating:
                summary = curate(config, parent=tracked.id, auditors=auditors)
                tracked.log_metrics(summary.counts())
                print(changes(summary, version))
            if config.train:
                target = _target(config, tables)
                trainer = settings.extend(
                    # The version is pinned, as another writer may add one while this training waits for its workers.
                    TrainConfig, config.trainer, tables=f"{config.tables}@{target['version']}", run=config.run,
                    steps=target["steps"], address=config.address, parent_run=tracked.id,
                )  # fmt: skip
                train(trainer)
    return 0


def changes(summary: Summary, before: int) -> str:
    """One line on what a refresh changed."""
    return (
        f"refreshed: {summary.new_assets} new assets, {summary.new_clips} new clips, "
        f"{summary.new_examples} examples added, {summary.removed_examples} removed, "
        f"{sum(summary.failures.values())} failures; examples went from version {before} to {summary.version}"
    )


def _state(config: RefreshConfig) -> dict[str, int]:
    path = local_folder(config.run, "--run") / "refresh.json"
    return json.loads(path.read_text()) if path.exists() else {"version": -1, "steps": 0}


def _training_due(config: RefreshConfig, tables: Tables) -> bool:
    state = _state(config)
    # Also true after a refresh that was killed between curating and the last step of its training.
    return state["version"] != tables.version("examples") or steps_done(config.run) < state["steps"]


def _target(config: RefreshConfig, tables: Tables) -> dict[str, int]:
    """Version to train on and steps to reach, stored before training, so that the next refresh can complete it."""
    state = _state(config)
    version = tables.version("examples")
    if state["version"] == version:
        return state
    target = {"version": version, "steps": steps_done(config.run) + config.trainer.steps}
    write_json(local_folder(config.run, "--run") / "refresh.json", target, indent=None)
    return target
