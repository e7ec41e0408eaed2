"""Finds an address from which the content of a clip can be read, before the stages that read it.

Files are renamed, deleted and overwritten after they were registered. Of each file, its size and time of modification
are compared with the stored ones, which costs one look at the filesystem and no reading. Only where the time differs,
the file is hashed again. So a clip never gets results of another picture that has taken the place of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

import pyarrow as pa
from pyarrow.fs import FileType

from pipelines.core.stage import Resources, Row, Stage
from pipelines.curation.copies import ADDRESSES, address_columns, copies_of, time_of
from pipelines.curation.ingest import content_id
from pipelines.media.errors import MediaError, media_errors
from pipelines.media.probe import open_media, open_stream
from pipelines.store.filesystems import file_info, open_filesystem
from pipelines.store.tables import Tables, text

HASHES = 1024
"""Files whose hashes a process remembers: a touched video is hashed once and not for each of its clips."""


def join_copies(tables: Tables, clips: Sequence[Row]) -> list[Row]:
    """Adds `bytes` and `copies` of their assets to clips, in one scan of `assets`.

    Args:
        tables: curated tables.
        clips: rows with `asset_id` and `uri`.
    """
    ids = list({clip["asset_id"] for clip in clips if clip["asset_id"]})
    where = text("asset_id").isin(pa.array(ids, pa.string()))
    stored = tables.read("assets", columns=[*ADDRESSES, "bytes"], where=where).to_pylist()
    facts = {asset["asset_id"]: {"bytes": asset["bytes"], "copies": copies_of(asset)} for asset in stored}
    return [{**clip, **facts.get(clip["asset_id"], _alone(clip))} for clip in clips]


def _alone(clip: Row) -> Row:
    """The facts of a clip without an asset: its own address, which nobody has read."""
    copy = {"uri": clip["uri"], "modified": None, "last_seen": None, "captions": []}
    return {"bytes": None, "copies": [copy]}


def adopt_addresses(tables: Tables, clips: Sequence[Row]) -> None:
    """Puts the addresses at which clips were located first among the copies of their assets.

    Args:
        tables: curated tables.
        clips: rows of `join_copies`, after `Locate`.
    """
    addresses = {clip["asset_id"]: clip["uri"] for clip in clips if clip["uri"] in _further_addresses(clip)}
    if not addresses:
        return
    where = text("asset_id").isin(pa.array(list(addresses), pa.string()))
    assets = tables.read("assets", columns=ADDRESSES, where=where).to_pylist()
    tables.upsert("assets", [_adopted(asset, addresses[asset["asset_id"]]) for asset in assets])


def _further_addresses(clip: Row) -> list[str]:
    return [copy["uri"] for copy in clip["copies"][1:]]


def _adopted(asset: Row, uri: str) -> Row:
    copies = sorted(copies_of(asset), key=lambda copy: copy["uri"] != uri)
    return address_columns(asset, copies, asset["last_seen"])


def locate(clip: Row) -> str:
    """The first address that holds the content of a clip: its own, or else another one of its asset.

    Args:
        clip: `asset_id`, `uri`, `bytes` and `copies`.

    Raises:
        MediaError: there is none.
    """
    # The clip's own address first: it is the one that worked last.
    copies = sorted(clip["copies"], key=lambda copy: copy["uri"] != clip["uri"])
    errors = []
    for copy in copies:
        try:
            _check(copy, clip["asset_id"], clip["bytes"])
        except MediaError as error:
            errors.append(error)
        else:
            return copy["uri"]
    if errors:
        elsewhere = f" (nor at {len(errors) - 1} other addresses)" if len(errors) > 1 else ""
        raise MediaError(f"{errors[0]}{elsewhere}")
    with media_errors(clip["uri"]):
        raise MediaError("the file has another content now, and no other file has the clip's")


def _check(copy: Row, asset_id: str | None, size: int | None) -> None:
    """Raises MediaError unless the file at an address has the content of an asset."""
    uri = copy["uri"]
    with media_errors(uri):
        filesystem, path = open_filesystem(uri)
        info = file_info(filesystem, path)
        if info.type == FileType.NotFound:
            raise MediaError("no such file; curate the folder where it is now")
        open_stream(uri).close()  # permission to read shows only here
        if size is not None and info.size is not None and info.size != size:
            raise MediaError("the file has another content now")
        modified = time_of(info.modified)
        is_same = _is_untouched(modified, copy) or asset_id in (None, _content_id(uri, info.size, modified))
        if not is_same:
            raise MediaError("the file has another content now")


def _is_untouched(modified: datetime | None, copy: Row) -> bool:
    """Whether the time of modification says that a file is as it was when it was read."""
    if modified is None:
        return copy["last_seen"] is not None  # the store has no such times: its objects are taken as they are
    if copy["modified"] is not None:
        return modified == copy["modified"]
    # A listing that gave no time: of a manifest in an object store, or of version 0.1.
    return copy["last_seen"] is not None and modified <= copy["last_seen"]


@functools.lru_cache(maxsize=HASHES)
def _content_id(uri: str, size: int | None, modified: datetime | None) -> str:
    """Hash of the content of a file; size and time are part of the key, so that a changed file is hashed again."""
    with open_media(uri) as file:
        return content_id(file)


@dataclass(frozen=True, kw_only=True)
class Locate(Stage):
    """Sets the address of each clip to one that holds its content; a clip without one fails."""

    name: ClassVar[str] = "locate"
    reads: ClassVar[tuple[str, ...]] = ("asset_id", "uri", "bytes", "copies")
    adds: ClassVar[tuple[str, ...]] = ("uri",)
    stamps: ClassVar[bool] = False
    measured: ClassVar[bool] = False

    readers: tuple[Stage, ...]
    """Stages that read the media. Clips that need none of them are not looked for."""

    @classmethod
    def before(cls, stages: Sequence[Stage]) -> Locate:
        """The stage that precedes `stages`."""
        readers = tuple(stage for stage in stages if "uri" in stage.reads)
        batch_size = min(stage.resources.batch_size for stage in readers)
        return cls(readers=readers, resources=Resources(batch_size=batch_size))

    def identity(self) -> tuple[object, ...]:
        # A clip that was missing is looked for again when it is needed for something else.
        return (self.name, *(stage.fingerprint for stage in self.readers))

    def fresh(self, row: Row) -> bool:
        """Whether all results that need the media are there: a new text encoder works without them."""
        return all(stage.fresh(row) for stage in self.readers)

    def process(self, model: None, rows: Sequence[Row]) -> list[Row | Exception]:
        """The address of each clip, or the `MediaError` that says why it has none."""
        results: list[Row | Exception] = []
        for row in rows:
            try:
                results.append({"uri": locate(row)})
            except MediaError as error:
                results.append(error)
        return results
