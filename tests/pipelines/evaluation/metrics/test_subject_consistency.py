"""Subject consistency by hand: each frame against the first and the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.core.stage import Row, apply
from pipelines.evaluation.metrics.subject_consistency import DinoModel, SubjectConsistency, consistency
from pipelines.media.write import write_video
from tests.media_files import write_container


class Angles:
    """Features in the plane: a frame of grey value v points v degrees from the x axis."""

    seen: int = 0

    def features(self, frames: Sequence[np.ndarray]) -> Tensor:
        self.seen += len(frames)
        angles = torch.tensor([np.radians(float(frame.mean())) for frame in frames])
        return torch.stack([angles.cos(), angles.sin()], dim=1)


def turning(path: Path, *degrees: int, fps: float = 8) -> Row:
    frames = np.stack([np.full((32, 48, 3), value, np.uint8) for value in degrees])
    write_container(path, frames, fps=fps, codec="ffv1", pix_fmt="bgr0")  # frames come back bit by bit
    return {"uri": str(path), "kind": "video", "start": 0.0, "end": len(degrees) / fps, "fps": fps}


def cosine(degrees: float) -> float:
    return float(np.cos(np.radians(degrees)))


@pytest.mark.parametrize("fps", [8, 24, 29.97])
def test_each_frame_is_compared_with_the_first_and_the_previous(fps: float, tmp_path: Path) -> None:
    (row,) = apply(
        SubjectConsistency(model="fake/dino"), Angles(), [turning(tmp_path / "v.mkv", 0, 60, 90, 30, fps=fps)]
    )
    # (first, previous): 60 and 60, 90 and 30, 30 and 60 degrees
    pairs = [(60, 60), (90, 30), (30, 60)]
    expected = np.mean([(cosine(first) + cosine(previous)) / 2 for first, previous in pairs])
    assert row["subject_consistency"] == pytest.approx(expected, abs=1e-5)


def test_opposite_features_count_as_nothing_each_for_itself() -> None:
    turned = np.array([[1.0, 0.0], [-0.6, 0.8], [-1.0, 0.0]])
    # frame 1: first -0.6, previous -0.6; frame 2: first -1, previous 0.6
    assert consistency(turned) == pytest.approx((0 + 0.6 / 2) / 2)


def test_frames_that_stay_the_same_are_wholly_consistent() -> None:
    assert consistency(np.array([[0.6, 0.8]] * 5)) == pytest.approx(1.0)


def test_frames_behind_the_most_and_outside_the_clip_are_not_looked_at(tmp_path: Path) -> None:
    row = turning(tmp_path / "v.mkv", 0, 60, 90, 30, 180, 90)
    stage, eyes = SubjectConsistency(model="fake/dino", max_frames=2), Angles()
    assert apply(stage, eyes, [row])[0]["subject_consistency"] == pytest.approx(cosine(60), abs=1e-5)
    assert eyes.seen == 2
    inside = {**row, "start": 1 / 8, "end": 3 / 8}
    assert apply(SubjectConsistency(model="fake/dino"), Angles(), [inside])[0]["subject_consistency"] == pytest.approx(
        cosine(30), abs=1e-5
    )


def test_images_single_frames_and_bad_files(tmp_path: Path) -> None:
    row = turning(tmp_path / "v.mkv", 0, 60)
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    rows = [
        {**row, "kind": "image", "end": 0.0, "fps": None},
        {**row, "end": 1 / 8},
        {**row, "uri": str(tmp_path / "bad.mp4")},
        row,
    ]
    image, single, bad, good = apply(SubjectConsistency(model="fake/dino"), Angles(), rows)
    assert (image["subject_consistency"], image["failed_stage"]) == (None, None)
    assert (single["subject_consistency"], single["failed_stage"]) == (None, None)
    assert (bad["failed_stage"], bad["failed_error"]) == ("subject_consistency", "MediaError")
    assert good["subject_consistency"] == pytest.approx(cosine(60), abs=1e-5)


def test_features_do_not_depend_on_how_many_frames_go_at_once() -> None:
    model = DinoModel.load("fake/dino")
    frames = [np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8) for seed in range(5)]
    together, apart = model.features(frames), model.features(frames, at_once=2)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(together[3], model.features(frames[3:4])[0], atol=1e-5, rtol=1e-4)


def test_a_still_video_is_consistent_to_a_network(tmp_path: Path) -> None:
    stage = SubjectConsistency(model="fake/dino")
    picture = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), dtype=np.uint8) // 16 * 16
    write_video(tmp_path / "v.mp4", np.repeat(picture, 6, axis=0), 8, crf=1)
    row = {"uri": str(tmp_path / "v.mp4"), "kind": "video", "start": 0.0, "end": 6 / 8, "fps": 8.0}
    assert apply(stage, stage.load(), [row])[0]["subject_consistency"] == pytest.approx(1.0, abs=0.02)
