"""The grammar of the benchmark `shapes`: its tasks, its wording, and scenes that stay in view when rendered."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from pipelines.curation.motion import normalised
from pipelines.shapes_world.draw import coverage
from pipelines.shapes_world.prompts import IMAGE_TASKS, TASKS, VIDEO_TASKS, Canvas, Question, ShapesBenchmark, questions
from pipelines.shapes_world.scenes import COLOURS, DIRECTIONS, RELATIONS, SHAPES, held_out, short_caption

CANVAS = Canvas(height=64, width=64, frames=17, extended=33)


def questions_by_task(canvas: Canvas = CANVAS, **changes: Any) -> dict[str, list[Question]]:
    """Questions by task."""
    by_task: dict[str, list[Question]] = {}
    for question in questions(ShapesBenchmark(**changes), canvas):
        by_task.setdefault(question.task, []).append(question)
    return by_task


def test_each_task_has_its_number_of_questions_and_each_sample_its_own_file() -> None:
    by_task = questions_by_task(samples=10, per_level=3, motion_levels=(1, 8))
    assert {task: len(listed) for task, listed in by_task.items()} == dict.fromkeys(TASKS, 10) | {"speed": 6}
    every = [question for listed in by_task.values() for question in listed]
    assert len({question.path for question in every}) == len(every)
    seeds = Counter(question.seed for question in every)
    assert set(seeds.values()) == {1, 2}, "the levels of a prompt share a seed"
    assert {question.seed for question in by_task["speed"]} == {seed for seed, count in seeds.items() if count == 2}


def test_the_wording_is_that_of_training() -> None:
    by_task = questions_by_task(samples=8, per_level=2)
    for listed in by_task.values():
        assert all(question.prompt == short_caption(question.scene) for question in listed)
    assert all(" moving to the " in question.prompt for task in VIDEO_TASKS for question in by_task[task])
    assert all(" and a" in question.prompt for question in by_task["two_objects"])
    assert all(question.prompt.startswith(("two ", "three ", "four ")) for question in by_task["counting"])
    assert all(f" {question.scene.relation} " in question.prompt for question in by_task["position"])


def test_exactly_the_held_out_combinations_are_requested() -> None:
    for task in ("direction", "image_to_video"):
        things = [question.scene.things[0] for question in questions_by_task(samples=48, tasks=(task,))[task]]
        ways = [(thing.colour, thing.shape, thing.direction) for thing in things]
        assert len(set(ways)) == 48
        assert all(held_out(*way) for way in ways)
        assert [thing.direction for thing in things[:8]] == list(DIRECTIONS)
    for task in ("speed", "extrapolation"):
        things = [
            question.scene.things[0] for question in questions_by_task(samples=32, per_level=8, tasks=(task,))[task]
        ]
        assert not any(held_out(thing.colour, thing.shape, thing.direction) for thing in things)


def test_pictures_cover_all_kinds_equally() -> None:
    by_task = questions_by_task(samples=48, tasks=IMAGE_TASKS)
    for task in ("single_object", "colors"):
        things = [question.scene.things[0] for question in by_task[task]]
        assert {(thing.colour, thing.shape) for thing in things} == {(c, s) for c in COLOURS for s in SHAPES}
    assert Counter(len(question.scene.things) for question in by_task["counting"]) == {2: 16, 3: 16, 4: 16}
    assert Counter(question.scene.relation for question in by_task["position"]) == dict.fromkeys(RELATIONS, 12)


def test_the_same_prompts_and_seeds_at_each_level() -> None:
    listed = questions_by_task(tasks=("speed",), per_level=5)["speed"]
    by_level: dict[float | None, list[tuple[str, int]]] = {}
    for question in listed:
        by_level.setdefault(question.motion, []).append((question.prompt, question.seed))
    assert list(by_level) == [1, 3, 5, 8]
    assert len({tuple(pairs) for pairs in by_level.values()}) == 1


def test_more_samples_begin_with_those_of_fewer_and_seeds_differ() -> None:
    few, many, others = (
        questions_by_task(samples=5, per_level=2),
        questions_by_task(samples=12, per_level=4),
        questions_by_task(samples=5, seed=1),
    )
    for task in TASKS:
        assert few[task] == many[task][: len(few[task])]
        assert [question.scene for question in few[task]] != [question.scene for question in others[task]][
            : len(few[task])
        ]


@pytest.mark.parametrize("size", [(64, 64), (72, 128), (128, 72)])
def test_moving_things_stay_in_view(size: tuple[int, int]) -> None:
    height, width = size
    for listed in questions_by_task(Canvas(height=height, width=width, frames=17, extended=33), samples=32).values():
        for question in listed:
            for thing in question.scene.things:
                radius = thing.radius(min(size))
                for time in np.arange(question.frames) / 12:
                    x, y = thing.centre(time, min(size))
                    assert radius <= x <= width - radius
                    assert radius <= y <= height - radius


def test_tasks_that_continue_a_first_frame() -> None:
    by_task = questions_by_task(samples=2, per_level=1)
    assert {task for task, listed in by_task.items() if listed[0].continues} == {"image_to_video", "extrapolation"}
    assert {task: listed[0].frames for task, listed in by_task.items()} == {
        **dict.fromkeys(IMAGE_TASKS, 1), **dict.fromkeys(VIDEO_TASKS, 17), "extrapolation": 33,
    }  # fmt: skip


@pytest.mark.parametrize("task", ["image_to_video", "extrapolation"])
def test_continuations_are_conditioned_on_the_motion_of_their_scene(task: str) -> None:
    for question, other in zip(
        questions_by_task(samples=8)[task], questions_by_task(samples=8, calibration=16.0)[task], strict=True
    ):
        (thing,) = question.scene.things
        area = coverage(thing.shape, thing.x, thing.y, thing.radius(64), 0.0, (64, 64)).mean()
        score = normalised(area * np.hypot(*thing.velocity(64)), short_side=64, seconds=1.0)
        assert question.motion == pytest.approx(score, rel=0.1)
        assert other.motion == pytest.approx(16 * score, rel=0.1)


def test_a_checkpoint_of_images_gets_tasks_of_images_only() -> None:
    pictures = Canvas(height=64, width=64, frames=None)
    assert tuple(questions_by_task(pictures, samples=1)) == IMAGE_TASKS
    with pytest.raises(ValueError, match="generates images only"):
        questions_by_task(pictures, tasks=("speed",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("colours",)}, "did you mean colors"),
        ({"samples": 0}, "at least 1"),
        ({"per_level": 0}, "at least 1"),
        ({"motion_levels": (3.0,)}, "two levels"),
        ({"frames": 1}, "at least 2"),
        ({"calibration": 0.0}, "calibration is 0.0"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        questions_by_task(**changes)


def test_videos_that_are_too_long_for_moving_things_are_refused() -> None:
    with pytest.raises(ValueError, match="set fewer frames"):
        questions_by_task(Canvas(height=64, width=64, frames=17, extended=1001), tasks=("extrapolation",))
