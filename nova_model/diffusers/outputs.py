"""The outputs of a pipeline, in the forms that users of diffusers know."""

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
    """Images (`images`) where one frame was requested, else videos (`frames`); one entry for each sample."""

    images: Any = None
    frames: Any = None


def postprocess(pixels: Tensor, output_type: str) -> Any:
    """Converts videos [B, 3, F, H, W] in [-1, 1] to an output type.

    Args:
        pixels: the videos of all samples.
        output_type: pil for lists of images, np for an array [B, F, H, W, 3], pt for a tensor [B, F, 3, H, W].
    """
    if output_type != "pt":
        pixels = pixels.cpu()  # a long video need not stay on the device
    return VideoProcessor().postprocess_video(pixels, output_type)


def concatenate(segments: Sequence[Any], output_type: str) -> Any:
    """Joins segments of videos, each of which holds all samples, in time."""
    if output_type == "pil":
        return [[frame for frames in sample for frame in frames] for sample in zip(*segments, strict=True)]
    if output_type == "np":
        return np.concatenate(segments, axis=1)
    return torch.cat(list(segments), dim=2 if output_type == "latent" else 1)


def to_images(videos: Any, output_type: str) -> Any:
    """Takes the frame axis from videos of one frame; latents keep it."""
    if output_type == "pil":
        return [frames[0] for frames in videos]
    return videos if output_type == "latent" else videos[:, 0]
