"""Reads and writes media: probe, decode, sample frames (PyAV for video, Pillow for pictures).

What a file is follows from its content, never from its name. Seconds count from the first frame, rotation is applied,
pixels come back square, and memory is bounded by what is returned: frames are resized as they are decoded. Whatever is
wrong with a file becomes a `MediaError` of one line.

    >>> info = probe("clip.mp4")
    >>> frames = read_frames("clip.mp4", [0.5, 1.0], short_side=256)  # [2, H, W, 3]
"""

from __future__ import annotations

import functools
import math
import os
import posixpath
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit, urlunsplit

import av
import numpy as np
import pyarrow as pa
import pyarrow.fs
from PIL import Image

from pipelines.media import pictures, videos
from pipelines.media.pictures import MediaError

__all__ = [
    "MediaError",
    "MediaInfo",
    "clip_times",
    "open_filesystem",
    "open_media",
    "probe",
    "read_frames",
    "stream_frames",
    "write_image",
    "write_video",
]


# What Pillow's readers, pyarrow's file systems and the standard library raise on bad files.
READ_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """What a file holds; columns of the same names in `schema.py` state the units."""

    kind: str
    codec: str
    width: int
    height: int
    rotation: int = 0
    fps: float | None = None
    frames: int = 1
    duration: float | None = None


def open_filesystem(uri: str) -> tuple[pa.fs.FileSystem, str]:
    """The pyarrow filesystem and path of a local path or an object-store address.

    Raises:
        ValueError: no address that pyarrow knows.
    """
    if "://" not in uri:
        return pa.fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    parts = urlsplit(uri)
    filesystem, root = _connect(urlunsplit((parts.scheme, parts.netloc, "/", parts.query, "")))
    return filesystem, posixpath.join(root, unquote(parts.path).lstrip("/"))


@functools.lru_cache(maxsize=32)
def _connect(root: str) -> tuple[pa.fs.FileSystem, str]:
    """Connects to a bucket or host once per process: that can take longer than reading a file."""
    try:
        return pa.fs.FileSystem.from_uri(root)
    except (ValueError, NotImplementedError):  # their messages repeat the address, which may hold credentials
        scheme = root.partition("://")[0]
        raise ValueError(
            f"no {scheme}:// address that can be read; use a path, file://, s3://, gs:// or hdfs://"
        ) from None


def open_media(uri: str) -> BufferedReader:
    """Opens a local path or an object-store address for reading; the file can seek.

    Raises:
        MediaError: there is no such file, or it cannot be read.
    """
    with _one_line(uri):
        return _open(uri)


def _open(uri: str) -> BufferedReader:
    filesystem, path = open_filesystem(uri)
    return BufferedReader(filesystem.open_input_file(path), videos.BUFFER_BYTES)


def probe(uri: str) -> MediaInfo:
    """What a file holds, as far as it can be decoded. A file of one frame is an image, whatever its container.

    A picture is decoded as a whole; of a video, the first frame is decoded and the frames are counted.

    Raises:
        MediaError: no picture in it, truncated, or too large.
    """
    with _one_line(uri), _open(uri) as file:
        picture = pictures.open_picture(file)
        if picture is None:
            return _probe_video(file)
        width, height = picture.size
        rotation = pictures.rotation(picture)
        picture.load()
        return MediaInfo(kind="image", codec=pictures.codec(picture), width=width, height=height, rotation=rotation)


def _probe_video(file: BinaryIO) -> MediaInfo:
    with videos.open_video(file) as (container, stream):
        _, first = next(videos.decode(container, stream), (0.0, None))
        if first is None:
            raise MediaError("no frame in it can be decoded")
        seen = {"width": stream.width, "height": stream.height, "rotation": first.rotation % 360}
        codec, fps = stream.codec_context.codec.canonical_name, videos.frame_rate(stream)
    extent = videos.measure(file)
    if extent.frames == 1:
        return MediaInfo(kind="image", codec=codec, **seen)
    return MediaInfo(kind="video", codec=codec, **seen, fps=fps, frames=extent.frames, duration=extent.duration)


