"""`nova evaluate`: scores of generated (or any) images and videos.

nova evaluate --recipe debug --samples work/samples --output work/scores
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from jobs import settings
from jobs.runtime import tracking
from jobs.runtime.cluster import connect
from pipelines.core.stage import Row
from pipelines.evaluation.metrics import Metrics, Score, summarise
from pipelines.evaluation.results import score_table
from pipelines.evaluation.scoring import FILES, load_samples, provenance, score_samples, write_summary
from pipelines.store.folders import check_output_folder, local_folder
from pipelines.store.locks import exclusive

_BENCHMARK_COMMAND = "use nova benchmark shapes --checkpoint RUN"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Metrics):
    """Scores images and videos: a table on screen, scores.parquet and summary.json, and a run in MLflow.

    Example: nova evaluate --recipe debug --samples work/samples --output work/scores
    """

    REMOVED: ClassVar = dict.fromkeys(("benchmark", "checkpoint", "shapes", "generate"), _BENCHMARK_COMMAND)

    samples: str = ""
    """Folder of `nova generate` (its manifest has the prompts), or any folder, glob or manifest of media."""
    output: str = ""
    """Folder for scores.parquet and summary.json."""
    json: bool = False
    """Print the content of summary.json as one line of JSON, the last one."""
    address: str | None = None
    """Ray cluster to run on; without it RAY_ADDRESS, else this machine."""
    limit: int | None = None
    """Score at most this many samples."""
    parent_run: str | None = None
    """MLflow run that this one belongs to."""


def run(config: EvaluateConfig) -> int:
    """Evaluates; returns 0 when at least one sample could be scored, else 1."""
    return 0 if evaluate(config) else 1


def evaluate(config: EvaluateConfig) -> dict[str, Score]:
    """Evaluates under an MLflow run and returns the mean scores.

    Raises:
        ValueError: no samples, or an output folder with other files.
    """
    if not config.output:
        raise ValueError("--output is missing; give a folder for the scores")
    output = local_folder(config.output, "--output")
    # Before the samples are listed, which may take long.
    check_output_folder(output, "--output", markers=("summary.json",))
    rows, failures = load_samples(config.samples, config.limit)
    with exclusive(output, option="--output"):
        return _evaluate(config, output, rows, failures)


def _evaluate(config: EvaluateConfig, output: Path, rows: list[Row], failures: list[Row]) -> dict[str, Score]:
    with tracking.start(
        "evaluate",
        config=settings.flatten(config),
        beside=tracking.store_folder(str(output)),
        parent=config.parent_run,
        resume=output / ".mlflow.json",
    ) as tracked:
        connect(config.address)
        scored = score_samples(config, rows)
        # Files that could not be read and files that a metric failed on count alike.
        failures += [row for row in scored if row["failed_stage"]]
        scores = summarise(scored)
        summary = write_summary(output, scored, failures, scores, provenance(config, config.samples))
        tracked.log_metrics({name: score.value for name, score in scores.items()})
        tracked.log_metrics({"samples": len(scored), "failed": len(failures)})
        # Tags and not parameters: MLflow's parameters never change, and a second run may score a larger folder.
        tracked.set_tags({name: str(value) for name, value in summary["provenance"].items()})
        for name in FILES:
            tracked.log_artifact(output / name)
    Console().print(score_table(scores, samples=len(scored), failed=len(failures)))
    print(f"scores: {output}", *settings.model_notes(config), sep="\n")
    if config.json:
        print(json.dumps(summary))
    return scores
