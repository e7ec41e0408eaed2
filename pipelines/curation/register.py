"""Pass 1 of curation: what is new in a listing becomes assets and clips, and what has changed is updated."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pipelines.core.stage import Row, Stage
from pipelines.curation.changes import Change, assets_at
from pipelines.curation.copies import ADDRESSES, add_readings, address_columns, copies_of, time_of, with_captions
from pipelines.curation.runner import PassRunner
from pipelines.media.sources import Source
from pipelines.store import schema
from pipelines.store.tables import text

CLIP_FACTS = ("clip_id", "asset_id", "uri", "kind", "start", "end", "frames", "width", "height", "rotation", "fps")


def register_sources(runner: PassRunner, stages: Sequence[Stage], changes: Sequence[Change], source_name: str) -> None:
    """Runs new and modified sources through `stages` (ingest, shots), and commits assets, clips and captions."""
    update_captions(runner, [change for change in changes if change.kind == "caption"])
    unread = [change for change in changes if change.kind != "caption"]
    rows = [_row(source, source_name) for change in unread for source in change.sources]
    modified = {change.uri for change in unread if change.kind == "modified"}
    if rows:
        runner.stream(rows, stages, lambda finished: _commit(runner, finished, modified))


def _row(source: Source, source_name: str) -> Row:
    return {
        "uri": source.uri,
        "modified": time_of(source.modified),
        "source_caption": source.caption,
        "source_error": source.error,
        "source": source_name,
    }


def update_captions(runner: PassRunner, changes: Sequence[Change]) -> None:
    """Stores captions that were added or corrected after the media had been read, in one scan of `assets`."""
    if not changes:
        return
    captions = {change.uri: change.captions for change in changes}
    updated = [
        address_columns(asset, with_captions(copies_of(asset), captions), asset["last_seen"])
        for asset in assets_at(runner.tables, captions, ADDRESSES)
    ]
    _update_clips(runner, updated)
    runner.tables.upsert("assets", updated)
    runner.summary.new_captions += len(captions)


def _commit(runner: PassRunner, rows: list[Row], modified: Collection[str]) -> None:
    """Commits sources that were read.

    Args:
        runner: tables and summary.
        rows: rows with the results of ingest and shots.
        modified: addresses that had another content, or the same one at another time.
    """
    # Files with the same content in one batch are one asset, like copies of assets that are stored already.
    by_asset: dict[str, list[Row]] = {}
    for row in rows:
        by_asset.setdefault(row["asset_id"], []).append(row)
    _release(runner, {row["uri"]: row["asset_id"] for row in rows if row["uri"] in modified})
    stored = runner.tables.read("assets", columns=ADDRESSES, where=text("asset_id").isin(list(by_asset))).to_pylist()
    registered = {asset["asset_id"] for asset in stored}
    new = [readings for asset_id, readings in by_asset.items() if asset_id not in registered]
    assets = [_new_asset(runner, readings) for readings in new]
    # Copies give no clips of their own: the first address stands for the content, others are stored beside it in case
    # it disappears.
    clips = [clip for asset, readings in zip(assets, new, strict=True) for clip in _clips(asset, readings[0]["shots"])]
    runner.tables.upsert("clips", clips)
    # Assets last, so that after a crash every stored asset has all its clips.
    runner.tables.upsert("assets", assets)
    updated = [_updated_asset(runner, asset, by_asset[asset["asset_id"]]) for asset in stored]
    _update_clips(runner, updated)
    runner.tables.upsert("assets", updated)
    runner.summary.new_assets += len(assets)
    runner.summary.new_clips += len(clips)
    elsewhere = [row for asset in stored for row in by_asset[asset["asset_id"]] if row["uri"] not in _uris(asset)]
    runner.summary.exact_duplicates += sum(len(readings) - 1 for readings in new) + len(elsewhere)


def _new_asset(runner: PassRunner, readings: Sequence[Row]) -> Row:
    """An asset from rows with the same content: the first row's address, and those of the others beside it."""
    first, now = readings[0], runner.started
    facts = {name: first[name] for name in schema.TABLES["assets"] if name in first}
    unregistered = {**facts, "other_uris": [], "source_captions": [], "copies": []}
    copies = add_readings(add_readings([], [first], now), readings[1:], now)
    return {**facts, **address_columns(unregistered, copies, now), "first_seen": now}


def _updated_asset(runner: PassRunner, asset: Row, readings: Sequence[Row]) -> Row:
    """A stored asset with the addresses and captions that this run adds."""
    return address_columns(asset, add_readings(copies_of(asset), readings, runner.started), runner.started)


def _release(runner: PassRunner, contents: Mapping[str, str]) -> None:
    """Takes addresses from the assets that they held before; the clips of these are never read from other content.

    Args:
        runner: the tables.
        contents: addresses, with the id of the asset that they hold now.
    """
    if not contents:
        return
    updated = []
    for asset in assets_at(runner.tables, contents, ADDRESSES):
        before = copies_of(asset)
        after = [copy for copy in before if contents.get(copy["uri"], asset["asset_id"]) == asset["asset_id"]]
        if after != before:
            updated.append(address_columns(asset, after, asset["last_seen"]))
    _update_clips(runner, updated)
    # Before the new content is committed: after a crash in between, no asset has the address, and it is read again.
    runner.tables.upsert("assets", updated)


def _update_clips(runner: PassRunner, assets: Sequence[Row]) -> None:
    """Gives clips the address and the first caption of their assets. Runs before the assets are committed.

    After a crash between the two, the next run finds the same difference again.
    """
    by_id = {asset["asset_id"]: asset for asset in assets}
    if not by_id:
        return
    columns = ["clip_id", "asset_id"]
    clips = runner.tables.read("clips", columns=columns, where=text("asset_id").isin(list(by_id))).to_pylist()
    rows = [{"clip_id": clip["clip_id"], **_address(by_id[clip["asset_id"]])} for clip in clips]
    runner.tables.upsert("clips", rows)


def _address(asset: Row) -> Row:
    """Columns of clips that follow from the copies of their asset."""
    captions = asset["source_captions"]
    return {
        "uri": asset["uri"],
        "source_caption": captions[0] if captions else None,
        "last_seen": asset["last_seen"],
    }


def _clips(asset: Row, shots: Sequence[Row]) -> list[Row]:
    facts = {name: asset[name] for name in ("asset_id", "kind", "width", "height", "rotation", "fps")}
    # By id, so that shots whose times round to the same microsecond are one clip.
    by_id = {_clip_id(asset["asset_id"], shot): shot for shot in shots}
    return [{**facts, **shot, **_address(asset), "clip_id": clip_id} for clip_id, shot in by_id.items()]


def _clip_id(asset_id: str, shot: Row) -> str:
    # Rounded to microseconds, so that the last digits of a float cannot change an id.
    return schema.derived_id(asset_id, f"{shot['start']:.6f}", f"{shot['end']:.6f}")


def _uris(asset: Row) -> set[str]:
    return {asset["uri"], *asset["other_uris"]}
