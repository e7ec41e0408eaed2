"""Scores of media by the metrics: which samples there are, their scores, and OUTPUT/scores.parquet and summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.core.ray_data import stream_rows
from pipelines.core.stage import Row
from pipelines.evaluation.metrics import Metrics, Score
from pipelines.evaluation.results import failure_entry, write_scores
from pipelines.generation.manifest import MANIFEST, read_manifest
from pipelines.media.errors import MediaError
from pipelines.media.probe import probe
from pipelines.media.sources import list_sources
from pipelines.store import schema
from pipelines.store.files import write_json
from pipelines.store.filesystems import local_path

INPUTS = ("sample_id", "uri", "path", "kind", "start", "end", "fps", "prompt", "seconds", "device_seconds")
FILES = ("scores.parquet", "summary.json")


def load_samples(samples: str, limit: int | None = None) -> tuple[list[Row], list[Row]]:
    """Rows to score, and rows of media that could not be read.

    Args:
        samples: a folder of `nova generate`, or any folder, glob or manifest of media.
        limit: number of samples at most.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("--samples is missing; give a folder of generated or other media")
    manifest = manifest_of(samples)
    if manifest is None:
        return _load_media(samples, limit)
    rows = [_with_times(row) for row in read_manifest(manifest.parent.absolute(), limit)]
    if not rows:
        raise ValueError(f"{manifest} is empty; run nova generate again")
    return rows, []


def manifest_of(samples: str) -> Path | None:
    """The manifest that `nova generate` wrote into a folder of samples; None for other media."""
    folder = local_path(samples)
    path = Path(folder or "") / MANIFEST
    return path if folder is not None and path.exists() else None


def _load_media(samples: str, limit: int | None) -> tuple[list[Row], list[Row]]:
    rows, failures = [], []
    for source in islice(list_sources(samples), limit):
        base = {"sample_id": source.uri, "uri": source.uri, "path": Path(source.uri).name, "prompt": source.caption}
        try:
            info = probe(source.uri)
            facts = {"kind": info.kind, "frames": info.frames, "fps": info.fps}
            rows.append(_with_times({**base, **facts, "seconds": None, "device_seconds": None}, info.duration))
        except MediaError as error:
            failures.append(
                {**base, "failed_stage": "probe", "failed_error": "MediaError", "failed_message": str(error)}
            )
    if not rows:
        raise ValueError(f"nothing to score in {samples}: {len(failures)} files could not be read")
    return rows, failures


def _with_times(row: Row, duration: float | None = None) -> Row:
    """Adds start and end, by which stages read clips: a sample is a clip that spans its file."""
    seconds = duration or (row["frames"] / row["fps"] if row["fps"] else 0.0)
    return {**row, "start": 0.0, "end": 0.0 if row["kind"] == "image" else seconds}


def score_samples(metrics: Metrics, rows: Sequence[Row]) -> list[Row]:
    """Runs the metrics over samples on Ray; returns the rows in their order, with scores."""
    with stream_rows(rows, metrics.stages, columns=INPUTS) as blocks:
        scored = [row for block in blocks for row in block]
    # Ray returns rows as they finish; scores.parquet should have the order of the samples.
    order = {row["sample_id"]: index for index, row in enumerate(rows)}
    return sorted(scored, key=lambda row: order[row["sample_id"]])


def provenance(metrics: Metrics, samples: str) -> dict[str, Any]:
    """What the scores depend on: the models that judged, and the checkpoint of generated samples."""
    values: dict[str, Any] = {
        "judge_clip": metrics.clip_alignment.model,
        "judge_aesthetic": metrics.aesthetic.head,
        "judge_flow": metrics.dynamic_degree.weights,
        "judge_dino": metrics.subject_consistency.model,
    }
    manifest = manifest_of(samples)
    if manifest is not None:
        # All samples of a folder come from one checkpoint, so the first row stands for them.
        first = pq.read_table(manifest, columns=["checkpoint", "data_version", "settings"]).to_pylist()[0]
        values |= {name: value for name, value in first.items() if value is not None}
    return values


def write_summary(
    output: Path,
    scored: Sequence[Row],
    failures: Sequence[Row],
    scores: Mapping[str, Score],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes scores.parquet and summary.json; returns the content of the latter.

    Args:
        output: folder for the files.
        scored: rows with their scores.
        failures: rows that could not be read or scored.
        scores: means over the rows.
        provenance: origin of the scores, such as checkpoint and models.
    """
    # Embeddings are inputs of metrics, far larger than all scores together.
    columns = [name for name in schema.COLUMNS if scored and name in scored[0] and not name.startswith("embedding")]
    write_scores(output, scored, columns)
    summary = {
        "scores": {name: asdict(score) for name, score in scores.items()},
        "samples": len(scored),
        "failed": [failure_entry(row) for row in failures],
        "provenance": dict(provenance),
    }
    write_json(output / "summary.json", summary)
    return summary
