"""Decodes frames of images and videos (PyAV for videos, Pillow for images).

Seconds count from the first frame, rotation is applied, pixels are returned square, and memory is bounded by the
result: frames are resized as they are decoded. Any defect of a file becomes a `MediaError` of one line.

    >>> frames = read_frames("clip.mp4", [0.5, 1.0], short_side=256)  # [2, H, W, 3]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipelines.media import pictures, videos
from pipelines.media.errors import MediaError, media_errors
from pipelines.media.pixels import square_width, to_picture, to_small_array
from pipelines.media.probe import open_stream


def read_frames(
    uri: str,
    times: Sequence[float] | None = None,
    *,
    short_side: int | None = None,
    crop: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decodes the frame shown at each time: the last one that began by then, or the nearest end of the video.

    Args:
        uri: path or address of an image or a video; an image is repeated for every time.
        times: seconds from the first frame, in any order; [0] by default.
        short_side: resize to this short side in pixels, keeping the aspect.
        crop: (height, width) in pixels; resize to cover it and cut out its centre.

    Returns:
        RGB frames [N, H, W, 3] uint8 in the order of `times`.

    Raises:
        MediaError: the file contains no image, or it cannot be decoded at these times.
    """
    assert short_side is None or crop is None, "short_side and crop exclude each other"
    times = [0.0] if times is None else list(times)
    assert times, "no times"
    size = short_side or crop
    with media_errors(uri), open_stream(uri) as file:
        picture = pictures.open_picture(file)
        if picture is not None:
            return np.repeat(pictures.fit(pictures.decode(picture, size), size)[None], len(times), axis=0)
        targets = sorted(set(times))
        # A generator: each frame is resized before the next is decoded, so that one frame of full size is in memory.
        images = (to_picture(decoded.frame, decoded.aspect) for decoded in videos.frames_at(file, targets))
        at = {time: pictures.fit(image, size) for time, image in zip(targets, images, strict=True)}
        return _stacked([at[time] for time in times])


def sample_clip(row: Mapping[str, Any], count: int, *, short_side: int) -> np.ndarray | MediaError:
    """Decodes frames of a clip at `clip_times`, or returns the error that this raised, for stages that record it.

    Args:
        row: the clip, a row with `uri`, `kind`, `start` and `end`.
        count: number of frames; one of an image.
        short_side: resize to this short side in pixels, keeping the aspect.

    Returns:
        RGB frames [count, H, W, 3] uint8, or the error.
    """
    try:
        return read_frames(row["uri"], clip_times(row, count), short_side=short_side)
    except MediaError as error:
        return error


def read_sequence(
    uri: str,
    start: float,
    end: float,
    *,
    stride: int = 1,
    limit: int | None = None,
    short_side: int | None = None,
) -> np.ndarray:
    """Decodes the frames of a clip one after the other, however long each is shown.

    Args:
        uri: path or address of a video.
        start: seconds at which the clip starts.
        end: seconds at which it ends.
        stride: take every `stride`-th frame, from the first on.
        limit: number of frames at most.
        short_side: resize to this short side in pixels, keeping the aspect.

    Returns:
        RGB frames [N, H, W, 3] uint8.

    Raises:
        MediaError: the file is no video, it cannot be decoded, or the shape of its frames changes.
    """
    with media_errors(uri), open_stream(uri) as file, videos.open_video(file) as video:
        in_clip = (
            decoded
            for decoded in itertools.takewhile(lambda decoded: decoded.seconds < end, videos.decode(video))
            if decoded.seconds > start - videos.TOLERANCE
        )
        chosen = itertools.islice(in_clip, 0, None if limit is None else stride * limit, stride)
        frames = [pictures.fit(to_picture(decoded.frame, decoded.aspect), short_side) for decoded in chosen]
        if not frames:
            raise MediaError("no frame in it can be decoded")
        return _stacked(frames)


def _stacked(frames: Sequence[np.ndarray]) -> np.ndarray:
    # Some phones and screen recorders change the size within a file; arrays of frames need one size.
    shapes = {frame.shape[:2] for frame in frames}
    if len(shapes) > 1:
        sizes = " and ".join(sorted(f"{width}x{height}" for height, width in shapes))
        raise MediaError(f"the shape of its frames changes ({sizes})")
    return np.stack(frames)


class SmallFrame(NamedTuple):
    """A frame of a video for comparisons with others, and what it is at full size."""

    seconds: float
    pixels: np.ndarray
    """Upright RGB [H, W, 3] uint8."""
    width: int
    """Width in square pixels, before the frame is turned."""
    height: int
    has_jumped: bool
    """Whether its timestamps start anew, as where recordings were joined."""


def stream_frames(uri: str, *, short_side: int) -> Iterator[SmallFrame]:
    """Yields every frame of a video, resized cheaply to the given short side.

    Raises:
        MediaError: the file is no video, or it cannot be decoded to its end.
    """
    with media_errors(uri), open_stream(uri) as file, videos.open_video(file) as video:
        for seconds, frame, aspect, has_jumped in videos.decode(video):
            width = square_width(frame.width, aspect)
            # Never enlarged: a detector of cuts gains nothing from it.
            scale = min(1.0, short_side / min(width, frame.height))
            pixels = to_small_array(frame, *(max(2, round(side * scale)) for side in (width, frame.height)))
            yield SmallFrame(seconds, pixels, width, frame.height, has_jumped)


def clip_times(row: Mapping[str, Any], count: int) -> list[float]:
    """Seconds at which to sample a clip: `count` of them, each in the middle of an equal section; [0.0] of an image.

    Args:
        row: the clip, a row with `kind`, `start` and `end`.
        count: number of times.
    """
    if row["kind"] == "image":
        return [0.0]
    start, length = row["start"], row["end"] - row["start"]
    # The middle of each section and not its boundaries, which at a clip's ends are often half faded.
    return [start + (index + 0.5) * length / count for index in range(count)]
