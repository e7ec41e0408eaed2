"""How much of what the corpus planted curation found: the tables, held against truth.jsonl.

    >>> findings = compare(tables, read_truth("corpus/truth.jsonl"))
    >>> print("\\n".join(lines(findings)))

What counts as found:

    ugly       none of its clips is accepted, and beauty is a reason
    duplicate  a pair of files: exact ones are one asset; near ones are two, and clips of theirs share a group
    broken     it is among the failures
    misnamed   it is read: its content is good, only the name's ending is wrong, and what a file is follows from its
               content
    still      a video without motion, rejected for it
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

from pipelines.curation import filters as decide
from pipelines.shapes_world.findings import Findings, Match, Share, both, lines, numbers, rows

if TYPE_CHECKING:
    from pipelines.core.stage import Row
    from pipelines.store.tables import Tables

__all__ = ["Findings", "Match", "Share", "both", "compare", "lines", "numbers", "read_truth", "rows"]

TOLERANCE = 1
"""Frames that a cut may be off."""
ASSET_COLUMNS = ("asset_id", "uri", "other_uris", "kind", "fps", "frames")
CLIP_COLUMNS = ("clip_id", "asset_id", "start", "end", "duplicate_group", "accepted", "reason")
Pair = tuple[str, str]


@dataclass(frozen=True)
class _Item:
    """A file of the corpus and what the tables say of it."""

    truth: Row
    asset: Row | None
    clips: Sequence[Row]
    """In the order of time."""
    failed: bool

    @property
    def family(self) -> str:
        """The file that it is a copy of, or itself."""
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
    """The lines of a corpus' truth.jsonl; `corpus.Truth` says what they hold."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def compare(tables: Tables, truth: Sequence[Row], folder: str | Path | None = None) -> Findings:
    """Holds curated tables against what is true of the corpus.

    Args:
        tables: into which this corpus was curated.
        truth: from `read_truth`.
        folder: where the corpus lay, so that its files are told from those of other sources in the tables; by default
            files are known by their names alone, wherever the corpus lies.
    """
    items = _items(tables, truth, folder)
    by_label: dict[str, list[_Item]] = defaultdict(list)
    for item in items:
        by_label[item.truth["label"]].append(item)
    ugly, good = by_label["ugly"], [*by_label["clean"], *by_label["misnamed"]]
    whole = [item for item in items if item.truth["label"] != "broken"]
    return Findings(
        ugly=_share(item.rejected_for("aesthetic") for item in ugly),
        ugly_rejected=_share(item.rejected for item in ugly),
        exact=_match(_same_asset(whole), _copies(whole, near=False)),
        near=_match(_same_group(whole), _copies(whole, near=True)),
        broken=_share(item.failed for item in by_label["broken"]),
        misnamed=_share(bool(item.clips) for item in by_label["misnamed"]),
        still=_share(item.rejected_for("motion") for item in good if item.still),
        cuts=_cuts(whole),
        good=len(good),
        wrongly_rejected=_wrongly_rejected(good, items),
    )


def _items(tables: Tables, truth: Sequence[Row], folder: str | Path | None) -> list[_Item]:
    def name(uri: str) -> str:
        """Such as media/00001.mp4."""
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
        mine = sorted(clips[asset["asset_id"]], key=lambda clip: clip["start"]) if asset else []
        items.append(_Item(row, asset, mine, row["uri"] in failed))
    return items


def _category(clip: Row) -> str:
    return decide.category(clip["reason"] or "undecided")


def _share(held: Iterable[bool]) -> Share:
    answers = list(held)
    return Share(sum(answers), len(answers))


def _match(found: set[Pair], planted: set[Pair]) -> Match:
    return Match(len(found & planted), len(found), len(planted))


def _pairs(names: Iterable[str]) -> set[Pair]:
    return set(itertools.combinations(sorted(set(names)), 2))


def _copies(items: Sequence[_Item], *, near: bool) -> set[Pair]:
    """Pairs of a file and its copies. Two near copies of one file are made alike, so they are exact ones of each
    other."""
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
    """Over the videos, each content once."""
    seen: set[str] = set()
    right = found = planted = 0
    for item in items:
        content = item.asset["asset_id"] if item.asset else item.truth["uri"]
        if content in seen or item.truth["kind"] != "video":
            continue
        seen.add(content)
        edges = _edges(item)
        right += _near_each_other(edges, item.truth["cuts"])
        found += len(edges)
        planted += len(item.truth["cuts"])
    return Match(right, found, planted)


def _edges(item: _Item) -> list[int]:
    """Frames at which a clip begins or ends inside the video."""
    if item.asset is None or not item.asset["fps"]:
        return []
    edges = {round(clip[name] * item.asset["fps"]) for clip in item.clips for name in ("start", "end")}
    return sorted(edge for edge in edges if 0 < edge < item.asset["frames"])


def _near_each_other(found: Sequence[int], planted: Sequence[int]) -> int:
    """Cuts that can be paired, each with one other, within the tolerance; both are sorted."""
    right, waiting = 0, list(planted)
    for edge in found:
        near = next((cut for cut in waiting if abs(cut - edge) <= TOLERANCE), None)
        if near is not None:
            waiting.remove(near)
            right += 1
    return right


def _wrongly_rejected(good: Sequence[_Item], items: Sequence[_Item]) -> dict[str, int]:
    families = {clip["clip_id"]: item.family for item in items for clip in item.clips}

    def explained(item: _Item, clip: Row) -> bool:
        reason, _, kept = (clip["reason"] or "").partition(": of ")
        if reason == "duplicate":
            return families.get(kept) == item.family
        return item.still and _category(clip) == "motion"

    counts: Counter[str] = Counter()
    for item in good:
        unexplained = [_category(clip) for clip in item.clips if not explained(item, clip)]
        if not item.clips:
            counts["unread"] += 1
        elif item.rejected and unexplained:
            counts[unexplained[0]] += 1
    return dict(counts.most_common())
