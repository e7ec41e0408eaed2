"""CLIP alignment by hand: which frames are looked at, and the mean cosine with the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.core.stage import Row, apply
from pipelines.evaluation.metrics.clip_alignment import ClipAlignment
from pipelines.media.write import write_image
from tests.media_files import write_container


class Degrees:
    """A frame of grey value v and the prompt "v" both point v degrees from the x axis."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.shape: tuple[int, ...] = ()

    def image_features(self, frames: Sequence[np.ndarray]) -> Tensor:
        self.seen += [round(float(frame.mean())) for frame in frames]
        self.shape = frames[0].shape
        return _plane([float(frame.mean()) for frame in frames])

    def text_features(self, texts: Sequence[str]) -> Tensor:
        return _plane([float(text) for text in texts])


def _plane(degrees: Sequence[float]) -> Tensor:
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def turning(path: Path, *degrees: int, prompt: str | None, fps: float = 8) -> Row:
    frames = np.stack([np.full((32, 48, 3), value, np.uint8) for value in degrees])
    write_container(path, frames, fps=fps, codec="ffv1", pix_fmt="bgr0")  # frames come back bit by bit
    end = len(degrees) / fps
    return {"uri": str(path), "kind": "video", "start": 0.0, "end": end, "fps": fps, "prompt": prompt}


def test_the_mean_over_frames_of_the_cosine_with_the_prompt(tmp_path: Path) -> None:
    row = turning(tmp_path / "v.mkv", 0, 30, 60, 90, prompt="60")
    (found,) = apply(ClipAlignment(model="fake/clip", frames=4), Degrees(), [row])
    assert found["clip_alignment"] == pytest.approx(np.mean(np.cos(np.radians([60, 30, 0, 30]))), abs=1e-5)


def test_frames_are_spread_over_the_clip_and_small(tmp_path: Path) -> None:
    row = turning(tmp_path / "v.mkv", *range(0, 160, 10), prompt="0")
    eyes = Degrees()
    apply(ClipAlignment(model="fake/clip", frames=4, short_side=16), eyes, [row])
    assert eyes.seen == [20, 60, 100, 140]
    assert eyes.shape == (16, 24, 3)
    eyes = Degrees()
    apply(ClipAlignment(model="fake/clip", frames=2), eyes, [{**row, "start": 0.5, "end": 1.0}])
    assert eyes.seen == [50, 70]


def test_an_image_is_looked_at_once(tmp_path: Path) -> None:
    write_image(tmp_path / "p.png", np.full((32, 48, 3), 45, np.uint8))
    row = {"uri": str(tmp_path / "p.png"), "kind": "image", "start": 0.0, "end": 0.0, "fps": None, "prompt": "90"}
    eyes = Degrees()
    (found,) = apply(ClipAlignment(model="fake/clip"), eyes, [row])
    assert found["clip_alignment"] == pytest.approx(np.cos(np.pi / 4), abs=1e-5)
    assert eyes.seen == [45]


def test_each_sample_meets_its_own_prompt_and_bad_files_fail_alone(tmp_path: Path) -> None:
    rows = [
        turning(tmp_path / "a.mkv", 0, 0, prompt="90"),
        turning(tmp_path / "b.mkv", 0, 0, prompt="60"),
        turning(tmp_path / "c.mkv", 0, 0, prompt=None),
        turning(tmp_path / "d.mkv", 0, 0, prompt=""),
        {**turning(tmp_path / "e.mkv", 0, 0, prompt="0"), "uri": str(tmp_path / "gone.mkv")},
    ]
    *good, bad = apply(ClipAlignment(model="fake/clip"), Degrees(), rows)
    assert [row["clip_alignment"] for row in good] == [pytest.approx(0, abs=1e-6), pytest.approx(0.5), None, None]
    assert (bad["failed_stage"], bad["failed_error"]) == ("clip_alignment", "MediaError")


def test_a_network_scores_an_image_with_its_prompt(tmp_path: Path) -> None:
    write_image(tmp_path / "p.png", np.full((64, 64, 3), 45, np.uint8))
    row = {"uri": str(tmp_path / "p.png"), "kind": "image", "start": 0.0, "end": 0.0, "fps": None, "prompt": "a dog"}
    stage = ClipAlignment(model="fake/clip")
    (scored,) = apply(stage, stage.load(), [row])
    assert scored["failed_stage"] is None, scored["failed_message"]
    assert -1 <= scored["clip_alignment"] <= 1
