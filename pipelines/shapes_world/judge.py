"""Detects and tracks the things in a picture or video of the shapes world by classical image processing.

    detect(frame)   the things of one picture
    follow(frames)  the things of a video, as tracks over its frames

Pixels are classified by colour, connected pixels become things, and their outlines are matched against the known
shapes. No learnt model takes part, so that a benchmark does not depend on one. Only the world's palette is presumed;
pictures may be soft, since a pixel belongs to the nearest colour.
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

MIN_AREA = 0.008
"""Share of the frame below which pixels are no thing; the smallest thing covers 0.02 of a square frame."""
MIN_LIKENESS = 0.55
"""Intersection over union with the best outline below which a thing has no shape of this world."""
STILL = 0.02
"""Distance from first to last place, in short sides of the frame, below which a thing stands still."""
STEPS = 4
"""Steps over which the length of a path is measured."""
ANGLES = 12
"""Angles at which an outline is tried, within one period of its rotational symmetry."""
_SYMMETRY = {"square": 4, "triangle": 3, "star": 5, "cross": 4}


@dataclass(frozen=True)
class Detection:
    """A thing in a picture."""

    shape: str | None
    """The shape whose outline fits best; None where none fits."""
    colour: str
    x: float
    """Centre in pixels."""
    y: float
    area: float
    """Pixels covered."""
    size: str
    """The size whose radius is nearest."""


@dataclass(frozen=True)
class Track:
    """A thing followed through a video."""

    detections: tuple[Detection | None, ...]
    """One for each frame; None where the thing was not detected."""
    short_side: int
    """Short side of the frame in pixels."""

    @property
    def colour(self) -> str:
        return self._visible()[0].colour

    @property
    def shape(self) -> str | None:
        """Its shape in most frames."""
        return Counter(detection.shape for detection in self._visible()).most_common(1)[0][0]

    @property
    def constancy(self) -> float:
        """Share of the frames in which it is visible with its colour and shape."""
        constant = [detection is not None and detection.shape == self.shape for detection in self.detections]
        return sum(constant) / len(constant)

    @property
    def travel(self) -> tuple[float, float]:
        """Displacement from the first to the last detection, in short sides of the frame, right and down."""
        visible = self._visible()
        first, last = visible[0], visible[-1]
        return (last.x - first.x) / self.short_side, (last.y - first.y) / self.short_side

    @property
    def direction(self) -> str | None:
        """The nearest of the eight directions; None where the thing stands still."""
        right, down = self.travel
        if math.hypot(right, down) < STILL:
            return None
        return max(DIRECTIONS, key=lambda name: np.dot(DIRECTIONS[name], (right, down)) / math.hypot(*DIRECTIONS[name]))

    def speed(self, fps: float) -> float:
        """Short sides of the frame per second along its path."""
        places = [(index, detection) for index, detection in enumerate(self.detections) if detection is not None]
        if len(places) < 2:
            return 0.0
        # A few long steps, since centres jitter by fractions of a pixel, which many short steps would add up.
        chosen = [places[round(step)] for step in np.linspace(0, len(places) - 1, min(len(places), STEPS + 1))]
        length = sum(math.dist((one.x, one.y), (other.x, other.y)) for (_, one), (_, other) in pairwise(chosen))
        return length / self.short_side / ((places[-1][0] - places[0][0]) / fps)

    def _visible(self) -> list[Detection]:
        return [detection for detection in self.detections if detection is not None]


def detect(frame: np.ndarray, *, turned: bool = False) -> list[Detection]:
    """Detects the things of a picture [H, W, 3] uint8, the largest first.

    Args:
        frame: RGB.
        turned: whether things may be rotated by any angle.
    """
    smooth = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    names, palette = _palette()
    distance = np.linalg.norm(smooth[:, :, None] - palette, axis=-1)  # [H, W, colours]
    nearest = distance.argmin(-1)
    core = np.ones((3, 3), np.uint8)
    min_area = MIN_AREA * frame.shape[0] * frame.shape[1]
    ground = Counter(
        {name: sum((nearest == names.index(shade)).sum() for shade in _shades(name)) for name in BACKGROUNDS}
    )
    present = [names.index(shade) for shade in _shades(ground.most_common(1)[0][0])]
    cores = {}
    for colour in COLOURS:
        index = names.index(colour)
        cores[index] = cv2.morphologyEx((nearest == index).astype(np.uint8), cv2.MORPH_OPEN, core)
        if cores[index].sum() >= min_area / 2:
            present.append(index)
    # Pixels on the border of two colours are mixtures that may be nearest to a third one, so that the colours that are
    # really present are found first, and only these share out the pixels.
    owner = np.array(present)[distance[..., present].argmin(-1)]
    things = []
    for index in present:
        if names[index] in COLOURS:
            second = distance[..., [other for other in present if other != index]].min(-1)
            covered = second / (second + distance[..., index] + 1e-6)
            regions = _regions((owner == index).astype(np.uint8), cores[index], min_area)
            things += [_detection(covered * cv2.dilate(region, core), names[index], turned) for region in regions]
    return sorted(things, key=lambda thing: -thing.area)


def follow(frames: np.ndarray, *, turned: bool = False) -> list[Track]:
    """Tracks the things of a video [N, H, W, 3] uint8; a track continues with the nearest detection of its colour."""
    side = min(frames.shape[1:3])
    tracks: list[list[Detection | None]] = []
    for number, frame in enumerate(frames):
        free = detect(frame, turned=turned)
        for track in tracks:
            last = next(detection for detection in reversed(track) if detection is not None)
            candidates = [detection for detection in free if detection.colour == last.colour]
            place = (last.x, last.y)
            best = min(candidates, key=lambda detection: math.dist(place, (detection.x, detection.y)), default=None)
            track.append(best)
            if best is not None:
                free.remove(best)
        tracks += [[None] * number + [detection] for detection in free]
    return [Track(tuple(track), side) for track in tracks]


@functools.lru_cache(maxsize=1)
def _palette() -> tuple[list[str], np.ndarray]:
    """Names and Lab colours of things, and of both shades of each background."""
    steps = (0, TEXTURE_STEP)
    shades = {
        shade: np.add(rgb, step)
        for name, rgb in BACKGROUNDS.items()
        for shade, step in zip(_shades(name), steps, strict=True)
    }
    colours = {**COLOURS, **shades}
    rgb = np.array([list(colours.values())], np.float32) / 255
    return list(colours), cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[0]


def _shades(background: str) -> tuple[str, str]:
    return f"dark {background}", f"light {background}"


def _regions(mask: np.ndarray, core: np.ndarray, min_area: float) -> list[np.ndarray]:
    """Masks of connected pixels of one colour, without those that are little more than a border."""
    count, labels = cv2.connectedComponents(mask)
    regions = [(labels == label).astype(np.uint8) for label in range(1, count)]
    return [region for region in regions if region.sum() >= min_area and (region * core).sum() >= min_area / 2]


def _detection(covered: np.ndarray, colour: str, turned: bool) -> Detection:
    """A thing, from the share of each pixel that it covers."""
    rows, columns = np.indices(covered.shape) + 0.5
    area = float(covered.sum())
    x, y = float((columns * covered).sum()) / area, float((rows * covered).sum()) / area
    likeness = {shape: _likeness(covered, shape, x, y, area, turned) for shape in SHAPES}
    shape = max(likeness, key=likeness.__getitem__)
    radius = math.sqrt(area / _unit_area(shape))
    reach = {name: abs(share * min(covered.shape) - radius) for name, share in SIZES.items()}
    fits = likeness[shape] >= MIN_LIKENESS
    return Detection(shape if fits else None, colour, x, y, area, min(reach, key=reach.__getitem__))


def _likeness(covered: np.ndarray, shape: str, x: float, y: float, area: float, turned: bool) -> float:
    """Intersection over union with an outline of the same area and centre, at the best of all tried angles."""
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
