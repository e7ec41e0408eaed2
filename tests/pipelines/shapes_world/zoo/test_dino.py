"""The training of zoo/dino: its negatives, its loss, and files that the metric's own loader reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.evaluation.metrics.subject_consistency import DinoModel
from pipelines.shapes_world.scenes import Scene, Thing
from pipelines.shapes_world.zoo import dino
from pipelines.shapes_world.zoo.scenes import generator

SCENE = Scene(
    width=64, height=64, background="grey", texture="plain",
    things=(
        Thing(shape="star", colour="red", size="large", x=20.0, y=20.0),
        Thing(shape="ring", colour="blue", size="small", x=50.0, y=50.0),
    ),
)  # fmt: skip


@pytest.mark.parametrize("attribute", ["colour", "shape"])
def test_a_change_is_of_one_attribute_of_one_thing(attribute: str) -> None:
    changed_things = set()
    for number in range(20):
        scene = dino.change(SCENE, attribute, generator(0, number))
        pairs = list(zip(SCENE.things, scene.things, strict=True))
        (changed,) = [index for index, (before, after) in enumerate(pairs) if before != after]
        before, after = pairs[changed]
        assert getattr(before, attribute) != getattr(after, attribute)
        assert dataclasses.replace(after, **{attribute: getattr(before, attribute)}) == before
        changed_things.add(changed)
    assert changed_things == {0, 1}


def test_a_clip_gives_two_moments_and_the_second_one_with_changes() -> None:
    frames = dino._frames(generator(1, 2))
    assert frames.shape[0] == 4
    assert frames.dtype == np.uint8
    assert all(not np.array_equal(frames[1], other) for other in (frames[2], frames[3]))


def test_the_loss_tells_a_clip_from_changed_objects_and_from_other_clips() -> None:
    one, other = torch.eye(4)[:2], torch.eye(4)[2:]
    good = dino.contrast(one, one, other, other)
    assert (good["same"], good["recoloured"], good["reshaped"]) == (1.0, 0.0, 0.0)
    assert good["loss"] < 0.001
    assert dino.contrast(one, one, one, other)["loss"] > 0.6, "a changed colour goes unnoticed"
    assert dino.contrast(one, one, other, one)["loss"] > 0.6, "a changed shape goes unnoticed"
    assert dino.contrast(one, one.flip(0), other, other)["loss"] > 5, "another clip is nearer"


def test_the_metric_reads_what_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = dino.make().eval()
    dino.save(model, tmp_path)
    loaded = DinoModel.load(str(tmp_path))
    assert "MISSING" not in caplog.text
    frames = np.random.default_rng(0).integers(0, 255, (3, 72, 128, 3), dtype=np.uint8)
    features = loaded.features(list(frames))
    assert features.shape == (3, dino.CONFIG["hidden_size"])
    pixels = dino.make_processor()(images=list(frames), return_tensors="pt").pixel_values
    assert pixels.shape == (3, 3, dino.SIDE, dino.SIDE)
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(features, torch.nn.functional.normalize(expected, dim=-1))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2e6
