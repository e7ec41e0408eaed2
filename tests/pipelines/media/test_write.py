"""Written files have the pixels, the rate and the size of the frames, and the same frames give the same bytes."""

from __future__ import annotations

import av
import numpy as np
import pytest

from pipelines.media.frames import read_frames
from pipelines.media.probe import probe
from pipelines.media.write import write_image, write_video
from tests import media_files
from tests.media_files import coded_frames, read_codes


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50), (17, 17, 17)])
def test_written_videos_keep_colour_size_rate_and_number(tmp_path, colour):
    frames = np.full((10, 32, 48, 3), colour, np.uint8)
    write_video(tmp_path / "deep" / "v.mp4", frames, 12.5)
    path = str(tmp_path / "deep" / "v.mp4")
    info = probe(path)
    assert (info.codec, info.width, info.height, info.frames, info.fps) == ("h264", 48, 32, 10, 12.5)
    decoded = read_frames(path, [index / 12.5 for index in range(10)])
    assert np.abs(decoded.astype(int) - frames).max() <= 4
    with av.open(path) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"


def test_full_chroma_keeps_colours_that_change_from_pixel_to_pixel(tmp_path):
    frames = np.zeros((5, 32, 48, 3), np.uint8)
    frames[:, :, 0::2], frames[:, :, 1::2] = (200, 60, 60), (60, 60, 200)
    apart = {}
    for full in (False, True):
        write_video(tmp_path / "v.mp4", frames, 12, crf=1, full_chroma=full)
        decoded = read_frames(str(tmp_path / "v.mp4"), [0.2])[0].astype(int)
        apart[full] = np.abs(decoded[:, 0::2, 0] - decoded[:, 1::2, 0]).mean()
    assert apart[True] == pytest.approx(140, abs=10)
    assert apart[False] < 70, "at half the resolution there is one colour for both"


def test_written_frames_come_back_in_order_and_the_bytes_repeat(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, coded_frames(60), 24)
    assert read_codes(tmp_path / "a.mp4", [index / 24 for index in range(60)]) == list(range(60))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_written_pictures_are_exact_and_whole_or_absent(tmp_path):
    pixels = media_files.noise(1, 33, 47)
    write_image(tmp_path / "p.png", pixels)
    np.testing.assert_array_equal(read_frames(str(tmp_path / "p.png"))[0], pixels)
    with pytest.raises(ValueError, match="even"):
        write_video(tmp_path / "odd.mp4", np.zeros((2, 33, 48, 3), np.uint8), 24)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.png"]
