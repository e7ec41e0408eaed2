"""Metrics against values computed by hand, and the protocol's rules at their borders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.core.stage import apply
from pipelines.evaluation.metrics import Metrics, Score, summarise
from pipelines.evaluation.metrics.clip_alignment import ClipAlignment, alignment
from pipelines.evaluation.metrics.dynamic_degree import DynamicDegree, largest_magnitudes, moves, moving_pairs
from pipelines.evaluation.metrics.flickering import TemporalFlickering, steadiness
from pipelines.evaluation.metrics.subject_consistency import SubjectConsistency, consistency
from pipelines.media.write import write_image, write_video


def video(path: Path, frames: np.ndarray, fps: float = 8) -> dict[str, object]:
    write_video(path, frames, fps, crf=1)
    return {"uri": str(path), "kind": "video", "start": 0.0, "end": len(frames) / fps, "fps": fps, "prompt": None}


def image(path: Path) -> dict[str, object]:
    write_image(path, np.zeros((64, 64, 3), np.uint8))
    return {"uri": str(path), "kind": "image", "start": 0.0, "end": 0.0, "fps": None, "prompt": "a dog"}


def levels(*values: int) -> np.ndarray:
    return np.stack([np.full((64, 64, 3), value, np.uint8) for value in values])


def test_steadiness_is_the_mean_difference_of_neighbours() -> None:
    assert steadiness(levels(0, 255)) == 0.0
    assert steadiness(levels(7, 7, 7)) == 1.0
    assert steadiness(levels(0, 51, 51, 0)) == pytest.approx((255 - 34) / 255)
    assert steadiness(levels(200, 10)) == pytest.approx((255 - 190) / 255), "uint8 must not wrap around"
    assert steadiness(levels(3)) is None


def test_static_is_said_of_videos_that_end_as_they_begin(tmp_path: Path) -> None:
    rows = [video(tmp_path / "a.mp4", levels(100, 160, 100)), video(tmp_path / "b.mp4", levels(100, 130, 160))]
    found = apply(TemporalFlickering(), None, [*rows, image(tmp_path / "c.png")])
    assert [row["static"] for row in found] == [True, False, None]
    assert found[0]["temporal_flickering"] == pytest.approx((255 - 60) / 255, abs=0.01)
    assert found[2]["temporal_flickering"] is None


def test_the_largest_five_percent_of_the_flow_count() -> None:
    flow = torch.zeros(1, 2, 10, 10)
    flow[0, 0, 0, :5] = 20.0  # 5 of 100 pixels
    flow[0, 0, 1, :] = 3.0
    np.testing.assert_allclose(largest_magnitudes(flow), [20.0])


def test_thresholds_of_the_protocol() -> None:
    assert moving_pairs(np.array([5.9, 6.0, 6.1]), short_side=256) == 1
    assert moving_pairs(np.array([11.9, 12.1]), short_side=512) == 1
    assert not moves(3, sampled=16)
    assert moves(4, sampled=16)
    assert moves(2, sampled=8)
    assert not moves(1, sampled=8)


def test_every_second_frame_of_16_a_second_is_compared(tmp_path: Path) -> None:
    compared: list[int] = []

    def flow(first: Tensor, second: Tensor) -> Tensor:
        compared.extend(zip(first.float().mean((1, 2, 3)), second.float().mean((1, 2, 3)), strict=True))
        return torch.full((len(first), 2, *first.shape[-2:]), 10.0)

    row = video(tmp_path / "a.mp4", levels(*range(0, 160, 10)), fps=16)
    found = apply(DynamicDegree(weights="fake/raft"), flow, [row, image(tmp_path / "b.png")])
    assert [round(float(before) / 10) for before, _ in compared] == list(range(0, 14, 2))
    assert (found[0]["dynamic_degree"], found[0]["dynamic_pairs"]) == (1.0, 7)
    assert found[0]["dynamic_magnitude"] == pytest.approx(200**0.5)
    assert found[1]["dynamic_degree"] is None


def test_consistency_with_the_first_and_the_previous_frame() -> None:
    features = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    # frame 1: first 0.6, previous 0.6; frame 2: first 0, previous 0.8
    assert consistency(features) == pytest.approx(((0.6 + 0.6) / 2 + (0.0 + 0.8) / 2) / 2)
    assert consistency(np.array([[1.0, 0.0], [-1.0, 0.0]])) == 0.0, "negative cosines count as 0"
    assert consistency(features[:1]) is None


def test_a_still_video_is_consistent_and_an_image_has_no_score(tmp_path: Path) -> None:
    stage = SubjectConsistency(model="fake/dino")
    picture = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), dtype=np.uint8) // 16 * 16
    rows = [video(tmp_path / "a.mp4", np.repeat(picture, 6, axis=0)), image(tmp_path / "b.png")]
    still, none = apply(stage, stage.load(), rows)
    assert still["subject_consistency"] == pytest.approx(1.0, abs=0.02)
    assert none["subject_consistency"] is None


def test_alignment_is_the_mean_cosine_of_frames_and_prompt(tmp_path: Path) -> None:
    assert alignment(np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([0.0, 1.0])) == pytest.approx(0.4)
    stage = ClipAlignment(model="fake/clip", frames=2)
    with_prompt, without = apply(
        stage, stage.load(), [image(tmp_path / "a.png"), video(tmp_path / "b.mp4", levels(0, 9))]
    )
    assert -1 <= with_prompt["clip_alignment"] <= 1
    assert without["clip_alignment"] is None


def test_a_bad_file_keeps_to_itself(tmp_path: Path) -> None:
    bad = {**video(tmp_path / "a.mp4", levels(0, 9)), "uri": str(tmp_path / "gone.mp4")}
    for stage in (TemporalFlickering(), DynamicDegree(weights="fake/raft")):
        found = apply(stage, None, [bad])[0]
        assert found["failed_error"] == "MediaError"


def test_the_summary_is_over_the_samples_that_a_metric_applies_to() -> None:
    rows = [
        {"aesthetic_mean": 4.0, "temporal_flickering": 0.8, "static": False, "seconds": 1.0},
        {"aesthetic_mean": 6.0, "temporal_flickering": 0.9, "static": True, "seconds": 3.0},
        {"aesthetic_mean": None, "temporal_flickering": None, "static": None, "seconds": None},
    ]
    assert summarise(rows) == {
        "aesthetic_mean": Score(5.0, 2), "temporal_flickering": Score(pytest.approx(0.85), 2),
        "temporal_flickering_static": Score(0.9, 1), "seconds": Score(2.0, 2),
    }  # fmt: skip
    assert summarise([]) == {}


def test_the_metrics_stages_agree_with_the_schema(metrics: Metrics) -> None:
    from pipelines.store import schema

    for stage in metrics.stages:
        assert set(stage.adds) <= set(schema.COLUMNS), stage.name
