"""Near duplicates by CLIP features, within a run and against the table.

Exact duplicates never reach this stage: `ingest` derives the id of an asset from its content. Two clips of the same
kind are linked where their unit embeddings have a cosine of at least `threshold` and, if `alike` is set, their
thumbnails correlate. Linked clips form a group, which is named after its smallest clip_id. `filters.decide` chooses
which member of a group is accepted.

An embedding encodes what an image shows rather than where. In collections in which many clips show nearly the same
things, embeddings alone cannot tell copies from lookalikes; `alike` can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pipelines.store import schema

COLUMNS = ("clip_id", "kind", "embedding", "embedding_dtype", "thumbnails", "duplicate_group")
"""Columns of `clips` that grouping reads; `thumbnails` only where pixels are compared."""
FLAT = 1.0
"""Standard deviation, of 255, below which a thumbnail is a plain surface: its correlation would be noise."""


@dataclass(frozen=True, kw_only=True)
class Dedup:
    """Criteria by which two clips look the same."""

    threshold: float = 0.95
    """Minimum cosine between CLIP embeddings of near duplicates; above 1 nothing is grouped."""
    alike: float | None = None
    """Minimum correlation between thumbnails of near duplicates, such as 0.95; None requires none. Clips without
    thumbnails (tables of older versions) are grouped by the cosine alone."""
    block: int = 4096
    """Clips compared at once: a block of cosines is block x block float32, 64 MiB by default."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 2:
            raise ValueError(f"dedup.threshold={self.threshold}: give a cosine, such as 0.95")
        if self.alike is not None and not 0 < self.alike <= 1:
            raise ValueError(f"dedup.alike={self.alike}: give a correlation above 0 and up to 1, such as 0.95")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `COLUMNS` that these settings need."""
        return COLUMNS if self.alike is not None else tuple(name for name in COLUMNS if name != "thumbnails")

    def fingerprint(self, embedded_by: str) -> str:
        """Identifies the thresholds and the embeddings; where it changes, clips are grouped again.

        Args:
            embedded_by: fingerprint of the stage that computed the embeddings.
        """
        # Without `alike`, the fingerprint is that of versions that did not have it, so their groups stay valid.
        thresholds = (self.threshold,) if self.alike is None else (self.threshold, self.alike)
        return f"dedup-{schema.derived_id(*thresholds, embedded_by)[:12]}"


def regroup(config: Dedup, new: pa.Table, placed: Callable[[], Iterable[pa.RecordBatch]]) -> dict[str, str]:
    """Finds the groups that new clips form with each other and with clips that were placed before.

    Args:
        config: thresholds.
        new: clips to place, with the config's columns; their `duplicate_group` is ignored.
        placed: returns batches of the clips that were placed before, with the same columns; called once for each kind
            of clip, because a table may be too large to keep in memory.

    Returns:
        New name to group: for new clips that have one, for earlier clips that had none, and for earlier groups that
        were joined with another (the key then is the old name of the group).
    """
    # Links are transitive: if A is like B and B like C, all three are one group.
    links = Links()
    # An image is no duplicate of a video that looks like it, because the video has motion in addition.
    for kind in sorted(set(new["kind"].to_pylist())):
        new_side = _Side.from_clips(_of_kind(new, kind))
        for first, second in _similar_pairs(new_side, new_side, config):
            links.join(first, second)
        # A batch at a time: a table of ten million clips has 15 GB of embeddings.
        for batch in placed():
            placed_side = _Side.from_clips(_of_kind(pa.Table.from_batches([batch]), kind), grouped=True)
            for first, second in _similar_pairs(new_side, placed_side, config):
                links.join(first, second)
    return links.groups()


def _of_kind(clips: pa.Table, kind: str) -> pa.Table:
    return clips.filter(pa.compute.equal(clips["kind"], kind))


def unit_vectors(clips: pa.Table) -> np.ndarray:
    """Embeddings as float32 rows of length one, [N, D]."""
    # `frombuffer` would read bytes of another type as nonsense numbers instead of failing.
    dtypes = set(clips["embedding_dtype"].to_pylist())
    assert len(dtypes) <= 1, f"embeddings of several dtypes: {dtypes}"
    dtype = np.dtype(next(iter(dtypes), "float16"))
    raw = clips["embedding"].to_pylist()
    if not raw:
        return np.zeros((0, 1), np.float32)
    vectors = np.stack([np.frombuffer(embedding, dtype) for embedding in raw]).astype(np.float32)
    # They were normalised before they were stored as float16; the rounding moves cosines of copies away from 1.
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


@dataclass(frozen=True)
class _Side:
    """Clips on one side of a comparison."""

    names: list[str]
    """Names of the clips, or of the groups that they belong to."""
    vectors: np.ndarray
    """[N, D]."""
    thumbnails: list[bytes | None]

    @classmethod
    def from_clips(cls, clips: pa.Table, *, grouped: bool = False) -> _Side:
        """Reads clips of one kind; with `grouped`, a clip goes by the name of its group where it has one."""
        ids, groups = clips["clip_id"].to_pylist(), clips["duplicate_group"].to_pylist()
        names = [group or clip_id for clip_id, group in zip(ids, groups, strict=True)] if grouped else ids
        has_thumbnails = "thumbnails" in clips.column_names
        thumbnails = clips["thumbnails"].to_pylist() if has_thumbnails else [None] * len(names)
        return cls(names, unit_vectors(clips), thumbnails)


def _similar_pairs(first: _Side, second: _Side, config: Dedup) -> Iterator[tuple[str, str]]:
    """Pairs of names, one of each side, that meet the criteria, compared a block at a time."""
    for top in range(0, len(first.names), config.block):
        for left in range(0, len(second.names), config.block):
            # [B, D] x [D, B] -> [B, B]
            cosines = first.vectors[top : top + config.block] @ second.vectors[left : left + config.block].T
            for row, column in np.argwhere(cosines >= config.threshold):
                one, two = top + row, left + column
                if config.alike is None or correlation(first.thumbnails[one], second.thumbnails[two]) >= config.alike:
                    yield first.names[one], second.names[two]


def correlation(first: bytes | None, second: bytes | None) -> float:
    """Correlation between the pixels of two clips' thumbnails, whatever their brightness and contrast.

    It is 1 where either has no thumbnails or shows a plain surface, so that the embedding alone decides, and -1 where
    they differ in their number of frames.
    """
    if first is None or second is None:
        return 1.0
    if len(first) != len(second):
        return -1.0
    one, two = (np.frombuffer(thumbnails, np.uint8).astype(np.float32) for thumbnails in (first, second))
    # Also keeps corrcoef from dividing by zero.
    if min(one.std(), two.std()) < FLAT:
        return 1.0
    return float(np.corrcoef(one, two)[0, 1])


class Links:
    """Disjoint sets of names; a set is named after its smallest member."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        """The name of the set that contains `name`, which becomes a set of its own if it is new."""
        self._parent.setdefault(name, name)
        # Path halving keeps the trees flat, so that a lookup takes almost constant time.
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def join(self, first: str, second: str) -> None:
        """Merges two sets."""
        low, high = sorted((self.find(first), self.find(second)))
        # By name and not by size, which would be faster: a group keeps its name when clips are added, and few rows of
        # the table change.
        self._parent[high] = low

    def groups(self) -> dict[str, str]:
        """Name to set, for every set with at least two members."""
        roots = {name: self.find(name) for name in self._parent}
        sizes: dict[str, int] = {}
        for root in roots.values():
            sizes[root] = sizes.get(root, 0) + 1
        return {name: root for name, root in roots.items() if sizes[root] > 1}


def changes(groups: Mapping[str, str], new: pa.Table, members: Iterable[pa.RecordBatch]) -> dict[str, str | None]:
    """Clips whose stored group changes: every new clip, and earlier ones whose group was joined with another.

    Args:
        groups: new groups, from `regroup`.
        new: the clips that were placed.
        members: batches of earlier clips (`clip_id`, `duplicate_group`).
    """
    changed: dict[str, str | None] = {clip_id: groups.get(clip_id) for clip_id in new["clip_id"].to_pylist()}
    for batch in members:
        for clip_id, group in zip(batch["clip_id"].to_pylist(), batch["duplicate_group"].to_pylist(), strict=True):
            target = groups.get(group or clip_id)
            if clip_id not in changed and target is not None and target != group:
                changed[clip_id] = target
    return changed
