"""Floating-point operations of a training step and of a generation, from the config alone.

A multiply-add counts as two. Matrix products, attention and patch embeddings count, as they are computed in this
project; norms, activations and sums do not. The first half of the spatial layers processes visible tokens only; the
last layer of an encoder and the denoiser process only the tokens whose output is read (`model.py`, `sampling/`).

Letters: B batch, T latent frames, N spatial and M temporal tokens of a frame, D encoder width, R noise draws.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from nova_model import masking
from nova_model.config import NovaConfig, SamplingConfig
from nova_model.ops import FREQUENCIES
from nova_model.sampling import diffusion


@dataclass(frozen=True)
class Flops:
    """Operations of each network."""

    temporal: int = 0
    """Temporal encoder, with the conditioning, and scaling and shift."""
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
    """Numbers of tokens of a frame."""

    spatial: int
    """N."""
    temporal: int
    """M."""

    @classmethod
    def of(cls, config: NovaConfig, height: int, width: int) -> Sizes:
        """Numbers of tokens for latents of a size."""
        patch = config.patch_size
        return cls((height // patch) * (width // patch), (height // (2 * patch)) * (width // (2 * patch)))


def linear(rows: int, in_features: int, out_features: int) -> int:
    """Operations of a linear layer."""
    return 2 * rows * in_features * out_features


def layer(width: int, tokens: int, pairs: int, queries: int | None = None) -> int:
    """Operations of a transformer block.

    Args:
        width: D.
        tokens: tokens with keys and values.
        pairs: pairs of a query and a key that attention computes.
        queries: tokens whose output is read, and which alone have queries; all by default.
    """
    rows = tokens if queries is None else queries
    keys_values, queries_output = linear(tokens, width, 2 * width), 2 * linear(rows, width, width)
    mlp = linear(rows, width, 8 * width)  # two layers, to and from a hidden width of 4 D
    attention = 4 * pairs * width  # scores, and the weighted sum of values
    return keys_values + queries_output + mlp + attention


def conditioning(config: NovaConfig) -> tuple[int, int]:
    """Number of a prompt's conditioning tokens, and the operations that compute them."""
    width, tokens, cost = config.width, 1, 0
    if config.text_shape is not None:
        tokens, token_dim = config.text_shape
        cost = linear(tokens, token_dim, width)
    if config.has_motion:
        tokens, cost = tokens + 2, cost + 2 * _sinusoid(width)
    return tokens, cost


def _sinusoid(width: int) -> int:
    """Embedding of a number: its frequencies through two linear layers."""
    return linear(1, 2 * FREQUENCIES, width) + linear(1, width, width)


def _mixer(config: NovaConfig, rows: int) -> int:
    """Scaling and shift of a number of temporal tokens."""
    rank, width = config.video_mixer_rank or 0, config.width
    if rank > 0:
        return linear(rows, width, rank) + linear(rows, rank, 2 * width)
    return linear(rows, width, 2 * width) if rank else 0


def _slot(config: NovaConfig, sizes: Sizes, batch: int, first: bool) -> int:
    """Input of the temporal encoder for one frame: the previous frame, and the embedding of its time."""
    patch = 0 if first else linear(batch * sizes.temporal, 4 * config.token_dim, config.width)
    return patch + (0 if config.rotary_pos_embed else _sinusoid(config.width))


