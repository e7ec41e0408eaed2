"""Generation, frame by frame (paper section 3, spec section 5); one frame's sets are made by frame_sampler.py.

Past the trained length: positions are those of this video, frame t of T stands at t * T_base / T (rotary ones at t),
and `window` bounds what a frame looks back at. The begin-of-video block, which holds the prompt, is always seen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nova_model.config import NovaConfig, SamplingConfig
from nova_model.layers import LayerCache
from nova_model.model import Nova
from nova_model.sampling.frame import Change, FrameSampler, Noise
from nova_model.sampling.schedule import Schedule
from nova_model.temporal import Cache

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be generated."""

    text: Tensor
    """Padded features [B, L, token] (or class labels [B])."""
    frames: int
    """T, latent frames; more than were trained extrapolates."""
    latent_size: tuple[int, int]
    """H and W."""
    generators: Sequence[torch.Generator]
    """One for the batch, or one a sample, which then depends on its own seed alone."""
    settings: SamplingConfig = field(default_factory=SamplingConfig)
    """How."""
    negative_text: Tensor | None = None
    """As `text`; the unconditional prompt by default."""
    motion: Tensor | None = None
    """Motion scores [B]; 5 by default."""
    fps: Tensor | None = None
    """[B]; 12 by default."""
    first_frames: Tensor | None = None
    """Given latents [B, C, t, H, W] to continue from."""
    window: int | None = None
    """Latent frames that a frame sees, itself and the first one among them, at least as many as were trained; all by
    default. What a frame costs then stays the same however long the video is."""

    @property
    def given(self) -> int:
        """Frames that are given."""
        return 0 if self.first_frames is None else self.first_frames.shape[2]

    def check(self, model: Nova) -> None:
        """Raises ValueError where the model cannot make this."""
        batch = len(self.text)
        if self.frames < 1:
            raise ValueError(f"{self.frames} frames were asked for; at least 1")
        if len(self.generators) not in (1, batch):
            raise ValueError(f"{len(self.generators)} generators for {batch} samples; give one, or one a sample")
        shape = (batch, model.config.image_dim, self.frames, *self.latent_size)
        model.check_size(torch.empty(shape, device="meta"))
        if self.first_frames is not None:
            found = tuple(self.first_frames.shape)
            if found[:2] != shape[:2] or found[3:] != shape[3:] or self.given > self.frames:
                raise ValueError(f"first frames are {found}, the video is {shape}")
        check_window(self.window, model.config)


def check_window(window: int | None, config: NovaConfig) -> None:
    """Raises ValueError where a window would change what the model was trained for."""
    least = max(2, config.video_base_size[0])
    if window is not None and window < least:
        raise ValueError(f"a window of {window} latent frames; at least {least}, as the model was trained")


@dataclass(frozen=True)
class SetStep:
    """Where generation is after a set."""

    frame: int
    step: int
    """Of this frame's sets."""
    latents: Tensor
    """The video so far [B, C, T, H, W]; what is not made yet is zero."""


OnSet = Callable[[SetStep], Change | None]
"""May change what follows; `Change.latents` is the whole video here, [B, C, T, H, W]."""


