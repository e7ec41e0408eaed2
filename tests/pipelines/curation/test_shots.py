"""A cut inside a clip teaches the model to cut; a cut that is none throws material away."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.stage import Row, apply
from pipelines.curation.ingest import Ingest
from pipelines.curation.shots import Shots, Span, split_evenly
from pipelines.media.timeline import rate_breaks
from pipelines.media.write import write_image, write_video
from tests.media_files import write_container


def scenery(seed: int, height: int, width: int) -> np.ndarray:
    """A picture [H, W, 3] of coloured blobs, different for each seed."""
    small = np.random.default_rng(seed).integers(0, 255, (4, 6, 3)).astype(np.float32)
    rows, columns = np.linspace(0, 3, height), np.linspace(0, 5, width)
    top, left = rows.astype(int).clip(0, 2), columns.astype(int).clip(0, 4)
    down, right = (rows - top)[:, None, None], (columns - left)[None, :, None]
    upper = small[top][:, left] * (1 - right) + small[top][:, left + 1] * right
    lower = small[top + 1][:, left] * (1 - right) + small[top + 1][:, left + 1] * right
    return (upper * (1 - down) + lower * down).astype(np.uint8)


def pan(seed: int, frames: int, *, height: int = 90, width: int = 160, step: int = 2) -> np.ndarray:
    """Frames [N, H, W, 3] of a camera that moves `step` pixels a frame over one scenery."""
    wide = scenery(seed, height, width + step * frames)
    return np.stack([wide[:, step * index : step * index + width] for index in range(frames)])


def shots_of(path: Path, **settings: object) -> Row:
    stage = Shots(**settings)  # type: ignore[arg-type]
    rows = apply(Ingest(), None, [{"uri": str(path), "source_error": None}])
    (row,) = apply(stage, stage.load(), rows)
    return row


def frame_counts(row: Row) -> list[int]:
    return [shot["frames"] for shot in row["shots"]]


@pytest.mark.parametrize("detector", ["adaptive", "content"])
@pytest.mark.parametrize(
    ("fps", "lengths", "size"),
    [
        (24, [30, 50, 41], (90, 160)),
        (30, [45, 36], (270, 480)),
        (12, [13, 29, 18], (96, 64)),
        (29.97, [31, 60], (90, 160)),
    ],
)
def test_hard_cuts_are_found_at_their_frame(tmp_path, detector, fps, lengths, size):
    height, width = size
    scenes = [pan(seed, length, height=height, width=width) for seed, length in enumerate(lengths)]
    write_video(tmp_path / "v.mp4", np.concatenate(scenes), fps)
    row = shots_of(tmp_path / "v.mp4", detector=detector)
    assert frame_counts(row) == lengths
    starts = np.cumsum([0, *lengths]) / row["fps"]
    assert [shot["start"] for shot in row["shots"]] == pytest.approx(starts[:-1], abs=1e-4)
    assert [shot["end"] for shot in row["shots"]] == pytest.approx(starts[1:], abs=1e-4)
    assert row["shots_dropped"] == 0
    assert row["shots_by"].startswith("shots-")


def test_a_cut_is_found_in_matroska_whose_times_are_rounded(tmp_path):
    frames = np.concatenate([pan(0, 37), pan(1, 40)])
    write_container(tmp_path / "v.mkv", frames)
    row = shots_of(tmp_path / "v.mkv")
    assert frame_counts(row) == [37, 40]
    assert row["shots"][1]["start"] == pytest.approx(37 / 24, abs=1e-3)


def test_a_variable_frame_rate_keeps_its_times(tmp_path):
    frames = np.concatenate([pan(0, 30), pan(1, 30)])
    ticks = [*range(0, 1200, 40), *range(1500, 4500, 100)]
    write_container(tmp_path / "v.mkv", frames, ticks=ticks)
    row = shots_of(tmp_path / "v.mkv")
    assert frame_counts(row) == [30, 30]
    assert [shot["fps"] for shot in row["shots"]] == pytest.approx([25, 10])
    assert row["shots"][1]["start"] == pytest.approx(1.5)
    assert row["shots"][0]["end"] == row["shots"][1]["start"]


@pytest.mark.parametrize("step", [0, 1, 6])
def test_motion_is_no_cut(tmp_path, step):
    write_video(tmp_path / "v.mp4", pan(0, 72, step=step), 24)
    assert frame_counts(shots_of(tmp_path / "v.mp4")) == [72]


def test_a_slow_change_of_light_is_no_cut(tmp_path):
    light = np.linspace(0.2, 1.0, 72)[:, None, None, None]
    write_video(tmp_path / "v.mp4", (pan(0, 72, step=0) * light).astype(np.uint8), 24)
    assert frame_counts(shots_of(tmp_path / "v.mp4")) == [72]


def test_short_shots_are_dropped_and_counted(tmp_path):
    frames = np.concatenate([pan(0, 30), pan(1, 8), pan(2, 30)])
    write_video(tmp_path / "v.mp4", frames, 24)
    row = shots_of(tmp_path / "v.mp4", min_seconds=0.5)
    assert [(shot["start"], shot["frames"]) for shot in row["shots"]] == [(0.0, 30), (pytest.approx(38 / 24), 30)]
    assert row["shots_dropped"] == 1


def test_a_short_video_and_a_hasty_one_still_give_a_clip(tmp_path):
    write_video(tmp_path / "short.mp4", pan(0, 5), 24)
    row = shots_of(tmp_path / "short.mp4")
    assert (frame_counts(row), row["shots_dropped"]) == ([5], 0)
    frames = np.concatenate([pan(seed, length) for seed, length in enumerate([8, 12, 9])])
    write_video(tmp_path / "hasty.mp4", frames, 24)
    row = shots_of(tmp_path / "hasty.mp4")
    assert (frame_counts(row), row["shots_dropped"]) == ([12], 2)


def test_long_shots_are_split_evenly_at_frames(tmp_path):
    write_video(tmp_path / "v.mp4", np.concatenate([pan(0, 100, step=1), pan(1, 30)]), 12)
    row = shots_of(tmp_path / "v.mp4", max_seconds=3)
    assert frame_counts(row) == [33, 34, 33, 30]
    ends = [shot["end"] for shot in row["shots"]]
    assert [shot["start"] for shot in row["shots"]] == [0.0, *ends[:-1]]
    assert ends[-1] == pytest.approx(130 / 12)
    unsplit = shots_of(tmp_path / "v.mp4", max_seconds=100 / 12)
    assert frame_counts(unsplit) == [100, 30]


def test_an_image_is_one_clip(tmp_path):
    write_image(tmp_path / "p.png", scenery(0, 64, 64))
    row = shots_of(tmp_path / "p.png")
    facts = {"fps": None, "width": 64, "height": 64}
    assert (row["shots"], row["shots_dropped"]) == ([{"start": 0.0, "end": 0.0, "frames": 1, **facts}], 0)


def test_damage_behind_the_first_frame_is_a_failed_row(tmp_path):
    write_container(tmp_path / "v.mp4", pan(0, 48), codec="mjpeg", pix_fmt="yuvj420p")
    (row,) = apply(Ingest(), None, [{"uri": str(tmp_path / "v.mp4"), "source_error": None}])
    data = bytearray((tmp_path / "v.mp4").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20_000] = bytes(20_000)
    (tmp_path / "v.mp4").write_bytes(data)
    stage = Shots()
    (failed,) = apply(stage, stage.load(), [row])
    assert (failed["failed_stage"], failed["failed_error"]) == ("shots", "MediaError")


def test_settings_are_checked_and_change_the_fingerprint():
    with pytest.raises(ValueError, match="adaptive or content"):
        Shots(detector="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_seconds=3 is less than twice"):
        Shots(min_seconds=2, max_seconds=3)
    assert Shots(threshold=2.5).fingerprint != Shots().fingerprint == Shots().fingerprint


def test_real_videos_are_cut_where_they_are(shared):
    row = shots_of(shared / "media" / "video1.mp4", min_seconds=0.5)
    assert frame_counts(row) == [144, 93, 45]
    row = shots_of(shared / "media" / "sample_video.mp4")
    assert frame_counts(row) == [157]


@pytest.mark.odd_input(
    "Runs",
    "A screen recording without frames for a minute",
    "The pause ends a clip and the next begins after it; no clip is empty, and no two share an id.",
)
def test_a_pause_ends_a_clip(tmp_path):
    ticks = [*range(0, 2000, 100), *range(62_000, 64_000, 100)]
    write_container(tmp_path / "v.mkv", pan(0, 40), ticks=ticks, options={"bf": "0"})
    row = shots_of(tmp_path / "v.mkv")
    assert [(shot["start"], shot["end"]) for shot in row["shots"]] == [
        (0.0, pytest.approx(2.0)),
        (pytest.approx(62.0), pytest.approx(64.0, abs=0.01)),
    ]
    assert frame_counts(row) == [20, 20]
    assert [shot["fps"] for shot in row["shots"]] == pytest.approx([10, 10])


@pytest.mark.odd_input(
    "Times",
    "A recording whose rate changes: 30 frames a second while something moves, one while nothing does",
    "Clips end where the rate changes, and each has its own rate, by which motion and latents are sampled.",
)
def test_clips_have_their_own_rate(tmp_path, shared):
    ticks = [*(round(index * 1000 / 30) for index in range(60)), *range(2000, 11_000, 1000)]
    write_container(tmp_path / "v.mkv", pan(0, 69), ticks=ticks, options={"bf": "0"})
    row = shots_of(tmp_path / "v.mkv")
    assert [shot["fps"] for shot in row["shots"]] == pytest.approx([30, 1], rel=0.01)
    assert frame_counts(row) == [60, 9]
    alone, followed = (
        shots_of(shared / "odd_media" / name)["shots"][0] for name in ("wave_only.mp4", "wave_then_idle.mp4")
    )
    assert followed["fps"] == pytest.approx(alone["fps"], rel=0.001)
    assert (followed["end"], followed["frames"]) == (pytest.approx(alone["end"], abs=0.001), alone["frames"])


def test_joined_recordings_are_clips_of_their_own(tmp_path):
    """Also where the picture hardly tells them apart."""
    frames = pan(0, 72, step=0)
    part = write_container(tmp_path / "part.ts", frames[:36], options={"bf": "0"}).read_bytes()
    (tmp_path / "joined.ts").write_bytes(part + part)
    row = shots_of(tmp_path / "joined.ts")
    assert frame_counts(row) == [36, 36]
    assert [shot["start"] for shot in row["shots"]] == pytest.approx([0, 1.5])


def test_a_slide_show_is_split_no_finer_than_its_frames(tmp_path):
    write_container(tmp_path / "v.mkv", pan(0, 4, step=0), ticks=[0, 30_000, 60_000, 90_000], options={"bf": "0"})
    row = shots_of(tmp_path / "v.mkv")
    assert [shot["start"] for shot in row["shots"]] == pytest.approx([0, 30, 60, 90])
    assert frame_counts(row) == [1, 1, 1, 1]


def test_a_change_of_shape_is_a_cut(tmp_path, shared):
    row = shots_of(shared / "odd_media" / "turned.webm")
    assert [(shot["width"], shot["height"]) for shot in row["shots"]] == [(320, 240), (240, 320)]
    assert [shot["start"] for shot in row["shots"]] == pytest.approx([0, 2])
    assert frame_counts(row) == [30, 30]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from([0.0001, 1 / 30, 0.04, 0.5, 1.0, 7.0, 60.0]), min_size=1, max_size=60),
    st.sets(st.integers(1, 59)),
)
def test_clips_never_coincide_and_never_are_empty(intervals, cuts):
    times = list(itertools.accumulate(intervals, initial=0.0))
    end = times.pop()
    edges = sorted({0, *(cut for cut in cuts if cut < len(times)), *rate_breaks(times), len(times)})
    spans = [Span.of(first, last, times, end, 25.0) for first, last in itertools.pairwise(edges)]
    pieces = [piece for span in spans for piece in split_evenly(span, times, 10.0)]
    assert sum(piece.last - piece.first for piece in pieces) == len(times)
    assert all(piece.start < piece.end and piece.first < piece.last for piece in pieces)
    assert all(one.end <= other.start + 1e-9 for one, other in itertools.pairwise(pieces))
