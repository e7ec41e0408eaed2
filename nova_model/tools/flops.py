"""How many floating-point operations a training step and a generation take, from the config alone.

A multiply-add counts as two. Counted are products of matrices, attention and patch embeddings, as they are computed
here; norms, activations and sums are not. The first half of the spatial layers works on visible tokens only; the last
layer of an encoder, and the denoiser, work for those tokens whose output is read (`model.py`, `frame_sampler.py`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from nova_model import masking
from nova_model.config import NovaConfig, SamplingConfig
from nova_model.ops import FREQUENCIES


@dataclass(frozen=True)
class Flops:
    """Operations, part by part."""

    temporal: int = 0
    """Conditioning, temporal encoder, scaling and shift."""
    spatial: int = 0
    denoiser: int = 0

    @property
    def total(self) -> int:
        return self.temporal + self.spatial + self.denoiser

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.temporal + other.temporal, self.spatial + other.spatial, self.denoiser + other.denoiser
        )  # fmt: skip

    def __mul__(self, count: int) -> Flops:
        return Flops(self.temporal * count, self.spatial * count, self.denoiser * count)


@dataclass(frozen=True)
class Sizes:
    """Tokens of a frame, for latents of some size."""

    spatial: int
    """N."""
    temporal: int
    """M."""

    @classmethod
    def of(cls, config: NovaConfig, height: int, width: int) -> Sizes:
        """For latents of height x width."""
        patch = config.patch_size
        return cls((height // patch) * (width // patch), (height // (2 * patch)) * (width // (2 * patch)))


def linear(rows: int, given: int, made: int) -> int:
    """A product of rows x given and given x made."""
    return 2 * rows * given * made


def layer(width: int, tokens: int, pairs: int, wanted: int | None = None) -> int:
    """A transformer block.

    Args:
        width: D.
        tokens: that have keys and values.
        pairs: of query and key.
        wanted: tokens whose output is read, and which alone have queries; all by default.
    """
    rows = tokens if wanted is None else wanted
    keys_values, queries_output, mlp = linear(tokens, width, 2 * width), 2 * linear(rows, width, width), 8 * width
    return keys_values + queries_output + linear(rows, width, mlp) + 4 * pairs * width


def conditioning(config: NovaConfig) -> tuple[int, int]:
    """Tokens of a prompt's conditioning, and the operations that make them."""
    width, tokens, cost = config.width, 1, 0
    if config.text_token_dim is not None:
        tokens, cost = config.text_token_len, linear(config.text_token_len, config.text_token_dim, width)
    if config.has_motion:
        tokens, cost = tokens + 2, cost + 2 * _sinusoid(width)
    return tokens, cost


def _sinusoid(width: int) -> int:
    """A number's frequencies through two layers."""
    return linear(1, 2 * FREQUENCIES, width) + linear(1, width, width)


def _mixer(config: NovaConfig, rows: int) -> int:
    rank, width = config.video_mixer_rank or 0, config.width
    if rank > 0:
        return linear(rows, width, rank) + linear(rows, rank, 2 * width)
    return linear(rows, width, 2 * width) if rank else 0


def _slot(config: NovaConfig, sizes: Sizes, batch: int, first: bool) -> int:
    """Input of the temporal encoder for one frame: the frame before it, and its time."""
    patch = 0 if first else linear(batch * sizes.temporal, 4 * config.token_dim, config.width)
    return patch + (0 if config.rotary_pos_embed else _sinusoid(config.width))


def training_forward(
    config: NovaConfig, sizes: Sizes, *, batch: int, frames: int, visible: int, loss_repeat: int, timesteps: int = 1000
) -> Flops:
    """One forward pass of training.

    Args:
        config: of the architecture.
        sizes: of a frame.
        batch: B.
        frames: T.
        visible: tokens of a frame that are not masked.
        loss_repeat: R.
        timesteps: of the schedule; where tokens are more, each timestep is embedded once.
    """
    size, hidden, rows = config.denoiser, sizes.spatial - visible, batch * frames
    denoised = loss_repeat * rows * hidden
    denoiser = (
        linear(rows * hidden, config.width, size.width)
        + linear(rows * hidden, size.width, size.width)
        + min(timesteps, denoised) * _sinusoid(size.width)
        + _modulation(config, denoised)
        + _denoised(config, denoised)
    )
    spatial = rows * _spatial(config, sizes, visible, hidden)
    return Flops(_temporal_training(config, sizes, batch, frames), spatial, denoiser)


