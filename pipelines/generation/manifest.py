"""Which samples exist: their ids, OUTPUT/manifest.parquet, and generating those that it does not list yet."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.core.model_hub import digest
from pipelines.core.ray_data import stream_rows
from pipelines.core.stage import Row
from pipelines.generation.requests import SampleRequest
from pipelines.generation.stage import Generate
from pipelines.store import schema
from pipelines.store.files import write_parquet, write_text
from pipelines.store.folders import check_output_folder

COLUMNS = (
    "sample_id", "uri", "path", "kind", "prompt", "seeds", "frames", "height", "width", "fps", "seconds",
    "device_seconds", "checkpoint", "data_version", "settings",
)  # fmt: skip
FLUSH_SECONDS = 20.0
"""Seconds between writes of the manifest: a killed run generates at most the samples of this time again."""


MANIFEST = "manifest.parquet"


def check_samples_folder(output: Path) -> None:
    """Raises ValueError where the output is a file, or a folder with other files and no manifest."""
    check_output_folder(output, "--output", markers=(MANIFEST,))


def read_manifest(output: Path, max_rows: int | None = None) -> list[Row]:
    """The first rows of OUTPUT/manifest.parquet, with the addresses of the files in this folder.

    The stored addresses are those of the folder in which the samples were generated. It may have been renamed since, or
    this folder may be its copy, which must not depend on the original.
    """
    rows = pq.read_table(output / MANIFEST).slice(0, max_rows).to_pylist()
    return [{**row, "uri": str(output / row["path"])} if "path" in row else row for row in rows]


class SampleManifest:
    """OUTPUT/manifest.parquet, one row per sample.

    The file is replaced atomically at each write, so readers always see a complete file.

    Raises:
        ValueError: the output is a file, or a folder with other files and no manifest.
    """

    def __init__(self, output: Path) -> None:
        check_samples_folder(output)
        self.path = output / MANIFEST
        rows = read_manifest(output) if self.path.exists() else []
        # A sample whose file was deleted is generated again.
        self.rows: dict[str, Row] = {row["sample_id"]: row for row in rows if Path(row["uri"]).exists()}
        output.mkdir(parents=True, exist_ok=True)
        self.write()

    def __contains__(self, sample_id: str) -> bool:
        return sample_id in self.rows

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: Sequence[Row]) -> None:
        """Adds finished samples and writes the file."""
        # Only the driver writes the manifest, and only one at a time: it needs no lock of its own.
        self.rows |= {row["sample_id"]: {name: row[name] for name in COLUMNS} for row in rows}
        self.write()

    def prune(self, order: Sequence[str]) -> None:
        """Drops samples whose file has been overwritten by another sample, and sorts the rows.

        Args:
            order: ids of the run's samples; other samples in the folder follow.
        """
        by_path = {
            self.rows[sample_id]["path"]: sample_id for sample_id in (*self.rows, *order) if sample_id in self.rows
        }
        ranks = {sample_id: rank for rank, sample_id in enumerate(order)}
        sample_ids = sorted(by_path.values(), key=lambda sample_id: (ranks.get(sample_id, len(ranks)), sample_id))
        self.rows = {sample_id: self.rows[sample_id] for sample_id in sample_ids}
        self.write()

    def write(self) -> None:
        fields = [schema.field(name) for name in COLUMNS]
        write_parquet(self.path, schema.arrow_table(list(self.rows.values()), fields))


def sample_rows(stage: Generate, requests: Sequence[SampleRequest]) -> list[Row]:
    """Rows for the stage, with the id of each sample.

    A `sample_id` changes when, and only when, the sample may change: it covers the weights, the request and the stage's
    settings.
    """
    # The digest, not the path: a run's newest checkpoint keeps its place while its content changes.
    weights = digest(stage.checkpoint.transformer)
    return [_sample_row(stage, request, weights) for request in requests]


def _sample_row(stage: Generate, request: SampleRequest, weights: str) -> Row:
    settings = {
        "sampling": asdict(stage.sampling), "frames": stage.frames, "height": stage.height, "width": stage.width,
        "fps": stage.video_fps, "motion": stage.motion, "negative_prompt": stage.negative_prompt, "image": stage.image,
        "precision": stage.precision, "vae": stage.checkpoint.vae, "text_encoder": stage.checkpoint.text_encoder,
    }  # fmt: skip
    request_settings = {
        "frames": request.frames, "motion": request.motion, "image": request.image,
        # None where it changes nothing, so that ids of samples from before the option stay as they are.
        "full_chroma": (stage.full_chroma and request.is_video) or None,
        # Version 0.1 computed another unconditional branch.
        "image_guidance": None if stage.sampling.image_guidance_scale is None else "without place and time",
    }  # fmt: skip
    settings |= {name: value for name, value in request_settings.items() if value is not None}
    # Sorted keys: the text enters the id, and must not depend on the order of this code.
    text = json.dumps(settings, sort_keys=True)
    return {
        "sample_id": schema.derived_id(weights, request.prompt, request.seeds, request.path, text),
        **request.columns(),
        "checkpoint": stage.checkpoint.checkpoint,
        "data_version": stage.checkpoint.data_version,
        "settings": text,
    }


def generate_samples(stage: Generate, rows: Sequence[Row], manifest: SampleManifest) -> list[Row]:
    """Generates samples on Ray and returns the rows that failed.

    Args:
        stage: stage that generates the samples.
        rows: rows of samples that the manifest does not list, as `sample_rows` returns them; at least one.
        manifest: receives the finished samples every few seconds.
    """
    failures: list[Row] = []
    finished: list[Row] = []
    flush_time = time.monotonic()
    with stream_rows(rows, [stage]) as blocks:
        for results in blocks:
            failures += [row for row in results if row["failed_stage"]]
            finished += [row for row in results if not row["failed_stage"]]
            if time.monotonic() - flush_time > FLUSH_SECONDS:
                manifest.add(finished)
                finished, flush_time = [], time.monotonic()
        manifest.add(finished)
    return failures


def write_companion_files(output: Path, requests: Sequence[SampleRequest]) -> None:
    """Writes the text files that scorers expect beside the samples; several requests of a prompt share a file."""
    files = {path: text for request in requests for path, text in request.files.items()}
    for path, text in files.items():
        (output / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(output / path, text + "\n")


def totals(manifest: SampleManifest, failures: Sequence[Row]) -> dict[str, float]:
    """Numbers of a run for its tracker: samples, failures, and mean time per sample."""
    count = max(1, len(manifest))
    return {
        "samples": len(manifest),
        "failed": len(failures),
        "seconds_per_sample": sum(row["seconds"] for row in manifest.rows.values()) / count,
        "device_seconds_per_sample": sum(row["device_seconds"] for row in manifest.rows.values()) / count,
    }
