"""Generation, frame by frame (paper section 3, spec section 5); one frame's sets are made by frame_sampler.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nova_model.config import SamplingConfig
from nova_model.frame_sampler import FrameSampler, Noise
from nova_model.model import Nova
from nova_model.schedule import Schedule
from nova_model.temporal import Cache

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Branches:
    """Guidance branches of a frame, stacked along the batch: conditional, then (image-conditional,) unconditional."""

    contexts: Tensor
    """Conditioning tokens [G*B, L, D]."""
    sees_frames: tuple[bool, ...]
    """For each branch, whether it sees the frames before; the others see begin-of-video tokens."""


@torch.no_grad()
def generate(
    model: Nova,
    schedule: Schedule,
    *,
    text: Tensor,
    frames: int,
    latent_size: tuple[int, int],
    generators: Sequence[torch.Generator],
    settings: SamplingConfig | None = None,
    negative_text: Tensor | None = None,
    motion: Tensor | None = None,
    fps: Tensor | None = None,
    first_frames: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Generates latents.

    Args:
        model: in eval mode.
        schedule: of the noise.
        text: padded features [B, L, token] (or class labels [B]).
        frames: T, latent frames; more than were trained extrapolates.
        latent_size: H and W.
        generators: CPU generators: one for the batch, or one a sample, which then depends on its own seed alone.
        settings: how.
        negative_text: as `text`; the unconditional prompt by default.
        motion: motion scores [B]; 5 by default.
        fps: [B]; 12 by default.
        first_frames: given latents [B, C, t, H, W] to continue from.
        on_step: called with frame and set step after each set.

    Returns:
        [B, C, T, H, W], scaled as the model was trained.

    Raises:
        ValueError: a number of generators that is neither 1 nor B, or sizes that the model cannot take.
    """
    settings = settings or SamplingConfig()
    batch, (height, width) = len(text), latent_size
    if frames < 1:
        raise ValueError(f"{frames} frames were asked for; at least 1")
    if len(generators) not in (1, batch):
        raise ValueError(f"{len(generators)} generators for {batch} samples; give one, or one a sample")
    weight = model.mask_embed.mask_token
    latents = torch.zeros(
        batch, model.config.image_dim, frames, height, width, device=weight.device, dtype=weight.dtype
    )
    model.check_size(latents)
    given = 0 if first_frames is None else first_frames.shape[2]
    if first_frames is not None:
        if (
            first_frames.shape[:2] != latents.shape[:2]
            or first_frames.shape[-2:] != latents.shape[-2:]
            or given > frames
        ):
            raise ValueError(f"first frames are {tuple(first_frames.shape)}, the video is {tuple(latents.shape)}")
        latents[:, :, :given] = first_frames.to(latents)
    noise = Noise(generators, batch, weight.device)
    branches = _branches(model, settings, text, negative_text, motion, fps)
    rows, columns = model.grid(latents)
    order: Tensor | None = None
    anchor: Tensor | None = None
    cache: Cache = ()
    for index in range(frames):
        output, cache = _temporal_step(model, branches, latents, index, cache)
        anchor = output if anchor is None else anchor
        indicator = output if index == 0 else model.video_encoder.indicator(anchor, output)
        if index < given:
            continue
        if order is None:
            order = noise.uniform(rows * columns, 1).argsort(dim=1).squeeze(-1)
        frame = FrameSampler(model, schedule, settings, noise, indicator, order, (height, width))
        latents[:, :, index] = frame.sample(None if on_step is None else functools.partial(on_step, index))
    return latents


def _branches(
    model: Nova,
    settings: SamplingConfig,
    text: Tensor,
    negative: Tensor | None,
    motion: Tensor | None,
    fps: Tensor | None,
) -> Branches:
    batch = len(text)
    null = model.null(batch) if negative is None else negative
    prompts, sees = [text], [True]
    if settings.image_guidance_scale is not None:
        prompts, sees = [text, null, null], [True, True, False]
    elif max(settings.guidance_scale, settings.min_guidance_scale or 0.0) > 1:
        prompts, sees = [text, null], [True, True]
    contexts = [model.context(prompt.to(text), motion, fps, batch) for prompt in prompts]
    return Branches(torch.cat(contexts), tuple(sees))


def _temporal_step(model: Nova, branches: Branches, latents: Tensor, index: int, cache: Cache) -> tuple[Tensor, Cache]:
    """Temporal output of one frame for every branch, [G*B, M, D]."""
    frames = latents.shape[2]
    before = latents[:, :, index - 1] if index else None
    slots = [model.frame_slot(before if sees else None, index, frames, latents) for sees in branches.sees_frames]
    rows, columns = (size // 2 for size in model.grid(latents))
    prefix = branches.contexts.shape[1] if index == 0 else 0
    angles = model.temporal_angles(prefix, index, index + 1, rows, columns, latents.device)
    context = branches.contexts if index == 0 else None
    return model.video_encoder.step(frame=torch.cat(slots), context=context, angles=angles, cache=cache)