def _temporal_training(config: NovaConfig, sizes: Sizes, batch: int, frames: int) -> int:
    width, m = config.width, sizes.temporal
    prefix, cost = conditioning(config)
    alone = not config.sees_frames
    cost = batch * cost + sum(_slot(config, sizes, batch, alone or index == 0) for index in range(frames))
    cost += batch * _mixer(config, (frames - 1) * m)
    times, blocks = (frames, 1) if alone else (1, frames)
    first, later = (prefix + m) ** 2, sum(m * (prefix + (index + 1) * m) for index in range(1, blocks))
    tokens = prefix + blocks * m
    whole = layer(width, tokens, first + later) * (config.temporal.depth - 1)
    last = layer(width, tokens, m * (prefix + m) + later, blocks * m)
    return cost + batch * times * (whole + last)


def _spatial(config: NovaConfig, sizes: Sizes, visible: int, wanted: int) -> int:
    """One pass over one frame."""
    width, depth = config.width, config.spatial.depth
    some, every = sizes.temporal + visible, sizes.temporal + sizes.spatial
    cost = linear(visible, config.token_dim, width) + depth // 2 * layer(width, some, some**2)
    cost += (depth - depth // 2 - 1) * layer(width, every, every**2)
    return cost + layer(width, every, wanted * every, wanted)


def _modulation(config: NovaConfig, tokens: int) -> int:
    """Scales, shifts and gates of every block and of the head."""
    size = config.denoiser
    return size.depth * linear(tokens, size.width, 3 * size.width) + linear(tokens, size.width, 2 * size.width)


def _denoised(config: NovaConfig, tokens: int) -> int:
    """What depends on the noisy tokens."""
    size = config.denoiser
    blocks = size.depth * 2 * linear(tokens, size.width, size.width)
    return blocks + 2 * linear(tokens, config.token_dim, size.width)


def generation(config: NovaConfig, sizes: Sizes, settings: SamplingConfig, *, batch: int, frames: int) -> Flops:
    """A generation, with all branches of guidance in every step.

    Args:
        config: of the architecture.
        sizes: of a frame.
        settings: steps and guidance.
        batch: B.
        frames: T; each sees all before it.
    """
    branches = 1
    if settings.image_guidance_scale is not None:
        branches = 3
    elif max(settings.guidance_scale, settings.min_guidance_scale or 0.0) > 1:
        branches = 2
    found = Flops()
    for known, count in itertools.chain(*masking.rounds(settings, sizes.spatial)):
        spatial = branches * batch * _spatial(config, sizes, known, count)
        found += Flops(0, spatial, _set(config, settings.diffusion_steps, branches * batch * count))
    temporal = sum(_temporal_step(config, sizes, branches, batch, index) for index in range(frames))
    return found * frames + Flops(temporal, 0, 0)


def _temporal_step(config: NovaConfig, sizes: Sizes, branches: int, batch: int, index: int) -> int:
    """The next frame, given the cache of those before it."""
    width, m, rows = config.width, sizes.temporal, branches * batch
    prefix, context = conditioning(config)
    first = index == 0 or not config.sees_frames
    seen = prefix + (m if first else (index + 1) * m)
    tokens = prefix + m if first else m
    unseeing = 1 if branches == 3 else 0  # image guidance's unconditional branch gets no frames
    cost = (branches - unseeing) * _slot(config, sizes, batch, first) + unseeing * _slot(config, sizes, batch, True)
    cost += rows * context if index == 0 else 0
    cost += rows * _mixer(config, m) if index else 0
    whole = layer(width, tokens, tokens * seen) * (config.temporal.depth - 1)
    return cost + rows * (whole + layer(width, tokens, m * seen, m))


def _set(config: NovaConfig, steps: int, tokens: int) -> int:
    """All diffusion steps of a set, whose tokens are conditioned once a run of steps (`frame_sampler.py`)."""
    from nova_model.sampling.frame import MODULATION_BYTES

    size = config.denoiser
    at_once = max(1, MODULATION_BYTES // (tokens * size.width * (3 * size.depth + 2) * 4))
    condition = linear(tokens, config.width, size.width) + linear(tokens, size.width, size.width)
    each = _sinusoid(size.width) + _modulation(config, tokens) + _denoised(config, tokens)
    return math.ceil(steps / at_once) * condition + steps * each