@dataclass(frozen=True)
class Branches:
    """Guidance branches of a frame, stacked along the batch: conditional, then (image-conditional,) unconditional."""

    contexts: Tensor
    """Conditioning tokens [G*B, L, D]."""
    sees_frames: tuple[bool, ...]
    """For each branch, whether it sees the frames before; the others see begin-of-video tokens."""


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
    window: int | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Generates latents. What is not explained here is in `Request`.

    Args:
        model: in eval mode.
        schedule: of the noise.
        on_step: called with frame and set step after each set.

    Returns:
        [B, C, T, H, W], scaled as the model was trained.

    Raises:
        ValueError: a number of generators that is neither 1 nor B, or sizes that the model cannot take.
    """
    request = Request(
        text=text, frames=frames, latent_size=latent_size, generators=generators,
        settings=settings or SamplingConfig(), negative_text=negative_text, motion=motion, fps=fps,
        first_frames=first_frames, window=window,
    )  # fmt: skip

    def on_set(made: SetStep) -> None:
        if on_step is not None:
            on_step(made.frame, made.step)

    return torch.stack(list(generate_frames(model, schedule, request, on_set)), dim=2)


def generate_frames(model: Nova, schedule: Schedule, request: Request, on_set: OnSet | None = None) -> Iterator[Tensor]:
    """Yields the latents of each frame [B, C, H, W] as it is made, given ones first.

    Where `on_set` stops, the frame at hand is the last one.

    Raises:
        ValueError: at once, where the model cannot make this.
    """
    request.check(model)
    return _frames(model, schedule, request, on_set)


class _Video:
    """The video so far, and what a caller changes of it on the way."""

    def __init__(self, model: Nova, request: Request, on_set: OnSet | None) -> None:
        shape = (len(request.text), model.config.image_dim, request.frames, *request.latent_size)
        self.latents = torch.zeros(shape, device=model.device, dtype=model.dtype)
        if request.first_frames is not None:
            self.latents[:, :, : request.given] = request.first_frames.to(self.latents)
        self.settings, self.on_set, self.stopped = request.settings, on_set, False

    def told(self, frame: int, step: int, latents: Tensor) -> Change | None:
        """Tells the caller of a set, and takes over what it changes."""
        assert self.on_set is not None
        self.latents[:, :, frame] = latents
        change = self.on_set(SetStep(frame, step, self.latents))
        if change is None:
            return None
        self.stopped = change.stop
        if change.guidance_scale is not None:
            self.settings = replace(self.settings, guidance_scale=change.guidance_scale)
        if change.latents is None:
            return change
        self.latents = change.latents.to(self.latents, copy=True)
        return replace(change, latents=self.latents[:, :, frame])


@torch.no_grad()
def _frames(model: Nova, schedule: Schedule, request: Request, on_set: OnSet | None) -> Iterator[Tensor]:
    video, branches = _Video(model, request, on_set), _branches(model, request)
    noise = Noise(request.generators, len(request.text), video.latents.device)
    order: Tensor | None = None
    anchor: Tensor | None = None
    cache: Cache = ()
    for index in range(request.frames):
        output, cache = _temporal_step(model, branches, video.latents, index, cache)
        cache = _recent(cache, request.window, branches.contexts.shape[1] + output.shape[1], output.shape[1])
        anchor = output if anchor is None else anchor
        if index >= request.given:
            if order is None:
                rows, columns = model.grid(video.latents)
                order = noise.order(rows * columns)
            indicator = output if index == 0 else model.video_encoder.indicator(anchor, output)
            frame = FrameSampler(model, schedule, video.settings, noise, indicator, order, request.latent_size)
            on_frame = None if on_set is None else functools.partial(video.told, index)
            made = frame.sample(on_frame)
            video.latents[:, :, index] = made
        yield video.latents[:, :, index].clone()
        if video.stopped:
            return


def _branches(model: Nova, request: Request) -> Branches:
    text, settings, batch = request.text, request.settings, len(request.text)
    null = model.null(batch) if request.negative_text is None else request.negative_text
    motion = request.motion
    if settings.negative_motion is not None:
        motion = text.new_full((batch,), settings.negative_motion, dtype=torch.float32)
    asked, negative = (text, request.motion), (null.to(text), motion)
    conditions, sees = [asked], [True]
    if settings.image_guidance_scale is not None:
        conditions, sees = [asked, negative, negative], [True, True, False]
    elif max(settings.guidance_scale, settings.min_guidance_scale or 0.0) > 1:
        conditions, sees = [asked, negative], [True, True]
    contexts = [model.context(prompt, moving, request.fps, batch) for prompt, moving in conditions]
    return Branches(torch.cat(contexts), tuple(sees))


def _recent(cache: Cache, window: int | None, first: int, frame: int) -> Cache:
    """What the next frame of a window sees: the begin-of-video block, and the frames before it that fit.

    Args:
        cache: of all frames so far.
        window: frames, the next one and the first among them; everything is kept without.
        first: tokens of the begin-of-video block.
        frame: tokens of a later frame.
    """
    if window is None or not cache or cache[0].keys.shape[2] <= first + (window - 2) * frame:
        return cache

    def kept(values: Tensor) -> Tensor:
        # window = 2 keeps the first block alone, which [-0:] would not.
        recent = values[:, :, values.shape[2] - (window - 2) * frame :]
        return torch.cat([values[:, :, :first], recent], dim=2)

    return tuple(LayerCache(kept(layer.keys), kept(layer.values)) for layer in cache)


def _temporal_step(model: Nova, branches: Branches, latents: Tensor, index: int, cache: Cache) -> tuple[Tensor, Cache]:
    """Temporal output of one frame for every branch, [G*B, M, D]."""
    frames = latents.shape[2]
    first = index == 0 or not model.config.sees_frames
    before = None if first else latents[:, :, index - 1]
    slots = [model.frame_slot(before if sees else None, index, frames, latents) for sees in branches.sees_frames]
    rows, columns = (size // 2 for size in model.grid(latents))
    prefix = branches.contexts.shape[1] if first else 0
    angles = model.temporal_angles(prefix, index, index + 1, rows, columns, latents.device)
    context = branches.contexts if first else None
    return model.video_encoder.step(
        frame=torch.cat(slots), context=context, angles=angles, cache=() if first else cache
    )
