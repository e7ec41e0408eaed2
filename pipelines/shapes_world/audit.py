"""Compares curated tables with the ground truth of a corpus, its truth.jsonl.

    >>> audit = compare(tables, read_truth("corpus/truth.jsonl"))
    >>> print("\\n".join(lines(audit)))

What counts as correct:

    ugly       none of its clips is accepted, at least one of them for a low aesthetic score
    duplicate  exact copies are one asset; near copies are two assets, and clips of both share a group
    broken     it is among the failures
    misnamed   it is still read: only its extension is wrong, and curation relies on the content of a file
    still      a video without motion is rejected for that
    cut        a clip begins or ends within a frame of it
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.curation.filters import category
from pipelines.shapes_world.audit_report import CurationAudit, Match, Share, lines, metrics, pooled, rows
from pipelines.store.texts import split_lines

if TYPE_CHECKING:
    from pipelines.core.stage import Row
    from pipelines.store.tables import Tables

__all__ = ["CurationAudit", "Match", "Share", "compare", "lines", "metrics", "pooled", "read_truth", "rows"]

TOLERANCE = 1
"""Frames that a cut may be off."""
ASSET_COLUMNS = ("asset_id", "uri", "other_uris", "kind", "fps", "frames")
CLIP_COLUMNS = ("clip_id", "asset_id", "start", "end", "duplicate_group", "accepted", "reason")
Pair = tuple[str, str]


@dataclass(frozen=True)
class _Item:
    """A file of the corpus and its rows in the tables."""

    truth: Row
    asset: Row | None
    clips: Sequence[Row]
    """Ordered by time."""
    failed: bool

    @property
    def family(self) -> str:
        """The file that it is a copy of, or its own name."""
        return self.truth["duplicate_of"] or self.truth["uri"]

    @property
    def still(self) -> bool:
        things = (thing for scene in self.truth["scenes"] for thing in scene["things"])
        return self.truth["kind"] == "video" and all(thing["direction"] is None for thing in things)

    @property
    def rejected(self) -> bool:
        return bool(self.clips) and not any(clip["accepted"] for clip in self.clips)

    def rejected_for(self, reason: str) -> bool:
        return self.rejected and any(_category(clip) == reason for clip in self.clips)


def read_truth(path: str | Path) -> list[Row]:
    """The lines of a corpus' truth.jsonl, with the fields of `corpus.Truth`."""
    return [json.loads(line) for line in split_lines(Path(path).read_text(encoding="utf-8"))]


def compare(tables: Tables, truth: Sequence[Row], folder: str | Path | None = None) -> CurationAudit:
    """Compares curated tables with the ground truth of a corpus.

    Args:
        tables: the tables that this corpus was curated into.
        truth: ground truth from `read_truth`.
        folder: folder of the corpus when it was curated, which distinguishes its files from those of other sources in
            the tables. By default, files are identified by their names alone, wherever the corpus is.
    """
    items = _items(tables, truth, folder)
    by_label: dict[str, list[_Item]] = defaultdict(list)
    for item in items:
        by_label[item.truth["label"]].append(item)
    ugly, good = by_label["ugly"], [*by_label["clean"], *by_label["misnamed"]]
    readable = [item for item in items if item.truth["label"] != "broken"]
    return CurationAudit(
        ugly=_share(item.rejected_for("aesthetic") for item in ugly),
        ugly_rejected=_share(item.rejected for item in ugly),
        exact=_match(_same_asset(readable), _copies(readable, near=False)),
        near=_match(_same_group(readable), _copies(readable, near=True)),
        broken=_share(item.failed for item in by_label["broken"]),
        misnamed=_share(bool(item.clips) for item in by_label["misnamed"]),
        still=_share(item.rejected_for("motion") for item in good if item.still),
        cuts=_cuts(readable),
        good=len(good),
        wrongly_rejected=_wrongly_rejected(good, items),
    )


