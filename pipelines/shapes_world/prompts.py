"""The grammar of the benchmark `shapes`: what a model of the shapes world is asked for, in the manner of GenEval.

    pictures  single_object  one thing
              two_objects    two things
              counting       two to four things that are alike
              colors         one thing
              position       two things, and where the first is, seen from the second
    videos    direction      one thing and where it goes, always a combination that is `held_out` from training
              speed          the same prompts at rising motion scores
              image_to_video a drawn first frame, and where its thing goes; held out again
              extrapolation  a drawn first frame, and twice the trained length

Every question is a scene, its prompt that scene's `short_caption`: the wording is what training captions have. Scenes
are laid out so that drawing them answers the question, and so that what moves on from a first frame stays in view at
the speed that the scene has: its motion score is asked for.
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
SEEDS_APART = 10_000
"""Between the first seeds of two tasks."""


@dataclass(frozen=True, kw_only=True)
class ShapesBenchmark:
    """How much the benchmark `shapes` asks for."""

    tasks: tuple[str, ...] = ()
    """Some of the tasks; all that the checkpoint can do by default."""
    samples: int = 96
    """Of each task but `speed`; 96 ask twice for every combination that is held out."""
    motion_levels: tuple[float, ...] = (1.0, 3.0, 5.0, 8.0)
    """Motion scores that `speed` asks for."""
    per_level: int = 64
    """Samples of `speed` at each of them."""
    calibration: float = 1.0
    """Of motion scores, as `motion.calibration` of the tables that the model was trained on."""
    frames: int | None = None
    """Of a video; as trained by default."""
    seed: int = 0
    """Of prompts, first frames and samples."""
    resources: Resources = field(default_factory=lambda: Resources(batch_size=8))
    """Of a worker that judges."""

    def check(self) -> None:
        """Raises ValueError where a task does not exist, or numbers leave nothing to ask."""
        for name in self.tasks:
            if name not in TASKS:
                close = difflib.get_close_matches(name, TASKS, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(TASKS)}"
                raise ValueError(f"shapes.tasks: unknown task {name!r}; {hint}")
        for key in ("samples", "per_level"):
            if getattr(self, key) < 1:
                raise ValueError(f"shapes.{key} is {getattr(self, key)}; at least 1")
        if self.calibration <= 0:
            raise ValueError(f"shapes.calibration is {self.calibration}; it is above 0, as motion.calibration")
        if len(set(self.motion_levels)) < 2:
            raise ValueError("shapes.motion_levels needs two levels or more, such as 1,3,5,8")
        if self.frames is not None and self.frames < 2:
            raise ValueError(f"shapes.frames is {self.frames}; a video has at least 2")


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What a checkpoint makes."""

    height: int
    """Pixels."""
    width: int
    frames: int | None
    """Of a video; None where it makes none."""
    extended: int | None = None
    """Of a video twice as long."""
    fps: float = 12.0


@dataclass(frozen=True, kw_only=True)
class Question:
    """One sample: what is asked for, and with what."""

    task: str
    scene: Scene
    path: str
    """Of the sample, relative to the folder of samples."""
    seed: int
    frames: int = 1
    motion: float | None = None
    """Score that is asked for; the usual one where there is none."""
    continues: bool = False
    """Whether the scene's first frame is given."""

    @property
    def prompt(self) -> str:
        return short_caption(self.scene)


def questions(config: ShapesBenchmark, canvas: Canvas) -> list[Question]:
    """Everything that is asked, task by task; a larger number of samples begins with those of a smaller one.

    Raises:
        ValueError: what `check` raises, a video task of a checkpoint that makes pictures, or videos too long for
            things to stay in view.
    """
    config.check()
    possible = IMAGE_TASKS if canvas.frames is None else TASKS
    for name in config.tasks:
        if name not in possible:
            raise ValueError(f"shapes.tasks has {name}, but the checkpoint makes pictures only; leave it out")
    asked: list[Question] = []
    for number, task in enumerate(TASKS):
        if task in (config.tasks or possible):
            seeded = replace(config, seed=config.seed + SEEDS_APART * number)
            asked += _ASKED[task](task, seeded, canvas, np.random.default_rng([config.seed, number]))
    return asked


Rng = np.random.Generator


def _of_scenes(
    task: str, config: ShapesBenchmark, scenes: Iterator[Scene], *, frames: int = 1, continues: bool = False
) -> list[Question]:
    """A question for each of the first scenes."""
    ending = "png" if frames == 1 else "mp4"
    return [
        Question(
            task=task, scene=scene, path=f"{task}/{index:04d}.{ending}", seed=config.seed + index, frames=frames,
            motion=config.calibration * true_motion(scene) if continues else None, continues=continues,
        )
        for index, scene in enumerate(itertools.islice(scenes, config.samples))
    ]  # fmt: skip


# Pictures


