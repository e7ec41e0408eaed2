"""Masking: which tokens are masked in training, and which sets of tokens sampling predicts in turn.

Section 3.3 of the paper; both follow MAR (arXiv 2406.11838). Pure functions.

Shapes: F frames of the whole batch (B*T), N tokens of a frame, V visible tokens of a frame.
"""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from nova_model.config import MaskRatios, SamplingConfig

PUBLISHED = MaskRatios()


def draw_mask_ratio(generator: torch.Generator, ratios: MaskRatios = PUBLISHED) -> float:
    """Share of tokens that is masked in a training step: by default normal (1, 0.25), truncated to [0.7, 1]."""
    # A uniform draw through the inverse of the distribution function takes one number from the generator, whatever the
    # truncation; rejection would take a random count of them. The upper bound is the mean, whose quantile is 0.5.
    low = torch.special.ndtr(torch.tensor((ratios.min_ratio - 1.0) / ratios.std, dtype=torch.float64))
    uniform = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64).cpu()
    return float(1.0 + ratios.std * torch.special.ndtri(low + (0.5 - low) * uniform))


def mean_mask_ratio(ratios: MaskRatios = PUBLISHED) -> float:
    """Expected value of `draw_mask_ratio`, 0.867 by default."""
    # Mean of a truncated normal: mu + sigma * (density(low) - density(high)) / (probability between the bounds).
    low = (ratios.min_ratio - 1.0) / ratios.std
    density_low, density_high = (math.exp(-0.5 * bound**2) / math.sqrt(2 * math.pi) for bound in (low, 0.0))
    return 1.0 + ratios.std * (density_low - density_high) / (0.5 * math.erf(-low / math.sqrt(2)))


def visible_count(ratio: float, tokens: int) -> int:
    """Number of tokens that stay visible; halves are rounded to even, as numpy does."""
    return round((1 - ratio) * tokens)


def draw_visible(frames: int, tokens: int, count: int, generator: torch.Generator) -> Tensor:
    """Ids of the visible tokens [F, V]: the first V of a random order of each frame's tokens."""
    order = torch.rand(frames, tokens, generator=generator, device=generator.device).argsort(dim=1)  # [F, N]
    return order[:, :count]


def mask_of(visible: Tensor, tokens: int) -> Tensor:
    """[F, V] ids of visible tokens -> [F, N] mask, True where a token is masked."""
    mask = torch.ones(visible.shape[0], tokens, dtype=torch.bool, device=visible.device)
    return mask.scatter(1, visible, False)


def hidden_ids(visible: Tensor, tokens: int) -> Tensor:
    """[F, V] ids of visible tokens -> [F, N - V] ids of the masked ones, ascending."""
    # Every row of the mask has the same number of masked tokens, so a stable sort gives a rectangular tensor without
    # the synchronisation that nonzero() would need on a GPU. Booleans cannot be sorted on every device, int8 can.
    order = mask_of(visible, tokens).to(torch.int8).argsort(dim=1, descending=True, stable=True)  # [F, N]
    return order[:, : tokens - visible.shape[1]]


def set_sizes(steps: int, tokens: int) -> list[int]:
    """Tokens predicted at each set step, on a cosine schedule; steps that predict none are left out.

    After step k of K, round(cos(pi/2 * k/K) * N) tokens are still masked.
    """
    masked = [round(math.cos(math.pi / 2 * step / steps) * tokens) for step in range(steps + 1)]
    masked[-1] = 0  # cos(pi/2) is not exactly 0 in floating point
    return [before - after for before, after in pairwise(masked) if before > after]


def sets(steps: int, tokens: int) -> list[tuple[int, int]]:
    """For each set step, the number of visible tokens and of predicted ones."""
    sizes = set_sizes(steps, tokens)
    return list(zip(accumulate(sizes, initial=0), sizes, strict=False))  # accumulate gives one more: the total


def rounds(sampling: SamplingConfig, tokens: int) -> list[list[tuple[int, int]]]:
    """The `sets` of a frame, and for each correction those sets once more that see at least half of the tokens."""
    prediction = sets(sampling.set_steps, tokens)
    correction = [(visible, count) for visible, count in prediction if 2 * visible >= tokens]
    return [prediction] + [correction] * sampling.corrections