def _items(tables: Tables, truth: Sequence[Row], folder: str | Path | None) -> list[_Item]:
    def name(uri: str) -> str:
        """The name in the corpus, such as media/00001.mp4."""
        return "/".join(uri.split("/")[-2:]) if folder is None else uri.removeprefix(f"{folder}/")

    assets: dict[str, Row] = {}
    for asset in tables.read("assets", columns=ASSET_COLUMNS).to_pylist():
        assets |= {name(uri): asset for uri in (asset["uri"], *asset["other_uris"])}
    clips: dict[str, list[Row]] = defaultdict(list)
    for clip in tables.read("clips", columns=CLIP_COLUMNS).to_pylist():
        clips[clip["asset_id"]].append(clip)
    failed = {name(uri) for uri in tables.read("failures", columns=["uri"])["uri"].to_pylist()}
    items = []
    for row in truth:
        asset = assets.get(row["uri"])
        ordered = sorted(clips[asset["asset_id"]], key=lambda clip: clip["start"]) if asset else []
        items.append(_Item(row, asset, ordered, row["uri"] in failed))
    return items


def _category(clip: Row) -> str:
    return category(clip["reason"] or "undecided")


def _share(answers: Iterable[bool]) -> Share:
    listed = list(answers)
    return Share(sum(listed), len(listed))


def _match(detected: set[Pair], expected: set[Pair]) -> Match:
    return Match(len(detected & expected), len(detected), len(expected))


def _pairs(names: Iterable[str]) -> set[Pair]:
    return set(itertools.combinations(sorted(set(names)), 2))


def _copies(items: Sequence[_Item], *, near: bool) -> set[Pair]:
    """Pairs of a file and its copies. All near copies of a file are written by the same steps, so that two of them are
    exact copies of each other."""
    families: dict[str, list[_Item]] = defaultdict(list)
    for item in items:
        families[item.family].append(item)
    changed = {item.truth["uri"]: item.truth["label"] == "near_duplicate" for item in items}
    every = {pair for family in families.values() for pair in _pairs(item.truth["uri"] for item in family)}
    return {(one, other) for one, other in every if (changed[one] != changed[other]) == near}


def _same_asset(items: Sequence[_Item]) -> set[Pair]:
    files: dict[str, list[str]] = defaultdict(list)
    for item in items:
        if item.asset is not None:
            files[item.asset["asset_id"]].append(item.truth["uri"])
    return {pair for names in files.values() for pair in _pairs(names)}


def _same_group(items: Sequence[_Item]) -> set[Pair]:
    files: dict[str, set[str]] = defaultdict(set)
    for item in items:
        for clip in item.clips:
            if clip["duplicate_group"] is not None:
                files[clip["duplicate_group"]].add(item.truth["uri"])
    return {pair for names in files.values() for pair in _pairs(names)} - _same_asset(items)


def _cuts(items: Sequence[_Item]) -> Match:
    """Over the videos; copies of one content count once."""
    counted: set[str] = set()
    correct = detected = expected = 0
    for item in items:
        content = item.asset["asset_id"] if item.asset else item.truth["uri"]
        if content in counted or item.truth["kind"] != "video":
            continue
        counted.add(content)
        edges = _edges(item)
        correct += _paired(edges, item.truth["cuts"])
        detected += len(edges)
        expected += len(item.truth["cuts"])
    return Match(correct, detected, expected)


def _edges(item: _Item) -> list[int]:
    """Frames at which a clip begins or ends inside the video."""
    if item.asset is None or not item.asset["fps"]:
        return []
    edges = {round(clip[name] * item.asset["fps"]) for clip in item.clips for name in ("start", "end")}
    return sorted(edge for edge in edges if 0 < edge < item.asset["frames"])


def _paired(edges: Sequence[int], cuts: Sequence[int]) -> int:
    """Number of one-to-one pairs of a detected edge and a true cut within the tolerance; both are sorted."""
    pairs, unpaired = 0, list(cuts)
    for edge in edges:
        near = next((cut for cut in unpaired if abs(cut - edge) <= TOLERANCE), None)
        if near is not None:
            unpaired.remove(near)
            pairs += 1
    return pairs


def _wrongly_rejected(good: Sequence[_Item], items: Sequence[_Item]) -> dict[str, int]:
    families = {clip["clip_id"]: item.family for item in items for clip in item.clips}

    def explained(item: _Item, clip: Row) -> bool:
        reason, _, original = (clip["reason"] or "").partition(": of ")
        if reason == "duplicate":
            return families.get(original) == item.family
        return item.still and _category(clip) == "motion"

    counts: Counter[str] = Counter()
    for item in good:
        unexplained = [_category(clip) for clip in item.clips if not explained(item, clip)]
        if not item.clips:
            counts["unread"] += 1
        elif item.rejected and unexplained:
            counts[unexplained[0]] += 1
    return dict(counts.most_common())