def read_frames(
    uri: str,
    times: Sequence[float] | None = None,
    *,
    short_side: int | None = None,
    crop: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decodes the frames shown at the given seconds: the last that began by then, or the nearest end of the video.

    Args:
        uri: path or address of an image or a video; an image gives its one picture for every time.
        times: seconds from the first frame, in any order; [0] by default.
        short_side: resize to this short side in pixels, keeping the aspect.
        crop: (height, width) in pixels; resize to cover it and cut out its centre.

    Returns:
        RGB frames [N, H, W, 3] uint8 in the order of `times`.

    Raises:
        MediaError: no picture in it, or it cannot be decoded at these times.
    """
    assert short_side is None or crop is None, "short_side and crop exclude each other"
    times = [0.0] if times is None else list(times)
    assert times, "no times"
    size = short_side or crop
    with _one_line(uri), _open(uri) as file:
        picture = pictures.open_picture(file)
        if picture is not None:
            return np.repeat(pictures.fit(pictures.decode(picture, size), size)[None], len(times), axis=0)
        with videos.open_video(file) as (container, stream):
            aspect, targets = videos.pixel_aspect(stream), sorted(set(times))
            shown = (videos.to_picture(frame, aspect) for frame in videos.shown(container, stream, targets))
            at = {time: pictures.fit(each, size) for time, each in zip(targets, shown, strict=True)}
            if len({frame.shape for frame in at.values()}) > 1:
                raise MediaError("the size of its frames changes")
    return np.stack([at[each] for each in times])


def stream_frames(uri: str, *, short_side: int) -> Iterator[tuple[float, np.ndarray]]:
    """Every frame of a video as (seconds, RGB [H, W, 3] uint8), at a low-cost resize to the given short side.

    Raises:
        MediaError: not a video, or it cannot be decoded to its end.
    """
    with _one_line(uri), _open(uri) as file, videos.open_video(file) as (container, stream):
        for seconds, frame in videos.decode(container, stream):
            scale = min(1.0, short_side / min(frame.width, frame.height))
            width, height = (max(2, round(side * scale)) for side in (frame.width, frame.height))
            small = frame.reformat(width=width, height=height, format="rgb24", threads=videos.THREADS)
            yield seconds, np.rot90(small.to_ndarray(), frame.rotation // 90)


def clip_times(row: Mapping[str, Any], *, count: int | None = None, fps: float | None = None) -> list[float]:
    """Seconds at which to look at a clip (a row with `kind`, `start` and `end`).

    Args:
        row: the clip; an image gives [0.0].
        count: this many times, evenly spread, each in the middle of its share.
        fps: from the start on, as many a second, at least one.
    """
    assert (count is None) != (fps is None), "give count or fps"
    if row["kind"] == "image":
        return [0.0]
    start, length = row["start"], row["end"] - row["start"]
    if count is not None:
        return [start + (index + 0.5) * length / count for index in range(count)]
    assert fps is not None
    total = max(1, math.ceil(length * fps - videos.TOLERANCE))
    return [start + index / fps for index in range(total)]


def write_video(path: str | Path, frames: np.ndarray, fps: float, *, crf: int = 18, full_chroma: bool = False) -> None:
    """Writes RGB frames [N, H, W, 3] uint8 as an H.264 mp4 (BT.709); the file appears when it is whole.

    The same frames give the same bytes.

    Args:
        path: of the file.
        frames: even in height and width.
        fps: frames per second.
        crf: x264's constant rate factor; lower is nearer to the frames, in a larger file.
        full_chroma: yuv444p, which keeps colours at the frames' own resolution but is not shown by every player, and
            not yuv420p, which halves it.

    Raises:
        ValueError: no frames, or an odd height or width, which yuv420p does not have.
    """
    count, height, width, _ = frames.shape
    if not count or height % 2 or width % 2:
        raise ValueError(f"{count} frames of {width}x{height}: a video needs frames of even width and height")
    rate = Fraction(fps).limit_denominator(1001)
    with _atomic(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        # With macroblock trees 21 of 141 encodings on a busy machine had other bytes than usual; without, none of 141.
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "x264-params": "mbtree=0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p" if full_chroma else "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # with more, the bytes depend on the machine
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1, 1
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_image(path: str | Path, frame: np.ndarray) -> None:
    """Writes an RGB frame [H, W, 3] uint8 in the format of the path's suffix; the file appears when it is whole."""
    suffix = Path(path).suffix.lower()
    with _atomic(path) as temporary:
        Image.fromarray(frame).save(temporary, format=Image.registered_extensions()[suffix])


@contextmanager
def _atomic(path: str | Path) -> Iterator[Path]:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _name(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]  # addresses may carry credentials, which belong in no message


@contextmanager
def _one_line(uri: str) -> Iterator[None]:
    """Turns what the libraries raise on bad files into a `MediaError`."""
    try:
        yield
    except MediaError as error:
        raise MediaError(f"{_name(uri)}: {error}") from error
    except FileNotFoundError:
        raise MediaError(f"{_name(uri)}: no such file") from None
    except av.FFmpegError as error:
        raise MediaError(f"{_name(uri)}: no image or video that can be decoded ({error.strerror})") from error
    except READ_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MediaError(f"{_name(uri)}: {reason}") from error
