"""Videos: open, measure, decode, and select the frames shown at given times (PyAV)."""

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
"""Decoding threads per open video: there are many workers, and each uses its own CPU only."""
TOLERANCE = 1e-3
"""Seconds by which a frame may begin after a requested time: Matroska rounds timestamps to a millisecond."""
SEEK_GAP = 4.0
"""Gaps between requested times of up to this many seconds are decoded, longer ones skipped by seeking."""
SEEK_MARGIN = 0.5
"""Seconds to seek before a requested time, because indexes hold decoding times, which precede presentation."""
TRUNCATED_SECONDS = 1.0
"""A file whose last packet ends this many seconds or more before its stated duration is truncated."""
BUFFER_BYTES = 1 << 20

# FFmpeg's other demuxers read playlists, which open further files, or accept any text as a video.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,flv,asf,ogg,h264,hevc,mp3,wav,flac"
MOV = "mov,mp4,m4a,3gp,3g2,mj2"
SEEKABLE = {MOV, "matroska,webm"}
TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@contextmanager
def open_video(file: BinaryIO) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """Opens the container in a file and its main video stream.

    Raises:
        MediaError: the file holds no video (the cover art of music does not count), or its frames are too large.
        av.FFmpegError: the file is not a supported container.
    """
    # FFmpeg checks the limit itself before it allocates a frame, which covers sizes that change within a stream.
    options: dict[str, Any] = {
        "options": {"max_pixels": str(MAX_PIXELS)},
        "container_options": {"format_whitelist": FORMATS},
    }
    with cast(
        InputContainer, av.open(file, buffer_size=BUFFER_BYTES, metadata_errors="replace", **options)
    ) as container:
        # FFmpeg's choice, as players make it: files may carry thumbnails and several qualities as further streams.
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream) or stream.disposition & Disposition.attached_pic:
            raise MediaError("no video in it" + (", only sound" if container.streams.audio else ""))
        check_size(stream.width, stream.height)
        stream.codec_context.thread_count = THREADS
        yield container, stream


