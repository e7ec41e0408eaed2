"""Motion: a shift of known pixels gives that motion, whatever the frame rate and size; RAFT's own path for shapes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.core.stage import Resources, apply
from pipelines.curation.motion import Motion, Raft, mean_magnitudes, normalised
from pipelines.media.frames import read_frames
from pipelines.media.write import write_image, write_video
from tests.media_files import coded_frames, read_code, write_container

motion_stage = partial(Motion, weights="fake/raft")
"""A stage of an untrained network, for tests that hand in a flow of their own."""


def exact_flow(first: Tensor, second: Tensor) -> Tensor:
    """The whole-frame shift in x, found by trying all of them; stands in for a trained network."""
    shifts = []
    for before, after in zip(first.float(), second.float(), strict=True):
        errors = [(after - before.roll(shift, -1)).abs()[..., 64:-64].mean() for shift in range(-48, 49)]
        shifts.append(float(np.argmin(errors)) - 48)
    flow = torch.zeros(len(first), 2, *first.shape[-2:])
    flow[:, 0] = torch.tensor(shifts)[:, None, None]
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
    row = apply(motion_stage(short_side=256, **settings), exact_flow, [clip(path, seconds, fps)])[0]
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
    for row in apply(motion_stage(), exact_flow, rows):
        assert (row["motion_score"], row["motion_pairs"], row["motion_interval"]) == (0.0, 0, None)


def test_a_bad_file_keeps_to_itself(tmp_path: Path) -> None:
    good = sliding(tmp_path / "a.mp4", step=4, frames=12, fps=12)
    rows = apply(motion_stage(), exact_flow, [clip(tmp_path / "gone.mp4", 1.0, 12), clip(good, 1.0, 12)])
    assert [row["failed_stage"] for row in rows] == ["motion", None]
    assert rows[1]["motion_raw_mean"] == 4.0


def test_pairs_are_spread_over_the_clip_and_stay_inside_it() -> None:
    stage = motion_stage(pairs_per_second=2, max_pairs=6)
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
    raft = Raft.load("raft_small", "fake/raft", 2)
    frames = torch.randint(0, 255, (2, 3, height, width), dtype=torch.uint8)
    flow = raft(frames, frames.flip(-1))
    assert flow.shape == (2, 2, height, width)
    assert torch.isfinite(flow).all()


def test_enlarged_frames_give_flow_in_their_own_pixels() -> None:
    class Constant(torch.nn.Module):
        """Returns 8 pixels right and 8 down everywhere, at the size of its input."""

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


@pytest.mark.parametrize("fps", [6, 8, 23.976, 25, 29.97, 30, 50, 59.94])
def test_pairs_are_whole_frames_apart_and_inside_their_clip(fps: float, tmp_path: Path) -> None:
    path = write_container(tmp_path / "v.mkv", coded_frames(60, height=16), fps=fps)  # times rounded to milliseconds
    gap = max(1, round(fps / 12))
    for first, last in [(0, gap), (0, gap + 1), (7, 8 + gap), (7, 19), (10, 60), (60 - gap - 1, 60), (0, 60)]:
        row = clip(path, last / fps, fps) | {"start": first / fps}
        times = motion_stage(pairs_per_second=4).pair_times(row)
        assert bool(times) == (last - first > gap), "a clip gives a pair as soon as one fits"
        if times:
            codes = [read_code(frame) for frame in read_frames(str(path), [time for pair in times for time in pair])]
            assert [after - before for before, after in zip(codes[::2], codes[1::2], strict=True)] == [gap] * len(times)
            assert first <= min(codes) < max(codes) < last


@pytest.mark.parametrize(("fps", "apart"), [(25, 2), (30, 2), (29.97, 2), (10, 1), (60, 5)])
def test_rates_that_12_does_not_divide_give_the_same_score(fps: float, apart: int, tmp_path: Path) -> None:
    row = measured(sliding(tmp_path / "a.mp4", step=2, frames=int(2 * fps), fps=fps), int(2 * fps) / fps, fps)
    assert row["motion_interval"] == pytest.approx(apart / fps)
    assert row["motion_raw_mean"] == 2 * apart
    assert row["motion_score"] == pytest.approx(2 * fps / 12, rel=1e-3)  # 2 fps pixels a second


def test_small_and_upright_videos_are_measured_at_a_short_side_of_256(tmp_path: Path) -> None:
    small = measured(sliding(tmp_path / "a.mp4", step=2, frames=24, fps=12, side=128), 2.0, 12)
    assert small["motion_score"] == pytest.approx(4.0)  # 2 of 128 pixels
    flat = read_frames(str(sliding(tmp_path / "b.mp4", step=4, frames=12, fps=12)), [index / 12 for index in range(12)])
    write_video(tmp_path / "c.mp4", flat[:, :, :128], 12, crf=1)  # 256 high, 128 wide: 4 of 128 pixels
    assert measured(tmp_path / "c.mp4", 1.0, 12)["motion_score"] == pytest.approx(8.0)


def test_the_statistics_are_over_the_pairs(tmp_path: Path) -> None:
    def flow(first: Tensor, second: Tensor) -> Tensor:
        lengths = first.float().mean(dim=(1, 2, 3)).round() / 10  # grey value 10 n: n pixels
        return torch.stack([lengths * 0.6, lengths * -0.8], 1)[:, :, None, None].expand(-1, -1, 16, 16)

    levels = np.stack([np.full((32, 32, 3), 20 * (index // 6), np.uint8) for index in range(24)])
    write_video(tmp_path / "a.mp4", levels, 12, crf=1)
    rows = [
        apply(motion_stage(short_side=32, pairs_at_once=many), flow, [clip(tmp_path / "a.mp4", 2.0, 12)])[0]
        for many in (8, 3, 1)
    ]
    assert rows[0]["motion_pairs"] == 4  # one in each level: 0, 2, 4 and 6 pixels
    assert rows[0]["motion_raw_mean"] == pytest.approx(3.0, abs=0.1)
    assert rows[0]["motion_raw_std"] == pytest.approx(5**0.5, abs=0.1)
    assert rows[0]["motion_raw_max"] == pytest.approx(6.0, abs=0.1)
    assert rows[0]["motion_score"] == pytest.approx(8 * rows[0]["motion_raw_mean"])  # 32 of 256
    for row in rows[1:]:
        assert [row[name] for name in Motion.adds] == pytest.approx([rows[0][name] for name in Motion.adds])


class Position(torch.nn.Module):
    """Returns the position of each pixel: its own, or the one that the picture's first two channels encode."""

    def __init__(self, *, by_picture: bool = False) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.by_picture = by_picture
        self.calls: list[tuple[int, ...]] = []
        self.range = (0.0, 0.0)

    def forward(self, first: Tensor, second: Tensor, num_flow_updates: int) -> list[Tensor]:
        self.calls.append((*first.shape[-2:], num_flow_updates))
        self.range = (float(first.min()), float(first.max()))
        rows, columns = torch.meshgrid(*(torch.arange(side).float() for side in first.shape[-2:]), indexing="ij")
        right = torch.stack([columns, rows]).expand(len(first), -1, -1, -1)
        if self.by_picture:
            right = (first[:, :2] + 1) * 127.5
        return [right * 0, right]  # the last refinement is the answer


