"""The addresses at which the content of an asset lies, and the captions that were listed there: pure functions.

`assets.copies` holds a copy for each address, the one to read first. `uri`, `other_uris` and `source_captions` of an
asset follow from it, and `uri` and `source_caption` of clips from the asset's. An address belongs to one asset, that of
the content it was last read with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from pipelines.core.stage import Row

ADDRESSES = ("asset_id", "uri", "other_uris", "source_captions", "last_seen", "copies")
"""Columns of `assets` from which copies are read, and which change with them."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_of(seconds: float | None) -> datetime | None:
    """A time of modification, in seconds since 1970, as tables store it: in whole microseconds."""
    return None if seconds is None else EPOCH + timedelta(microseconds=round(seconds * 1e6))


def copies_of(asset: Row) -> list[Row]:
    """The copies of an asset, the one to read first.

    Args:
        asset: `ADDRESSES`.
    """
    if asset["copies"] is not None:
        return asset["copies"]
    # A row of version 0.1, which did not store what was listed where: its first caption came with its first address.
    first = _copy(asset["uri"], None, asset["last_seen"], (asset["source_captions"] or ())[:1])
    return [first, *(_copy(uri, None, asset["last_seen"], ()) for uri in asset["other_uris"] or ())]


def _copy(uri: str, modified: datetime | None, last_seen: datetime | None, captions: Iterable[str]) -> Row:
    return {"uri": uri, "modified": modified, "last_seen": last_seen, "captions": list(dict.fromkeys(captions))}


def add_readings(copies: Sequence[Row], readings: Iterable[Row], now: datetime) -> list[Row]:
    """The copies of an asset after its content was read at some addresses, those that were read last first.

    Args:
        copies: copies before.
        readings: rows with `uri`, `modified` and `source_caption`.
        now: start of the run; several rows of one run with one address are entries of one listing.
    """
    after = {copy["uri"]: copy for copy in copies}
    # Sorted, as rows arrive in the order in which workers finish: the same sources must give the same row.
    for row in sorted(readings, key=lambda row: row["uri"]):
        copy = after.get(row["uri"]) or _copy(row["uri"], None, None, ())
        listed = [row["source_caption"]] if row["source_caption"] else []
        # A listing without captions, as that of a folder, leaves those of a manifest as they are.
        captions = [*copy["captions"], *listed] if copy["last_seen"] == now else listed or copy["captions"]
        after[row["uri"]] = _copy(row["uri"], row["modified"], now, captions)
    return sorted(after.values(), key=lambda copy: copy["last_seen"] or EPOCH, reverse=True)


def with_captions(copies: Sequence[Row], captions: Mapping[str, Sequence[str]]) -> list[Row]:
    """Copies with other captions, by address; a copy without an entry stays as it is."""
    return [{**copy, "captions": list(dict.fromkeys(captions.get(copy["uri"], copy["captions"])))} for copy in copies]


def updated_captions(captions: Sequence[str], before: Sequence[Row], after: Sequence[Row]) -> list[str]:
    """The captions of an asset after those of some copies have changed, in a stable order.

    The first caption is what the clips carry. A caption takes the place of the one that it corrects; captions of other
    addresses stay, and a caption of an address that had none comes last.

    Args:
        captions: captions of the asset.
        before: its copies when it got these captions.
        after: its copies now.
    """
    earlier = {copy["uri"]: copy["captions"] for copy in before}
    current = list(captions)
    listed = {caption for copy in after for caption in copy["captions"]}
    for copy in after:
        old, new = earlier.get(copy["uri"], []), copy["captions"]
        if new == old:
            continue
        place = min((current.index(caption) for caption in old if caption in current), default=len(current))
        current = [*current[:place], *new, *current[place:]]
        current = [caption for caption in current if caption not in old or caption in listed]
    return list(dict.fromkeys(current))


def address_columns(asset: Row, copies: Sequence[Row], last_seen: datetime | None) -> Row:
    """The columns `ADDRESSES` of an asset with these copies.

    Args:
        asset: the stored row.
        copies: its copies from now on.
        last_seen: when its content was last read.
    """
    uris = [copy["uri"] for copy in copies]
    return {
        "asset_id": asset["asset_id"],
        # An asset whose content is nowhere any more keeps the address where it was: the row must say where it came
        # from.
        "uri": uris[0] if uris else asset["uri"],
        "other_uris": sorted(uris[1:]),
        "source_captions": updated_captions(asset["source_captions"], copies_of(asset), copies),
        "last_seen": last_seen,
        "copies": list(copies),
    }
