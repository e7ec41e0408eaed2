"""Odd containers: frames without timestamps, with wrapped, joined or repeated ones, and frames that are not there."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.media import videos
from pipelines.media.errors import MediaError
from pipelines.media.frames import read_frames, read_sequence, stream_frames
from pipelines.media.probe import probe
from tests.media_files import coded_frames, read_code, read_codes, write_container


def remuxed(source: Path, target: Path, *, shift: float = 0.0, **options: object) -> Path:
    """Copies the packets of a video into another container, some seconds later or earlier."""
    with av.open(str(source)) as reader, av.open(str(target), "w", **options) as writer:  # type: ignore[call-overload]
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.size:
                ticks = round(Fraction(shift) / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                packet.stream = stream
                writer.mux(packet)
    return target


def write_avi(path: Path, places: Sequence[int], *, codec: str, pix_fmt: str) -> Path:
    """Writes frames of `coded_frames` at some places of an AVI of 30 frames a second, and null frames between them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        for place in places:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(coded_frames(60)[place]), format="rgb24")
            frame.pts, frame.time_base = place, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frame_times(path: Path) -> list[float]:
    return [frame.seconds for frame in stream_frames(str(path), short_side=32)]


@pytest.mark.odd_input(
    "Times",
    "A transport stream whose clock wraps around, or that starts far from zero",
    "Times count from its first frame: facts, clips and frames are those of the same video from zero.",
)
@pytest.mark.parametrize("shift", [-7.3, 5000.0, 2**33 / 90000 - 1.0])
def test_a_stream_may_start_anywhere(tmp_path, shift):
    plain = write_container(tmp_path / "plain.mp4", coded_frames(48), options={"bf": "2"})
    path = remuxed(plain, tmp_path / "v.ts", shift=shift, options={"copyts": "1"}, container_options={})
    info = probe(str(path))
    assert (info.frames, info.fps, info.duration) == (48, 24, pytest.approx(2.0, abs=1e-3))
    assert frame_times(path) == pytest.approx([index / 24 for index in range(48)], abs=1e-3)
    assert read_codes(path, [0.0, 1.0, 1.98]) == [0, 24, 47]


