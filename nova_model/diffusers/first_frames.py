"""First frames that a call continues from: the size of the video that follows from them, and their preprocessing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor

from nova_model.config import NovaConfig
from nova_model.vae.codec import Codec


def check_size(height: int, width: int, config: NovaConfig) -> None:
    """Raises ValueError for a size in pixels that does not divide into the model's tokens."""
    # A temporal token covers two by two spatial tokens.
    unit = config.image_stride * 2 * config.patch_size
    if height < 1 or width < 1 or height % unit or width % unit:
        rows, columns = (max(1, round(side / unit)) * unit for side in (height, width))
        raise ValueError(
            f"latents cannot have a size of {height}x{width} pixels; ask for height and width in multiples of {unit}, "
            f"such as {rows}x{columns}"
        )


def array_size(frames: Any) -> tuple[int, int] | None:
    """Height and width of arrays and tensors; None for PIL images, which are resized."""
    while isinstance(frames, (list, tuple)) and frames:
        frames = frames[0]
    if isinstance(frames, np.ndarray) and frames.ndim > 2:  # [.., H, W, 3]
        return int(frames.shape[-3]), int(frames.shape[-2])
    if isinstance(frames, Tensor) and frames.ndim > 2:  # [.., 3, H, W]
        return int(frames.shape[-2]), int(frames.shape[-1])
    return None


def preprocess(image: Any, video: Any, codec: Codec, size: tuple[int, int]) -> Tensor | None:
    """Converts an image or a video with diffusers' processors.

    Args:
        image: the first frame, or a list of one for each prompt.
        video: the first frames, or a list of them.
        codec: the VAE that encodes the frames.
        size: height and width in pixels to which PIL images are resized.

    Returns:
        [B, 3, F, H, W] in [-1, 1]; None without image and video.

    Raises:
        ValueError: the frames are no PIL images, arrays or tensors, or not RGB.
    """
    processor = VideoProcessor(vae_scale_factor=codec.stride, do_convert_rgb=True)
    if image is not None:
        frames = processor.preprocess(_to_float("image", image), *size)[:, :, None]  # [B, 3, H, W] -> [B, 3, 1, H, W]
    elif video is not None:
        frames = processor.preprocess_video(_to_float("video", video), *size)
    else:
        return None
    if frames.shape[1] != 3:
        raise ValueError(f"given frames have {frames.shape[1]} channels; give RGB, and latents as given_latents")
    return frames.contiguous()


def _to_float(name: str, frames: Any) -> Any:
    """Scales bytes to 0..1: diffusers' processors take arrays and tensors in this range only."""
    if isinstance(frames, (list, tuple)):
        converted = [_to_float(name, frame) for frame in frames]
        if len({type(frame) for frame in converted}) != 1:
            raise ValueError(f"{name} is an empty list or holds several kinds of things; give images of one kind")
        return converted
    if isinstance(frames, Image.Image):
        return frames
    if not isinstance(frames, (np.ndarray, Tensor)):
        raise ValueError(f"{name} holds a {type(frames).__name__}; give PIL images, numpy arrays or tensors")
    if frames.ndim < 3:
        raise ValueError(f"{name} has shape {tuple(frames.shape)}; an image has rows, columns and channels")
    tensor = torch.as_tensor(frames) if isinstance(frames, np.ndarray) else frames
    scaled = tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()
    return scaled.numpy() if isinstance(frames, np.ndarray) else scaled
