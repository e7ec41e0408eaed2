"""Generation: frame by frame, set by set, each token denoised from noise (paper section 3, spec section 5)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nova_model import masking, ops
from nova_model.model import Nova
from nova_model.schedule import Schedule, guide, ramp, renorm_factor
from nova_model.temporal import Cache

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How samples are made; the defaults are the released ones for flow matching."""

    set_steps: int = 64
    """K, sets of tokens a frame is made of; 128 for quality."""
    diffusion_steps: int = 25
    """Denoising steps of a token; 100 for DDPM."""
    guidance_scale: float = 5.0
    """How much the prompt is followed; 1 switches guidance off."""
    min_guidance_scale: float | None = None
    """Guidance at the first set, rising linearly to guidance_scale; constant by default."""
    guidance_trunc: float = 0.0
    """Timestep (0 to 1000) below which only the conditional branch runs."""
    guidance_renorm: float = 1.0
    """Below 1, guided outputs are scaled down towards the norm of the conditional ones, at most to this factor."""
    image_guidance_scale: float | None = None
    """How much the frames before are followed, apart from the prompt; a third branch runs."""

    def __post_init__(self) -> None:
        if self.set_steps < 1 or self.diffusion_steps < 1:
            raise ValueError("set_steps and diffusion_steps must be at least 1")
        if not 0 < self.guidance_renorm <= 1:
            raise ValueError(f"guidance_renorm is {self.guidance_renorm}; it is a factor above 0 and up to 1")
        if self.guidance_scale < 0:
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it is 1 (off) or more")


@dataclass(frozen=True)
class Branches:
    """Guidance branches of a frame, stacked along the batch: conditional, then (image-conditional,) unconditional."""

    contexts: Tensor
    """Conditioning tokens [G*B, L, D]."""
    sees_frames: tuple[bool, ...]
    """For each branch, whether it sees the frames before; the others see begin-of-video tokens."""


@dataclass(frozen=True)
class Noise:
    """Draws in the release's order: one generator for the batch, or one a sample."""

    generators: Sequence[torch.Generator]
    batch: int
    device: torch.device

    def _draw(self, make: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        if len(self.generators) == 1:
            return make(self.batch, *shape, generator=self.generators[0]).to(self.device)
        return torch.cat([make(1, *shape, generator=each) for each in self.generators]).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        return self._draw(torch.rand, shape)

    def normal(self, *shape: int) -> Tensor:
        return self._draw(torch.randn, shape)


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


class FrameSampler:
    """Predicts one frame's sets of tokens, given its indicator features.

    Args:
        model: in eval mode.
        schedule: of the noise.
        settings: how.
        noise: where draws come from.
        indicator: S'_f of every branch [G*B, M, D].
        order: order of prediction [B, N].
        size: H and W of the latents.
    """

    def __init__(
        self, model: Nova, schedule: Schedule, settings: SamplingConfig, noise: Noise, indicator: Tensor, order: Tensor,
        size: tuple[int, int],
    ) -> None:  # fmt: skip
        self.model, self.schedule, self.settings, self.noise = model, schedule, settings, noise
        self.indicator, self.order = indicator, order
        self.height, self.width = size
        self.batch = len(order)
        self.timesteps = schedule.timesteps(settings.diffusion_steps).tolist()

    def sample(self, on_set: Callable[[int], None] | None = None) -> Tensor:
        """The frame's latents, [B, C, H, W]."""
        config = self.model.config
        sizes = masking.set_sizes(self.settings.set_steps, self.order.shape[1])
        scales = ramp(self.settings.min_guidance_scale, self.settings.guidance_scale, len(sizes))
        tokens = self.indicator.new_zeros(self.batch, self.order.shape[1], config.token_dim)
        rows = self.height // config.patch_size
        known = 0
        for step, (count, scale) in enumerate(zip(sizes, scales, strict=True)):
            latents = ops.unpatchify(tokens, config.patch_size, rows)
            chosen = self.order[:, known : known + count]
            made = self._denoised(latents, self.order[:, :known], chosen, scale)
            tokens = tokens.scatter(1, _wide(chosen, tokens), made.gather(1, _wide(chosen, made)))
            known += count
            if on_set is not None:
                on_set(step)
        return ops.unpatchify(tokens, config.patch_size, rows)

    def _denoised(self, latents: Tensor, visible: Tensor, chosen: Tensor, scale: float) -> Tensor:
        """The whole grid after denoising; only the chosen tokens mean something, [B, N, p*p*C]."""
        branches = len(self.indicator) // self.batch
        if scale <= 1 and self.settings.image_guidance_scale is None:
            branches = 1
        z = self.model.spatial(
            latents[:, :, None].repeat(branches, 1, 1, 1, 1),
            self.indicator[: branches * self.batch],
            visible.repeat(branches, 1),
        )
        z = z.gather(1, _wide(chosen.repeat(branches, 1), z))
        x = self._noise(latents)
        for index, t in enumerate(self.timesteps):
            output = self._guided(x, t, z, chosen, scale)
            x = self.schedule.step(output, index, len(self.timesteps), x, lambda: self._noise(latents))
        return x

    def _noise(self, latents: Tensor) -> Tensor:
        normal = self.noise.normal(self.model.config.image_dim, self.height, self.width)
        return ops.patchify(normal.to(latents), self.model.config.patch_size)

    def _guided(self, x: Tensor, t: float, z: Tensor, chosen: Tensor, scale: float) -> Tensor:
        """What the schedule's step is given, for the whole grid; tokens outside the set hold x itself (section 5)."""
        branches = len(z) // self.batch
        guided = branches > 1 and t >= self.settings.guidance_trunc
        if not guided:
            branches = 1
        part = x.gather(1, _wide(chosen, x)).repeat(branches, 1, 1)
        times = torch.full(part.shape[:2], t, device=x.device)
        outputs = self.model.image_decoder(x_t=part, t=times, z=z[: branches * self.batch]).chunk(branches)
        grids = [x.scatter(1, _wide(chosen, x), output.to(x.dtype)) for output in outputs]
        if not guided:
            return grids[0]
        if self.settings.image_guidance_scale is None:
            return self._renormed(guide(grids[1], grids[0], scale), grids[0])
        conditional, image_conditional, unconditional = grids
        mixed = self._renormed(unconditional + scale * (conditional - image_conditional), conditional)
        return mixed + self.settings.image_guidance_scale * (image_conditional - unconditional)

    def _renormed(self, guided: Tensor, conditional: Tensor) -> Tensor:
        if self.settings.guidance_renorm >= 1:
            return guided
        return guided * renorm_factor(guided, conditional, self.settings.guidance_renorm)


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, like.shape[-1])
