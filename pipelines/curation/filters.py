"""Every threshold; turns scores into accepted or rejected, with the reason.

Scores are kept apart from decisions, so that new thresholds need no model: deciding again reads the score columns of
`clips` and nothing else. The first reason that applies is given, in the order of `REASONS`. Among near duplicates that
pass every threshold the one with the best aesthetic score is kept; ties go to more pixels, then more frames, then the
smallest clip_id.
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
class Decide:
    """What a clip needs to be used for training. None switches a threshold off."""

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
                raise ValueError(f"decide.{name} is {share}; it is a share above 0 and up to 1")


@dataclass(frozen=True)
class Thresholds:
    """Decide's thresholds with shares turned into scores, per kind."""

    min_motion: float | None
    min_aesthetic: Mapping[str, float | None]

    def named(self) -> dict[str, float]:
        """Those in force, for logs and the report."""
        pairs = {"motion": self.min_motion, **{f"aesthetic {kind}": v for kind, v in self.min_aesthetic.items()}}
        return {name: value for name, value in pairs.items() if value is not None}


def resolve(config: Decide, scores: pd.DataFrame) -> Thresholds:
    """Turns shares into scores.

    Args:
        config: the thresholds.
        scores: kind, motion_score, aesthetic_mean of all clips.
    """
    images, videos = scores[scores.kind == "image"], scores[scores.kind == "video"]
    by_kind = {"image": images, "video": videos}
    return Thresholds(
        min_motion=_cut(videos.motion_score, config.keep_motion, config.min_motion),
        min_aesthetic={
            kind: _cut(rows.aesthetic_mean, config.keep_aesthetic, config.min_aesthetic)
            for kind, rows in by_kind.items()
        },
    )


def _cut(scores: pd.Series, share: float | None, fixed: float | None) -> float | None:
    known = np.sort(scores.dropna().to_numpy())
    if share is None or not len(known):
        return fixed
    keep = math.ceil(share * len(known) - 1e-9)  # a score that occurs: at least the share passes, whatever the ties
    return float(known[-keep])


def reject(config: Decide, thresholds: Thresholds, clips: pd.DataFrame) -> pd.Series:
    """The reason each clip is rejected for by itself, None where it passes. Duplicates come later.

    Args:
        config: the thresholds.
        thresholds: from `resolve`.
        clips: `COLUMNS`.
    """
    reasons = pd.Series([None] * len(clips), index=clips.index, dtype=object)
    video = clips.kind == "video"
    short, long = clips[["width", "height"]].min(axis=1), clips[["width", "height"]].max(axis=1)
    seconds = clips.end - clips.start
    least_aesthetic = clips.kind.map(thresholds.min_aesthetic)

    def rule(name: str, wrong: pd.Series, text: pd.Series | str) -> None:
        first = wrong.fillna(False).astype(bool) & reasons.isna()
        reasons[first] = f"{name}: " + (text if isinstance(text, str) else text[first])

    missing = clips.aesthetic_mean.isna() | clips.motion_score.isna()
    rule("failed", missing, "a score is missing, see the failures table")
    if config.min_short_side is not None:
        rule("size", short < config.min_short_side, _text(short, "short side {:.0f} below", config.min_short_side))
    if config.max_aspect_ratio is not None:
        rule(
            "size", long / short > config.max_aspect_ratio, _text(long / short, "{:.2f} above", config.max_aspect_ratio)
        )
    if config.min_seconds is not None:
        rule("duration", video & (seconds < config.min_seconds), _text(seconds, "{:.2f} s below", config.min_seconds))
    motion = clips.motion_score
    if thresholds.min_motion is not None:
        rule("motion", video & (motion < thresholds.min_motion), _text(motion, "{:.3f} below", thresholds.min_motion))
    if config.max_motion is not None:
        rule("motion", video & (motion > config.max_motion), _text(motion, "{:.3f} above", config.max_motion))
    low = clips.aesthetic_mean < least_aesthetic.astype(float)
    rule("aesthetic", low, _text(clips.aesthetic_mean, "{:.3f} below", least_aesthetic))
    if config.min_aesthetic_frame is not None:
        worst = clips.aesthetic_min
        rule("aesthetic", worst < config.min_aesthetic_frame, _text(worst, "{:.3f} below", config.min_aesthetic_frame))
    return reasons


def _text(values: pd.Series, pattern: str, limit: float | pd.Series) -> pd.Series:
    limits = limit if isinstance(limit, pd.Series) else pd.Series(limit, index=values.index)
    return pd.Series(
        [f"{pattern.format(value)} {bound:.3f}" for value, bound in zip(values, limits.astype(float), strict=True)],
        index=values.index,
    )


def best_of_groups(passing: Iterable[pd.DataFrame]) -> dict[str, str]:
    """The clip that is kept of each near-duplicate group.

    Args:
        passing: clips that pass every threshold and have a group, `COLUMNS`.
    """
    best: dict[str, tuple[tuple[float, int, int], str]] = {}
    for clips in passing:
        for clip in clips.itertuples():
            rank = (clip.aesthetic_mean, clip.width * clip.height, clip.frames)
            held = best.get(clip.duplicate_group)
            if held is None or rank > held[0] or (rank == held[0] and clip.clip_id < held[1]):
                best[clip.duplicate_group] = (rank, clip.clip_id)
    return {group: clip for group, (_, clip) in best.items()}


def decide(config: Decide, thresholds: Thresholds, best: Mapping[str, str], clips: pd.DataFrame) -> pd.DataFrame:
    """Adds the columns `accepted` and `reason`.

    Args:
        config: the thresholds.
        thresholds: from `resolve`.
        best: from `best_of_groups`.
        clips: `COLUMNS`; not changed.
    """
    reasons = reject(config, thresholds, clips)
    if not config.keep_duplicates:
        kept = clips.duplicate_group.map(best)
        second = reasons.isna() & clips.duplicate_group.notna() & (kept != clips.clip_id)
        reasons[second] = "duplicate: of " + kept[second].astype(str)
    return clips.assign(accepted=reasons.isna(), reason=reasons)


def changes(before: pd.DataFrame, after: pd.DataFrame) -> list[dict[str, object]]:
    """Rows (clip_id, accepted, reason) whose decision differs from the stored one.

    Args:
        before: clips as stored.
        after: the same clips from `decide`.
    """
    stored = zip(before.accepted, before.reason, strict=True)
    decided = zip(after.clip_id, after.accepted, after.reason, strict=True)
    return [
        {"clip_id": clip, "accepted": bool(accepted), "reason": reason}
        for (was, why), (clip, accepted, reason) in zip(stored, decided, strict=True)
        if pd.isna(was) or bool(was) != bool(accepted) or (None if pd.isna(why) else why) != reason
    ]


def category(reason: str) -> str:
    """The part of a reason that counts are made by, one of `REASONS`."""
    return reason.partition(":")[0]