def training_forward(
    config: NovaConfig, sizes: Sizes, *, batch: int, frames: int, visible: int, loss_repeat: int, timesteps: int = 1000
) -> Flops:
    """Operations of the forward pass of a training step.

    Args:
        config: config of the architecture.
        sizes: tokens of a frame.
        batch: B.
        frames: T.
        visible: tokens of a frame that are not masked.
        loss_repeat: R.
        timesteps: timesteps of the schedule; where there are more tokens, each timestep is embedded once.
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
    independent = not config.sees_frames  # an ablation, in which each frame is a sequence of its own
    cost = batch * cost + sum(_slot(config, sizes, batch, independent or index == 0) for index in range(frames))
    cost += batch * _mixer(config, (frames - 1) * m)
    sequences, blocks = (frames, 1) if independent else (1, frames)
    first, later = (prefix + m) ** 2, sum(m * (prefix + (index + 1) * m) for index in range(1, blocks))
    tokens = prefix + blocks * m
    all_but_last = layer(width, tokens, first + later) * (config.temporal.depth - 1)
    last = layer(width, tokens, m * (prefix + m) + later, blocks * m)
    return cost + batch * sequences * (all_but_last + last)


def _spatial(config: NovaConfig, sizes: Sizes, visible: int, queries: int) -> int:
    """A pass over one frame, of which the output of some tokens is read."""
    width, depth = config.width, config.spatial.depth
    encoder_tokens, decoder_tokens = sizes.temporal + visible, sizes.temporal + sizes.spatial
    cost = linear(visible, config.token_dim, width) + depth // 2 * layer(width, encoder_tokens, encoder_tokens**2)
    cost += (depth - depth // 2 - 1) * layer(width, decoder_tokens, decoder_tokens**2)
    return cost + layer(width, decoder_tokens, queries * decoder_tokens, queries)


def _modulation(config: NovaConfig, tokens: int) -> int:
    """Scales, shifts and gates of every block and of the head."""
    size = config.denoiser
    return size.depth * linear(tokens, size.width, 3 * size.width) + linear(tokens, size.width, 2 * size.width)


def _denoised(config: NovaConfig, tokens: int) -> int:
    """The layers of the denoiser that depend on the noisy tokens."""
    size = config.denoiser
    blocks = size.depth * 2 * linear(tokens, size.width, size.width)
    return blocks + 2 * linear(tokens, config.token_dim, size.width)


def generation(config: NovaConfig, sizes: Sizes, sampling: SamplingConfig, *, batch: int, frames: int) -> Flops:
    """Operations of a generation, with all branches of guidance in every step.

    Args:
        config: config of the architecture.
        sizes: tokens of a frame.
        sampling: steps and guidance.
        batch: B.
        frames: T; each attends to all before it.
    """
    branches = 1
    if sampling.image_guidance_scale is not None:
        branches = 3
    elif max(sampling.guidance_scale, sampling.min_guidance_scale or 0.0) > 1:
        branches = 2
    frame = Flops()
    for visible, count in itertools.chain(*masking.rounds(sampling, sizes.spatial)):
        spatial = branches * batch * _spatial(config, sizes, visible, count)
        frame += Flops(0, spatial, _set(config, sampling.diffusion_steps, branches * batch * count))
    temporal = sum(_temporal_step(config, sizes, branches, batch, index) for index in range(frames))
    return frame * frames + Flops(temporal, 0, 0)


def _temporal_step(config: NovaConfig, sizes: Sizes, branches: int, batch: int, index: int) -> int:
    """The next frame, given the cache of those before it."""
    width, m, rows = config.width, sizes.temporal, branches * batch
    prefix, context = conditioning(config)
    first = index == 0 or not config.sees_frames
    keys = prefix + (m if first else (index + 1) * m)
    tokens = prefix + m if first else m
    # The third branch of image guidance has bare begin-of-video tokens in its slots, which take no operations.
    cost = min(branches, 2) * _slot(config, sizes, batch, first)
    cost += rows * context if index == 0 else 0
    cost += rows * _mixer(config, m) if index else 0
    all_but_last = layer(width, tokens, tokens * keys) * (config.temporal.depth - 1)
    return cost + rows * (all_but_last + layer(width, tokens, m * keys, m))


def _set(config: NovaConfig, steps: int, tokens: int) -> int:
    """All diffusion steps of a set; the condition is projected once for as many steps as fit a memory budget."""
    size = config.denoiser
    at_once = max(1, diffusion.MODULATION_BYTES // (tokens * size.width * (3 * size.depth + 2) * 4))
    condition = linear(tokens, config.width, size.width) + linear(tokens, size.width, size.width)
    step = _sinusoid(size.width) + _modulation(config, tokens) + _denoised(config, tokens)
    return math.ceil(steps / at_once) * condition + steps * step
