"""Compares a listing with the tables: what is new, what was modified, and what has another caption.

Addresses are looked up in memory, at 16 bytes each (and 16 more for each caption): two scans of the columns that hold
them, whatever the number of sources, and no file is opened. A source was modified where its size or its time of
modification is not the stored one, so that an older file that was moved over another one is noticed too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.stage import Row, Stage
from pipelines.curation.runner import PassRunner, microseconds
from pipelines.media.sources import Source
from pipelines.store.id_index import IdIndex
from pipelines.store.tables import Tables, text

LOOKUP_ADDRESSES = 10_000
"""Addresses that are looked up together: enough for vectorised lookups, few enough to start before a listing ends."""
UNKNOWN = np.iinfo(np.int64).min
"""Stands for a time of modification that the listing does not give."""
SEPARATOR = "\x1f"
"""Between the parts of a key; no address contains it."""


@dataclass(frozen=True)
class Change:
    """Entries of a listing with one address, which differ from what the tables hold."""

    sources: tuple[Source, ...]
    kind: Literal["new", "modified", "caption"]

    @property
    def uri(self) -> str:
        """The address."""
        return self.sources[0].uri

    @property
    def captions(self) -> list[str]:
        """The captions that were listed with the address."""
        return [source.caption for source in self.sources if source.caption]


def find_changes(runner: PassRunner, stages: Sequence[Stage], sources: Iterable[Source]) -> Iterator[Change]:
    """What a run has to read, and captions that it has to store. Counts every source in the summary.

    Args:
        runner: tables and summary.
        stages: stages of the pass; failures under their fingerprints count as read.
        sources: the listing, consumed as the result is.
    """
    addresses, captions = IdIndex(_addresses(runner.tables)), IdIndex(_captions(runner.tables))
    failed = IdIndex() if runner.retry_failures else IdIndex(_failed(runner.tables, stages))
    for chunk in _grouped(sources):
        uris = [group[0].uri for group in chunk]
        times, sizes = _stamps(chunk)
        is_registered, stored = addresses.look_up(uris)
        is_unchanged = is_registered & _is_unchanged(times, sizes, stored)
        is_known_failure = _has_failed(failed, uris, times)
        new_captions = _new_captions(captions, chunk)
        for row, group in enumerate(chunk):
            runner.summary.sources += len(group)
            if is_unchanged[row] or is_known_failure[row]:
                runner.summary.unchanged_sources += len(group)
                if is_unchanged[row] and row in new_captions:
                    yield Change(group, "caption")
            else:
                yield Change(group, "modified" if is_registered[row] else "new")


def _grouped(sources: Iterable[Source]) -> Iterator[list[tuple[Source, ...]]]:
    """Chunks of a listing, grouped by address."""
    # A manifest may list a picture several times, with a caption each time. Lines that follow each other are never torn
    # apart by the end of a chunk.
    runs = (list(group) for _, group in itertools.groupby(sources, key=lambda source: source.uri))
    while chunk := list(itertools.islice(runs, LOOKUP_ADDRESSES)):
        by_address: dict[str, list[Source]] = {}
        for group in chunk:
            by_address.setdefault(group[0].uri, []).extend(group)
        yield [tuple(group) for group in by_address.values()]


def _stamps(chunk: Sequence[tuple[Source, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds of modification (or `UNKNOWN`) and sizes of the first source of each group."""
    firsts = [group[0] for group in chunk]
    times = [UNKNOWN if source.modified is None else round(source.modified * 1e6) for source in firsts]
    return np.array(times, np.int64), np.array([source.bytes or 0 for source in firsts], np.int64)


def _is_unchanged(times: np.ndarray, sizes: np.ndarray, stored: np.ndarray) -> np.ndarray:
    # Where either time of modification is missing, the file counts as unchanged unless it is newer than its reading.
    by_reading = (times == UNKNOWN) | (times <= -stored)
    return np.where((times == UNKNOWN) | (stored < 0), by_reading, _stamp(times, sizes) == stored)


