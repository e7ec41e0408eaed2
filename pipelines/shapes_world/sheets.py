"""Contact sheets of the benchmark `shapes`: samples next to their prompts, marked right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.report.contact_sheet import SheetItem, contact_sheet, sample_frames

SHOWN = 6
"""Samples of each task on a sheet."""


def sheets(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """FOLDER/images.png and FOLDER/videos.png, where there are some: the first samples of each task.

    Args:
        rows: judged samples.
        folder: for the sheets.
    """
    made = []
    for kind in ("image", "video"):
        judged = [row for row in rows if row["kind"] == kind and row["failed_stage"] is None]
        tasks = list(dict.fromkeys(row["task"] for row in judged))
        shown = [row for task in tasks for row in [each for each in judged if each["task"] == task][:SHOWN]]
        if shown:
            made.append(contact_sheet([_item(row) for row in shown], folder / f"{kind}s.png"))
    return made


def _item(row: Mapping[str, Any]) -> SheetItem:
    frames = sample_frames(row)
    if row["right"] is None:
        note = f"asked for motion {row['asked_motion']:g}, measured {row['motion_measured']:.3f}"
    else:
        note = "right" if row["right"] else f"wrong: {row['fault']}"
    return SheetItem(frames, f"{row['task'].replace('_', ' ')}: {row['prompt']}", note, row["right"])
