"""Frames of media files as strips for the report."""

from __future__ import annotations

import base64
import io

import numpy as np

from pipelines.core.stage import Row
from pipelines.media.errors import MediaError
from pipelines.media.frames import clip_times, read_frames
from pipelines.report.contact_sheet import strip

STRIP_HEIGHT = 90
"""Pixels; the page shows pictures at about this height, and larger ones would only make the file heavy."""


def strip_address(clip: Row, *, count: int, short_side: int | None = None) -> str | None:
    """Frames spread over a clip, as a strip in a `data:` address; None where the file cannot be read any more.

    Args:
        clip: `uri`, `kind`, `start` and `end`.
        count: frames of the strip.
        short_side: pixels that frames are decoded at; their own size by default.
    """
    try:
        times = clip_times(clip, count=count)
        frames = read_frames(clip["uri"], times, short_side=short_side)
    except MediaError:
        return None
    return _data_address(frames)


def _data_address(frames: np.ndarray) -> str:
    file = io.BytesIO()
    strip(frames, height=STRIP_HEIGHT).save(file, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def file_name(uri: str) -> str:
    """The last component of an address."""
    return uri.rstrip("/").rsplit("/", 1)[-1]
