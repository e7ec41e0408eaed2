"""Temporal flickering: how much do adjacent frames differ? VBench's metric.

Motion also makes frames differ, so VBench compares it over static videos only; the column `static` tells which are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from pipelines.core.stage import Row, Stage
from pipelines.media.frames import read_sequence


@dataclass(frozen=True, kw_only=True)
class TemporalFlickering(Stage):
    """Scores (255 - mean absolute difference of adjacent frames) / 255; null for images."""

    name: ClassVar[str] = "flickering"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "start", "end", "fps")
    adds: ClassVar[tuple[str, ...]] = ("temporal_flickering", "static")
    stamps: ClassVar[bool] = False

    static_above: float = 0.98
    """A video is static where the score of its first and last frame is at least this."""
    max_frames: int = 256
    """Maximum number of frames to score, from the start of the clip."""

    def process(self, model: None, rows: Sequence[Row]) -> list[Row | Exception]:
        return [self._score(row) for row in rows]

    def _score(self, row: Row) -> Row:
        if row["kind"] == "image":
            return dict.fromkeys(self.adds)
        frames = read_sequence(row["uri"], row["start"], row["end"], limit=self.max_frames)
        score = steadiness(frames)
        if score is None:
            return dict.fromkeys(self.adds)
        ends = steadiness(frames[[0, -1]])
        return {"temporal_flickering": score, "static": ends is not None and ends >= self.static_above}


def steadiness(frames: np.ndarray) -> float | None:
    """(255 - mean absolute difference of adjacent frames) / 255.

    Args:
        frames: uint8 [N, H, W, 3].

    Returns:
        1 for identical frames, 0 for alternating black and white, None for fewer than two frames.
    """
    if len(frames) < 2:
        return None
    pairs = pairwise(frames)
    # In uint8, a negative difference would wrap around to a large positive one.
    differences = [np.abs(after.astype(np.int16) - before).mean() for before, after in pairs]
    return float((255 - np.mean(differences)) / 255)
