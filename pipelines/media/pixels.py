"""From a decoded video frame to an upright RGB picture with square pixels, as a player shows it.

What a file says about its pixels is followed: interlacing, colour matrix, high dynamic range, transparency, pixel
aspect, and the display matrix, which turns and mirrors. Where it says nothing, FFmpeg's or the field's default holds;
docs/curation.md lists them.
"""

from __future__ import annotations

import struct
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Colorspace
from PIL import Image

from pipelines.media import hdr
from pipelines.media.pictures import on_white, upright

UNSPECIFIED = 2
"""Code of an unknown colour matrix in ITU-T H.273."""
SD_LINES = 576
"""Frames of more lines are BT.709 where the file does not tell, as players assume; others are BT.601."""

# Signs of (a, b, c, d) of a display matrix, which puts pixel (x, y) at (a x + c y, b x + d y) -> EXIF orientation.
DISPLAY_MATRICES = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


def to_picture(frame: av.VideoFrame, aspect: float = 1.0) -> Image.Image:
    """Converts a frame to an upright RGB picture with square pixels.

    Args:
        frame: decoded frame.
        aspect: width over height of its pixels.
    """
    picture = _rgb(deinterlaced(frame))
    if aspect != 1:
        picture = picture.resize((square_width(picture.width, aspect), picture.height), Image.Resampling.BICUBIC)
    # Phones record sideways and leave the turn to the player, as a note in the file.
    return upright(picture, orientation(frame))


def to_small_array(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """Converts a frame to upright RGB [H, W, 3] uint8, cheaply.

    FFmpeg's scaler converts and resizes in one step, faster than Pillow, and well enough for comparing frames.

    Args:
        frame: decoded frame.
        width, height: size before it is turned.
    """
    picture = _converted(frame, width=width, height=height)
    return np.asarray(upright(picture, orientation(frame)))


def square_width(width: int, aspect: float) -> int:
    """Width in square pixels of `width` pixels that are `aspect` times as wide as high."""
    return max(1, round(width * aspect))


def orientation(frame: av.VideoFrame) -> int:
    """EXIF orientation that equals the frame's display matrix: 1 without one, or with one of another angle than 90."""
    side_data: Any = frame.side_data  # its annotation says that items are strings
    matrix = next((item for item in side_data if item.type == SideDataType.DISPLAYMATRIX), None)
    if matrix is None:
        return 1
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    # Angles near a right one are rounding errors, and other angles are shown upright.
    largest = max(map(abs, (a, b, c, d)), default=0) or 1
    signs = tuple(round(value / largest) for value in (a, b, c, d))
    return next((orientation for matrix, orientation in DISPLAY_MATRICES.items() if matrix == signs), 1)


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether a frame may have transparent pixels."""
    # Palettes hold colours with alpha, which their format does not list.
    return frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components)


def deinterlaced(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame without combing: of one that is flagged as interlaced, the first field, interpolated by yadif."""
    if not frame.interlaced_frame:
        return frame
    graph = Graph()
    source = graph.add(
        "buffer", f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000"
    )
    # One frame at a time, as frames are read at any time: where neighbours are missing, yadif interpolates in space.
    yadif, sink = graph.add("yadif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    source.link_to(yadif)
    yadif.link_to(sink)
    graph.configure()
    graph.push(frame)
    graph.push(None)
    result = graph.pull()
    assert isinstance(result, av.VideoFrame)
    return result


def _rgb(frame: av.VideoFrame) -> Image.Image:
    matrix = _matrix(frame)
    if frame.color_trc in hdr.TRANSFERS:
        coded = frame.reformat(format="rgb48le", src_colorspace=matrix).to_ndarray()
        return Image.fromarray(hdr.tone_map(coded, frame.color_trc, frame.color_primaries))
    return _converted(frame, src_colorspace=matrix)


def _converted(frame: av.VideoFrame, **options: Any) -> Image.Image:
    """The frame as FFmpeg's scaler converts it with these options, on white where it is transparent."""
    if not has_alpha(frame):
        return frame.reformat(format="rgb24", threads=1, **options).to_image()
    return on_white(Image.fromarray(frame.reformat(format="rgba", threads=1, **options).to_ndarray()))


def _matrix(frame: av.VideoFrame) -> Colorspace | None:
    """The colour matrix where the frame states none; None leaves it to the frame."""
    is_rgb = frame.format.is_rgb or frame.format.name == "pal8"
    if frame.colorspace == UNSPECIFIED and frame.height > SD_LINES and not is_rgb:
        return Colorspace.ITU709
    return None