def decode(
    container: InputContainer, stream: av.VideoStream, seek: float | None = None
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yields frames with the second at which each is first shown, from the start or the keyframe before `seek`."""
    origin, tick = stream.start_time, stream.time_base
    assert tick is not None
    if seek is not None:
        assert origin is not None
        # To the keyframe before, as FFmpeg seeks backwards by default: decoding can start nowhere else.
        container.seek(origin + int(seek / tick), stream=stream)
    step = 1 / frame_rate(stream)
    counted = container.format.name == "avi"  # AVI has no presentation times, and FFmpeg's are out of order
    previous: float | None = None
    for frame in container.decode(stream):
        # After a seek into an open group of pictures, FFmpeg returns frames whose references are missing.
        if frame.is_corrupt:
            continue
        check_size(frame.width, frame.height)
        origin = frame.pts if origin is None else origin
        seconds = None if counted or frame.pts is None or origin is None else float((frame.pts - origin) * tick)
        if seconds is None or (previous is not None and seconds <= previous):  # broken: assume the average rate
            seconds = 0.0 if previous is None else previous + step
        yield seconds, frame
        previous = seconds


def frames_at(container: InputContainer, stream: av.VideoStream, times: Sequence[float]) -> Iterator[av.VideoFrame]:
    """Yields the frame shown at each time (ascending seconds): the last that began by then, or the nearest end."""
    # Other containers have no index to rely on: FFmpeg would guess a position from the bit rate.
    if container.format.name not in SEEKABLE or stream.start_time is None:
        yield from _select(decode(container, stream), times)
        return
    gaps = [index for index in range(1, len(times)) if times[index] - times[index - 1] > SEEK_GAP]
    for begin, end in itertools.pairwise([0, *gaps, len(times)]):
        yield from _select(_decode_from(container, stream, times[begin]), times[begin:end])


def _decode_from(
    container: InputContainer, stream: av.VideoStream, time: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """As `decode`, starting with a frame shown at `time` or earlier."""
    # Near the start, decoding is cheaper than a seek, and it is exact.
    if time <= SEEK_GAP:
        return decode(container, stream, seek=0.0)
    frames = decode(container, stream, seek=time - SEEK_MARGIN)
    first = next(frames, None)
    if first is None or first[0] > time + TOLERANCE:  # the index pointed too far, or past the end
        return decode(container, stream, seek=0.0)
    return itertools.chain([first], frames)


def _select(frames: Iterator[tuple[float, av.VideoFrame]], times: Sequence[float]) -> Iterator[av.VideoFrame]:
    current: av.VideoFrame | None = None
    # Reversed, so that `pop` takes the next time without moving the others.
    remaining = list(reversed(times))
    for seconds, frame in frames:
        while current is not None and remaining and seconds > remaining[-1] + TOLERANCE:
            remaining.pop()
            yield current
        if not remaining:
            return
        current = frame
    if current is None:
        raise MediaError("no frame in it can be decoded")
    yield from itertools.repeat(current, len(remaining))  # times after the last frame began


def to_picture(frame: av.VideoFrame, aspect: float) -> Image.Image:
    """Converts a frame, whose pixels are `aspect` times as wide as high, to an upright RGB image with square pixels."""
    picture = frame.to_image()
    if aspect != 1:
        picture = picture.resize((max(1, round(picture.width * aspect)), picture.height), Image.Resampling.BICUBIC)
    # Phones record sideways and leave the turn to the player, as a note in the file.
    turn = TURNS.get(frame.rotation % 360)
    return picture if turn is None else picture.transpose(turn)


def pixel_aspect(stream: av.VideoStream) -> float:
    """Width over height of a pixel; 1 if the file does not state it or states an implausible value."""
    aspect = float(stream.sample_aspect_ratio or 1)
    # Broken headers state such values, and a frame stretched by them would be unusable or fill the memory.
    return aspect if 0.25 <= aspect <= 4 else 1.0


@dataclass(frozen=True)
class Extent:
    """Number of frames of a stream, and their duration in seconds."""

    frames: int
    duration: float


def measure(file: BinaryIO) -> Extent:
    """Counts the frames of the video in a file: from the index of an MP4 or MOV, from all packets of other containers.

    Raises:
        MediaError: the file is truncated.
    """
    file.seek(0)
    with open_video(file) as (container, stream):
        # Without the index (fragmented files), the header's count is zero or wrong.
        if container.format.name == MOV and stream.frames and len(stream.index_entries):
            return _read_index(file, stream)
        return _read_packets(container, stream)


def _read_index(file: BinaryIO, stream: av.VideoStream) -> Extent:
    assert stream.time_base is not None
    end, hidden = 0, 0
    for entry in stream.index_entries:
        end = max(end, entry.pos + entry.size)
        hidden += entry.is_discard  # an edit list cuts these frames
    if end > file.seek(0, 2):
        raise MediaError("truncated: the file ends before its last frame")
    frames = len(stream.index_entries) - hidden
    return Extent(frames, float((stream.duration or 0) * stream.time_base) or frames / frame_rate(stream))


def _read_packets(container: InputContainer, stream: av.VideoStream) -> Extent:
    frames, begin, end, last = 0, math.inf, 0.0, 0.0
    # Packets are read and not decoded, which is far faster. All streams, as in a truncated file the sound may be
    # missing where the picture seems complete.
    for packet in container.demux():
        if not packet.size:  # the flush packet at the end
            continue
        frames += packet.stream is stream
        if packet.pts is None or packet.time_base is None:
            continue
        starts, lasts = (float(ticks * packet.time_base) for ticks in (packet.pts, packet.duration or 0))
        last = max(last, starts + lasts)
        if packet.stream is stream:
            begin, end = min(begin, starts), max(end, starts + (lasts or 1 / frame_rate(stream)))
    stated = (container.duration or 0) / av.time_base
    began = (container.start_time or 0) / av.time_base
    if frames < stream.frames or last - began < stated - TRUNCATED_SECONDS:
        raise MediaError(f"truncated: the file ends after {frames} frames, before its end")
    return Extent(frames, end - begin if end > begin else frames / frame_rate(stream))


def frame_rate(stream: av.VideoStream) -> float:
    """Average frames per second; 25 if the file does not state it."""
    return float(stream.average_rate or stream.guessed_rate or 25)
