"""What a pipeline gives back, in the forms that diffusers' users know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from torch import Tensor


@dataclass
class NovaPipelineOutput(BaseOutput):
    """Pictures (`images`) where one frame was asked for, else videos (`frames`); one entry a sample."""

    images: Any = None
    frames: Any = None


def shown(pixels: Tensor, output_type: str) -> Any:
    """Videos [B, 3, F, H, W] in [-1, 1] in another form.

    Args:
        pixels: of all samples.
        output_type: pil for lists of images, np for an array [B, F, H, W, 3], pt for a tensor [B, F, 3, H, W].
    """
    if output_type != "pt":
        pixels = pixels.cpu()  # a long video need not stay on the device
    return VideoProcessor().postprocess_video(pixels, output_type)


def joined(chunks: Sequence[Any], output_type: str) -> Any:
    """Parts of videos, one after the other."""
    if output_type == "pil":
        return [[frame for part in parts for frame in part] for parts in zip(*chunks, strict=True)]
    if output_type == "np":
        return np.concatenate(chunks, axis=1)
    return torch.cat(list(chunks), dim=2 if output_type == "latent" else 1)


def pictures(shown: Any, output_type: str) -> Any:
    """Videos of one frame as pictures; latents keep their axis of time."""
    if output_type == "pil":
        return [frames[0] for frames in shown]
    return shown if output_type == "latent" else shown[:, 0]