def _one_thing(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    pairs = _shuffled(rng, list(itertools.product(COLOURS, SHAPES)))
    things = (Thing(colour=colour, shape=shape, size=_pick(rng, SIZES)) for colour, shape in pairs)
    return _of_scenes(task, config, (_laid_out(rng, thing, canvas, 0.0) for thing in things))


def _two_things(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    def kind(scene: Scene) -> bool:
        return len(scene.things) == 2 and scene.relation is None and not _alike(scene)

    return _of_scenes(task, config, _in_turn(rng, canvas, [True], kind))


def _several(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    def kind(scene: Scene) -> int | None:
        return len(scene.things) if _alike(scene) else None

    return _of_scenes(task, config, _in_turn(rng, canvas, [count for count in NUMBERS if count > 1], kind))


def _placed(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    return _of_scenes(task, config, _in_turn(rng, canvas, list(RELATIONS), lambda scene: scene.relation))


def _alike(scene: Scene) -> bool:
    return len(scene.things) > 1 and len({(thing.shape, thing.colour) for thing in scene.things}) == 1


def _in_turn(rng: Rng, canvas: Canvas, kinds: Sequence[Hashable], kind: Callable[[Scene], Hashable]) -> Iterator[Scene]:
    """Still scenes as training sees them, of each kind in turn."""
    waiting: dict[Hashable, deque[Scene]] = {each: deque() for each in kinds}
    for wanted in itertools.cycle(kinds):
        while not waiting[wanted]:
            scene = sample_scene(rng, width=canvas.width, height=canvas.height)
            if kind(scene) in waiting:
                waiting[kind(scene)].append(scene)
        yield waiting[wanted].popleft()


# Videos


def _going(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    assert canvas.frames is not None
    scenes = _moving(rng, canvas, canvas.frames, held=True)
    return _of_scenes(task, config, scenes, frames=canvas.frames, continues=task == "image_to_video")


def _at_levels(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    assert canvas.frames is not None
    scenes = itertools.islice(_moving(rng, canvas, canvas.frames, held=False), config.per_level)
    return [
        Question(
            task=task, scene=scene, path=f"{task}/{index:04d}-motion{level:g}.mp4", seed=config.seed + index,
            frames=canvas.frames, motion=level,
        )
        for index, scene in enumerate(scenes)
        for level in config.motion_levels
    ]  # fmt: skip


def _longer(task: str, config: ShapesBenchmark, canvas: Canvas, rng: Rng) -> list[Question]:
    assert canvas.extended is not None
    scenes = _moving(rng, canvas, canvas.extended, held=False, size="small")
    return _of_scenes(task, config, scenes, frames=canvas.extended, continues=True)


def _moving(rng: Rng, canvas: Canvas, frames: int, *, held: bool, size: str | None = None) -> Iterator[Scene]:
    """Scenes of one thing that moves straight, each direction in turn.

    Args:
        rng: where chance comes from.
        canvas: what is drawn on.
        frames: for which the thing stays in view.
        held: whether all combinations are held out from training, or none.
        size: of the thing; any by default.
    """
    pairs = list(itertools.product(COLOURS, SHAPES))
    ways = {
        direction: _shuffled(rng, [pair for pair in pairs if held_out(*pair, direction) == held])
        for direction in DIRECTIONS
    }
    for direction in itertools.cycle(ways):
        colour, shape = next(ways[direction])
        thing = Thing(colour=colour, shape=shape, size=size or _pick(rng, SIZES), direction=direction)
        yield _laid_out(rng, thing, canvas, (frames - 1) / canvas.fps)


def _laid_out(rng: Rng, thing: Thing, canvas: Canvas, seconds: float) -> Scene:
    """The thing alone on a background, where it stays in view at the highest speed that there is room for."""
    for speed in sorted(SPEEDS, key=SPEEDS.__getitem__, reverse=True):
        moving = replace(thing, speed=speed if thing.direction else None)
        room = _room(moving, canvas, seconds)
        if all(low <= high for low, high in room):
            x, y = (float(rng.uniform(low, high)) for low, high in room)
            placed = replace(moving, x=x, y=y)
            background, texture = _pick(rng, BACKGROUNDS), _pick(rng, TEXTURES)
            return Scene(
                width=canvas.width, height=canvas.height, background=background, texture=texture, things=(placed,)
            )
    raise ValueError(f"nothing stays in view for {seconds:g} s; ask for fewer frames, as in --set shapes.frames=17")


def _room(thing: Thing, canvas: Canvas, seconds: float) -> list[tuple[float, float]]:
    """Least and largest x, least and largest y that the thing may start from and stay in the central square."""
    side = min(canvas.height, canvas.width)
    edge = thing.radius(side) + GAP
    room = []
    for length, speed in zip((canvas.width, canvas.height), thing.velocity(side), strict=True):
        travel = speed * seconds
        low, high = (length - side) / 2 + edge, (length + side) / 2 - edge
        room.append((low + max(0.0, -travel), high - max(0.0, travel)))
    return room


def _shuffled(rng: Rng, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """All of them in another order each time, without an end."""
    while True:
        yield from (pairs[index] for index in rng.permutation(len(pairs)))


def _pick(rng: Rng, names: Iterable[str]) -> str:
    listed = list(names)
    return listed[int(rng.integers(len(listed)))]


_ASKED: dict[str, Callable[[str, ShapesBenchmark, Canvas, Rng], list[Question]]] = {
    "single_object": _one_thing,
    "two_objects": _two_things,
    "counting": _several,
    "colors": _one_thing,
    "position": _placed,
    "direction": _going,
    "speed": _at_levels,
    "image_to_video": _going,
    "extrapolation": _longer,
}
