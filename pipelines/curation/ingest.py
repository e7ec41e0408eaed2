"""First stage: facts of a file, and an id derived from its content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BufferedReader
from typing import Any, ClassVar

from pipelines.core.stage import Row, Stage
from pipelines.media.errors import MediaError
from pipelines.media.probe import MediaInfo, open_media, probe

ID_DIGITS = 32
"""Hexadecimal digits of an asset's id: 128 bits, at which collisions are out of the question."""


@dataclass(frozen=True, kw_only=True)
class Ingest(Stage):
    """Probes each file and hashes its content; rejects files that cannot be read or exceed the limits."""

    name: ClassVar[str] = "ingest"
    reads: ClassVar[tuple[str, ...]] = ("uri", "source_error")
    adds: ClassVar[tuple[str, ...]] = (
        *("asset_id", "bytes", "kind", "codec", "width", "height", "rotation", "fps", "frames", "duration"),
    )
    stamps: ClassVar[bool] = False

    # The limits keep one item from holding up a worker for hours; what they reject is listed in the failures table.
    max_bytes: int = 16 * 2**30
    """Larger files are rejected."""
    max_pixels: int = 8192 * 4320
    """Pixels of a frame; larger ones are rejected. An 8K frame has 33 million."""
    max_seconds: float = 6 * 3600.0
    """Longer videos are rejected."""
    min_side: int = 32
    """Images and videos with a shorter side, in pixels, are rejected."""

    def process(self, model: Any, rows: Sequence[Row]) -> list[Row | Exception]:
        """Facts of each file, or the `MediaError` that reading it raised."""
        results: list[Row | Exception] = []
        for row in rows:
            try:
                results.append(self._facts(row))
            except MediaError as error:
                results.append(error)
        return results

    def _facts(self, row: Row) -> Row:
        if row.get("source_error"):
            raise MediaError(row["source_error"])
        uri = row["uri"]
        with open_media(uri) as file:
            size = file.seek(0, 2)  # offset of the end
            if size > self.max_bytes:
                raise MediaError(f"{size} bytes; ingest.max_bytes is {self.max_bytes}")
            # Probed before it is hashed, as hashing reads all of a file, and broken ones end here.
            info = probe(uri)
            self._check(info)
            return {"asset_id": content_id(file), "bytes": size, **asdict(info)}

    def _check(self, info: MediaInfo) -> None:
        size = f"{info.width}x{info.height} pixels"
        if info.width * info.height > self.max_pixels:
            raise MediaError(f"{size}; ingest.max_pixels is {self.max_pixels}")
        if min(info.width, info.height) < self.min_side:
            raise MediaError(f"{size}; ingest.min_side is {self.min_side}")
        if info.duration is not None and info.duration > self.max_seconds:
            raise MediaError(f"{info.duration:.0f} s long; ingest.max_seconds is {self.max_seconds:g}")


def content_id(file: BufferedReader) -> str:
    """First 32 hexadecimal digits of the SHA-256 of an open file's content, which is read in chunks."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()[:ID_DIGITS]
