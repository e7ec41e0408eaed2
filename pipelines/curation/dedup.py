"""Near duplicates by CLIP features, within a run and against the table.

Exact duplicates never get here: `ingest` derives an asset's id from its content. Clips of the same kind whose unit
embeddings have a cosine of at least `threshold`, and whose pixels agree where `alike` asks for that, are linked; linked
clips form a group, named after its smallest clip_id. Which member of a group is kept is `decide`'s business.

An embedding says what is shown, and not where: where many clips show nearly the same, `alike` tells copies from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pipelines.store import schema

COLUMNS = ("clip_id", "kind", "embedding", "embedding_dtype", "thumbnails", "duplicate_group")
"""What is read of clips; `thumbnails` only where pixels are compared."""
FLAT = 1.0
"""Standard deviation, of 255, below which thumbnails show nothing that could agree."""


@dataclass(frozen=True, kw_only=True)
class Dedup:
    """When two clips are the same to a viewer."""

    threshold: float = 0.95
    """Least cosine between CLIP embeddings of near duplicates; above 1 nothing is grouped."""
    alike: float | None = None
    """Least correlation between thumbnails of near duplicates, such as 0.95; None asks for none. Clips of tables that
    were written without thumbnails are grouped by the cosine alone."""
    block: int = 4096
    """Clips compared at once; bounds memory."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 2:
            raise ValueError(f"dedup.threshold is {self.threshold}; it is a cosine, such as 0.95")
        if self.alike is not None and not 0 < self.alike <= 1:
            raise ValueError(f"dedup.alike is {self.alike}; it is a correlation above 0 and up to 1, such as 0.95")

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of `COLUMNS` that are needed."""
        return COLUMNS if self.alike is not None else tuple(name for name in COLUMNS if name != "thumbnails")

    def fingerprint(self, embedded_by: str) -> str:
        """Changes when grouping must be done again: with the thresholds or the model of the embeddings."""
        asked = (self.threshold,) if self.alike is None else (self.threshold, self.alike)
        return f"dedup-{schema.derived_id(*asked, embedded_by)[:12]}"


def regroup(config: Dedup, new: pa.Table, placed: Callable[[], Iterable[pa.RecordBatch]]) -> dict[str, str]:
    """Finds the groups that new clips form with each other and with clips that were placed before.

    Args:
        config: the threshold.
        new: clips to place, with the config's columns; their `duplicate_group` is ignored.
        placed: gives batches of the clips that were placed before, with the same columns; called once per kind of clip.

    Returns:
        New name to group: for new clips that have one, for earlier clips that had none, and for earlier groups that
        were joined with another (the key then is the old name of the group).
    """
    links = Links()
    for kind in sorted(set(new["kind"].to_pylist())):
        mine = _Side.of(_of_kind(new, kind))
        for first, second in _close(mine, mine, config):
            links.join(first, second)
        for batch in placed():
            other = _Side.of(_of_kind(pa.Table.from_batches([batch]), kind), grouped=True)
            for first, second in _close(mine, other, config):
                links.join(first, second)
    return links.groups()


def _of_kind(clips: pa.Table, kind: str) -> pa.Table:
    return clips.filter(pa.compute.equal(clips["kind"], kind))


def unit_vectors(clips: pa.Table) -> np.ndarray:
    """Embeddings as float32 rows of length one, [N, D]."""
    dtypes = set(clips["embedding_dtype"].to_pylist())
    assert len(dtypes) <= 1, f"embeddings of several dtypes: {dtypes}"
    dtype = np.dtype(next(iter(dtypes), "float16"))
    raw = clips["embedding"].to_pylist()
    if not raw:
        return np.zeros((0, 1), np.float32)
    vectors = np.stack([np.frombuffer(each, dtype) for each in raw]).astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


@dataclass(frozen=True)
class _Side:
    """Clips that are compared with others."""

    names: list[str]
    """Of the clips, or of the groups that they are in."""
    vectors: np.ndarray
    """[N, D]."""
    thumbnails: list[bytes | None]

    @classmethod
    def of(cls, clips: pa.Table, *, grouped: bool = False) -> _Side:
        ids, groups = clips["clip_id"].to_pylist(), clips["duplicate_group"].to_pylist()
        names = [group or clip for clip, group in zip(ids, groups, strict=True)] if grouped else ids
        seen = clips["thumbnails"].to_pylist() if "thumbnails" in clips.column_names else [None] * len(names)
        return cls(names, unit_vectors(clips), seen)


def _close(ours: _Side, others: _Side, config: Dedup) -> Iterator[tuple[str, str]]:
    for top in range(0, len(ours.names), config.block):
        for start in range(0, len(others.names), config.block):
            cosine = ours.vectors[top : top + config.block] @ others.vectors[start : start + config.block].T
            for row, column in np.argwhere(cosine >= config.threshold):
                one, two = top + row, start + column
                seen = (ours.thumbnails[one], others.thumbnails[two])
                if config.alike is None or correlation(*seen) >= config.alike:
                    yield ours.names[one], others.names[two]


def correlation(first: bytes | None, second: bytes | None) -> float:
    """Of the pixels of two clips' thumbnails, whatever their brightness and contrast; -1 where one has more of them.

    1 where either has none or shows nothing: there is nothing then that could differ.
    """
    if first is None or second is None:
        return 1.0
    if len(first) != len(second):
        return -1.0
    one, two = (np.frombuffer(each, np.uint8).astype(np.float32) for each in (first, second))
    if min(one.std(), two.std()) < FLAT:
        return 1.0
    return float(np.corrcoef(one, two)[0, 1])


class Links:
    """Disjoint sets of names; a set is named after its smallest member."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        """The name of the set that `name` is in."""
        self._parent.setdefault(name, name)
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def join(self, first: str, second: str) -> None:
        """Makes one set of two."""
        low, high = sorted((self.find(first), self.find(second)))
        self._parent[high] = low

    def groups(self) -> dict[str, str]:
        """Name to set, for every set of at least two."""
        roots = {name: self.find(name) for name in self._parent}
        sizes: dict[str, int] = {}
        for root in roots.values():
            sizes[root] = sizes.get(root, 0) + 1
        return {name: root for name, root in roots.items() if sizes[root] > 1}


def changes(groups: Mapping[str, str], new: pa.Table, members: Iterable[pa.RecordBatch]) -> dict[str, str | None]:
    """Clips whose stored group has to be written: every new clip, and earlier ones whose group was swallowed.

    Args:
        groups: from `regroup`.
        new: the clips that were placed.
        members: batches of earlier clips (`clip_id`, `duplicate_group`).
    """
    changed: dict[str, str | None] = {clip: groups.get(clip) for clip in new["clip_id"].to_pylist()}
    for batch in members:
        for clip, group in zip(batch["clip_id"].to_pylist(), batch["duplicate_group"].to_pylist(), strict=True):
            target = groups.get(group or clip)
            if clip not in changed and target is not None and target != group:
                changed[clip] = target
    return changed
