"""Grids of several samples in one file, as benchmarks want them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nova_model.checkpoints.weights import save_transformer
from pipelines.core.stage import Resources, apply
from pipelines.generation.checkpoint_resolution import ResolvedCheckpoint
from pipelines.generation.requests import SampleRequest
from pipelines.generation.stage import Generate, grid
from pipelines.media.frames import read_frames
from pipelines.media.probe import probe
from tests.nova_model.models import OF_CLASSES, one_line_error, tiny


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


@pytest.mark.parametrize(("number", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (5, 2, 3), (7, 3, 3)])
def test_a_grid_is_about_square_and_keeps_every_pixel(number: int, rows: int, columns: int) -> None:
    videos = np.random.default_rng(0).integers(1, 255, (number, 2, 3, 5, 3), dtype=np.uint8)
    sheet = grid(list(videos))
    assert sheet.shape == (2, 3 * rows, 5 * columns, 3)
    cut = [sheet[:, 3 * y : 3 * y + 3, 5 * x : 5 * x + 5] for y in range(rows) for x in range(columns)]
    np.testing.assert_array_equal(cut[:number], videos)
    assert not np.any(cut[number:])


CHECKPOINT = ResolvedCheckpoint(checkpoint="c", transformer="t", scheduler="s", vae="v", text_encoder="e")


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, (256, 384)),
        ({"height": 128}, (128, 384)),
        ({"width": 64}, (256, 64)),
        ({"height": 512, "width": 768}, (512, 768)),
    ],
)
def test_the_size_is_the_models_own_where_none_is_asked_for(asked: dict[str, int], size: tuple[int, int]) -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(pixel_size=(256, 384)))
    assert Generate(checkpoint=CHECKPOINT, output="out", **asked).size(model) == size


def test_a_model_whose_weights_alone_have_class_labels_is_refused(tmp_path: Path) -> None:
    save_transformer(tiny(**OF_CLASSES, label_classes=3), tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({key: value for key, value in tiny().config.to_dict().items() if not key.startswith("text_")})
    )
    stage = Generate(checkpoint=replace(CHECKPOINT, transformer=str(tmp_path)), output="out")
    with one_line_error("^c takes class labels, not prompts"):
        stage.load()


class Numbered(Generate):
    """Generates frames of ten times the seed and notes which requests came together."""

    def sample(self, pipeline: Any, requests: Sequence[SampleRequest]) -> np.ndarray:
        seeds = [request.seeds[0] for request in requests]
        pipeline.append(([request.prompt for request in requests], seeds))
        frames = requests[0].frames or 1
        return np.stack([np.full((frames, 8, 8, 3), 10 * seed, np.uint8) for seed in seeds])


def test_samples_of_several_prompts_made_together_are_told_apart(tmp_path: Path) -> None:
    calls: Any = []
    rows = [{"prompt": "a", "path": "a.png", "seeds": [1, 2, 3, 4]}, {"prompt": "b", "path": "in/b.png", "seeds": [5]}]
    stage = Numbered(checkpoint=CHECKPOINT, output=str(tmp_path), samples_at_once=3)
    first, second = (row for row in stage.process(calls, rows) if not isinstance(row, Exception))
    assert calls == [(["a", "a", "a"], [1, 2, 3]), (["a", "b"], [4, 5])]
    assert (first["height"], first["width"], first["kind"], first["fps"]) == (16, 16, "image", None)
    np.testing.assert_array_equal(read_frames(first["uri"])[0, ::8, ::8, 0], [[10, 20], [30, 40]])
    assert second["uri"] == str(tmp_path / "in" / "b.png")
    assert (read_frames(second["uri"]) == 50).all()


def test_samples_have_frames_motion_and_a_first_frame_of_their_own(tmp_path: Path) -> None:
    calls: Any = []
    row = {"prompt": "a", "seeds": [1]}
    rows = [
        {**row, "path": "usual.mp4"},
        {**row, "path": "picture.png", "asked_frames": 1, "asked_motion": None, "first_frame": None},
        {**row, "path": "quick.mp4", "asked_frames": None, "asked_motion": 8.0, "first_frame": None},
        {**row, "path": "next.mp4", "asked_frames": 5, "asked_motion": None, "first_frame": "first.png"},
    ]
    stage = Numbered(checkpoint=CHECKPOINT, output=str(tmp_path), frames=5, motion=2.0, samples_at_once=4)
    requests = [stage.with_defaults(SampleRequest.from_row(row)) for row in rows]
    assert requests == [
        SampleRequest(prompt="a", path="usual.mp4", seeds=(1,), frames=5, motion=2.0),
        SampleRequest(prompt="a", path="picture.png", seeds=(1,), frames=1, motion=2.0),
        SampleRequest(prompt="a", path="quick.mp4", seeds=(1,), frames=5, motion=8.0),
        SampleRequest(prompt="a", path="next.mp4", seeds=(1,), frames=5, motion=2.0, image="first.png"),
    ]
    made = apply(stage, calls, rows)
    assert [(each["kind"], each["frames"]) for each in made] == [
        ("video", 5), ("image", 1), ("video", 5), ("video", 5),
    ]  # fmt: skip
    assert [len(prompts) for prompts, _ in calls] == [2, 1, 1], "only what is of one kind is made together"


def test_frames_become_a_video_at_its_rate(tmp_path: Path) -> None:
    stage = Numbered(checkpoint=CHECKPOINT, output=str(tmp_path), frames=6, video_fps=8)
    (row,) = apply(stage, [], [{"prompt": "a", "path": "a.mp4", "seeds": [3]}])
    info = probe(row["uri"])
    assert (info.kind, info.frames, info.fps, info.height, info.width) == ("video", 6, 8, 8, 8)
    assert (row["kind"], row["frames"], row["fps"], row["height"], row["width"]) == ("video", 6, 8, 8, 8)


@pytest.mark.parametrize(("gpus", "factor"), [(0.0, 1), (1.0, 1), (4.0, 4)])
def test_device_seconds_count_every_gpu_of_a_worker(gpus: float, factor: int, tmp_path: Path) -> None:
    stage = Numbered(checkpoint=CHECKPOINT, output=str(tmp_path), resources=Resources(gpus=gpus))
    (row,) = apply(stage, [], [{"prompt": "a", "path": "a.png", "seeds": [3]}])
    assert row["seconds"] > 0
    assert row["device_seconds"] == pytest.approx(factor * row["seconds"])
