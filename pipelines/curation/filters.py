"""Filters: every threshold of curation, and the pure functions that turn scores into decisions with a reason.

Scores are stored apart from decisions, so that new thresholds need no model: deciding again reads the score columns of
`clips` and nothing else. A rejected clip carries the first reason that applies, in the order of `REASONS`. Among near
duplicates that pass every threshold, the clip with the best aesthetic score is accepted; ties go to more pixels, then
more frames, then the smallest clip_id.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

REASONS = ("failed", "size", "duration", "motion", "aesthetic", "duplicate")
COLUMNS = (
    "clip_id", "kind", "start", "end", "frames", "width", "height", "motion_score", "aesthetic_mean", "aesthetic_min",
    "duplicate_group", "accepted", "reason",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Requirements on a clip that is used for training. None switches a threshold off."""

    min_short_side: int | None = None
    """Pixels."""
    max_aspect_ratio: float | None = None
    """Long side over short side."""
    min_seconds: float | None = None
    """Videos only."""
    min_motion: float | None = None
    """Motion score, videos only: below it a clip hardly moves."""
    max_motion: float | None = None
    """Motion score, videos only: above it a clip is a blur."""
    min_aesthetic: float | None = None
    """Mean aesthetic score; 4.5 to 5.5 is common for LAION heads."""
    min_aesthetic_frame: float | None = None
    """Aesthetic score of the worst frame."""
    keep_motion: float | None = None
    """Share of the videos, those that move most, that pass; for scores without a known scale. Replaces min_motion."""
    keep_aesthetic: float | None = None
    """Share of images and of videos, those with the best mean score, that pass. Replaces min_aesthetic."""
    keep_duplicates: bool = False
    """Accept every member of a near-duplicate group."""

    def __post_init__(self) -> None:
        for name in ("keep_motion", "keep_aesthetic"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise ValueError(f"decide.{name}={share}: give a share above 0 and up to 1")

    def unused_settings(self) -> dict[str, str]:
        unused: dict[str, str] = {}
        for score in ("motion", "aesthetic"):
            share, threshold = getattr(self, f"keep_{score}"), getattr(self, f"min_{score}")
            if share is not None and threshold is not None:
                unused[f"min_{score}"] = (
                    f"beside decide.keep_{score}={share:g}, which replaces it; leave one of them out"
                )
        return unused


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of `Filters` on scores, with shares turned into scores."""

    min_motion: float | None
    min_aesthetic: Mapping[str, float | None]
    """Minimum aesthetic score, by kind of clip."""

    def in_force(self) -> dict[str, float]:
        """Thresholds that are not switched off, by name, for logs and the report."""
        aesthetic = {f"aesthetic {kind}": value for kind, value in self.min_aesthetic.items()}
        thresholds = {"motion": self.min_motion, **aesthetic}
        return {name: value for name, value in thresholds.items() if value is not None}


def resolve(filters: Filters, scores: pd.DataFrame) -> Thresholds:
    """Turns shares into scores.

    Args:
        filters: thresholds and shares.
        scores: kind, motion_score, aesthetic_mean of all clips.
    """
    by_kind = {kind: scores[scores.kind == kind] for kind in ("image", "video")}
    return Thresholds(
        min_motion=_threshold(by_kind["video"].motion_score, filters.keep_motion, filters.min_motion),
        min_aesthetic={
            kind: _threshold(clips.aesthetic_mean, filters.keep_aesthetic, filters.min_aesthetic)
            for kind, clips in by_kind.items()
        },
    )


def _threshold(scores: pd.Series, share: float | None, fixed: float | None) -> float | None:
    # A clip that a stage failed on has no score, and must not count towards the share.
    valid = np.sort(scores.dropna().to_numpy())
    if share is None or not len(valid):
        return fixed
    # The threshold is a score that occurs, so that at least the share passes, whatever the ties. The tolerance keeps
    # rounding from adding a clip: 0.07 * 100 is 7.000000000000001.
    count = math.ceil(share * len(valid) - 1e-9)
    return float(valid[-count])


def reject(filters: Filters, thresholds: Thresholds, clips: pd.DataFrame) -> pd.Series:
    """The reason to reject each clip on its own merits, None where it passes; duplicates are left to `decide`.

    Args:
        filters: thresholds.
        thresholds: thresholds from `resolve`.
        clips: `COLUMNS`.
    """
    reasons = pd.Series([None] * len(clips), index=clips.index, dtype=object)
    missing = clips.aesthetic_mean.isna() | clips.motion_score.isna()
    reasons[missing] = "failed: a score is missing, see the failures table"
    # Sides and not width and height: the columns hold sizes before rotation.
    short, long = clips[["width", "height"]].min(axis=1), clips[["width", "height"]].max(axis=1)
    seconds, motion, video = clips.end - clips.start, clips.motion_score, clips.kind == "video"
    min_aesthetic = clips.kind.map(thresholds.min_aesthetic).astype(float)  # NaN, which rejects nothing, for None
    # In the order of `REASONS`, because a clip keeps the first reason that applies.
    _reject_below(reasons, "size: short side {:.0f}", short, filters.min_short_side)
    _reject_above(reasons, "size: {:.2f}", long / short, filters.max_aspect_ratio)
    _reject_below(reasons, "duration: {:.2f} s", seconds[video], filters.min_seconds)
    _reject_below(reasons, "motion: {:.3f}", motion[video], thresholds.min_motion)
    _reject_above(reasons, "motion: {:.3f}", motion[video], filters.max_motion)
    _reject_below(reasons, "aesthetic: {:.3f}", clips.aesthetic_mean, min_aesthetic)
    _reject_below(reasons, "aesthetic: {:.3f}", clips.aesthetic_min, filters.min_aesthetic_frame)
    return reasons


def _reject_below(reasons: pd.Series, text: str, values: pd.Series, limit: float | pd.Series | None) -> None:
    """Sets the reason of clips that have none yet and whose value is below the limit; None is no limit."""
    if limit is not None:
        _reject(reasons, f"{text} below", values, values < limit, limit)


def _reject_above(reasons: pd.Series, text: str, values: pd.Series, limit: float | None) -> None:
    """Sets the reason of clips that have none yet and whose value is above the limit; None is no limit."""
    if limit is not None:
        _reject(reasons, f"{text} above", values, values > limit, limit)


def _reject(reasons: pd.Series, text: str, values: pd.Series, fails: pd.Series, limit: float | pd.Series) -> None:
    # With nullable types, comparing a missing value gives NA; that is no reason.
    fails = fails.fillna(False).astype(bool) & reasons[values.index].isna()
    rejected = values.index[fails]
    limits = limit[rejected] if isinstance(limit, pd.Series) else [limit] * len(rejected)
    pairs = zip(values[rejected], limits, strict=True)
    reasons[rejected] = [f"{text.format(value)} {bound:.3f}" for value, bound in pairs]


def best_of_groups(passing: Iterable[pd.DataFrame]) -> dict[str, str]:
    """The clip to accept of each near-duplicate group.

    Args:
        passing: batches of clips that pass every threshold and have a group, `COLUMNS`.
    """
    best: dict[str, tuple[tuple[float, int, int], str]] = {}
    for clips in passing:
        for clip in clips.itertuples():
            # A total order down to the id, so that the choice does not depend on the order of rows, which commits
            # change.
            rank = (clip.aesthetic_mean, clip.width * clip.height, clip.frames)
            current = best.get(clip.duplicate_group)
            if current is None or rank > current[0] or (rank == current[0] and clip.clip_id < current[1]):
                best[clip.duplicate_group] = (rank, clip.clip_id)
    return {group: clip for group, (_, clip) in best.items()}


def decide(filters: Filters, thresholds: Thresholds, best: Mapping[str, str], clips: pd.DataFrame) -> pd.DataFrame:
    """Decides about clips: a copy of them with `accepted` and `reason` replaced.

    Args:
        filters: thresholds.
        thresholds: thresholds from `resolve`.
        best: best clips of their groups, from `best_of_groups`.
        clips: `COLUMNS`; left unchanged.
    """
    reasons = reject(filters, thresholds, clips)
    if not filters.keep_duplicates:
        # Only groups with a member that passes every threshold are in `best`; in others, all have a reason of their
        # own.
        originals = clips.duplicate_group.map(best)
        copies = reasons.isna() & clips.duplicate_group.notna() & (originals != clips.clip_id)
        reasons[copies] = "duplicate: of " + originals[copies].astype(str)
    return clips.assign(accepted=reasons.isna(), reason=reasons)


def changes(before: pd.DataFrame, after: pd.DataFrame) -> list[dict[str, object]]:
    """Rows (clip_id, accepted, reason) whose decision differs from the stored one.

    Args:
        before: clips as stored.
        after: the same clips, with decisions from `decide`.
    """
    # Null reasons read from a table may be NaN, which differs from everything, itself included.
    stored_reasons = [None if pd.isna(reason) else reason for reason in before.reason]
    stored = zip(before.accepted, stored_reasons, strict=True)
    decided = zip(after.clip_id, after.accepted, after.reason, strict=True)
    return [
        {"clip_id": clip_id, "accepted": bool(accepted), "reason": reason}
        for (stored_accepted, stored_reason), (clip_id, accepted, reason) in zip(stored, decided, strict=True)
        if pd.isna(stored_accepted) or bool(stored_accepted) != bool(accepted) or stored_reason != reason
    ]


def category(reason: str) -> str:
    """The category of a reason, by which rejections are counted: one of `REASONS`."""
    return reason.partition(":")[0]
