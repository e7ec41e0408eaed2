"""Grids of several samples in one file, as benchmarks want them."""

from __future__ import annotations

import numpy as np

from pipelines.generation import grid


def plain(value: int, frames: int = 1) -> np.ndarray:
    return np.full((frames, 4, 6, 3), value, np.uint8)


def test_four_samples_are_two_by_two_in_reading_order() -> None:
    sheet = grid([plain(1), plain(2), plain(3), plain(4)])
    assert sheet.shape == (1, 8, 12, 3)
    assert [int(sheet[0, y, x, 0]) for y, x in ((0, 0), (0, 6), (4, 0), (4, 6))] == [1, 2, 3, 4]


def test_what_is_left_over_is_black_and_videos_keep_their_frames() -> None:
    sheet = grid([plain(9, 5), plain(9, 5), plain(9, 5)])
    assert sheet.shape == (5, 8, 12, 3)
    assert (sheet[:, 4:, 6:] == 0).all()
    assert (sheet[:, :4] == 9).all()
