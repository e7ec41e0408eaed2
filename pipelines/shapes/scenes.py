"""Scenes of the shapes world: their vocabulary, their geometry, and their captions.

Lengths are in pixels of the frame, times in seconds, x to the right, y down. Things stay whole and inside the central
square of the frame for as long as the scene lasts, so that a centred crop keeps its caption true.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (222, 40, 44),
    "orange": (244, 134, 24),
    "yellow": (246, 222, 50),
    "green": (56, 186, 66),
    "blue": (52, 108, 240),
    "purple": (150, 62, 200),
    "pink": (248, 146, 190),
    "white": (246, 246, 246),
}
SIZES = {"small": 0.13, "large": 0.21}
"""Radius over the short side of the frame."""
BACKGROUNDS = {"black": (14, 14, 16), "grey": (118, 118, 122), "brown": (92, 60, 36), "navy": (22, 34, 84)}
TEXTURES = ("plain", "striped", "checkered", "dotted")
DIRECTIONS = {
    "right": (1, 0),
    "lower right": (1, 1),
    "bottom": (0, 1),
    "lower left": (-1, 1),
    "left": (-1, 0),
    "upper left": (-1, -1),
    "top": (0, -1),
    "upper right": (1, -1),
}
SPEEDS = {"slowly": 0.05, "steadily": 0.1, "quickly": 0.2}
"""Short sides of the frame per second, by the adverb of the caption."""
GAP = 2.0
"""Pixels that things keep between each other and to the border."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape; `direction` and `speed` are None where it stands still."""

    shape: str
    colour: str
    size: str
    direction: str | None = None
    speed: str | None = None
    x: float = 0.0
    """Centre at the start."""
    y: float = 0.0

    def velocity(self, short_side: int) -> tuple[float, float]:
        """Pixels per second."""
        if self.direction is None or self.speed is None:
            return 0.0, 0.0
        right, down = DIRECTIONS[self.direction]
        pace = SPEEDS[self.speed] * short_side / math.hypot(right, down)
        return right * pace, down * pace

    def centre(self, time: float, short_side: int) -> tuple[float, float]:
        """Where it is after some seconds."""
        right, down = self.velocity(short_side)
        return self.x + right * time, self.y + down * time

    def radius(self, short_side: int) -> float:
        return SIZES[self.size] * short_side


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A background with one or two things on it."""

    width: int
    height: int
    background: str
    texture: str
    things: tuple[Thing, ...]

    @property
    def short_side(self) -> int:
        return min(self.width, self.height)


def sample_scene(
    rng: np.random.Generator,
    *,
    width: int,
    height: int,
    seconds: float = 0.0,
    still: bool = False,
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS),
) -> Scene:
    """Draws a scene.

    Args:
        rng: where chance comes from.
        width, height: of the frame in pixels.
        seconds: how long things must stay in view; 0 for a picture.
        still: nothing moves.
        backgrounds: names to choose from.
    """
    scene = Scene(
        width=width,
        height=height,
        background=_pick(rng, backgrounds),
        texture="plain" if rng.random() < 0.5 else _pick(rng, TEXTURES[1:]),
        things=(),
    )
    first = _place(rng, _sample_thing(rng, moves=seconds > 0 and not still), scene, seconds)
    scene = replace(scene, things=(first,))
    if rng.random() < 0.75:
        return scene
    other = replace(_sample_thing(rng, moves=False), size="small")
    if other.colour == first.colour:
        return scene
    for _ in range(50):
        placed = _place(rng, other, scene, seconds)
        if _apart(first, placed, scene.short_side, seconds):
            return replace(scene, things=(first, placed))
    return scene


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _sample_thing(rng: np.random.Generator, *, moves: bool) -> Thing:
    return Thing(
        shape=_pick(rng, SHAPES),
        colour=_pick(rng, tuple(COLOURS)),
        size=_pick(rng, tuple(SIZES)),
        direction=_pick(rng, tuple(DIRECTIONS)) if moves else None,
        speed=_pick(rng, tuple(SPEEDS)) if moves else None,
    )


def _place(rng: np.random.Generator, thing: Thing, scene: Scene, seconds: float) -> Thing:
    """Puts a thing where its whole way lies in the central square of the frame.

    Raises:
        ValueError: its way is longer than that.
    """
    side, edge = scene.short_side, thing.radius(scene.short_side) + GAP
    starts = []
    for length, speed in zip((scene.width, scene.height), thing.velocity(side), strict=True):
        travel = speed * seconds
        low = (length - side) / 2 + edge + max(0.0, -travel)
        high = (length + side) / 2 - edge - max(0.0, travel)
        if low > high:
            raise ValueError(f"{seconds:g} s are too long for a {thing.size} thing to stay in view {thing.speed}")
        starts.append(float(rng.uniform(low, high)))
    return replace(thing, x=starts[0], y=starts[1])


def _apart(first: Thing, second: Thing, short_side: int, seconds: float) -> bool:
    reach = first.radius(short_side) + second.radius(short_side) + GAP
    for time in np.linspace(0, seconds, 16):
        if math.dist(first.centre(time, short_side), second.centre(time, short_side)) < reach:
            return False
    return True


def short_caption(scene: Scene) -> str:
    """A few words on what the first moment shows and where it goes, such as "a red circle moving to the left"."""
    return " and ".join(_short(thing) for thing in scene.things)


def _short(thing: Thing) -> str:
    moving = f" moving to the {thing.direction}" if thing.direction else ""
    return f"a{'n' * thing.colour.startswith('o')} {thing.colour} {thing.shape}{moving}"


def long_caption(scene: Scene, *, video: bool) -> str:
    """One sentence with every attribute, such as "A large red circle moves slowly to the left on a plain ..."."""
    phrases = [f"a {thing.size} {thing.colour} {thing.shape}{_motion(thing, video)}" for thing in scene.things]
    sentence = f"{' and '.join(phrases)} on a {scene.texture} {scene.background} background."
    return sentence[0].upper() + sentence[1:]


def _motion(thing: Thing, video: bool) -> str:
    if not video:
        return ""
    return f" moves {thing.speed} to the {thing.direction}" if thing.direction else " stands still"
