"""Frames that a call gives to go on from: their size, and how they become what a VAE takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nova_model.config import NovaConfig
from nova_model.vae.codec import Codec

if TYPE_CHECKING:
    from nova_model.diffusers.inputs import Inputs


def size_of(inputs: Inputs, config: NovaConfig) -> tuple[int, int]:
    """Height and width in pixels: asked for, or of given arrays, tensors or latents, or as trained.

    Raises:
        ValueError: a size that latents cannot have.
    """
    default = _array_size(inputs.image if inputs.video is None else inputs.video) or config.pixel_size
    if inputs.given_latents is not None:
        rows, columns = inputs.given_latents.shape[-2:]
        default = rows * config.image_stride, columns * config.image_stride
    height, width = inputs.height or default[0], inputs.width or default[1]
    unit = config.image_stride * 2 * config.patch_size
    if height < 1 or width < 1 or height % unit or width % unit:
        near = [max(1, round(side / unit)) * unit for side in (height, width)]
        raise ValueError(
            f"latents cannot have a size of {height}x{width} pixels; ask for height and width in multiples of {unit}, "
            f"such as {near[0]}x{near[1]}"
        )
    return height, width


def _array_size(given: Any) -> tuple[int, int] | None:
    """Height and width of arrays and tensors; PIL images are resized, so theirs does not count."""
    while isinstance(given, (list, tuple)) and given:
        given = given[0]
    if isinstance(given, np.ndarray) and given.ndim > 2:
        return int(given.shape[-3]), int(given.shape[-2])
    if isinstance(given, Tensor) and given.ndim > 2:
        return int(given.shape[-2]), int(given.shape[-1])
    return None


def preprocessed(image: Any, video: Any, codec: Codec, size: tuple[int, int]) -> Tensor | None:
    """Given frames as diffusers' processors make them, [B, 3, F, H, W] in [-1, 1].

    Raises:
        ValueError: neither PIL images, arrays nor tensors, or not RGB.
    """
    from diffusers.video_processor import VideoProcessor

    processor = VideoProcessor(vae_scale_factor=codec.stride, do_convert_rgb=True)
    if image is not None:
        frames = processor.preprocess(_floats("image", image), *size)[:, :, None]
    elif video is not None:
        frames = processor.preprocess_video(_floats("video", video), *size)
    else:
        return None
    if frames.shape[1] != 3:
        raise ValueError(f"given frames have {frames.shape[1]} channels; give RGB, and latents as given_latents")
    return frames.contiguous()


def _floats(name: str, given: Any) -> Any:
    """Bytes become 0..1, which is what diffusers' processors take of arrays and tensors."""
    if isinstance(given, (list, tuple)):
        made = [_floats(name, each) for each in given]
        if len({type(each) for each in made}) != 1:
            raise ValueError(f"{name} is an empty list or holds several kinds of things; give images of one kind")
        return made
    if isinstance(given, Image.Image):
        return given
    if not isinstance(given, (np.ndarray, Tensor)):
        raise ValueError(f"{name} holds a {type(given).__name__}; give PIL images, numpy arrays or tensors")
    if given.ndim < 3:
        raise ValueError(f"{name} has shape {tuple(given.shape)}; a picture has rows, columns and channels")
    whole = torch.as_tensor(given) if isinstance(given, np.ndarray) else given
    scaled = whole.float() / 255 if whole.dtype == torch.uint8 else whole.float()
    return scaled.numpy() if isinstance(given, np.ndarray) else scaled