@pytest.mark.parametrize(
    ("size", "padded"),
    [((128, 160), (128, 160)), ((130, 203), (136, 208)), ((256, 341), (256, 344)), ((361, 129), (368, 136))],
)
def test_padding_is_cut_off_on_the_side_where_it_was_put(size: tuple[int, int], padded: tuple[int, int]) -> None:
    network = Position(by_picture=True)
    rows, columns = torch.meshgrid(*(torch.arange(side) % 200 for side in size), indexing="ij")
    frames = torch.stack([columns, rows, 255 * (columns > 9)]).to(torch.uint8).expand(2, -1, -1, -1)
    flow = Raft(network, 7)(frames, frames)
    assert network.calls == [(*padded, 7)]
    assert network.range == (-1.0, 1.0), "torchvision's networks take -1..1"
    assert flow.shape == (2, 2, *size)
    torch.testing.assert_close(flow[1], torch.stack([columns, rows]).float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("size", "enlarged"), [((64, 96), (128, 192)), ((90, 60), (192, 128)), ((127, 300), (128, 304))]
)
def test_frames_below_128_are_enlarged_and_the_flow_is_brought_back(
    size: tuple[int, int], enlarged: tuple[int, int]
) -> None:
    network = Position()
    frames = torch.zeros(1, 3, *size, dtype=torch.uint8)
    flow = Raft(network, 1)(frames, frames)
    assert network.calls == [(*enlarged, 1)]
    # a pixel's place, in the frame's own pixels; within half a pixel, as pixels have an extent
    torch.testing.assert_close(flow[0, 0, 8], torch.arange(size[1]).float(), atol=0.5, rtol=0.01)
    torch.testing.assert_close(flow[0, 1, :, 8], torch.arange(size[0]).float(), atol=0.5, rtol=0.01)


def test_weights_come_from_safetensors_and_pth_alike(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    state = raft_small().state_dict()
    (tmp_path / "folder").mkdir()
    save_file(state, tmp_path / "folder" / "any_name.safetensors")
    torch.save(state, tmp_path / "raft.pth")
    for place in (tmp_path / "folder", tmp_path / "raft.pth"):
        loaded = Raft.load("raft_small", str(place), 1).network
        assert not loaded.training
        for name, value in loaded.state_dict().items():
            torch.testing.assert_close(value, state[name])


def test_weights_of_the_other_architecture_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"fake/raft.* cannot be loaded") as caught:
        Raft.load("raft_large", "fake/raft", 1)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_follows_weights_and_settings_and_not_workers(tmp_path: Path) -> None:
    (tmp_path / "raft.pth").write_bytes(b"one")
    one = Motion(weights=str(tmp_path / "raft.pth")).fingerprint
    assert one != motion_stage().fingerprint
    assert one != Motion(weights=str(tmp_path / "raft.pth"), short_side=128).fingerprint
    assert one == Motion(weights=str(tmp_path / "raft.pth"), resources=Resources(batch_size=3)).fingerprint
    (tmp_path / "raft.pth").write_bytes(b"other")
    assert one != Motion(weights=str(tmp_path / "raft.pth")).fingerprint
    assert Motion(weights="C_T_V2").fingerprint != Motion(weights="C_T_V1").fingerprint  # names need no file
