"""Videos for `media.py`: open, count, decode, pick the frames shown at given times (PyAV)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import av
from av.container import InputContainer
from av.stream import Disposition
from PIL import Image

from pipelines.media.errors import MediaError
from pipelines.media.pictures import MAX_PIXELS, check_size

THREADS = 1
"""Decoding threads per open video: workers are many, and each keeps to its core."""
TOLERANCE = 1e-3
"""Seconds by which a frame may be late for the time asked: Matroska rounds timestamps to a millisecond."""
SEEK_GAP = 4.0
"""Gaps between wanted times up to this many seconds are decoded through, longer ones skipped by seeking."""
SEEK_MARGIN = 0.5
"""Seconds to seek before the time wanted, because indexes hold decoding times, which precede presentation."""
TRUNCATED_SECONDS = 1.0
"""A file whose last packet ends so much before the duration it promises is truncated."""
BUFFER_BYTES = 1 << 20

# FFmpeg's other demuxers read playlists, which open further files, or take any text for a video.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,flv,asf,ogg,h264,hevc,mp3,wav,flac"
MOV = "mov,mp4,m4a,3gp,3g2,mj2"
SEEKABLE = {MOV, "matroska,webm"}
TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@contextmanager
def open_video(file: BinaryIO) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """The container in a file and its main video stream.

    Raises:
        MediaError: no video in it (cover art of music is none), or its frames are too large.
        av.FFmpegError: not a container that is read here.
    """
    options: dict[str, Any] = {
        "options": {"max_pixels": str(MAX_PIXELS)},
        "container_options": {"format_whitelist": FORMATS},
    }
    with cast(
        InputContainer, av.open(file, buffer_size=BUFFER_BYTES, metadata_errors="replace", **options)
    ) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream) or stream.disposition & Disposition.attached_pic:
            raise MediaError("no video in it" + (", only sound" if container.streams.audio else ""))
        check_size(stream.width, stream.height)
        stream.codec_context.thread_count = THREADS
        yield container, stream


def decode(
    container: InputContainer, stream: av.VideoStream, seek: float | None = None
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames with the second at which each is first shown, from the start or from the keyframe before `seek`."""
    origin, tick = stream.start_time, stream.time_base
    assert tick is not None
    if seek is not None:
        assert origin is not None
        container.seek(origin + int(seek / tick), stream=stream)
    step = 1 / frame_rate(stream)
    counted = container.format.name == "avi"  # AVI has no presentation times; what FFmpeg makes up is out of order
    previous: float | None = None
    for frame in container.decode(stream):
        if frame.is_corrupt:
            continue
        check_size(frame.width, frame.height)
        origin = frame.pts if origin is None else origin
        seconds = None if counted or frame.pts is None or origin is None else float((frame.pts - origin) * tick)
        if seconds is None or (previous is not None and seconds <= previous):
            seconds = 0.0 if previous is None else previous + step
        yield seconds, frame
        previous = seconds


def shown(container: InputContainer, stream: av.VideoStream, times: Sequence[float]) -> Iterator[av.VideoFrame]:
    """The frame shown at each time (ascending seconds): the last that began by then, or the nearest end."""
    if container.format.name not in SEEKABLE or stream.start_time is None:
        yield from _select(decode(container, stream), times)
        return
    gaps = [index for index in range(1, len(times)) if times[index] - times[index - 1] > SEEK_GAP]
    for begin, end in itertools.pairwise([0, *gaps, len(times)]):
        yield from _select(_decode_from(container, stream, times[begin]), times[begin:end])


def _decode_from(
    container: InputContainer, stream: av.VideoStream, time: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """As `decode`, beginning with a frame shown at `time` or earlier."""
    if time <= SEEK_GAP:
        return decode(container, stream, seek=0.0)
    frames = decode(container, stream, seek=time - SEEK_MARGIN)
    first = next(frames, None)
    if first is None or first[0] > time + TOLERANCE:  # the index led too far, or past the end
        return decode(container, stream, seek=0.0)
    return itertools.chain([first], frames)


def _select(frames: Iterator[tuple[float, av.VideoFrame]], times: Sequence[float]) -> Iterator[av.VideoFrame]:
    current: av.VideoFrame | None = None
    waiting = list(reversed(times))
    for seconds, frame in frames:
        while current is not None and waiting and seconds > waiting[-1] + TOLERANCE:
            waiting.pop()
            yield current
        if not waiting:
            return
        current = frame
    if current is None:
        raise MediaError("no frame in it can be decoded")
    yield from itertools.repeat(current, len(waiting))


def to_picture(frame: av.VideoFrame, aspect: float) -> Image.Image:
    """The upright RGB picture of a frame whose pixels are `aspect` times as wide as high."""
    picture = frame.to_image()
    if aspect != 1:
        picture = picture.resize((max(1, round(picture.width * aspect)), picture.height), Image.Resampling.BICUBIC)
    turn = TURNS.get(frame.rotation % 360)
    return picture if turn is None else picture.transpose(turn)


def pixel_aspect(stream: av.VideoStream) -> float:
    """Width over height of a pixel; 1 where the file says nothing or nonsense."""
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 0.25 <= aspect <= 4 else 1.0


@dataclass(frozen=True)
class Extent:
    """How many frames a stream has and how long they last in seconds."""

    frames: int
    duration: float


def measure(file: BinaryIO) -> Extent:
    """Counts the frames of the video in a file: by its index in MP4 and MOV, by reading all packets in others.

    Raises:
        MediaError: the file ends before the frames that it promises.
    """
    file.seek(0)
    with open_video(file) as (container, stream):
        if container.format.name == MOV and stream.frames and len(stream.index_entries):
            return _read_index(file, stream)
        return _read_packets(container, stream)


def _read_index(file: BinaryIO, stream: av.VideoStream) -> Extent:
    assert stream.time_base is not None
    end, hidden = 0, 0
    for entry in stream.index_entries:
        end = max(end, entry.pos + entry.size)
        hidden += entry.is_discard  # cut away by an edit list
    if end > file.seek(0, 2):
        raise MediaError("truncated: the file ends before its last frame")
    frames = len(stream.index_entries) - hidden
    return Extent(frames, float((stream.duration or 0) * stream.time_base) or frames / frame_rate(stream))


def _read_packets(container: InputContainer, stream: av.VideoStream) -> Extent:
    frames, begin, end, last = 0, math.inf, 0.0, 0.0
    for packet in container.demux():
        if not packet.size:
            continue
        frames += packet.stream is stream
        if packet.pts is None or packet.time_base is None:
            continue
        starts, lasts = (float(ticks * packet.time_base) for ticks in (packet.pts, packet.duration or 0))
        last = max(last, starts + lasts)
        if packet.stream is stream:
            begin, end = min(begin, starts), max(end, starts + (lasts or 1 / frame_rate(stream)))
    promised = (container.duration or 0) / av.time_base
    began = (container.start_time or 0) / av.time_base
    if frames < stream.frames or last - began < promised - TRUNCATED_SECONDS:
        raise MediaError(f"truncated: the file ends after {frames} frames, before its end")
    return Extent(frames, end - begin if end > begin else frames / frame_rate(stream))


def frame_rate(stream: av.VideoStream) -> float:
    """Average frames per second; 25 where the file does not tell."""
    return float(stream.average_rate or stream.guessed_rate or 25)
