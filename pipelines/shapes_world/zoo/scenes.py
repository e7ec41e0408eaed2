"""Pictures and videos that the zoo learns from: scenes of the shapes world, drawn as they are needed.

Every batch is a function of a seed and its number, so that a training that was stopped goes on with the next one.
Frames come at the sizes, rates and qualities that the corpus has, brought to the size a model works at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipelines.shapes_world.corpus import SIZES
from pipelines.shapes_world.draw import render
from pipelines.shapes_world.scenes import Scene, Thing, sample_scene

if TYPE_CHECKING:
    from torch import Tensor

NATIVE_SHARE = 0.6
"""Of the pictures that are drawn at the size they are learnt at; the others are resized as curation resizes them."""
COMPRESSED_SHARE = 0.3
"""Of the pictures and videos that went through a lossy encoder's blocks."""


@dataclass(frozen=True)
class Shot:
    """A scene and its frames [T, S, S, 3] uint8, square."""

    scene: Scene
    frames: np.ndarray
    fps: float


def draw_shot(rng: np.random.Generator, *, frames: int, side: int, fps: float = 12.0) -> Shot:
    """A scene from chance, as a square picture or video.

    Args:
        rng: where chance comes from.
        frames: 1 for a picture.
        side: pixels of the frames.
        fps: frames per second.
    """
    scene = draw_scene(rng, side=side, seconds=(frames - 1) / fps, still=frames > 1 and rng.random() < 0.15)
    drawn = squared(render(scene, np.arange(frames) / fps), side)
    return Shot(scene, worn(rng, drawn), fps)


def draw_quick_shot(rng: np.random.Generator, *, frames: int, side: int, fps: float = 12.0) -> Shot:
    """As `draw_shot`, of a scene in which something small moves quickly; about half show one thing on plain ground."""
    while True:  # one scene in a dozen is
        scene = sample_scene(rng, width=side, height=side, seconds=(frames - 1) / fps, simple=0.5)
        if any(_is_quick(thing) for thing in scene.things):
            return Shot(scene, worn(rng, render(scene, np.arange(frames) / fps)), fps)


def _is_quick(thing: Thing) -> bool:
    return (thing.size, thing.speed) == ("small", "quickly") and thing.path != "turning"


def draw_scene(rng: np.random.Generator, *, side: int, seconds: float = 0.0, still: bool = False) -> Scene:
    """A scene at the size that it is learnt at, or at one of the corpus."""
    height, width = (side, side) if rng.random() < NATIVE_SHARE else SIZES[int(rng.integers(len(SIZES)))]
    return sample_scene(rng, width=width, height=height, seconds=seconds, still=still)


def generator(seed: int, *numbers: int) -> np.random.Generator:
    """The source of chance of one batch."""
    return np.random.default_rng([seed, *numbers])


def squared(frames: np.ndarray, side: int) -> np.ndarray:
    """The central square of frames [T, H, W, 3] at another size, as curation cuts and scales it."""
    height, width = frames.shape[1:3]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return resized(frames[:, top : top + edge, left : left + edge], (side, side))


def resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames [T, H, W, 3] at another height and width."""
    if frames.shape[1:3] == size:
        return frames
    height, width = size
    scaled = [Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.asarray(each) for each in scaled])


def video_pixels(clips: Sequence[np.ndarray]) -> Tensor:
    """Clips [T, S, S, 3] uint8 as a VAE takes them, [B, 3, T, S, S] in [-1, 1]."""
    import torch

    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def worn(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    """Frames of which some went through a lossy encoder."""
    if rng.random() >= COMPRESSED_SHARE:
        return frames
    quality = int(rng.integers(70, 96))
    return np.stack([_compressed(frame, quality) for frame in frames])


def _compressed(frame: np.ndarray, quality: int) -> np.ndarray:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(buffer))
