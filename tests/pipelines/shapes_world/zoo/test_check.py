"""The zoo's scores: captions are parsed and judged correctly, and a perfect model has a perfect score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.shapes_world.draw import true_flow
from pipelines.shapes_world.scenes import Scene, Thing, sample_scene, short_caption
from pipelines.shapes_world.zoo import check
from pipelines.shapes_world.zoo.check import BARS, Mention, judge_caption, read_caption
from pipelines.shapes_world.zoo.scenes import generator


def scene(*things: Thing) -> Scene:
    return Scene(width=64, height=64, background="grey", texture="plain", things=things)


def thing(shape="circle", colour="red", **settings) -> Thing:
    return Thing(**{"shape": shape, "colour": colour, "size": "small", "x": 20.0, "y": 20.0, **settings})


@pytest.mark.parametrize(
    ("caption", "mentions"),
    [
        ("a red circle", [Mention("circle", "red", None, None)]),
        ("an orange star moving to the upper left", [Mention("star", "orange", "moving", "upper left")]),
        ("A blue ring bouncing to the left", [Mention("ring", "blue", "bouncing", "left")]),
        ("a green cross turning counterclockwise", [Mention("cross", "green", "turning", "counterclockwise")]),
        ("three white crosses", [Mention("cross", "white", None, None)]),
        (
            "a pink square above a purple triangle",
            [Mention("square", "pink", None, None), Mention("triangle", "purple", None, None)],
        ),
        ("nothing that is known", []),
    ],
)
def test_captions_are_read(caption, mentions):
    assert read_caption(caption) == mentions


@pytest.mark.parametrize("video", [False, True])
def test_the_worlds_own_captions_are_right_in_all(video):
    for number in range(200):
        drawn = sample_scene(generator(0, number), width=64, height=64, seconds=1.2 if video else 0.0)
        verdicts = judge_caption(drawn, short_caption(drawn), video=video)
        assert all(good for _, good in verdicts), (short_caption(drawn), verdicts)


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("a red square moving to the left", {"shape"}),
        ("a blue circle moving to the left", {"colour"}),
        ("a red circle moving to the upper left", {"direction"}),
        ("a red circle", {"direction"}),
        ("a red circle moving to the left and a blue star", {"things"}),
        ("", {"things", "shape", "colour", "direction"}),
    ],
)
def test_what_is_wrong_is_named(caption, wrong):
    moving = scene(thing(direction="left", speed="slowly"))
    assert {name for name, good in judge_caption(moving, caption, video=True) if not good} == wrong


def test_either_of_two_may_be_named_first():
    both = scene(thing(), thing("star", "blue", x=45.0))
    assert all(good for _, good in judge_caption(both, "a blue star and a red circle", video=False))
    assert not all(good for _, good in judge_caption(both, "a blue circle and a red star", video=False))


def test_scores_hold_on_the_right_side_of_their_bar():
    assert check.holds("vae_psnr", 30.0)
    assert not check.holds("vae_psnr", 29.9)
    assert check.holds("motion_epe", 0.5)
    assert not check.holds("motion_epe", 0.7)
    assert len(BARS) == 10


def test_the_motion_score_of_an_exact_flow_is_the_true_one(monkeypatch):
    """A stand-in that knows the scene gives, for each pair, the flow that truth gives."""
    drawn: list[Scene] = []

    def remember(*arguments, **settings):
        drawn.append(sample_scene(*arguments, **settings))
        return drawn[-1]

    def exact(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        starts = (0.25, 0.75, 1.25)
        flows = [true_flow(drawn[-1], start, start + 1 / check.FPS)[0] for start in starts]
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2)

    monkeypatch.setattr(check, "sample_scene", remember)
    pairs = [check._motion_scores(exact, 0, number) for number in range(10)]
    assert [found for found, _ in pairs] == pytest.approx([true for _, true in pairs], rel=1e-5)
    assert pairs[0] == (0.0, 0.0), "the first scene stands still"
    assert max(true for _, true in pairs) > 0.05


def test_the_chance_that_a_clean_picture_scores_higher():
    assert check._auc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1.0
    assert check._auc(np.array([1.0, 4.0]), np.array([2.0, 3.0])) == 0.5
