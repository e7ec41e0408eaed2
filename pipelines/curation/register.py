"""Pass 1 of curation: new sources become assets and clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import pyarrow.compute as pc

from pipelines.core.stage import Row, Stage
from pipelines.curation.runner import Work, microseconds
from pipelines.media.sources import Source
from pipelines.store import schema
from pipelines.store.id_index import IdIndex
from pipelines.store.tables import text

LOOK_UP = 10_000
CLIP_FACTS = ("clip_id", "asset_id", "uri", "kind", "start", "end", "frames", "width", "height", "rotation", "fps")


def unknown(work: Work, reading: Sequence[Stage], sources: Iterable[Source]) -> Iterator[Source]:
    """Sources that no earlier run has done or failed on, or that were modified since; counts all it sees."""
    known = IdIndex(_seen(work))
    failed = work.failed(reading)
    sources = iter(sources)
    while chunk := list(islice(sources, LOOK_UP)):
        names = [each.uri for each in chunk]
        (is_known, read_at), (has_failed, failed_at) = known.look_up(names), failed.look_up(names)
        last = np.maximum(read_at, failed_at)
        for source, before, microsecond in zip(chunk, is_known | has_failed, last, strict=True):
            work.summary.sources += 1
            if before and (source.modified or 0) * 1e6 <= microsecond:
                work.summary.known += 1
            else:
                yield source


def _seen(work: Work) -> Iterator[tuple[list[str], np.ndarray]]:
    for batch in work.tables.scan("assets", columns=["uri", "other_uris", "last_seen"]):
        when = microseconds(batch["last_seen"])
        yield batch["uri"].to_pylist(), when
        others = batch["other_uris"]
        yield pc.list_flatten(others).to_pylist(), when[np.asarray(pc.list_parent_indices(others))]


def read(work: Work, reading: Sequence[Stage], sources: Sequence[Source], source_name: str) -> None:
    """Runs sources through `reading` (ingest, shots) and commits assets and clips."""
    rows = [
        {"uri": each.uri, "source_caption": each.caption, "source_error": each.error, "source": source_name}
        for each in sources
    ]
    work.stream(rows, reading, lambda finished: _commit(work, finished))


def _commit(work: Work, rows: list[Row]) -> None:
    by_asset: dict[str, list[Row]] = {}
    for row in rows:
        by_asset.setdefault(row["asset_id"], []).append(row)
    columns = ["asset_id", "uri", "other_uris", "source_captions"]
    stored = work.tables.read("assets", columns=columns, where=text("asset_id").isin(list(by_asset)))
    known = {row["asset_id"]: row for row in stored.to_pylist()}
    fresh = [found for asset_id, found in by_asset.items() if asset_id not in known]
    clips = [clip for found in fresh for clip in _clips(found[0], _captions(found))]
    work.tables.upsert("clips", clips)
    # Assets last: an asset that is there has all its clips.
    work.tables.upsert("assets", [_new_asset(work, found) for found in fresh])
    work.tables.upsert("assets", [_seen_again(work, known[key], by_asset[key]) for key in known])
    work.summary.new_assets += len(fresh)
    work.summary.new_clips += len(clips)
    elsewhere = [row for key, asset in known.items() for row in by_asset[key] if row["uri"] not in _uris(asset)]
    work.summary.exact_duplicates += sum(len(found) - 1 for found in fresh) + len(elsewhere)


def _new_asset(work: Work, found: Sequence[Row]) -> Row:
    first = found[0]
    facts = {name: first[name] for name in schema.TABLES["assets"] if name in first}
    others = sorted({row["uri"] for row in found} - {first["uri"]})
    seen = {"first_seen": work.began, "last_seen": work.began}
    return {**facts, "other_uris": others, "source_captions": _captions(found), **seen}


def _seen_again(work: Work, stored: Row, found: Sequence[Row]) -> Row:
    others = {*stored["other_uris"], *(row["uri"] for row in found)} - {stored["uri"]}
    captions = dict.fromkeys([*stored["source_captions"], *_captions(found)])
    return {
        "asset_id": stored["asset_id"],
        "other_uris": sorted(others),
        "source_captions": list(captions),
        "last_seen": work.began,
    }


def _clips(asset: Row, captions: Sequence[str]) -> list[Row]:
    facts = {name: asset[name] for name in ("asset_id", "uri", "kind", "width", "height", "rotation", "fps")}
    caption = captions[0] if captions else None
    return [
        {**facts, **shot, "clip_id": _clip_id(asset["asset_id"], shot), "source_caption": caption}
        for shot in asset["shots"]
    ]


def _clip_id(asset_id: str, shot: Row) -> str:
    return schema.derived_id(asset_id, f"{shot['start']:.6f}", f"{shot['end']:.6f}")


def _captions(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["source_caption"] for row in rows if row["source_caption"]))


def _uris(asset: Row) -> set[str]:
    return {asset["uri"], *asset["other_uris"]}
