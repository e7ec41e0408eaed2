"""`nova evaluate`: scores for generated (or any) images and videos, and a benchmark for a checkpoint.

nova evaluate --recipe debug --samples work/samples --output work/scores
nova evaluate --benchmark shapes --checkpoint work/run --json               (jobs/shapes_world/benchmark.py)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.generate import GenerateConfig
from pipelines.core.stage import Row
from pipelines.evaluation.metrics import Metrics
from pipelines.shapes_world.prompts import ShapesBenchmark
from pipelines.store.files import write_json, write_parquet
from pipelines.store.folders import check_output_folder

if TYPE_CHECKING:
    from rich.table import Table

    from pipelines.evaluation.metrics import Score

INPUTS = ("sample_id", "uri", "path", "kind", "start", "end", "fps", "prompt", "seconds", "device_seconds")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Metrics):
    """Scores media, or a checkpoint by a benchmark: a table on screen, scores.parquet and summary.json, and MLflow.

    Example: nova evaluate --recipe debug --samples work/samples --output work/scores
    """

    samples: str = ""
    """Folder of `nova generate` (its manifest gives the prompts), or any folder, glob or manifest of media."""
    output: str = ""
    """Folder for scores.parquet and summary.json; of a benchmark, beside the training run by default."""
    benchmark: str | None = None
    """`shapes`: generates from a checkpoint what its prompts ask for, and judges that, instead of --samples."""
    checkpoint: str = ""
    """For a benchmark: a training run, one of its checkpoints, zoo/nova, or a released folder or hub id."""
    json: bool = False
    """Print what summary.json holds as one line of JSON, the last one."""
    address: str | None = None
    """Ray cluster to run on; without it RAY_ADDRESS, else this machine."""
    limit: int | None = None
    """Score at most this many samples."""
    parent_run: str | None = None
    """MLflow run that this one belongs to."""
    shapes: ShapesBenchmark = field(default_factory=ShapesBenchmark)
    """How much the benchmark `shapes` asks for."""
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    """As `nova generate`, for a benchmark; what to generate, from what and where to is given."""


def run(config: EvaluateConfig) -> int:
    """Evaluates; 0 when at least one sample could be scored, of a benchmark when all could be, else 1."""
    if config.benchmark is not None or config.checkpoint:
        from jobs.shapes_world import benchmark as evaluate_shapes

        return evaluate_shapes.run(config)
    return 0 if evaluate(config) else 1


def evaluate(config: EvaluateConfig) -> dict[str, Score]:
    """Evaluates under an MLflow run and returns the summary.

    Raises:
        ValueError: no samples, or an output folder that is not ours.
    """
    from rich.console import Console

    from jobs import settings
    from jobs.runtime import tracking
    from jobs.runtime.cluster import connect
    from pipelines.evaluation.metrics import summarise

    if not config.output:
        raise ValueError("--output is missing; give a folder for the scores")
    output = _usable(Path(config.output).expanduser().absolute())
    rows, failures = load_samples(config)
    output.mkdir(parents=True, exist_ok=True)
    with tracking.start(
        "evaluate",
        config=settings.flatten(config),
        beside=tracking.store_folder(str(output)),
        parent=config.parent_run,
        resume=output / ".mlflow.json",
    ) as tracked:
        connect(config.address)
        scored = _score(config, rows)
        failures += [row for row in scored if row["failed_stage"]]
        summary = summarise(scored)
        provenance = _provenance(config, scored)
        found = _write(output, scored, summary, provenance, failures)
        tracked.log_metrics({name: score.value for name, score in summary.items()})
        tracked.log_metrics({"samples": len(scored), "failed": len(failures)})
        tracked.set_tags({name: str(value) for name, value in provenance.items()})
        tracked.log_artifact(output / "scores.parquet")
        tracked.log_artifact(output / "summary.json")
    Console().print(table(summary, len(scored), len(failures)))
    print(f"scores: {output}", *settings.model_notes(config), sep="\n")
    if config.json:
        print(json.dumps(found))
    return summary


def load_samples(config: EvaluateConfig) -> tuple[list[Row], list[Row]]:
    """Rows to score, and media that could not even be read.

    Raises:
        ValueError: no samples there.
    """
    if not config.samples:
        raise ValueError("--samples is missing; give a folder of generated or other media")
    manifest = Path(config.samples).expanduser() / "manifest.parquet"
    if manifest.exists():
        import pyarrow.parquet as pq

        rows = [_timed(row) for row in pq.read_table(manifest).to_pylist()][: config.limit]
        if not rows:
            raise ValueError(f"{manifest} is empty; run nova generate again")
        return rows, []
    return _any_media(config)


def _any_media(config: EvaluateConfig) -> tuple[list[Row], list[Row]]:
    from itertools import islice

    from pipelines.media.errors import MediaError
    from pipelines.media.probe import probe
    from pipelines.media.sources import list_sources

    rows, failures = [], []
    for source in islice(list_sources(config.samples), config.limit):
        base = {"sample_id": source.uri, "uri": source.uri, "path": Path(source.uri).name, "prompt": source.caption}
        try:
            info = probe(source.uri)
            facts = {"kind": info.kind, "frames": info.frames, "fps": info.fps}
            rows.append(_timed({**base, **facts, "seconds": None, "device_seconds": None}, info.duration))
        except MediaError as error:
            failures.append(
                {**base, "failed_stage": "probe", "failed_error": "MediaError", "failed_message": str(error)}
            )
    if not rows:
        raise ValueError(f"nothing to score in {config.samples}: {len(failures)} files could not be read")
    return rows, failures


def _timed(row: Row, duration: float | None = None) -> Row:
    """Adds start and end, which stages look at clips by."""
    seconds = duration or (row["frames"] / row["fps"] if row["fps"] else 0.0)
    whole = {**row, "start": 0.0, "end": 0.0 if row["kind"] == "image" else seconds}
    return whole


def _score(config: EvaluateConfig, rows: list[Row]) -> list[Row]:
    from pipelines.core.ray_data import stream_rows

    with stream_rows(rows, config.stages, columns=INPUTS) as blocks:
        scored = [row for block in blocks for row in block]
    order = {row["sample_id"]: number for number, row in enumerate(rows)}
    return sorted(scored, key=lambda row: order[row["sample_id"]])


def _provenance(config: EvaluateConfig, rows: list[Row]) -> dict[str, Any]:
    """What the scores lead back to: checkpoint and data version, and the models that judged."""
    import pyarrow.parquet as pq

    manifest = Path(config.samples).expanduser() / "manifest.parquet"
    found: dict[str, Any] = {
        "judge_clip": config.clip_alignment.model,
        "judge_aesthetic": config.aesthetic.head,
        "judge_flow": config.dynamic_degree.weights,
        "judge_dino": config.subject_consistency.model,
    }
    if manifest.exists() and rows:
        first = pq.read_table(manifest, columns=["checkpoint", "data_version", "settings"]).to_pylist()[0]
        found |= {name: value for name, value in first.items() if value is not None}
    return found


def _usable(output: Path) -> Path:
    check_output_folder(output, "--output", markers=("summary.json",))
    return output


def _write(
    output: Path,
    scored: list[Row],
    summary: Mapping[str, Score],
    provenance: Mapping[str, Any],
    failures: list[Row],
) -> dict[str, Any]:
    """Writes scores.parquet and summary.json; returns what the latter holds."""
    import pyarrow as pa

    from pipelines.store import schema

    names = [name for name in schema.COLUMNS if scored and name in scored[0] and not name.startswith("embedding")]
    rows = [{name: row[name] for name in names} for row in scored]
    table = pa.Table.from_pylist(rows, schema=pa.schema([schema.field(name) for name in names]))
    write_parquet(output / "scores.parquet", table)
    found = {
        "scores": {name: {"value": score.value, "samples": score.samples} for name, score in summary.items()},
        "samples": len(scored),
        "failed": [
            {"uri": row["uri"], "stage": row["failed_stage"], "message": row["failed_message"]} for row in failures
        ],
        "provenance": dict(provenance),
    }
    write_json(output / "summary.json", found)
    return found


def table(summary: Mapping[str, Score], samples: int, failed: int) -> Table:
    """The summary as it is shown on screen."""
    from rich.table import Table

    shown = Table(title=f"{samples} samples scored, {failed} could not be", title_justify="left")
    shown.add_column("metric")
    shown.add_column("mean", justify="right")
    shown.add_column("over", justify="right")
    for name, score in summary.items():
        shown.add_row(name, f"{score.value:.4f}", str(score.samples))
    return shown
