"""A video, frame by frame (section 3.2 of the paper): temporal step, indicator features, then the frame set by set.

Beyond the trained length, positions are those of this video: frame t of T is at time t * T_base / T (at t with rotary
positions), and `window` bounds how far a frame attends back. The begin-of-video block, which holds the prompt, is
always attended to.

Shapes: B batch, G branches of guidance, C latent channels, T latent frames, H x W latent size, M temporal tokens of a
frame, D width, S cached tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nova_model.layers import LayerCache
from nova_model.model import Nova
from nova_model.sampling.frame import FrameSampler, OnStep, VideoState
from nova_model.sampling.guidance import GuidanceBranches, guidance_branches
from nova_model.sampling.noise import Noise
from nova_model.sampling.request import Request
from nova_model.sampling.schedule import Schedule
from nova_model.temporal import Cache


def generate(model: Nova, schedule: Schedule, request: Request, on_step: OnStep | None = None) -> Tensor:
    """Generates latents.

    Args:
        model: model in eval mode.
        schedule: noise schedule.
        request: prompts, sizes, and how to sample.
        on_step: called after every set; it may change what follows, or stop.

    Returns:
        [B, C, T, H, W], scaled as the model was trained; after a stop, the frames up to the last one begun.

    Raises:
        ValueError: a number of generators that is neither 1 nor B, or sizes that the model cannot process.
    """
    return torch.stack(list(generate_frames(model, schedule, request, on_step)), dim=2)


def generate_frames(
    model: Nova, schedule: Schedule, request: Request, on_step: OnStep | None = None
) -> Iterator[Tensor]:
    """Yields the latents of each frame [B, C, H, W] as it is finished, the given first frames included.

    After `on_step` stops the generation, the frame in progress is yielded as it is, and is the last one.

    Raises:
        ValueError: at once, where the model cannot generate this.
    """
    request.check(model)  # here, not in the generator below, which would raise only when it is first advanced
    return _generate_frames(model, schedule, request, on_step)


@torch.no_grad()
def _generate_frames(model: Nova, schedule: Schedule, request: Request, on_step: OnStep | None) -> Iterator[Tensor]:
    video = VideoState(_initial_latents(model, request), request.sampling.guidance_scale)
    branches = guidance_branches(model, request)
    noise = Noise(request.generators, len(request.text), video.latents.device)
    grid = model.grid(video.latents)
    sampler = FrameSampler(model, schedule, request.sampling, noise, grid)
    order: Tensor | None = None
    anchor: Tensor | None = None
    cache: Cache = ()
    for index in range(request.frames):
        output, cache = _temporal_step(model, branches, video.latents, index, cache)  # [G*B, M, D]
        tokens = output.shape[1]
        cache = _recent(cache, request.window, first_tokens=branches.contexts.shape[1] + tokens, frame_tokens=tokens)
        anchor = output if anchor is None else anchor
        if index >= request.first_frame_count:
            if order is None:  # one order for all frames, drawn before the first set as the release does
                order = noise.order(grid[0] * grid[1])
            indicator = output if index == 0 else model.video_encoder.indicator(anchor, output)
            sampler.sample(video, index, indicator, order, on_step)
        yield video.latents[:, :, index].clone()
        if video.stopped:
            return


def _initial_latents(model: Nova, request: Request) -> Tensor:
    """The given first frames, then zeros, [B, C, T, H, W]."""
    shape = (len(request.text), model.config.image_dim, *request.shape)
    latents = torch.zeros(shape, device=model.device, dtype=model.dtype)
    if request.first_frames is not None:
        latents[:, :, : request.first_frame_count] = request.first_frames.to(latents)
    return latents


def _recent(cache: Cache, window: int | None, *, first_tokens: int, frame_tokens: int) -> Cache:
    """The cache for the next frame of a window: the begin-of-video block, and the most recent frames that fit.

    Args:
        cache: cache of all frames so far.
        window: window in latent frames, the next one and the first included; None keeps all frames.
        first_tokens: number of tokens of the begin-of-video block.
        frame_tokens: number of tokens of a later frame.
    """
    if window is None or not cache or cache[0].keys.shape[2] <= first_tokens + (window - 2) * frame_tokens:
        return cache

    def trim(values: Tensor) -> Tensor:  # [B, heads, S, d]
        # Counted from the front, as [-0:] would keep everything for a window of 2.
        recent = values[:, :, values.shape[2] - (window - 2) * frame_tokens :]
        return torch.cat([values[:, :, :first_tokens], recent], dim=2)

    return tuple(LayerCache(trim(layer.keys), trim(layer.values)) for layer in cache)


def _temporal_step(
    model: Nova, branches: GuidanceBranches, latents: Tensor, index: int, cache: Cache
) -> tuple[Tensor, Cache]:
    """Temporal output of one frame for every branch, [G*B, M, D]."""
    frames = latents.shape[2]
    first = index == 0 or not model.config.sees_frames
    before = None if first else latents[:, :, index - 1]  # [B, C, H, W]
    # The release replaces the slots of a branch that sees no frames after it has added place and time to them.
    slots = [
        model.frame_slot(before, index, frames, latents) if sees_frames else model.begin_of_video(latents)
        for sees_frames in branches.sees_frames
    ]
    rows, columns = model.temporal_grid(latents)
    prefix = branches.contexts.shape[1] if first else 0
    angles = model.temporal_angles(prefix, index, index + 1, rows, columns, latents.device)
    context = branches.contexts if first else None
    return model.video_encoder.step(
        frame=torch.cat(slots), context=context, angles=angles, cache=() if first else cache
    )
