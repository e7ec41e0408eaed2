"""The judge of the benchmark `shapes` on rendered answers: those that match the prompt are right, all others wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.core.stage import apply
from pipelines.curation.motion import normalised
from pipelines.media.write import write_image, write_video
from pipelines.report.contact_sheet import BAD, GOOD
from pipelines.shapes_world.draw import coverage, render, true_flow
from pipelines.shapes_world.prompts import IMAGE_TASKS, TASKS, Canvas, Question, ShapesBenchmark, questions
from pipelines.shapes_world.scenes import DIRECTIONS, SHAPES, Scene
from pipelines.shapes_world.scores import spearman, speed_details, summarise
from pipelines.shapes_world.sheets import sheets
from pipelines.shapes_world.verdicts import JudgeShapes, judge_sample, read_scene, write_scene

BAR = 0.98
CANVAS = Canvas(height=64, width=64, frames=17, extended=33)
LEVELS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
MOTION = 0.01
"""Motion of a score of 1, so small that the smallest thing reaches a score of 8 within the range of speeds."""


def draw_answer(question: Question) -> np.ndarray:
    """The frames of a perfect model: the scene at a pace that has the requested motion."""
    times = np.arange(question.frames) / CANVAS.fps
    if question.motion is not None:
        (thing,) = question.scene.things
        area = coverage(thing.shape, thing.x, thing.y, thing.radius(64), 0.0, (64, 64)).mean()
        pace = normalised(area * np.hypot(*thing.velocity(64)), short_side=64, seconds=1.0)
        times = times * (MOTION * question.motion / pace)
    return render(question.scene, times)


def judge(question: Question, frames: np.ndarray) -> dict[str, Any]:
    verdict = judge_sample(question.task, question.scene, frames, CANVAS.fps)
    return {**verdict.columns(), "task": question.task, "asked_motion": question.motion}


def questions_of(task: str, samples: int = 4, seed: int = 3) -> list[Question]:
    config = ShapesBenchmark(tasks=(task,), samples=samples, per_level=samples, calibration=1 / MOTION, seed=seed)
    return questions(config, CANVAS)


def test_truth_is_right_in_every_task() -> None:
    config = ShapesBenchmark(samples=6, per_level=2, motion_levels=LEVELS, calibration=1 / MOTION, seed=1)
    rows = [judge(question, draw_answer(question)) for question in questions(config, CANVAS)]
    scores = summarise(rows)
    assert set(scores) == {
        *TASKS, "color_accuracy", "shape_accuracy", "direction_accuracy", "color_kept", "shape_kept", "permanence",
    }  # fmt: skip
    assert {name: score.value for name, score in scores.items() if score.value < BAR} == {}
    assert {name: score.samples for name, score in scores.items()} == {
        **dict.fromkeys(scores, 6), "color_accuracy": 12, "shape_accuracy": 12, "speed": 16,
    }  # fmt: skip
    assert not any(row["fault"] for row in rows)


def test_motion_is_measured_in_the_unit_of_the_motion_score() -> None:
    for question in questions_of("direction"):
        flow, _ = true_flow(question.scene, 0.0, 1 / 12)
        true = normalised(np.linalg.norm(flow, axis=-1).mean(), short_side=64, seconds=1 / 12)
        assert judge(question, draw_answer(question))["motion_measured"] == pytest.approx(true, rel=0.1)


def test_four_levels_reach_the_best_correlation_in_the_details() -> None:
    rows = [judge(question, draw_answer(question)) for question in questions_of("speed")]
    details = speed_details(rows)
    assert details["best_spearman"] == pytest.approx(0.97, abs=0.01)
    assert details["spearman"] == pytest.approx(details["best_spearman"], abs=0.02)
    assert list(details["mean_motion"]) == ["1", "3", "5", "8"]
    assert details["mean_motion"]["8"] == pytest.approx(8 * MOTION, rel=0.1)
    slower = [{**row, "motion_measured": -row["motion_measured"]} for row in rows]
    assert summarise(slower)["speed"].value == 0, "a score, not a correlation"
    assert summarise([{**row, "motion_measured": 0.0} for row in rows])["speed"].value == 0


def changed(scene: Scene, **changes: Any) -> Scene:
    """The scene with its first thing changed."""
    first, *others = scene.things
    return replace(scene, things=(replace(first, **changes), *others))


def other_colour(question: Question) -> Scene:
    colours = {thing.colour for thing in question.scene.things}
    return changed(question.scene, colour="blue" if "blue" not in colours else "yellow")


def other_shape(question: Question) -> Scene:
    shape = question.scene.things[0].shape
    return changed(question.scene, shape=SHAPES[SHAPES.index(shape) - 1])


def opposite(question: Question) -> Scene:
    """The opposite motion, from the end of the path."""
    (thing,) = question.scene.things
    right, down = DIRECTIONS[str(thing.direction)]
    back = next(name for name, way in DIRECTIONS.items() if way == (-right, -down))
    x, y = thing.centre((question.frames - 1) / CANVAS.fps, 64)
    return changed(question.scene, direction=back, x=x, y=y)


def one_fewer(question: Question) -> Scene:
    return replace(question.scene, things=question.scene.things[1:])


def swapped(question: Question) -> Scene:
    first, second = question.scene.things
    return replace(
        question.scene, things=(replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y))
    )


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("single_object", other_shape), ("single_object", one_fewer), ("colors", other_colour), ("colors", one_fewer),
        ("two_objects", other_colour), ("two_objects", other_shape), ("two_objects", one_fewer),
        ("counting", other_colour), ("counting", other_shape), ("counting", one_fewer),
        ("position", other_colour), ("position", other_shape), ("position", one_fewer), ("position", swapped),
        ("direction", other_colour), ("direction", other_shape), ("direction", opposite),
        ("image_to_video", other_colour), ("image_to_video", other_shape), ("image_to_video", opposite),
        ("extrapolation", other_colour), ("extrapolation", other_shape), ("extrapolation", opposite),
    ],
)  # fmt: skip
def test_another_answer_is_wrong(task: str, change: Callable[[Question], Scene]) -> None:
    for question in questions_of(task):
        frames = render(change(question), np.arange(question.frames) / CANVAS.fps)
        verdict = judge(question, frames)
        assert verdict["right"] is False, question.prompt
        assert verdict["fault"].startswith("shows ")


@pytest.mark.parametrize("task", ["direction", "image_to_video", "extrapolation"])
@pytest.mark.parametrize("how", ["vanishes", "turns blue", "becomes another shape"])
def test_a_change_on_the_way_is_not_kept(task: str, how: str) -> None:
    for question in questions_of(task):
        frames = draw_answer(question)
        change = -len(frames) // 4  # also in the second half of an extrapolation
        later = {
            "vanishes": replace(question.scene, things=()),
            "turns blue": other_colour(question),
            "becomes another shape": other_shape(question),
        }[how]
        frames[change:] = render(later, (np.arange(question.frames) / CANVAS.fps)[change:])
        verdict = judge(question, frames)
        constancy = {"color_kept": verdict["color_kept"], "shape_kept": verdict["shape_kept"]}
        assert (
            constancy
            == {
                "vanishes": {"color_kept": False, "shape_kept": False},
                "turns blue": {"color_kept": False, "shape_kept": True},
                "becomes another shape": {"color_kept": True, "shape_kept": False},
            }[how]
        )
        if task == "direction":
            assert summarise([verdict])["permanence"].value == 0
        else:
            assert verdict["right"] is False


def test_a_thing_that_stops_half_way_is_no_extrapolation() -> None:
    for question in questions_of("extrapolation"):
        frames = draw_answer(question)
        frames[len(frames) // 2 :] = frames[len(frames) // 2]
        verdict = judge(question, frames)
        assert verdict["right"] is False
        assert verdict["fault"].endswith("standing still: another direction")


def test_a_right_direction_of_another_thing_is_distinguished() -> None:
    (question, *_) = questions_of("direction")
    verdict = judge(question, render(other_colour(question), np.arange(17) / 12))
    assert (verdict["right"], verdict["direction_right"], verdict["color_right"]) == (False, True, False)


@pytest.mark.parametrize("task", TASKS)
def test_noise_and_nothing_are_wrong(task: str) -> None:
    (question,) = questions_of(task, samples=1)[:1]
    noise = np.random.default_rng(0).integers(0, 255, (question.frames, 64, 64, 3), dtype=np.uint8)
    for frames in (noise, np.full_like(noise, 14)):
        verdict = judge(question, frames)
        assert not verdict["right"]
        assert verdict["seen"]
    assert verdict["seen"] == "nothing"
    assert (verdict["motion_measured"] is None) == (task in IMAGE_TASKS)


def test_ranks_of_equal_values_are_their_mean() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 2, 2], [1, 2, 3, 4]) == pytest.approx(0.8944, abs=1e-4)
    assert spearman([1, 2, 3], [5, 5, 5]) == 0


def test_a_scene_survives_its_column() -> None:
    for question in questions(ShapesBenchmark(samples=2, per_level=1, calibration=1 / MOTION), CANVAS):
        assert read_scene(write_scene(question.scene)) == question.scene


def files(folder: Path) -> list[dict[str, Any]]:
    """Rows of samples in files, every second one wrong."""
    rows = []
    for question in questions(ShapesBenchmark(samples=2, per_level=1, calibration=1 / MOTION), CANVAS):
        path = folder / question.path
        frames = draw_answer(question)
        if question.path.endswith("0001.png") or question.path.endswith("0001.mp4"):
            frames = np.full_like(frames, 14)
        if question.frames == 1:
            write_image(path, frames[0])
        else:
            write_video(path, frames, CANVAS.fps)
        rows.append({
            "uri": str(path), "kind": "image" if question.frames == 1 else "video", "frames": question.frames,
            "fps": CANVAS.fps if question.frames > 1 else None, "task": question.task, "prompt": question.prompt,
            "asked": write_scene(question.scene), "asked_motion": question.motion,
        })  # fmt: skip
    return rows


def test_files_are_judged_and_shown_with_their_faults(tmp_path: Path) -> None:
    rows = files(tmp_path)
    missing = {**rows[0], "uri": str(tmp_path / "gone.png")}
    done = apply(JudgeShapes(), None, [*rows, missing])
    assert [row["failed_stage"] for row in done] == [None] * len(rows) + ["judge_shapes"]
    assert [row["right"] for row in done[:10]] == [True, False] * 5
    assert {row["task"]: row["right"] for row in done[:-1] if row["right"] is not False} == {
        **dict.fromkeys(TASKS, True), "speed": None,
    }  # fmt: skip
    paths = sheets(done, tmp_path)
    assert [path.name for path in paths] == ["images.png", "videos.png"]
    for path in paths:
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        assert all((pixels == colour).all(-1).any() for colour in (GOOD, BAD))
