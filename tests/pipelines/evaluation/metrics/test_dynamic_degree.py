"""Dynamic degree at the borders of the protocol: which frames are compared, which pairs move, when a video does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.core.stage import Row, apply
from pipelines.evaluation.metrics.dynamic_degree import DynamicDegree, largest_magnitudes, moves, moving_pairs
from pipelines.media.write import write_image, write_video


class Moving:
    """A flow of known length for each pair in turn, everywhere; counts its calls."""

    def __init__(self, *lengths: float) -> None:
        self.lengths, self.calls = list(lengths), 0

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        self.calls += 1
        assert first.shape == second.shape
        now, self.lengths = self.lengths[: len(first)], self.lengths[len(first) :]
        flow = torch.zeros(len(first), 2, *first.shape[-2:])
        flow[:, 1] = torch.tensor(now)[:, None, None]
        return flow


def clip(path: Path, frames: int, fps: float, *, side: int = 64) -> Row:
    write_video(path, np.zeros((frames, side, side, 3), np.uint8), fps)
    return {"uri": str(path), "kind": "video", "start": 0.0, "end": frames / fps, "fps": fps}


def scored(row: Row, flow: Moving, **settings: int) -> Row:
    (result,) = apply(DynamicDegree(weights="fake/raft", **settings), flow, [row])  # type: ignore[arg-type]
    assert result["failed_stage"] is None, result["failed_message"]
    return result


@pytest.mark.parametrize(
    ("pixels", "largest", "expected"),
    [
        ((10, 10), 5, 9.0),  # exactly 5 %
        ((10, 19), 9, 9.0),  # int(9.5): rounded down
        ((4, 4), 1, 9.0),  # less than one pixel: at least one
        ((10, 10), 2, (2 * 9.0 + 3 * 1.0) / 5),  # the mean of what is largest, the rest at 1
    ],
)
def test_the_largest_twentieth_of_the_pixels(pixels: tuple[int, int], largest: int, expected: float) -> None:
    flow = torch.zeros(1, 2, *pixels)
    flow[:, 0] = 1.0
    flow.reshape(2, -1)[0, -largest:] = -9.0  # length, not sign
    np.testing.assert_allclose(largest_magnitudes(flow), [expected], rtol=1e-6)


def test_length_is_of_both_directions() -> None:
    flow = torch.tensor([3.0, -4.0]).reshape(1, 2, 1, 1).expand(2, 2, 8, 8)
    np.testing.assert_allclose(largest_magnitudes(flow), [5.0, 5.0])


@pytest.mark.parametrize(("side", "border"), [(256, 6.0), (512, 12.0), (64, 1.5), (480, 11.25)])
def test_the_threshold_goes_with_the_short_side(side: int, border: float) -> None:
    magnitudes = np.array([border - 0.01, border, border + 0.01, 100.0])
    assert moving_pairs(magnitudes, short_side=side) == 2


@pytest.mark.parametrize(("sampled", "needed"), [(16, 4), (32, 8), (8, 2), (20, 5), (17, 4), (13, 3), (3, 1), (6, 2)])
def test_a_quarter_of_the_frames_must_move(sampled: int, needed: int) -> None:
    assert moves(needed, sampled=sampled)
    assert not moves(needed - 1, sampled=sampled)


@pytest.mark.parametrize(
    ("fps", "frames", "sampled"),
    [
        (8, 17, 17),  # every frame
        (12, 16, 8),  # round(1.5) is 2
        (16, 32, 16),
        (24, 49, 17),  # 0, 3, …, 48
        (29.97, 48, 12),  # round(3.75) is 4
        (25, 49, 17),  # round(3.125) is 3
        (60, 49, 7),  # round(7.5) is 8
        (4, 6, 6),  # fewer than 8 a second: all of them
    ],
)
def test_every_nth_frame_is_compared(fps: float, frames: int, sampled: int, tmp_path: Path) -> None:
    # A threshold of 6 * 64/256 = 1.5 pixels; pairs move or not by turns.
    lengths = [1.6 if pair % 2 == 0 else 1.4 for pair in range(sampled - 1)]
    flow = Moving(*lengths)
    row = scored(clip(tmp_path / "v.mp4", frames, fps), flow)
    assert flow.lengths == []
    assert row["dynamic_pairs"] == sum(length > 1.5 for length in lengths)
    assert row["dynamic_magnitude"] == pytest.approx(np.mean(lengths))
    assert row["dynamic_degree"] == 1.0


def test_the_frames_between_the_compared_ones_are_skipped(tmp_path: Path) -> None:
    """At 16 frames a second every second frame is compared; these get brighter by 10 from frame to frame."""
    compared: list[int] = []

    def flow(first: Tensor, second: Tensor) -> Tensor:
        compared.extend(round(float(frame.float().mean()) / 10) for frame in first)
        return torch.full((len(first), 2, *first.shape[-2:]), 10.0)

    frames = np.stack([np.full((64, 64, 3), 10 * index, np.uint8) for index in range(16)])
    write_video(tmp_path / "v.mp4", frames, 16, crf=1)
    row = {"uri": str(tmp_path / "v.mp4"), "kind": "video", "start": 0.0, "end": 1.0, "fps": 16.0}
    (result,) = apply(DynamicDegree(weights="fake/raft"), flow, [row])
    assert compared == list(range(0, 14, 2))
    assert result["dynamic_magnitude"] == pytest.approx(200**0.5)


@pytest.mark.parametrize(("moving", "degree"), [(0, 0.0), (3, 0.0), (4, 1.0), (15, 1.0)])
def test_a_video_of_16_frames_moves_from_four_pairs_on(moving: int, degree: float, tmp_path: Path) -> None:
    flow = Moving(*[1.4] * (15 - moving), *[1.6] * moving)
    row = scored(clip(tmp_path / "v.mp4", 16, 8), flow)
    assert (row["dynamic_degree"], row["dynamic_pairs"]) == (degree, moving)


def test_portrait_videos_are_measured_by_their_width(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", np.zeros((8, 128, 64, 3), np.uint8), 8)
    row = {"uri": str(tmp_path / "v.mp4"), "kind": "video", "start": 0.0, "end": 1.0, "fps": 8.0}
    assert scored(row, Moving(*[1.6] * 7))["dynamic_pairs"] == 7  # 6 * 128/256 would be 3


def test_pairs_go_through_the_network_a_few_at_a_time(tmp_path: Path) -> None:
    row = clip(tmp_path / "v.mp4", 16, 8)
    lengths = list(np.linspace(0.1, 3.0, 15))
    results = []
    for at_once, calls in ((15, 1), (4, 4), (1, 15)):
        flow = Moving(*lengths)
        results.append(scored(row, flow, pairs_at_once=at_once))
        assert flow.calls == calls
    assert results[0] == results[1] == results[2]


def test_one_frame_says_nothing(tmp_path: Path) -> None:
    row = {**clip(tmp_path / "v.mp4", 4, 8), "end": 1 / 8}
    assert scored(row, Moving())["dynamic_degree"] is None


def test_an_image_has_no_degree_and_a_bad_file_fails_alone(tmp_path: Path) -> None:
    write_image(tmp_path / "p.png", np.zeros((64, 64, 3), np.uint8))
    image = {"uri": str(tmp_path / "p.png"), "kind": "image", "start": 0.0, "end": 0.0, "fps": None}
    rows = [image, {**clip(tmp_path / "v.mp4", 4, 8), "uri": str(tmp_path / "gone.mp4")}]
    shown, bad = apply(DynamicDegree(weights="fake/raft"), Moving(), rows)
    assert (shown["dynamic_degree"], shown["failed_stage"]) == (None, None)
    assert bad["failed_error"] == "MediaError"


def test_a_network_reads_what_the_protocol_gives_it(tmp_path: Path) -> None:
    stage = DynamicDegree(weights="fake/raft", updates=1)
    (row,) = apply(stage, stage.load(), [clip(tmp_path / "v.mp4", 3, 8)])
    assert row["failed_stage"] is None, row["failed_message"]
    assert row["dynamic_degree"] in (0.0, 1.0)
    assert np.isfinite(row["dynamic_magnitude"])