def _stamp(times: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """One positive number for a time and a size: 63 bits of a mixture of both."""
    # An odd constant spreads sizes over all bits; the product wraps around.
    return (times ^ (sizes * np.int64(-7046029254386353131))) & np.int64(2**63 - 1)


def _addresses(tables: Tables) -> Iterator[tuple[list[str], np.ndarray]]:
    """Addresses of all assets with their stamp, or where it is unknown, minus the microsecond of their last reading."""
    for batch in tables.scan("assets", columns=["uri", "other_uris", "last_seen", "bytes", "copies"]):
        copies = pc.list_flatten(batch["copies"])
        sizes = batch["bytes"].take(pc.list_parent_indices(batch["copies"]))
        times, last_seen = (microseconds(pc.struct_field(copies, name)) for name in ("modified", "last_seen"))
        has_stamp = np.asarray(pc.and_(pc.struct_field(copies, "modified").is_valid(), sizes.is_valid()))
        stamps = _stamp(times, np.asarray(sizes.fill_null(0)))
        yield pc.struct_field(copies, "uri").to_pylist(), np.where(has_stamp, stamps, -last_seen)
        # Rows of version 0.1.
        older = batch.filter(batch["copies"].is_null())
        last_seen, other_uris = -microseconds(older["last_seen"]), older["other_uris"]
        yield older["uri"].to_pylist(), last_seen
        yield pc.list_flatten(other_uris).to_pylist(), last_seen[np.asarray(pc.list_parent_indices(other_uris))]


def _captions(tables: Tables) -> Iterator[tuple[list[str], np.ndarray]]:
    """Keys of the addresses with each of their captions."""
    for batch in tables.scan("assets", columns=["uri", "other_uris", "source_captions", "copies"]):
        copies = pc.list_flatten(batch["copies"])
        # Rows of version 0.1 do not say which caption came with which address.
        older = batch.filter(batch["copies"].is_null())
        other_uris, parents = pc.list_flatten(older["other_uris"]), pc.list_parent_indices(older["other_uris"])
        for uris, captions in (
            (pc.struct_field(copies, "uri"), pc.struct_field(copies, "captions")),
            (older["uri"], older["source_captions"]),
            (other_uris, older["source_captions"].take(parents)),
        ):
            keys = pc.binary_join_element_wise(
                uris.take(pc.list_parent_indices(captions)), pc.list_flatten(captions), SEPARATOR
            ).to_pylist()
            yield keys, np.zeros(len(keys))


def _new_captions(stored: IdIndex, chunk: Sequence[tuple[Source, ...]]) -> set[int]:
    """Positions of the groups that have a caption which is not stored with their address."""
    # A listing without captions says nothing about them: it may be that of the folder which a manifest describes.
    pairs = [
        (position, source.uri + SEPARATOR + source.caption)
        for position, group in enumerate(chunk)
        for source in group
        if source.caption
    ]
    is_stored, _ = stored.look_up([key for _, key in pairs])
    return {position for (position, _), is_old in zip(pairs, is_stored, strict=True) if not is_old}


def _failed(tables: Tables, stages: Sequence[Stage]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Keys of addresses that failed: with the time of modification, or the address alone where it was unknown."""
    where = text("by").isin([stage.fingerprint for stage in stages])
    for batch in tables.scan("failures", columns=["item", "modified"], where=where):
        has_time = batch["modified"].is_valid()
        dated, undated = batch.filter(has_time), batch.filter(pc.invert(has_time))
        yield _dated(dated["item"].to_pylist(), microseconds(dated["modified"])), np.zeros(dated.num_rows)
        yield undated["item"].to_pylist(), np.zeros(undated.num_rows)


def _dated(uris: Sequence[str], times: np.ndarray) -> list[str]:
    return [f"{uri}{SEPARATOR}{time}" for uri, time in zip(uris, times.tolist(), strict=True)]


def _has_failed(failed: IdIndex, uris: Sequence[str], times: np.ndarray) -> np.ndarray:
    """Whether each address failed as the file is now."""
    # A failure without a time, as of an item whose caption could not be read, says nothing of a file that has one.
    keys = [key if time != UNKNOWN else uri for key, uri, time in zip(_dated(uris, times), uris, times, strict=True)]
    return failed.look_up(keys)[0]


def assets_at(tables: Tables, uris: Iterable[str], columns: Sequence[str]) -> list[Row]:
    """The assets that have one of the addresses, in one scan.

    Args:
        tables: the tables.
        uris: addresses.
        columns: columns of `assets` to read, among them `uri` and `other_uris`.
    """
    values = pa.array(list(uris), pa.string())
    rows: list[Row] = []
    for batch in tables.scan("assets", columns=columns):
        matches = np.array(pc.is_in(batch["uri"], value_set=values))
        is_elsewhere = np.asarray(pc.is_in(pc.list_flatten(batch["other_uris"]), value_set=values))
        matches[np.asarray(pc.list_parent_indices(batch["other_uris"]))[is_elsewhere]] = True
        rows += batch.filter(pa.array(matches)).to_pylist()
    return rows
