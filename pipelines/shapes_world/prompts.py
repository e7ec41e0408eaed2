"""The grammar of the benchmark `shapes`: prompts for a model of the shapes world, in the manner of GenEval.

    pictures  single_object  one thing
              two_objects    two things
              counting       two to four things of the same kind
              colors         one thing
              position       two things, and the position of the first relative to the second
    videos    direction      one thing and its direction, always a combination that is `held_out` from training
              speed          the same prompts at rising motion scores
              image_to_video a drawn first frame and the direction of its thing; again held out from training
              extrapolation  a drawn first frame, and twice the trained length

Every question is a scene, and its prompt is the scene's `short_caption`, so that prompts have the wording of training
captions. A drawing of the scene is a right answer. A thing that moves on from a first frame stays in view at the speed
of the scene, whose motion score conditions the model.
"""

from __future__ import annotations

import difflib
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines.core.stage import Resources
from pipelines.shapes_world.draw import true_motion
from pipelines.shapes_world.scenes import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    GAP,
    NUMBERS,
    RELATIONS,
    SHAPES,
    SIZES,
    SPEEDS,
    TEXTURES,
    Scene,
    Thing,
    held_out,
    sample_scene,
    short_caption,
)

IMAGE_TASKS = ("single_object", "two_objects", "counting", "colors", "position")
VIDEO_TASKS = ("direction", "speed", "image_to_video", "extrapolation")
TASKS = (*IMAGE_TASKS, *VIDEO_TASKS)
SEEDS_PER_TASK = 10_000
"""Distance between the first seeds of two tasks, so that no two samples share their noise."""


@dataclass(frozen=True, kw_only=True)
class ShapesBenchmark:
    """Which tasks the benchmark `shapes` has, and how many samples of each."""

    tasks: tuple[str, ...] = ()
    """Tasks to run; by default all that the checkpoint can do."""
    samples: int = 96
    """Samples of each task but `speed`; with 96, every combination held out from training occurs twice."""
    motion_levels: tuple[float, ...] = (1.0, 3.0, 5.0, 8.0)
    """Motion scores that `speed` requests."""
    per_level: int = 64
    """Samples of `speed` at each level."""
    calibration: float = 1.0
    """Factor of motion scores: the `motion.calibration` of the tables that the model was trained on."""
    frames: int | None = None
    """Frames of a video; as trained by default."""
    seed: int = 0
    """Seed of prompts, first frames and samples."""
    resources: Resources = field(default_factory=lambda: Resources(batch_size=8))
    """Resources of a worker that judges."""

    def check(self) -> None:
        """Raises ValueError where a task does not exist, a number is out of range, or a setting has no effect."""
        for name in self.tasks:
            if name not in TASKS:
                nearest = difflib.get_close_matches(name, TASKS, n=1)
                hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(TASKS)}"
                raise ValueError(f"shapes.tasks: unknown task {name!r}; {hint}")
        for key in ("samples", "per_level"):
            if getattr(self, key) < 1:
                raise ValueError(f"shapes.{key} is {getattr(self, key)}; it must be at least 1")
        if self.calibration <= 0:
            raise ValueError(f"shapes.calibration is {self.calibration}; it must be above 0, as motion.calibration")
        if len(set(self.motion_levels)) < 2:
            raise ValueError("shapes.motion_levels needs two levels or more, such as 1,3,5,8")
        if self.frames is not None and self.frames < 2:
            raise ValueError(f"shapes.frames is {self.frames}; a video has at least 2")
        if self.frames is not None and self.tasks and not set(self.tasks) & set(VIDEO_TASKS):
            raise ValueError("shapes.frames has no effect on tasks of pictures; leave it out, or add a video task")

    def unused_settings(self) -> dict[str, str]:
        if not self.tasks:
            return {}
        users = {
            "samples": [task for task in TASKS if task != "speed"],
            "motion_levels": ["speed"],
            "per_level": ["speed"],
            "calibration": ["image_to_video", "extrapolation"],
        }
        return {
            name: f"on the tasks {', '.join(self.tasks)}; leave it out, or add {' or '.join(tasks)} to shapes.tasks"
            for name, tasks in users.items()
            if not set(tasks) & set(self.tasks)
        }


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Sizes and lengths that a checkpoint generates."""

    height: int
    """Height in pixels."""
    width: int
    frames: int | None
    """Frames of a video; None for a checkpoint that generates images only."""
    extended: int | None = None
    """Frames of a video twice as long."""
    fps: float = 12.0


@dataclass(frozen=True, kw_only=True)
class Question:
    """One sample of the benchmark: the scene that it should show, and how it is generated."""

    task: str
    scene: Scene
    path: str
    """File of the sample, relative to the folder of samples."""
    seed: int
    frames: int = 1
    motion: float | None = None
    """Motion score that conditions the model; None for the generation config's own."""
    continues: bool = False
    """Whether the sample continues the drawn first frame of the scene."""

    @property
    def prompt(self) -> str:
        return short_caption(self.scene)


