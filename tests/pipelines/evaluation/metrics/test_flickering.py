"""Flickering of frames whose differences are known, read back from files that lose nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.core.stage import Row, apply
from pipelines.evaluation.metrics.flickering import TemporalFlickering, steadiness
from pipelines.media.write import write_image
from tests.media_files import write_bad, write_container


def grey(*values: int) -> np.ndarray:
    return np.stack([np.full((32, 48, 3), value, np.uint8) for value in values])


def exact(path: Path, frames: np.ndarray, fps: float = 8) -> Row:
    """A clip whose frames come back bit by bit."""
    write_container(path, frames, fps=fps, codec="ffv1", pix_fmt="bgr0")
    return {"uri": str(path), "kind": "video", "start": 0.0, "end": len(frames) / fps, "fps": fps}


def found(row: Row, **settings: float) -> Row:
    (result,) = apply(TemporalFlickering(**settings), None, [row])  # type: ignore[arg-type]
    assert result["failed_stage"] is None, result["failed_message"]
    return result


def test_all_pixels_and_channels_count_alike() -> None:
    frames = grey(0, 0)
    frames[1, :8, :, 0] = 120  # a quarter of the pixels, in one of three channels
    assert steadiness(frames) == pytest.approx((255 - 120 / 4 / 3) / 255)


def test_every_adjacent_pair_of_a_file_counts_once(tmp_path: Path) -> None:
    row = found(exact(tmp_path / "v.mkv", grey(10, 40, 40, 100, 250, 0)))
    assert row["temporal_flickering"] == pytest.approx((255 - (30 + 0 + 60 + 150 + 250) / 5) / 255)


@pytest.mark.parametrize("fps", [8, 24, 30, 23.976, 59.94])
def test_no_frame_is_skipped_or_read_twice_at_any_rate(fps: float, tmp_path: Path) -> None:
    # Steps of 10 between all 24 frames: a frame read twice gives a step of 0, one left out a step of 20.
    row = found(exact(tmp_path / "v.mkv", grey(*range(0, 240, 10)), fps))
    assert row["temporal_flickering"] == pytest.approx((255 - 10) / 255)


def test_only_the_clip_counts(tmp_path: Path) -> None:
    row = exact(tmp_path / "v.mkv", grey(0, 200, 50, 60, 70, 80, 0, 200))
    inside = found({**row, "start": 2 / 8, "end": 6 / 8})
    assert inside["temporal_flickering"] == pytest.approx((255 - 10) / 255)


def test_frames_behind_the_most_are_not_looked_at(tmp_path: Path) -> None:
    row = exact(tmp_path / "v.mkv", grey(50, 60, 70, 255, 0))
    assert found(row, max_frames=3)["temporal_flickering"] == pytest.approx((255 - 10) / 255)


def test_static_is_the_first_against_the_last_frame(tmp_path: Path) -> None:
    flicker = exact(tmp_path / "a.mkv", grey(100, 200, 105))  # 5/255 = 0.0196 apart
    assert found(flicker)["static"] is True
    assert found(flicker, static_above=0.99)["static"] is False
    drift = exact(tmp_path / "b.mkv", grey(100, 103, 106))  # 6/255 = 0.0235 apart
    assert found(drift)["static"] is False


def test_one_frame_has_nothing_to_compare(tmp_path: Path) -> None:
    row = exact(tmp_path / "v.mkv", grey(1, 200))
    alone = found({**row, "end": 1 / 8})
    assert (alone["temporal_flickering"], alone["static"]) == (None, None)


def test_an_image_does_not_flicker(tmp_path: Path) -> None:
    write_image(tmp_path / "p.png", grey(1)[0])
    row = found({"uri": str(tmp_path / "p.png"), "kind": "image", "start": 0.0, "end": 0.0, "fps": None})
    assert (row["temporal_flickering"], row["static"]) == (None, None)


def test_bad_files_fail_alone(tmp_path: Path) -> None:
    good = exact(tmp_path / "v.mkv", grey(10, 20))
    # a streamable file that was cut shows its first frames all the same
    paths = [path for path in write_bad(tmp_path / "bad") if path.suffix == ".mp4" and "streamable" not in path.name]
    bad = [{**good, "uri": str(path)} for path in paths]
    assert len(bad) >= 4
    rows = apply(TemporalFlickering(), None, [*bad, good])
    assert [row["failed_stage"] for row in rows] == ["flickering"] * len(bad) + [None]
    assert {row["failed_error"] for row in rows[:-1]} == {"MediaError"}
    assert rows[-1]["temporal_flickering"] == pytest.approx((255 - 10) / 255)
