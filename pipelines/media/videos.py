"""Videos: open, measure, decode, and select the frames shown at given times (PyAV)."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, NamedTuple, cast

import av
from av.container import InputContainer
from av.format import Flags
from av.stream import Disposition

from pipelines.media.errors import MediaError
from pipelines.media.pictures import MAX_PIXELS, check_size
from pipelines.media.timeline import Timeline, frame_rate, snapped

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
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,m4v,dv,mxf,flv,asf,ogg,ivf,h264,hevc,"
    "mp3,wav,flac"
)
MOV = "mov,mp4,m4a,3gp,3g2,mj2"
AVI = "avi"
SEEKABLE = {MOV, "matroska,webm"}
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read the transparency of WebM, which FFmpeg's own decoders of these codecs ignore."""


@dataclass(frozen=True)
class Video:
    """An open container and its main video stream, with the decoder to use for it."""

    container: InputContainer
    stream: av.VideoStream
    decoder: av.VideoCodecContext

    @property
    def format(self) -> str:
        """FFmpeg's name of the container."""
        return self.container.format.name

    @property
    def has_jumps(self) -> bool:
        """Whether the format allows timestamps to jump forwards."""
        return bool(Flags(self.container.format.flags) & Flags.ts_discont)

    def timeline(self, origin: int | None = None) -> Timeline:
        """A new timeline for the stream's timestamps."""
        assert self.stream.time_base is not None
        step = 1 / stated_rate(self.stream)
        return Timeline(self.stream.time_base, step, origin=origin, has_jumps=self.has_jumps)


@contextmanager
def open_video(file: BinaryIO) -> Iterator[Video]:
    """Opens the container in a file, from its start, and its main video stream.

    Raises:
        MediaError: the file holds no video (the cover art of music does not count), or its frames are too large.
        av.FFmpegError: the file is not a supported container.
    """
    file.seek(0)
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
        decoder = _decoder(stream)
        decoder.thread_count = THREADS
        yield Video(container, stream, decoder)


def _decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    name = ALPHA_DECODERS.get(stream.codec_context.codec.canonical_name)
    if name is None or stream.metadata.get("alpha_mode") != "1" or name not in av.codecs_available:
        return stream.codec_context
    return cast(av.VideoCodecContext, av.CodecContext.create(name, "r"))


class Decoded(NamedTuple):
    """A frame as it was decoded."""

    seconds: float
    """When it is first shown."""
    frame: av.VideoFrame
    aspect: float
    """Width over height of its pixels."""
    has_jumped: bool
    """Whether its timestamps start anew, as where recordings were joined."""


def decode(video: Video, origin: int | None = None) -> Iterator[Decoded]:
    """Yields frames from where the container stands.

    Args:
        video: the open video.
        origin: timestamp of its first frame; by default that of the first frame decoded.
    """
    timeline, aspect = video.timeline(origin), pixel_aspect(video.stream)
    for timestamp, frame in _timestamped(video):
        check_size(frame.width, frame.height)
        yield Decoded(timeline.seconds(timestamp), frame, aspect, timeline.has_jumped)


def _timestamped(video: Video) -> Iterator[tuple[int | None, av.VideoFrame]]:
    """Frames with their timestamps, without those that FFmpeg could only decode in part."""
    # AVI has places for frames, in the order of decoding, and no times of presentation; FFmpeg's are out of order where
    # frames are reordered. The places of null frames stay empty.
    places: deque[int | None] | None = deque() if video.format == AVI else None
    for packet in video.container.demux(video.stream):
        is_end = not packet.size
        if places is not None and not is_end:
            places.append(packet.dts)
        for frame in video.decoder.decode(None if is_end else packet):
            timestamp = frame.pts if places is None else places.popleft() if places else None
            # After a seek into an open group of pictures, FFmpeg returns frames whose references are missing.
            if not frame.is_corrupt:
                yield timestamp, frame


def frames_at(file: BinaryIO, times: Sequence[float]) -> Iterator[Decoded]:
    """Yields the frame shown at each time.

    Args:
        file: a file that holds a video.
        times: ascending seconds; shown is the last frame that began by then, or the nearest end of the video.
    """
    gaps = [index for index in range(1, len(times)) if times[index] - times[index - 1] > SEEK_GAP]
    for begin, end in itertools.pairwise([0, *gaps, len(times)]):
        yield from _select(_decode_from(file, times[begin]), times[begin:end])


