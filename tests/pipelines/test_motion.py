"""Motion: a shift of known pixels gives that motion, whatever the frame rate and size; RAFT's own path for shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.media import write_image, write_video
from pipelines.motion import Motion, Raft, mean_magnitudes, normalised
from pipelines.stage import apply


def exact_flow(first: Tensor, second: Tensor) -> Tensor:
    """The whole-frame shift in x, found by trying all of them; stands in for a trained network."""
    found = []
    for before, after in zip(first.float(), second.float(), strict=True):
        errors = [(after - before.roll(shift, -1)).abs()[..., 64:-64].mean() for shift in range(-48, 49)]
        found.append(float(np.argmin(errors)) - 48)
    flow = torch.zeros(len(first), 2, *first.shape[-2:])
    flow[:, 0] = torch.tensor(found)[:, None, None]
    return flow


def sliding(path: Path, *, step: float, frames: int, fps: float, side: int = 256) -> Path:
    """A pattern that slides `step` pixels to the right with each frame."""
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 255, (side // 16, side // 8, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    shots = [np.roll(wide, round(step * index), axis=1) for index in range(frames)]
    write_video(path, np.stack(shots), fps, crf=1)
    return path


def clip(path: Path, seconds: float, fps: float | None, kind: str = "video") -> dict[str, object]:
    return {"uri": str(path), "kind": kind, "start": 0.0, "end": seconds, "fps": fps}


def measured(path: Path, seconds: float, fps: float, **settings: object) -> dict[str, object]:
    row = apply(Motion(short_side=256, **settings), exact_flow, [clip(path, seconds, fps)])[0]
    assert row["failed_stage"] is None, row["failed_message"]
    return row


def test_a_shift_of_4_pixels_is_a_motion_of_4_pixels(tmp_path: Path) -> None:
    row = measured(sliding(tmp_path / "a.mp4", step=4, frames=24, fps=12), 2.0, 12)
    assert row["motion_raw_mean"] == 4.0
    assert row["motion_score"] == pytest.approx(4.0)
    assert (row["motion_raw_std"], row["motion_raw_max"]) == (0.0, 4.0)
    assert (row["motion_pairs"], row["motion_short_side"]) == (4, 256)
    assert row["motion_interval"] == pytest.approx(1 / 12)


@pytest.mark.parametrize(
    ("step", "fps", "frames", "raw"),
    [
        (2, 24, 48, 4.0),  # 48 pixels a second: frames 1/12 s apart are two frames apart
        (8, 6, 12, 8.0),  # 6 a second: the nearest pair is 1/6 s apart
        (1, 48, 96, 4.0),
    ],
)
def test_the_score_does_not_depend_on_the_frame_rate(
    step: int, fps: int, frames: int, raw: float, tmp_path: Path
) -> None:
    row = measured(sliding(tmp_path / "a.mp4", step=step, frames=frames, fps=fps), 2.0, fps)
    assert row["motion_raw_mean"] == raw
    assert row["motion_score"] == pytest.approx(4.0)


def test_the_score_does_not_depend_on_the_size(tmp_path: Path) -> None:
    large = measured(sliding(tmp_path / "a.mp4", step=8, frames=24, fps=12, side=512), 2.0, 12)
    assert large["motion_raw_mean"] == pytest.approx(4.0)  # decoded at a short side of 256
    assert normalised(4.0, short_side=256, seconds=1 / 12) == pytest.approx(4.0)
    assert normalised(2.0, short_side=128, seconds=1 / 12) == pytest.approx(4.0)
    assert normalised(8.0, short_side=256, seconds=1 / 6) == pytest.approx(4.0)


def test_calibration_multiplies_the_score_alone(tmp_path: Path) -> None:
    row = measured(sliding(tmp_path / "a.mp4", step=4, frames=12, fps=12), 1.0, 12, calibration=2.5)
    assert (row["motion_raw_mean"], row["motion_score"]) == (4.0, pytest.approx(10.0))


def test_images_and_single_frames_do_not_move(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    rows = [clip(tmp_path / "a.png", 0.0, None, "image"), clip(tmp_path / "b.mp4", 1 / 12, 12)]
    for row in apply(Motion(), exact_flow, rows):
        assert (row["motion_score"], row["motion_pairs"], row["motion_interval"]) == (0.0, 0, None)


def test_a_bad_file_keeps_to_itself(tmp_path: Path) -> None:
    good = sliding(tmp_path / "a.mp4", step=4, frames=12, fps=12)
    rows = apply(Motion(), exact_flow, [clip(tmp_path / "gone.mp4", 1.0, 12), clip(good, 1.0, 12)])
    assert [row["failed_stage"] for row in rows] == ["motion", None]
    assert rows[1]["motion_raw_mean"] == 4.0


def test_pairs_are_spread_over_the_clip_and_stay_inside_it() -> None:
    stage = Motion(pairs_per_second=2, max_pairs=6)
    row = {"kind": "video", "start": 3.0, "end": 13.0, "fps": 12.0}
    times = stage.pair_times(row)
    assert len(times) == 6
    frames = [(round(a * 12 - 0.25), round(b * 12 - 0.25)) for a, b in times]
    assert all(later == earlier + 1 for earlier, later in frames)
    assert frames[0][0] >= 36
    assert frames[-1][1] < 156
    gaps = np.diff([earlier for earlier, _ in frames])
    assert gaps.max() - gaps.min() <= 1


def test_mean_magnitude_of_a_flow() -> None:
    flow = torch.zeros(2, 2, 4, 4)
    flow[0, 0], flow[0, 1] = 3.0, 4.0
    flow[1, 0, :2] = 2.0
    np.testing.assert_allclose(mean_magnitudes(flow), [5.0, 1.0])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 100), (130, 144)])
def test_raft_takes_any_size(height: int, width: int) -> None:
    raft = Raft.load("raft_small", "embedded/raft", 2)
    frames = torch.randint(0, 255, (2, 3, height, width), dtype=torch.uint8)
    flow = raft(frames, frames.flip(-1))
    assert flow.shape == (2, 2, height, width)
    assert torch.isfinite(flow).all()


def test_enlarged_frames_give_flow_in_their_own_pixels() -> None:
    class Constant(torch.nn.Module):
        """Says that everything moves 8 pixels right and 8 down, at the size it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.anchor = torch.nn.Parameter(torch.zeros(1))

        def forward(self, first: Tensor, second: Tensor, num_flow_updates: int) -> list[Tensor]:
            assert min(first.shape[-2:]) >= 128
            assert first.shape[-1] % 8 == first.shape[-2] % 8 == 0
            return [torch.full((len(first), 2, *first.shape[-2:]), 8.0)]

    frames = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)  # enlarged four times
    torch.testing.assert_close(Raft(Constant(), 1)(frames, frames), torch.full((1, 2, 32, 64), 2.0))


def test_missing_weights_are_one_line() -> None:
    with pytest.raises(ValueError, match="no such folder"):
        Raft.load("raft_small", "/nowhere/raft.pth", 1)
