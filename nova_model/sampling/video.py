"""A video, frame by frame (section 3.2 of the paper): temporal step, indicator features, then the frame set by set.

Beyond the trained length, positions are those of this video: frame t of T is at time t * T_base / T (at t with rotary
positions), and `window` bounds how far a frame attends back. The begin-of-video block, which holds the prompt, is
always attended to.

Shapes: B batch, G branches of guidance, C latent channels, T latent frames, H x W latent size, M temporal tokens of a
frame, L text tokens, D width, S cached tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nova_model.config import NovaConfig, SamplingConfig
from nova_model.layers import LayerCache
from nova_model.model import Nova
from nova_model.sampling.frame import FrameSampler, OnStep, VideoState
from nova_model.sampling.guidance import GuidanceBranches, guidance_branches
from nova_model.sampling.noise import Noise
from nova_model.sampling.schedule import Schedule
from nova_model.temporal import Cache


@dataclass(frozen=True, kw_only=True)
class Request:
    """The tensors and settings of a generation."""

    text: Tensor
    """Padded text features [B, L, token], or class labels [B]."""
    frames: int
    """T, latent frames; more than the model was trained on extrapolates."""
    latent_size: tuple[int, int]
    """H and W."""
    generators: Sequence[torch.Generator]
    """One for the batch, or one per sample, which then depends on its own seed alone."""
    settings: SamplingConfig = field(default_factory=SamplingConfig)
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


def generate(model: Nova, schedule: Schedule, request: Request, on_step: OnStep | None = None) -> Tensor:
    """Generates latents.

    Args:
        model: model in eval mode.
        schedule: noise schedule.
        request: prompts, sizes and settings.
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
    settings, batch = request.settings, len(request.text)
    video = VideoState(_initial_latents(model, request), settings.guidance_scale)
    branches = guidance_branches(
        model, settings, text=request.text, negative_text=request.negative_text, motion=request.motion, fps=request.fps
    )
    noise = Noise(request.generators, batch, video.latents.device)
    grid = model.grid(video.latents)
    sampler = FrameSampler(model, schedule, settings, noise, grid)
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
    slots = [
        model.frame_slot(before if sees_frames else None, index, frames, latents)
        for sees_frames in branches.sees_frames
    ]
    rows, columns = model.temporal_grid(latents)
    prefix = branches.contexts.shape[1] if first else 0
    angles = model.temporal_angles(prefix, index, index + 1, rows, columns, latents.device)
    context = branches.contexts if first else None
    return model.video_encoder.step(
        frame=torch.cat(slots), context=context, angles=angles, cache=() if first else cache
    )
