"""Contact sheets of the benchmark `shapes`: samples next to their prompts, marked right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.report.contact_sheet import SheetItem, contact_sheet, sample_frames

SAMPLES_PER_TASK = 6
"""Samples of each task on a sheet."""


def sheets(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draws the first samples of each task: FOLDER/images.png and FOLDER/videos.png, each where there are samples.

    Args:
        rows: judged samples.
        folder: folder for the sheets.
    """
    paths = []
    for kind in ("image", "video"):
        by_task: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            if row["kind"] == kind and row["failed_stage"] is None:
                by_task.setdefault(row["task"], []).append(row)
        items = [_item(row) for samples in by_task.values() for row in samples[:SAMPLES_PER_TASK]]
        if items:
            paths.append(contact_sheet(items, folder / f"{kind}s.png"))
    return paths


def _item(row: Mapping[str, Any]) -> SheetItem:
    frames = sample_frames(row)
    if row["right"] is None:
        note = f"motion {row['asked_motion']:g} requested, {row['motion_measured']:.3f} measured"
    else:
        note = "right" if row["right"] else f"wrong: {row['fault']}"
    return SheetItem(frames, f"{row['task'].replace('_', ' ')}: {row['prompt']}", note, row["right"])