def questions(config: ShapesBenchmark, canvas: Canvas) -> list[Question]:
    """All questions, task by task. A larger number of samples begins with the questions of a smaller one.

    Raises:
        ValueError: as `ShapesBenchmark.check`, or a video task for a checkpoint that generates images only, or videos
            so long that things would leave the view.
    """
    config.check()
    possible = IMAGE_TASKS if canvas.frames is None else TASKS
    for name in config.tasks:
        if name not in possible:
            raise ValueError(f"shapes.tasks has {name}, but the checkpoint generates images only; leave it out")
    listed: list[Question] = []
    for index, task in enumerate(TASKS):
        if task in (config.tasks or possible):
            seeded = replace(config, seed=config.seed + SEEDS_PER_TASK * index)
            # Each task draws from a generator of its own: the choice of tasks does not change their questions.
            listed += _BUILDERS[task](task, seeded, canvas, np.random.default_rng([config.seed, index]))
    return listed


Rng = np.random.Generator


def _of_scenes(
    task: str, config: ShapesBenchmark, scenes: Iterator[Scene], *, frames: int = 1, continues: bool = False
) -> list[Question]:
    """Questions about the first scenes."""
    ending = "png" if frames == 1 else "mp4"
    return [
        Question(
            task=task, scene=scene, path=f"{task}/{index:04d}.{ending}", seed=config.seed + index, frames=frames,
            motion=config.calibration * true_motion(scene) if continues else None, continues=continues,
        )
        for index, scene in enumerate(itertools.islice(scenes, config.samples))
    ]  # fmt: skip


# Pictures