@pytest.mark.odd_input(
    "Times",
    "Recordings that were joined byte by byte (MPEG), each with timestamps of its own",
    "One video: the second follows the first at once, and the duration is that of both.",
)
@pytest.mark.parametrize("shift", [0.0, 4000.0])
def test_joined_streams_follow_each_other(tmp_path, shift):
    first = write_container(tmp_path / "first.mp4", coded_frames(36), options={"bf": "0"})
    second = write_container(tmp_path / "second.mp4", coded_frames(72)[36:], options={"bf": "0"})
    parts = [remuxed(first, tmp_path / "a.ts"), remuxed(second, tmp_path / "b.ts", shift=shift)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    info = probe(str(path))
    assert (info.frames, info.fps, info.duration) == (72, 24, pytest.approx(3.0, abs=0.01))
    assert frame_times(path) == pytest.approx([index / 24 for index in range(72)], abs=0.01)
    assert read_codes(path, [0.51, 1.51, 2.51]) == [12, 36, 60]


@pytest.mark.odd_input(
    "Times",
    "An AVI with null frames, as capture programs write them for frames that they dropped",
    "The frame before is shown for longer; the file counts as complete.",
)
def test_null_frames_of_avi_keep_their_places(tmp_path):
    places = [index for index in range(60) if index % 2 == 0 or index < 12]
    path = write_avi(tmp_path / "v.avi", places, codec="mpeg4", pix_fmt="yuv420p")
    info = probe(str(path))
    assert (info.frames, info.duration) == (len(places), pytest.approx(59 / 30))
    assert frame_times(path) == pytest.approx([place / 30 for place in places])
    assert read_codes(path, [0.0, 5 / 30, 21 / 30, 58 / 30]) == [0, 5, 20, 58]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(MediaError, match="truncated"):
        probe(str(path))


@pytest.mark.parametrize(("empty", "frames", "duration"), [("end", 30, 2.0), ("all but one", 1, None)])
def test_null_frames_at_the_ends_of_avi(tmp_path, empty, frames, duration):
    """A recording that ends while nothing moves is complete."""
    places = {"end": [*range(29), 59], "all but one": [0]}[empty]
    path = write_avi(tmp_path / "v.avi", places, codec="mjpeg", pix_fmt="yuvj420p")
    info = probe(str(path))
    assert info.frames == frames
    assert info.duration == (duration and pytest.approx(duration))


@pytest.mark.parametrize("where", ["start", "end"])
def test_pauses_at_the_ends_of_reordered_frames_count_once(tmp_path, where):
    """The index of an MP4 holds times of decoding, which lie elsewhere than those of presentation."""
    ticks = [index * 40 for index in range(50)]
    ticks = [0, *(60_000 + tick for tick in ticks)] if where == "start" else [*ticks, 62_000]
    path = write_container(tmp_path / "v.mp4", coded_frames(51), ticks=ticks, fps=25, options={"bf": "2"})
    info = probe(str(path))
    assert info.duration == pytest.approx(62.04 - 0.04 * (where == "start"), abs=0.05)
    assert info.fps == pytest.approx(25, rel=0.01)


@pytest.mark.odd_input(
    "Times",
    "A video without any timestamps (an elementary stream)",
    "Frames follow each other at the rate that the stream states or FFmpeg guesses.",
)
def test_streams_without_timestamps_are_read_at_their_rate(tmp_path):
    plain = write_container(tmp_path / "plain.mp4", coded_frames(150, height=16), fps=25, options={"bf": "2"})
    path = tmp_path / "v.h264"
    with av.open(str(plain)) as reader, av.open(str(path), "w", format="h264") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = stream
                writer.mux(packet)
    info = probe(str(path))
    assert (info.frames, info.fps, info.duration) == (150, pytest.approx(25), pytest.approx(6.0))
    assert read_codes(path, [0.02, 5.02]) == [0, 125]


@pytest.mark.odd_input(
    "Times",
    "A file whose index leads nowhere, or that does not allow seeking",
    "It is decoded from its start.",
)
def test_a_seek_that_fails_costs_time_alone(tmp_path, monkeypatch):
    path = write_container(tmp_path / "v.mkv", coded_frames(150, height=16), options={"g": "24"})
    attempts = []

    def refused(video, time):
        next(video.container.demux(video.stream))  # as FFmpeg leaves a container, somewhere in the file
        attempts.append(time)

    monkeypatch.setattr(videos, "_seek", refused)
    assert read_codes(path, [5.0]) == [120]
    assert attempts == [5.0]


@pytest.mark.odd_input(
    "Times",
    "A browser's recording, whose clock of 1 kHz looks like its frame rate",
    "The rate is that of its frames; `nova evaluate` scores it as the same video at a constant rate.",
)
def test_a_clock_is_no_frame_rate(tmp_path):
    ticks = [50 * index + index % 2 for index in range(80)]  # the clock of a browser is not exact
    frames = coded_frames(80)
    path = write_container(tmp_path / "v.mkv", frames, ticks=ticks, codec="libx264", options={"bf": "0"})
    info = probe(str(path))
    assert (info.frames, info.fps, info.duration) == (80, pytest.approx(20, rel=0.01), pytest.approx(4.0, abs=0.02))
    sequence = read_sequence(str(path), 0.0, info.duration)
    assert [read_code(frame) for frame in sequence] == list(range(80))
    assert [read_code(frame) for frame in read_sequence(str(path), 1.0, 2.0, stride=3, limit=4)] == [20, 23, 26, 29]


@pytest.mark.odd_input(
    "Times",
    "A screen recording without frames while nothing moves",
    "Its duration includes the pause, its rate does not.",
)
def test_a_pause_counts_as_time_and_not_as_rate(tmp_path):
    ticks = [*range(0, 2000, 100), *range(62_000, 64_000, 100)]
    path = write_container(tmp_path / "v.mkv", coded_frames(40), ticks=ticks, options={"bf": "0"})
    info = probe(str(path))
    assert (info.frames, info.fps, info.duration) == (40, pytest.approx(10), pytest.approx(64.0, abs=0.01))
    assert read_codes(path, [1.9, 40.0, 62.0]) == [19, 19, 20]
    assert len(read_sequence(str(path), 0.0, info.duration)) == 40, "every frame once, however long it is shown"


def test_real_odd_files_have_their_facts(shared):
    facts = {
        "pause.mp4": (60, 64.0, 15), "wrap.ts": (120, 5.0, 24), "dropped.avi": (90, 5.967, 15),
        "recorder.webm": (80, 4.0, 20), "recorder_as_cfr.mp4": (80, 4.0, 20),
    }  # fmt: skip
    for name, (frames, duration, fps) in facts.items():
        info = probe(str(shared / "odd_media" / name))
        assert (info.frames, info.duration, info.fps) == (
            frames, pytest.approx(duration, abs=0.01), pytest.approx(fps, rel=0.001)
        ), name  # fmt: skip
    wrapped = read_frames(str(shared / "odd_media" / "wrap.ts"), [0.0, 4.9])
    assert np.abs(wrapped[0].astype(int) - wrapped[1]).mean() > 1, "both times show the first frame"