def _decode_from(file: BinaryIO, time: float) -> Iterator[Decoded]:
    """Decodes a file from a frame that is shown at `time` or earlier."""
    # Near the start, decoding is cheaper than a seek, and it is exact.
    if time > SEEK_GAP:
        with open_video(file) as video:
            frames = _seek(video, time)
            if frames is not None:
                yield from frames
                return
    # In a new container: a seek that failed leaves the old one anywhere.
    with open_video(file) as video:
        yield from decode(video)


def _seek(video: Video, time: float) -> Iterator[Decoded] | None:
    """Frames from a keyframe before `time`; None where the file has no index that leads there."""
    # Other containers have no index to rely on: FFmpeg would guess a position from the bit rate.
    if video.format not in SEEKABLE:
        return None
    origin = next(_timestamped(video), (None, None))[0]
    if origin is None:  # no timestamps to seek by
        return None
    assert video.stream.time_base is not None
    try:
        # To the keyframe before, as FFmpeg seeks backwards by default: decoding can start nowhere else.
        target = origin + int((time - SEEK_MARGIN) / video.stream.time_base)
        video.container.seek(target, stream=video.stream)
        video.decoder.flush_buffers()
        frames = decode(video, origin)
        first = next(frames, None)
    except av.FFmpegError:
        return None
    if first is None or first.seconds > time + TOLERANCE:  # the index pointed too far, or past the end
        return None
    return itertools.chain([first], frames)


def _select(frames: Iterator[Decoded], times: Sequence[float]) -> Iterator[Decoded]:
    current: Decoded | None = None
    # Reversed, so that `pop` takes the next time without moving the others.
    remaining = list(reversed(times))
    for frame in frames:
        while current is not None and remaining and frame.seconds > remaining[-1] + TOLERANCE:
            remaining.pop()
            yield current
        if not remaining:
            return
        current = frame
    if current is None:
        raise MediaError("no frame in it can be decoded")
    yield from itertools.repeat(current, len(remaining))  # times after the last frame began


@dataclass(frozen=True)
class Extent:
    """What the packets of a stream tell without decoding."""

    frames: int
    """Number of frames."""
    duration: float
    """Seconds from the first frame to the end of the last one."""
    fps: float
    """Frames per second, without pauses."""


def measure(file: BinaryIO) -> Extent:
    """Counts the frames of the video in a file: from the index of an MP4 or MOV, from all packets of other containers.

    Raises:
        MediaError: the file is truncated.
    """
    with open_video(file) as video:
        # Without the index (fragmented files), the header's count is zero or wrong.
        if video.format == MOV and video.stream.frames and len(video.stream.index_entries):
            return _read_index(file, video)
        if video.format == AVI:
            _check_riff(file)
        return _read_packets(video)


def _read_index(file: BinaryIO, video: Video) -> Extent:
    stream = video.stream
    assert stream.time_base is not None
    end = max(entry.pos + entry.size for entry in stream.index_entries)
    if end > _size(file):
        raise MediaError("truncated: the file ends before its last frame")
    timeline = video.timeline()
    # Discarded entries are cut by an edit list.
    stamps = [entry.timestamp for entry in stream.index_entries if not entry.is_discard]
    times = [timeline.seconds(stamp) for stamp in stamps]
    extent = _extent(video, times, float((stream.duration or 0) * stream.time_base))
    last, begin = _last_frame(video, stream.index_entries[-1].timestamp), stream.start_time
    if last is None or begin is None:
        return extent
    # The index holds times of decoding; where frames are reordered, a pause at an end is missing in them or counts
    # twice.
    seconds = float((last[0] - begin) * stream.time_base) + max(float(last[1] * stream.time_base), 1 / extent.fps)
    return replace(extent, duration=seconds)


def _last_frame(video: Video, timestamp: int) -> tuple[int, int] | None:
    """Time of presentation and length of the frame that is shown last, from the packets after the last keyframe."""
    try:
        video.container.seek(timestamp, stream=video.stream)
        packets = [packet for packet in video.container.demux(video.stream) if packet.size and not packet.is_discard]
    except av.FFmpegError:
        return None
    return max(((packet.pts, packet.duration or 0) for packet in packets if packet.pts is not None), default=None)