def _single(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    pairs = _shuffled(rng, list(itertools.product(COLOURS, SHAPES)))
    things = (Thing(colour=colour, shape=shape, size=_pick(rng, SIZES)) for colour, shape in pairs)
    return _of_scenes(task, config, (_laid_out(rng, thing, canvas, 0.0) for thing in things))


def _pairs(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    def kind(scene: Scene) -> bool:
        return len(scene.things) == 2 and scene.relation is None and not _alike(scene)

    return _of_scenes(task, config, _cycle_kinds(rng, canvas, [True], kind))


def _groups(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    def kind(scene: Scene) -> int | None:
        return len(scene.things) if _alike(scene) else None

    return _of_scenes(task, config, _cycle_kinds(rng, canvas, [count for count in NUMBERS if count > 1], kind))


def _related(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    return _of_scenes(task, config, _cycle_kinds(rng, canvas, list(RELATIONS), lambda scene: scene.relation))


def _alike(scene: Scene) -> bool:
    return len(scene.things) > 1 and len({(thing.shape, thing.colour) for thing in scene.things}) == 1


def _cycle_kinds(
    rng: Rng, canvas: Canvas, kinds: Sequence[Hashable], kind: Callable[[Scene], Hashable]
) -> Iterator[Scene]:
    """Still scenes of the training distribution, one of each kind in turn."""
    # Scenes are drawn blindly; those of a kind whose turn has not come wait in its queue.
    queues: dict[Hashable, deque[Scene]] = {value: deque() for value in kinds}
    for value in itertools.cycle(kinds):
        while not queues[value]:
            scene = sample_scene(rng, width=canvas.width, height=canvas.height)
            if kind(scene) in queues:
                queues[kind(scene)].append(scene)
        yield queues[value].popleft()


# Videos


def _directed(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    assert canvas.frames is not None
    scenes = _moving(rng, canvas, canvas.frames, unseen=True)
    return _of_scenes(task, config, scenes, frames=canvas.frames, continues=task == "image_to_video")


def _speeds(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    assert canvas.frames is not None
    scenes = itertools.islice(_moving(rng, canvas, canvas.frames, unseen=False), config.per_level)
    return [
        Question(
            task=task, scene=scene, path=f"{task}/{index:04d}-motion{level:g}.mp4", seed=config.seed + index,
            frames=canvas.frames, motion=level,
        )
        for index, scene in enumerate(scenes)
        for level in config.motion_levels
    ]  # fmt: skip


def _extended(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    assert canvas.extended is not None
    scenes = _moving(rng, canvas, canvas.extended, unseen=False, size="small")
    return _of_scenes(task, config, scenes, frames=canvas.extended, continues=True)


def _moving(rng: Rng, canvas: Canvas, frames: int, *, unseen: bool, size: str | None = None) -> Iterator[Scene]:
    """Scenes of one thing that moves straight, one of each direction in turn.

    Args:
        rng: source of randomness.
        canvas: size and frame rate of the video.
        frames: number of frames for which the thing stays in view.
        unseen: whether all combinations are held out from training, or none.
        size: size of the thing; any by default.
    """
    pairs = list(itertools.product(COLOURS, SHAPES))
    pairs_by_direction = {
        direction: _shuffled(rng, [pair for pair in pairs if held_out(*pair, direction) == unseen])
        for direction in DIRECTIONS
    }
    for direction in itertools.cycle(pairs_by_direction):
        colour, shape = next(pairs_by_direction[direction])
        thing = Thing(colour=colour, shape=shape, size=size or _pick(rng, SIZES), direction=direction)
        yield _laid_out(rng, thing, canvas, (frames - 1) / canvas.fps)


def _laid_out(rng: Rng, thing: Thing, canvas: Canvas, seconds: float) -> Scene:
    """The thing alone on a background, at the highest speed at which it stays in view."""
    for speed in sorted(SPEEDS, key=SPEEDS.__getitem__, reverse=True):
        moving = replace(thing, speed=speed if thing.direction else None)
        room = _room(moving, canvas, seconds)
        if all(low <= high for low, high in room):
            x, y = (float(rng.uniform(low, high)) for low, high in room)
            positioned = replace(moving, x=x, y=y)
            background, texture = _pick(rng, BACKGROUNDS), _pick(rng, TEXTURES)
            return Scene(
                width=canvas.width, height=canvas.height, background=background, texture=texture, things=(positioned,)
            )
    raise ValueError(f"no thing stays in view for {seconds:g} s; set fewer frames, as in --set shapes.frames=17")


def _room(thing: Thing, canvas: Canvas, seconds: float) -> list[tuple[float, float]]:
    """Ranges of x and of y from which the thing stays in the central square of the canvas."""
    side = min(canvas.height, canvas.width)
    edge = thing.radius(side) + GAP
    room = []
    for length, speed in zip((canvas.width, canvas.height), thing.velocity(side), strict=True):
        travel = speed * seconds
        low, high = (length - side) / 2 + edge, (length + side) / 2 - edge
        room.append((low + max(0.0, -travel), high - max(0.0, travel)))
    return room


def _shuffled(rng: Rng, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Endless passes over the pairs, each in a new order."""
    while True:
        yield from (pairs[index] for index in rng.permutation(len(pairs)))


def _pick(rng: Rng, names: Iterable[str]) -> str:
    choices = list(names)
    return choices[int(rng.integers(len(choices)))]


_BUILDERS: dict[str, Callable[[str, ShapesBenchmark, Canvas, Rng], list[Question]]] = {
    "single_object": _single,
    "two_objects": _pairs,
    "counting": _groups,
    "colors": _single,
    "position": _related,
    "direction": _directed,
    "speed": _speeds,
    "image_to_video": _directed,
    "extrapolation": _extended,
}
