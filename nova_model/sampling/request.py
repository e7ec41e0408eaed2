"""What the sampler is asked to generate, as tensors of the model.

Shapes: B batch, C latent channels, T latent frames, H x W latent size, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nova_model.config import NovaConfig, SamplingConfig
from nova_model.model import Nova


@dataclass(frozen=True, kw_only=True)
class Request:
    """The tensors of a generation, and how it is sampled."""

    text: Tensor
    """Padded text features [B, L, token], or class labels [B], of which the last one means no class."""
    frames: int
    """T, latent frames; more than the model was trained on extrapolates."""
    latent_size: tuple[int, int]
    """H and W."""
    generators: Sequence[torch.Generator]
    """One for the batch, or one per sample, which then depends on its own seed alone."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    negative_text: Tensor | None = None
    """Prompt of the unconditional branch, in the form of `text`; the model's unconditional prompt by default."""
    motion: Tensor | None = None
    """Motion scores [B]; 5 by default."""
    fps: Tensor | None = None
    """Frames per second [B]; 12 by default."""
    first_frames: Tensor | None = None
    """Latents [B, C, t, H, W] of the first frames, which the video continues."""
    window: int | None = None
    """Latent frames that a frame attends to, itself and the first one included, at least as many as the model was
    trained on; all by default. It bounds the cost of a frame, however long the video is."""

    @property
    def first_frame_count(self) -> int:
        """Frames that are not generated."""
        return 0 if self.first_frames is None else self.first_frames.shape[2]

    @property
    def shape(self) -> tuple[int, int, int]:
        """T, H and W."""
        return self.frames, *self.latent_size

    def check(self, model: Nova) -> None:
        """Raises ValueError where the model cannot generate this."""
        for prompt in (self.text, self.negative_text):
            if prompt is not None:
                model.check_prompt(prompt)
        batch = len(self.text)
        if self.frames < 1:
            raise ValueError(f"{self.frames} frames requested; ask for at least 1")
        if len(self.generators) not in (1, batch):
            raise ValueError(f"{len(self.generators)} generators for {batch} samples; give one, or one per sample")
        shape = (batch, model.config.image_dim, *self.shape)
        model.check_size(torch.empty(shape, device="meta"))
        if self.first_frames is not None:
            first = tuple(self.first_frames.shape)
            if first[:2] != shape[:2] or first[3:] != shape[3:] or self.first_frame_count > self.frames:
                raise ValueError(
                    f"first frames are {first}, the video is {shape}; give frames of the video's shape, at most all"
                )
        check_window(self.window, model.config)


def check_window(window: int | None, config: NovaConfig) -> None:
    """Raises ValueError where a window is shorter than the videos that the model was trained on."""
    min_window = max(2, config.video_base_size[0])
    if window is not None and window < min_window:
        raise ValueError(f"a window of {window} latent frames; at least {min_window}, as the model was trained")
