"""Scores of the benchmark `shapes` over its judged samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.evaluation.metrics import Score
from pipelines.shapes_world.prompts import TASKS


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, Score]:
    """Scores of judged samples, 0 to 1; tasks without samples are left out.

    Besides a score for each task: `color_accuracy` and `shape_accuracy` over the pictures of one thing; over the videos
    of `direction`, `direction_accuracy` (the direction alone, whatever the thing is), `color_kept`, `shape_kept`, and
    the two together, `permanence`.
    """
    by_task: dict[str, list[Mapping[str, Any]]] = {task: [] for task in TASKS}
    for row in rows:
        by_task[row["task"]].append(row)
    single, moving = by_task["single_object"] + by_task["colors"], by_task["direction"]
    outcomes = {
        **{task: [row["right"] for row in by_task[task]] for task in TASKS if task != "speed"},
        "color_accuracy": [row["color_right"] for row in single],
        "shape_accuracy": [row["shape_right"] for row in single],
        "direction_accuracy": [row["direction_right"] for row in moving],
        "color_kept": [row["color_kept"] for row in moving],
        "shape_kept": [row["shape_kept"] for row in moving],
        "permanence": [row["color_kept"] and row["shape_kept"] for row in moving],
    }
    scores = {name: Score(sum(values) / len(values), len(values)) for name, values in outcomes.items() if values}
    if by_task["speed"]:
        requested, measured = motion_pairs(by_task["speed"])
        # A negative correlation is as useless as none: scores are 0 to 1.
        scores["speed"] = Score(max(0.0, spearman(requested, measured)), len(requested))
    return scores


def motion_pairs(rows: Iterable[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Requested motion scores and measured motion of the samples of `speed`."""
    samples = [row for row in rows if row["task"] == "speed"]
    return [row["asked_motion"] for row in samples], [row["motion_measured"] for row in samples]


def speed_details(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How measured motion follows the requested score; empty without samples of `speed`.

    `best_spearman` is the correlation of a perfect model: samples of one level tie, so that it is below 1.
    """
    requested, measured = motion_pairs(rows)
    if not requested:
        return {}
    pairs = list(zip(requested, measured, strict=True))
    levels = sorted(set(requested))
    means = {f"{level:g}": float(np.mean([motion for score, motion in pairs if score == level])) for level in levels}
    best = spearman(sorted(requested), list(range(len(requested))))
    return {"spearman": spearman(requested, measured), "best_spearman": best, "mean_motion": means}


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, with equal values at their mean rank; 0 where either sequence is constant.

    A few levels against measurements that all differ cannot reach 1: four levels reach 0.968.
    """
    first_ranks, second_ranks = _ranks(first), _ranks(second)
    if np.ptp(first_ranks) == 0 or np.ptp(second_ranks) == 0:
        return 0.0
    return float(np.corrcoef(first_ranks, second_ranks)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, place, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
