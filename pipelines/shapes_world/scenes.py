"""Scenes of the shapes world: their vocabulary, their geometry, and their captions.

Lengths are in pixels of the frame, times in seconds; x points to the right, y down. Things stay completely inside the
central square of the frame for the length of the scene, so that its caption is still true for a centred crop.
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
"""Radius, as a share of the short side of the frame."""
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
SPEEDS = {"slowly": 0.08, "steadily": 0.16, "quickly": 0.32}
"""Short sides of the frame per second, by the adverb in captions."""
PATHS = {"straight": 0.7, "bouncing": 0.15, "turning": 0.15}
"""Kinds of motion, with their shares of the moving things."""
TURNS = {"slowly": 0.125, "steadily": 0.25, "quickly": 0.5}
"""Full turns per second of things that turn about their centres, by the adverb in captions."""
TURNINGS = ("clockwise", "counterclockwise")
ROUND = ("circle", "ring")
"""Shapes that look the same when they turn."""
CROSSING_SHARE = 0.5
"""Share of the scenes with two things, one of which moves straight, in which the other one crosses its path."""
GAP = 2.0
"""Smallest distance in pixels between things, and to the border."""
RELATIONS = {"to the left of": (-1, 0), "to the right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Direction from the second of two still things to the first: right and down."""
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
STILL_KINDS = {"one": 0.5, "pair": 0.15, "placed": 0.2, "several": 0.15}
"""Kinds of scenes without motion, with their shares: one thing, two things, two things with their relation in the
caption, or several equal things."""
PAIR_SHARE = 0.25
"""Share of the scenes with motion that have two things."""
_HELD_OUT = (1, 3, 5)
_HELD_OUT_OF = 8


def held_out(colour: str, shape: str, direction: str) -> bool:
    """Whether a combination is excluded from training data: one direction in eight for every colour and shape."""
    indices = (list(COLOURS).index(colour), SHAPES.index(shape), list(DIRECTIONS).index(direction))
    return sum(factor * index for factor, index in zip(_HELD_OUT, indices, strict=True)) % _HELD_OUT_OF == 0


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A shape on a background; `direction` and `speed` are None where it stands still."""

    shape: str
    colour: str
    size: str
    direction: str | None = None
    """One of DIRECTIONS (the initial one of a bouncing thing); clockwise or counterclockwise for a turning thing."""
    speed: str | None = None
    path: str = "straight"
    """One of PATHS."""
    x: float = 0.0
    """Centre at the start."""
    y: float = 0.0
    room: tuple[float, float, float, float] | None = None
    """Bounds of the centre of a bouncing thing: smallest and largest x, smallest and largest y."""

    def velocity(self, short_side: int) -> tuple[float, float]:
        """Initial velocity in pixels per second."""
        if self.direction is None or self.speed is None or self.path == "turning":
            return 0.0, 0.0
        right, down = DIRECTIONS[self.direction]
        pace = SPEEDS[self.speed] * short_side / math.hypot(right, down)
        return right * pace, down * pace

    def centre(self, time: float, short_side: int) -> tuple[float, float]:
        """Its centre at a time."""
        right, down = self.velocity(short_side)
        x, y = self.x + right * time, self.y + down * time
        if self.room is not None:
            x, y = _reflected(x, *self.room[:2]), _reflected(y, *self.room[2:])
        return x, y

    def turn(self, time: float) -> float:
        """Its clockwise rotation at a time, in full turns."""
        if self.path != "turning" or self.speed is None:
            return 0.0
        return TURNS[self.speed] * time * (1 if self.direction == "clockwise" else -1)

    def radius(self, short_side: int) -> float:
        return SIZES[self.size] * short_side


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A background with one thing, two things, or several equal ones."""

    width: int
    height: int
    background: str
    texture: str
    things: tuple[Thing, ...]
    relation: str | None = None
    """One of RELATIONS, where the caption states it."""

    @property
    def short_side(self) -> int:
        return min(self.width, self.height)


def _reflected(position: float, low: float, high: float) -> float:
    """A coordinate that is reflected at both ends of an interval."""
    span = high - low
    along = (position - low) % (2 * span)
    return low + min(along, 2 * span - along)


