"""Pass 1 of curation: new sources become assets and clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import pyarrow.compute as pc

from pipelines.core.stage import Row, Stage
from pipelines.curation.runner import PassRunner, microseconds
from pipelines.media.sources import Source
from pipelines.store import schema
from pipelines.store.id_index import IdIndex
from pipelines.store.tables import Tables, text

LOOKUP_ROWS = 10_000
"""Sources that are looked up together: enough for vectorised lookups, few enough to start before a listing ends."""
CLIP_FACTS = ("clip_id", "asset_id", "uri", "kind", "start", "end", "frames", "width", "height", "rotation", "fps")


def new_sources(runner: PassRunner, stages: Sequence[Stage], sources: Iterable[Source]) -> Iterator[Source]:
    """Sources that no earlier run has read or failed on, or that were modified since. Counts every source it sees.

    Args:
        runner: tables and summary.
        stages: stages of the pass; failures under their fingerprints count as read.
        sources: the listing, consumed as the result is.
    """
    registered = IdIndex(_registered_uris(runner.tables))
    failed = runner.failed_items(stages)
    sources = iter(sources)
    while chunk := list(islice(sources, LOOKUP_ROWS)):
        # Addresses are compared and not contents: reading every file of a listing again would take longer than curating
        # what is new.
        uris = [source.uri for source in chunk]
        (is_registered, read_at), (has_failed, failed_at) = registered.look_up(uris), failed.look_up(uris)
        last = np.maximum(read_at, failed_at)
        for source, is_old, microsecond in zip(chunk, is_registered | has_failed, last, strict=True):
            runner.summary.sources += 1
            # A source whose listing gives no time of modification counts as unchanged once it was read.
            if is_old and (source.modified or 0) * 1e6 <= microsecond:
                runner.summary.unchanged_sources += 1
            else:
                yield source


def _registered_uris(tables: Tables) -> Iterator[tuple[list[str], np.ndarray]]:
    """Addresses of all assets, with the microsecond at which they were last read."""
    for batch in tables.scan("assets", columns=["uri", "other_uris", "last_seen"]):
        last_seen = microseconds(batch["last_seen"])
        yield batch["uri"].to_pylist(), last_seen
        other_uris = batch["other_uris"]
        yield pc.list_flatten(other_uris).to_pylist(), last_seen[np.asarray(pc.list_parent_indices(other_uris))]


def register_sources(runner: PassRunner, stages: Sequence[Stage], sources: Sequence[Source], source_name: str) -> None:
    """Runs sources through `stages` (ingest, shots) and commits assets and clips."""
    rows = [
        {
            "uri": source.uri,
            "source_caption": source.caption,
            "source_error": source.error,
            "source": source_name,
        }
        for source in sources
    ]
    runner.stream(rows, stages, lambda finished: _commit(runner, finished))


def _commit(runner: PassRunner, rows: list[Row]) -> None:
    # Files with the same content in one batch are one asset, like copies of assets that are stored already.
    by_asset: dict[str, list[Row]] = {}
    for row in rows:
        by_asset.setdefault(row["asset_id"], []).append(row)
    columns = ["asset_id", "uri", "other_uris", "source_captions"]
    stored = runner.tables.read("assets", columns=columns, where=text("asset_id").isin(list(by_asset)))
    old_assets = {row["asset_id"]: row for row in stored.to_pylist()}
    new_copies = [copies for asset_id, copies in by_asset.items() if asset_id not in old_assets]
    # Copies give no clips of their own: the first address stands for the content, others are kept beside it in case it
    # disappears.
    clips = [clip for copies in new_copies for clip in _clips(copies[0], _captions(copies))]
    runner.tables.upsert("clips", clips)
    # Assets last, so that after a crash every stored asset has all its clips.
    runner.tables.upsert("assets", [_new_asset(runner, copies) for copies in new_copies])
    runner.tables.upsert("assets", [_updated_asset(runner, old_assets[key], by_asset[key]) for key in old_assets])
    runner.summary.new_assets += len(new_copies)
    runner.summary.new_clips += len(clips)
    elsewhere = [row for key, asset in old_assets.items() for row in by_asset[key] if row["uri"] not in _uris(asset)]
    runner.summary.exact_duplicates += sum(len(copies) - 1 for copies in new_copies) + len(elsewhere)


def _new_asset(runner: PassRunner, copies: Sequence[Row]) -> Row:
    """An asset from rows with the same content: the first row's address, and those of the others beside it."""
    first = copies[0]
    facts = {name: first[name] for name in schema.TABLES["assets"] if name in first}
    # Sorted, as rows arrive in the order in which workers finish: the same sources must give the same row.
    other_uris = sorted({row["uri"] for row in copies} - {first["uri"]})
    times = {"first_seen": runner.started, "last_seen": runner.started}
    return {**facts, "other_uris": other_uris, "source_captions": _captions(copies), **times}


def _updated_asset(runner: PassRunner, stored: Row, copies: Sequence[Row]) -> Row:
    """A stored asset with the addresses and captions that this run adds."""
    other_uris = {*stored["other_uris"], *(row["uri"] for row in copies)} - {stored["uri"]}
    # Stored captions first: the first one is what the clips carry.
    captions = dict.fromkeys([*stored["source_captions"], *_captions(copies)])
    return {
        "asset_id": stored["asset_id"],
        "other_uris": sorted(other_uris),
        "source_captions": list(captions),
        "last_seen": runner.started,
    }


def _clips(asset: Row, captions: Sequence[str]) -> list[Row]:
    facts = {name: asset[name] for name in ("asset_id", "uri", "kind", "width", "height", "rotation", "fps")}
    caption = captions[0] if captions else None
    return [
        {**facts, **shot, "clip_id": _clip_id(asset["asset_id"], shot), "source_caption": caption}
        for shot in asset["shots"]
    ]


def _clip_id(asset_id: str, shot: Row) -> str:
    # Rounded to microseconds, so that the last digits of a float cannot change an id.
    return schema.derived_id(asset_id, f"{shot['start']:.6f}", f"{shot['end']:.6f}")


def _captions(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["source_caption"] for row in rows if row["source_caption"]))


def _uris(asset: Row) -> set[str]:
    return {asset["uri"], *asset["other_uris"]}
