"""Renders scenes of the shapes world as antialiased frames, and computes their true optical flow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from pipelines.curation.motion import REFERENCE_SECONDS, normalised
from pipelines.shapes_world.scenes import BACKGROUNDS, COLOURS, Scene

OVERSAMPLING = 8
"""Factor by which masks are drawn larger, and then averaged, for smooth edges."""
TEXTURE_STEP = 22
"""Difference of brightness between the two shades of a texture, of 255."""
RING_HOLE = 0.55


def render(scene: Scene, times: Sequence[float] | np.ndarray = (0.0,)) -> np.ndarray:
    """Frames [N, H, W, 3] uint8 of a scene at some times in seconds."""
    background = _background(scene)
    return np.stack([_frame(scene, background, time) for time in times])


def _frame(scene: Scene, background: Image.Image, time: float) -> np.ndarray:
    frame = background.copy()
    for thing in scene.things:
        x, y = thing.centre(time, scene.short_side)
        radius = thing.radius(scene.short_side)
        left, top = math.floor(x - radius) - 1, math.floor(y - radius) - 1
        mask = _mask(thing.shape, x - left, y - top, radius, thing.turn(time))
        frame.paste(COLOURS[thing.colour], (left, top), mask)
    return np.asarray(frame)


def true_flow(scene: Scene, start: float, stop: float) -> tuple[np.ndarray, np.ndarray]:
    """The optical flow between two times.

    Returns:
        The displacement [H, W, 2] of each pixel to the right and down, zero on the background, and the number [H, W] of
        the thing that covers most of the pixel at the start, counted from 1, with 0 for none.
    """
    flow = np.zeros((scene.height, scene.width, 2), np.float32)
    owner = np.zeros((scene.height, scene.width), np.int64)
    centres = np.stack(np.meshgrid(np.arange(scene.width) + 0.5, np.arange(scene.height) + 0.5), axis=-1)
    for number, thing in enumerate(scene.things, start=1):
        x, y = thing.centre(start, scene.short_side)
        radius = thing.radius(scene.short_side)
        covered = coverage(thing.shape, x, y, radius, thing.turn(start), owner.shape) > 0.5
        angle = 2 * math.pi * (thing.turn(stop) - thing.turn(start))
        turned = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        arrives = (centres[covered] - (x, y)) @ turned + thing.centre(stop, scene.short_side)
        flow[covered] = arrives - centres[covered]
        owner[covered] = number
    return flow, owner


def coverage(shape: str, x: float, y: float, radius: float, turn: float, size: tuple[int, ...]) -> np.ndarray:
    """Share of each pixel that a shape covers, in a frame of a size (height, width)."""
    left, top = math.floor(x - radius) - 1, math.floor(y - radius) - 1
    mask = Image.new("L", (size[1], size[0]))
    mask.paste(_mask(shape, x - left, y - top, radius, turn), (left, top))
    return np.asarray(mask) / 255


def _mask(shape: str, x: float, y: float, radius: float, turn: float) -> Image.Image:
    """Share of each pixel that a shape covers (0 to 255), in a patch in which its centre is (x, y)."""
    side = (math.ceil(2 * radius) + 3) * OVERSAMPLING
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    angle = 2 * math.pi * turn
    turned = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    for points, value in _outlines(shape):
        scaled = (points @ turned * radius + (x, y)) * OVERSAMPLING
        draw.polygon([(float(px), float(py)) for px, py in scaled], fill=value)
    return mask.reduce(OVERSAMPLING)


def _outlines(shape: str) -> list[tuple[np.ndarray, int]]:
    """Polygons within the unit circle, with y down, each with the value of the mask inside."""
    if shape == "circle":
        return [(_regular(64), 255)]
    if shape == "ring":
        return [(_regular(64), 255), (_regular(64) * RING_HOLE, 0)]
    if shape == "square":
        return [(_regular(4, turn=0.125), 255)]
    if shape == "triangle":
        return [(_regular(3, turn=-0.25), 255)]
    if shape == "star":
        points = _regular(10, turn=-0.25)
        points[1::2] *= 0.42
        return [(points, 255)]
    assert shape == "cross", shape
    arm, end = 0.32, 0.94
    quarter = np.array([(arm, -end), (arm, -arm), (end, -arm)])  # the upper right arm; the others follow clockwise
    clockwise = np.array([(0.0, 1.0), (-1.0, 0.0)])
    quarters = [quarter @ np.linalg.matrix_power(clockwise, turns) for turns in range(4)]
    return [(np.concatenate(quarters), 255)]


def _regular(corners: int, turn: float = 0.0) -> np.ndarray:
    """Corners [N, 2] of a regular polygon, the first of them `turn` full turns clockwise from the right."""
    angles = 2 * np.pi * (np.arange(corners) / corners + turn)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _background(scene: Scene) -> Image.Image:
    base = np.array(BACKGROUNDS[scene.background], np.int16)
    y, x = np.mgrid[0 : scene.height, 0 : scene.width]
    period = scene.short_side // 8
    if scene.texture == "striped":
        lit = x // (period // 2) % 2
    elif scene.texture == "checkered":
        lit = (x // period + y // period) % 2
    elif scene.texture == "dotted":
        lit = (np.hypot(x % period - period / 2 + 0.5, y % period - period / 2 + 0.5) < period / 3.5).astype(int)
    else:
        lit = np.zeros_like(x)
    pixels = base + TEXTURE_STEP * lit[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def true_motion(scene: Scene, start: float = 0.0) -> float:
    """Motion score of a scene at a time by its true flow, without calibration."""
    flow, _ = true_flow(scene, start, start + REFERENCE_SECONDS)
    length = float(np.linalg.norm(flow, axis=-1).mean())
    return normalised(length, short_side=scene.short_side, seconds=REFERENCE_SECONDS)