def sample_scene(
    rng: np.random.Generator,
    *,
    width: int,
    height: int,
    seconds: float = 0.0,
    still: bool = False,
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS),
    trained: bool = False,
    simple: float = 0.0,
    textured: float = 0.0,
) -> Scene:
    """Draws a random scene.

    Args:
        rng: source of random numbers.
        width, height: size of the frame in pixels.
        seconds: time for which things must stay in view; 0 for a picture.
        still: whether nothing moves.
        backgrounds: names of backgrounds to choose from.
        trained: whether to exclude the combinations that are `held_out`.
        simple: probability of a simple scene: one thing that stands still or moves straight.
        textured: probability that a simple scene has a textured background; for other scenes it is one half.
    """
    moving = seconds > 0 and not still
    if simple and rng.random() < simple:
        background = _pick(rng, backgrounds)
        texture = _pick(rng, TEXTURES[1:]) if textured and rng.random() < textured else "plain"
        scene = Scene(width=width, height=height, background=background, texture=texture, things=())
        thing = _sample_thing(rng)
        thing = _sent_straight(rng, thing, scene, seconds, trained) if moving else thing
        return replace(scene, things=(_place(rng, thing, scene, seconds),))
    scene = Scene(
        width=width,
        height=height,
        background=_pick(rng, backgrounds),
        texture="plain" if rng.random() < 0.5 else _pick(rng, TEXTURES[1:]),
        things=(),
    )
    if moving:
        first = _place(rng, _sample_moving(rng, scene, seconds, trained), scene, seconds)
        scene = replace(scene, things=(first,))
        return _with_another(rng, scene, seconds, trained) if rng.random() < PAIR_SHARE else scene
    kind = str(rng.choice(list(STILL_KINDS), p=list(STILL_KINDS.values())))
    if kind == "several":
        return _with_equals(rng, scene, _sample_thing(rng))
    first = _place(rng, _sample_thing(rng), scene, seconds)
    scene = replace(scene, things=(first,))
    if kind == "placed":
        return _placed(rng, scene, _pick(rng, tuple(RELATIONS)))
    return _with_another(rng, scene, seconds, trained) if kind == "pair" else scene


def _with_equals(rng: np.random.Generator, scene: Scene, thing: Thing) -> Scene:
    """The scene with two to four equal small things that do not touch."""
    small, count = replace(thing, size="small"), int(rng.integers(2, len(NUMBERS) + 1))
    while True:  # four small things nearly always fit, but a first one in the centre may leave too little space
        things: list[Thing] = []
        for _ in range(100):
            other = _place(rng, small, scene, 0.0)
            if all(_apart(placed, other, scene.short_side, 0.0) for placed in things):
                things.append(other)
            if len(things) == count:
                return replace(scene, things=tuple(things))


def _placed(rng: np.random.Generator, scene: Scene, relation: str) -> Scene:
    """The scene with a second, small thing of another colour, placed so that the relation holds."""
    (first,) = scene.things
    other = replace(_sample_thing(rng), size="small")
    if other.colour == first.colour:
        return scene
    right, down = RELATIONS[relation]
    for _ in range(200):
        one, two = _place(rng, first, scene, 0.0), _place(rng, other, scene, 0.0)
        along = (one.x - two.x) * right + (one.y - two.y) * down
        across = abs((one.x - two.x) * down) + abs((one.y - two.y) * right)
        if along > 2 * across and _apart(one, two, scene.short_side, 0.0):
            return replace(scene, things=(one, two), relation=relation)
    return scene


def _with_another(rng: np.random.Generator, scene: Scene, seconds: float, trained: bool) -> Scene:
    """The scene with a second, small thing that is apart from the first or crosses its path; the scene itself where
    there is no place for one."""
    (first,) = scene.things
    crosses = first.direction is not None and first.path == "straight" and rng.random() < CROSSING_SHARE
    other = replace(_sample_thing(rng), size="small")
    if other.colour == first.colour:
        return scene
    for _ in range(50):
        if crosses:
            direction = _pick(rng, _directions(other, trained))
            other = replace(other, direction=direction, speed=_pick(rng, tuple(SPEEDS)))
            placed = _led_through(other, first, float(rng.uniform(0.25, 0.75)) * seconds, scene.short_side)
        else:
            placed = _place(rng, other, scene, seconds)
        times = (0.0, seconds) if crosses else np.linspace(0, seconds, 16)
        if _in_view(placed, scene, seconds) and _apart(first, placed, scene.short_side, *times):
            return replace(scene, things=(first, placed))
    return scene


def _led_through(thing: Thing, other: Thing, time: float, short_side: int) -> Thing:
    """The thing, placed so that it meets another one at a time."""
    (x, y), (right, down) = other.centre(time, short_side), thing.velocity(short_side)
    return replace(thing, x=x - right * time, y=y - down * time)


def _in_view(thing: Thing, scene: Scene, seconds: float) -> bool:
    """Whether its straight path lies in the central square of the frame."""
    side = scene.short_side
    reach = side / 2 - thing.radius(side) - GAP
    for time in (0.0, seconds):
        x, y = thing.centre(time, side)
        if max(abs(x - scene.width / 2), abs(y - scene.height / 2)) > reach:
            return False
    return True


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _sample_thing(rng: np.random.Generator) -> Thing:
    """A random thing that stands still."""
    return Thing(shape=_pick(rng, SHAPES), colour=_pick(rng, tuple(COLOURS)), size=_pick(rng, tuple(SIZES)))