def _check_riff(file: BinaryIO) -> None:
    """Raises a MediaError where an AVI is shorter than its header says.

    By the size, as its header counts null frames too, for which the file has no packets.
    """
    position = file.tell()
    file.seek(4)
    stated = int.from_bytes(file.read(4), "little")
    file.seek(position)
    if stated and _size(file) < stated + 8:  # the size does not include the first eight bytes; recorders may leave 0
        raise MediaError("truncated: the file ends before its last frame")


def _size(file: BinaryIO) -> int:
    """Size of an open file in bytes; its position stays."""
    position = file.tell()
    size = file.seek(0, 2)
    file.seek(position)
    return size


def _read_packets(video: Video) -> Extent:
    container, stream = video.container, video.stream
    assert stream.time_base is not None
    stamps: list[tuple[int | None, int | None]] = []
    lasts, began = 0.0, (container.start_time or 0) / av.time_base
    end = began
    # Packets are read and not decoded, which is far faster. All streams, as in a truncated file the sound may be
    # missing where the picture seems complete.
    for packet in container.demux():
        if not packet.size:  # the flush packet at the end
            continue
        length = float((packet.duration or 0) * (packet.time_base or 0))
        if packet.pts is not None and packet.time_base is not None:
            end = max(end, float(packet.pts * packet.time_base) + length)
        if packet.stream is stream:
            stamps.append((packet.pts, packet.dts))
            lasts = length
    times = _packet_times(video, stamps)
    stated = (container.duration or 0) / av.time_base
    is_short = len(stamps) < stream.frames or end - began < stated - TRUNCATED_SECONDS
    if is_short and video.format != AVI:  # whose header counts null frames; `_check_riff` has looked at its size
        raise MediaError(f"truncated: the file ends after {len(stamps)} frames, before its end")
    # A duration that is stated beside jumps counts them.
    duration = 0.0 if video.has_jumps else float((stream.duration or 0) * stream.time_base)
    if video.format == AVI and stamps:  # from its first frame, before which null frames may be
        duration -= float((stamps[0][1] or 0) * stream.time_base)
    return _extent(video, times, duration, lasts)


def _packet_times(video: Video, stamps: Sequence[tuple[int | None, int | None]]) -> list[float]:
    """Seconds of frames from the times of presentation and decoding of their packets, in the order of decoding."""
    timeline, tick = video.timeline(), video.stream.time_base
    assert tick is not None
    if any(decoded is None for _, decoded in stamps):
        stated = sorted(presented for presented, _ in stamps if presented is not None)
        return [timeline.seconds(stamp) for stamp in (*stated, *[None] * (len(stamps) - len(stated)))]
    # Jumps show in the times of decoding, which otherwise increase, as those of presentation do not.
    return [
        timeline.seconds(decoded) + float(((decoded if presented is None else presented) - decoded) * tick)
        for presented, decoded in stamps
        if decoded is not None
    ]


def _extent(video: Video, times: Sequence[float], duration: float, lasts: float = 0.0) -> Extent:
    """An extent from the seconds of the packets, the stated duration and the length of the last frame, 0 if unknown."""
    if not times:
        return Extent(0, 0.0, stated_rate(video.stream))
    ordered = sorted(times)
    fps = snapped(frame_rate(ordered), video.stream.average_rate) or stated_rate(video.stream)
    # A frame is shown for its usual length at least, as recorders state a length of 0 or of one tick. In AVI, all
    # frames have one length, and null frames follow those that are shown for longer.
    if video.format != AVI or not lasts:
        lasts = max(lasts, 1 / fps)
    return Extent(len(ordered), max(duration, ordered[-1] - ordered[0] + lasts), fps)


def stated_rate(stream: av.VideoStream) -> float:
    """Frames per second as the file states or FFmpeg guesses them; 25 if neither does.

    The guess comes first: the stated rate may be that of the clock, such as 1000 in browsers' recordings.
    """
    return float(stream.guessed_rate or stream.average_rate or 25)


def pixel_aspect(stream: av.VideoStream) -> float:
    """Width over height of a pixel; 1 if the file does not state it or states an implausible value."""
    aspect = float(stream.sample_aspect_ratio or 1)
    # Broken headers state such values, and a frame stretched by them would be unusable or fill the memory.
    return aspect if 0.25 <= aspect <= 4 else 1.0
