"""What a picture or video of the shapes world shows, read off its pixels by classical means: colours, connected pixels,
outlines laid over them, and the way they go. No model has a say in it.

    look(frame)     the things of one picture
    follow(frames)  the things of a video, each with its way

The world's palette is all that is presumed. Pictures may be soft: a pixel belongs to what its colour is nearest to.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from pipelines.shapes_world.draw import TEXTURE_STEP, coverage
from pipelines.shapes_world.scenes import BACKGROUNDS, COLOURS, DIRECTIONS, ROUND, SHAPES, SIZES

LEAST_AREA = 0.008
"""Of the frame; the smallest thing covers 0.02 of a square one."""
LEAST_LIKENESS = 0.55
"""Intersection over union with the outline that fits best; anything below is no shape of this world."""
STILL = 0.02
"""A thing that ends nearer to its start, in short sides of the frame, stands still."""
STEPS = 4
"""Steps that a way is measured in."""
ANGLES = 12
"""Turns of an outline that are tried, over its symmetry."""
_SYMMETRY = {"square": 4, "triangle": 3, "star": 5, "cross": 4}


@dataclass(frozen=True)
class Seen:
    """A thing in a picture."""

    shape: str | None
    """The outline that fits best; None where none does."""
    colour: str
    x: float
    """Centre in pixels."""
    y: float
    area: float
    """Pixels."""
    size: str
    """The size whose radius is nearest."""


@dataclass(frozen=True)
class Track:
    """A thing through a video."""

    seen: tuple[Seen | None, ...]
    """One a frame; None where it is not found."""
    short_side: int
    """Of the frame in pixels."""

    @property
    def colour(self) -> str:
        return self._found()[0].colour

    @property
    def shape(self) -> str | None:
        """What it is in most frames."""
        return Counter(each.shape for each in self._found()).most_common(1)[0][0]

    @property
    def kept(self) -> float:
        """Share of frames in which it is there with its colour and shape."""
        return sum(each is not None and each.shape == self.shape for each in self.seen) / len(self.seen)

    @property
    def travel(self) -> tuple[float, float]:
        """From first to last sight, in short sides of the frame, right and down."""
        found = self._found()
        return (found[-1].x - found[0].x) / self.short_side, (found[-1].y - found[0].y) / self.short_side

    @property
    def direction(self) -> str | None:
        """The nearest of the eight; None where it stands still."""
        right, down = self.travel
        if math.hypot(right, down) < STILL:
            return None
        return max(DIRECTIONS, key=lambda name: np.dot(DIRECTIONS[name], (right, down)) / math.hypot(*DIRECTIONS[name]))

    def speed(self, fps: float) -> float:
        """Short sides of the frame per second along its way, in a few long steps: places tremble a little."""
        places = [(index, each) for index, each in enumerate(self.seen) if each is not None]
        if len(places) < 2:
            return 0.0
        chosen = [places[round(step)] for step in np.linspace(0, len(places) - 1, min(len(places), STEPS + 1))]
        length = sum(math.dist((one.x, one.y), (other.x, other.y)) for (_, one), (_, other) in pairwise(chosen))
        return length / self.short_side / ((places[-1][0] - places[0][0]) / fps)

    def _found(self) -> list[Seen]:
        return [each for each in self.seen if each is not None]


def look(frame: np.ndarray, *, turned: bool = False) -> list[Seen]:
    """The things of a picture [H, W, 3] uint8, the largest first.

    Args:
        frame: RGB.
        turned: whether things may stand at any angle.
    """
    smooth = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    names, palette = _palette()
    distance = np.linalg.norm(smooth[:, :, None] - palette, axis=-1)  # [H, W, colours]
    nearest = distance.argmin(-1)
    core = np.ones((3, 3), np.uint8)
    least = LEAST_AREA * frame.shape[0] * frame.shape[1]
    ground = Counter(
        {name: sum((nearest == names.index(shade)).sum() for shade in _shades(name)) for name in BACKGROUNDS}
    )
    present = [names.index(shade) for shade in _shades(ground.most_common(1)[0][0])]
    cores = {}
    for colour in COLOURS:
        index = names.index(colour)
        cores[index] = cv2.morphologyEx((nearest == index).astype(np.uint8), cv2.MORPH_OPEN, core)
        if cores[index].sum() >= least / 2:
            present.append(index)
    owner = np.array(present)[distance[..., present].argmin(-1)]  # borders between colours go to what is really there
    things = []
    for index in present:
        if names[index] in COLOURS:
            others = distance[..., [each for each in present if each != index]].min(-1)
            covered = others / (others + distance[..., index] + 1e-6)
            parts = _parts((owner == index).astype(np.uint8), cores[index], least)
            things += [_seen(covered * cv2.dilate(part, core), names[index], turned) for part in parts]
    return sorted(things, key=lambda thing: -thing.area)


def follow(frames: np.ndarray, *, turned: bool = False) -> list[Track]:
    """The things of a video [N, H, W, 3] uint8; a thing is followed by its colour to where it is nearest."""
    side = min(frames.shape[1:3])
    tracks: list[list[Seen | None]] = []
    for number, frame in enumerate(frames):
        free = look(frame, turned=turned)
        for track in tracks:
            last = next(each for each in reversed(track) if each is not None)
            same = [each for each in free if each.colour == last.colour]
            place = (last.x, last.y)
            best = min(same, key=lambda each: math.dist(place, (each.x, each.y)), default=None)
            track.append(best)
            if best is not None:
                free.remove(best)
        tracks += [[None] * number + [each] for each in free]
    return [Track(tuple(track), side) for track in tracks]


@functools.lru_cache(maxsize=1)
def _palette() -> tuple[list[str], np.ndarray]:
    """Names and Lab colours of things and of both shades of the backgrounds."""
    steps = (0, TEXTURE_STEP)
    shades = {
        shade: np.add(rgb, step)
        for name, rgb in BACKGROUNDS.items()
        for shade, step in zip(_shades(name), steps, strict=True)
    }
    named = {**COLOURS, **shades}
    rgb = np.array([list(named.values())], np.float32) / 255
    return list(named), cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[0]


def _shades(background: str) -> tuple[str, str]:
    return f"dark {background}", f"light {background}"


def _parts(mask: np.ndarray, core: np.ndarray, least: float) -> list[np.ndarray]:
    """Connected pixels of one colour, where enough of them are more than a border."""
    count, labels = cv2.connectedComponents(mask)
    parts = [(labels == label).astype(np.uint8) for label in range(1, count)]
    return [part for part in parts if part.sum() >= least and (part * core).sum() >= least / 2]


def _seen(covered: np.ndarray, colour: str, turned: bool) -> Seen:
    """A thing, from how much of each pixel it covers."""
    rows, columns = np.indices(covered.shape) + 0.5
    area = float(covered.sum())
    x, y = float((columns * covered).sum()) / area, float((rows * covered).sum()) / area
    likeness = {shape: _likeness(covered, shape, x, y, area, turned) for shape in SHAPES}
    shape = max(likeness, key=likeness.__getitem__)
    radius = math.sqrt(area / _unit_area(shape))
    reach = {name: abs(share * min(covered.shape) - radius) for name, share in SIZES.items()}
    known = likeness[shape] >= LEAST_LIKENESS
    return Seen(shape if known else None, colour, x, y, area, min(reach, key=reach.__getitem__))


def _likeness(covered: np.ndarray, shape: str, x: float, y: float, area: float, turned: bool) -> float:
    """Intersection over union with an outline of the same area about the same centre."""
    radius = math.sqrt(area / _unit_area(shape))
    turns = [0.0]
    if turned and shape not in ROUND:
        turns = [step / ANGLES / _SYMMETRY[shape] for step in range(ANGLES)]
    best = 0.0
    for turn in turns:
        outline = coverage(shape, x, y, radius, turn, covered.shape)
        best = max(best, float(np.minimum(covered, outline).sum() / np.maximum(covered, outline).sum()))
    return best


@functools.cache
def _unit_area(shape: str) -> float:
    """Area of a shape whose radius is 1."""
    return float(coverage(shape, 40.0, 40.0, 32.0, 0.0, (80, 80)).sum()) / 32**2