def _sample_moving(rng: np.random.Generator, scene: Scene, seconds: float, trained: bool) -> Thing:
    thing = _sample_thing(rng)
    path = str(rng.choice(list(PATHS), p=list(PATHS.values())))
    if path == "turning" and thing.shape not in ROUND:
        return replace(thing, path=path, direction=_pick(rng, TURNINGS), speed=_pick(rng, tuple(SPEEDS)))
    if path == "bouncing":
        direction = _pick(rng, _directions(thing, trained))
        return replace(thing, path=path, direction=direction, speed=_pick(rng, tuple(SPEEDS)))
    return _sent_straight(rng, thing, scene, seconds, trained)


def _sent_straight(rng: np.random.Generator, thing: Thing, scene: Scene, seconds: float, trained: bool) -> Thing:
    """The thing with a random direction, at a random speed whose path fits into the frame."""
    thing = replace(thing, direction=_pick(rng, _directions(thing, trained)))
    paced = [replace(thing, speed=speed) for speed in SPEEDS]
    fitting = [candidate for candidate in paced if _has_room(candidate, scene, seconds)]
    return fitting[int(rng.integers(len(fitting)))] if fitting else paced[0]


def _has_room(thing: Thing, scene: Scene, seconds: float) -> bool:
    """Whether its straight path is no longer than the central square of the frame."""
    side = scene.short_side
    return max(map(abs, thing.velocity(side))) * seconds <= side - 2 * (thing.radius(side) + GAP)


def _directions(thing: Thing, trained: bool) -> tuple[str, ...]:
    return tuple(name for name in DIRECTIONS if not (trained and held_out(thing.colour, thing.shape, name)))


def _place(rng: np.random.Generator, thing: Thing, scene: Scene, seconds: float) -> Thing:
    """Places a thing at random so that its path lies in the central square of the frame.

    Raises:
        ValueError: its path is too long.
    """
    side, edge = scene.short_side, thing.radius(scene.short_side) + GAP
    starts, room = [], []
    for length, speed in zip((scene.width, scene.height), thing.velocity(side), strict=True):
        travel = 0.0 if thing.path == "bouncing" else speed * seconds
        low, high = (length - side) / 2 + edge, (length + side) / 2 - edge
        room += [low, high]
        low, high = low + max(0.0, -travel), high - max(0.0, travel)
        if low > high:
            raise ValueError(
                f"a {thing.size} thing that moves {thing.speed} has no room for {seconds:g} s; give fewer seconds"
            )
        starts.append(float(rng.uniform(low, high)))
    bounces = thing.path == "bouncing"
    return replace(thing, x=starts[0], y=starts[1], room=(room[0], room[1], room[2], room[3]) if bounces else None)


def _apart(first: Thing, second: Thing, short_side: int, *times: float) -> bool:
    reach = first.radius(short_side) + second.radius(short_side) + GAP
    return all(math.dist(first.centre(time, short_side), second.centre(time, short_side)) >= reach for time in times)


def short_caption(scene: Scene) -> str:
    """A few words on the things and their directions, such as "a red circle moving to the left"."""
    return _together(scene, sized=False) or " and ".join(_short(thing) for thing in scene.things)


def _short(thing: Thing) -> str:
    doing = {"straight": "moving to the", "bouncing": "bouncing to the", "turning": "turning"}[thing.path]
    return _phrase(thing, sized=False) + (f" {doing} {thing.direction}" if thing.direction else "")


def long_caption(scene: Scene, *, video: bool) -> str:
    """One sentence with every attribute, such as "A large red circle moves slowly to the left on a plain ..."."""
    subject = _together(scene, sized=True)
    if subject is None:
        subject = " and ".join(_phrase(thing, sized=True) + _motion(thing, video) for thing in scene.things)
    elif video:
        subject += " stand still"
    sentence = f"{subject} on a {scene.texture} {scene.background} background."
    return sentence[0].upper() + sentence[1:]


def _together(scene: Scene, *, sized: bool) -> str | None:
    """A phrase for all still things of a scene, with their number or relation; None where each has its own phrase."""
    first = scene.things[0]
    if are_alike(scene):
        size = f"{first.size} " if sized else ""
        return f"{NUMBERS[len(scene.things)]} {size}{first.colour} {plural(first.shape)}"
    if scene.relation is not None:
        return f" {scene.relation} ".join(_phrase(thing, sized=sized) for thing in scene.things)
    return None


def are_alike(scene: Scene) -> bool:
    """Whether there are several things of the same shape and colour, which captions count."""
    return len(scene.things) > 1 and len({(thing.shape, thing.colour) for thing in scene.things}) == 1


def _phrase(thing: Thing, *, sized: bool) -> str:
    words = f"{thing.size} {thing.colour} {thing.shape}" if sized else f"{thing.colour} {thing.shape}"
    return f"a{'n' * words.startswith('o')} {words}"


def plural(shape: str) -> str:
    return f"{shape}es" if shape == "cross" else f"{shape}s"


def _motion(thing: Thing, video: bool) -> str:
    if not video:
        return ""
    if thing.direction is None:
        return " stands still"
    if thing.path == "turning":
        return f" turns {thing.speed} {thing.direction}"
    return f" {'bounces' if thing.path == 'bouncing' else 'moves'} {thing.speed} to the {thing.direction}"
