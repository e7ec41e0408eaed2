"""Training data of the zoo: pictures and videos of the shapes world, drawn on demand.

Every batch is a function of a seed and its number, so that a training can be resumed with the next batch. Frames have
the sizes, rates and qualities of the corpus, and are resized for the model.
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
"""Share of the scenes drawn at the model's own size; the others are resized in the way of curation."""
COMPRESSED_SHARE = 0.3
"""Share of the pictures and videos with artefacts of lossy compression."""


@dataclass(frozen=True)
class Shot:
    """A scene and its frames [T, S, S, 3] uint8, square."""

    scene: Scene
    frames: np.ndarray
    fps: float


def draw_shot(rng: np.random.Generator, *, frames: int, side: int, fps: float = 12.0) -> Shot:
    """Draws a random scene as a square picture or video.

    Args:
        rng: source of random numbers.
        frames: number of frames; 1 for a picture.
        side: width and height of the frames in pixels.
        fps: frames per second.
    """
    scene = draw_scene(rng, side=side, seconds=(frames - 1) / fps, still=frames > 1 and rng.random() < 0.15)
    drawn = squared(render(scene, np.arange(frames) / fps), side)
    return Shot(scene, maybe_compress(rng, drawn), fps)


def draw_quick_shot(rng: np.random.Generator, *, frames: int, side: int, fps: float = 12.0) -> Shot:
    """As `draw_shot`, for scenes in which a small thing moves quickly, in half of them alone on a plain background."""
    while True:  # about one scene in twelve is accepted
        scene = sample_scene(rng, width=side, height=side, seconds=(frames - 1) / fps, simple=0.5)
        if any(_is_quick(thing) for thing in scene.things):
            return Shot(scene, maybe_compress(rng, render(scene, np.arange(frames) / fps)), fps)


def _is_quick(thing: Thing) -> bool:
    return (thing.size, thing.speed) == ("small", "quickly") and thing.path != "turning"


def draw_scene(rng: np.random.Generator, *, side: int, seconds: float = 0.0, still: bool = False) -> Scene:
    """Draws a random scene at the model's own size, or at one of the corpus' sizes."""
    height, width = (side, side) if rng.random() < NATIVE_SHARE else SIZES[int(rng.integers(len(SIZES)))]
    return sample_scene(rng, width=width, height=height, seconds=seconds, still=still)


def generator(seed: int, *numbers: int) -> np.random.Generator:
    """The random number generator of one batch."""
    return np.random.default_rng([seed, *numbers])


def squared(frames: np.ndarray, side: int) -> np.ndarray:
    """The central square of frames [T, H, W, 3], resized in the way of curation."""
    height, width = frames.shape[1:3]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return resized(frames[:, top : top + edge, left : left + edge], (side, side))


def resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames [T, H, W, 3], resized to a height and width."""
    if frames.shape[1:3] == size:
        return frames
    height, width = size
    scaled = [Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.asarray(image) for image in scaled])


def video_pixels(clips: Sequence[np.ndarray]) -> Tensor:
    """Clips [T, S, S, 3] uint8 as inputs of a VAE, [B, 3, T, S, S] in [-1, 1]."""
    import torch

    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def maybe_compress(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    """The frames, with the probability COMPRESSED_SHARE after JPEG compression."""
    if rng.random() >= COMPRESSED_SHARE:
        return frames
    quality = int(rng.integers(70, 96))
    return np.stack([_compressed(frame, quality) for frame in frames])


def _compressed(frame: np.ndarray, quality: int) -> np.ndarray:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(buffer))
