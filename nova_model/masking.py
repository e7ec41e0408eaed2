"""Which tokens are masked, in which order, and how many at each set step (spec sections 4 and 5). Pure."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from nova_model.config import MaskRatios, SamplingConfig

PUBLISHED = MaskRatios()


def draw_mask_ratio(generator: torch.Generator, ratios: MaskRatios = PUBLISHED) -> float:
    """Share of tokens that are masked in a training step: by default normal (1, 0.25), truncated to [0.7, 1]."""
    low = torch.special.ndtr(torch.tensor((ratios.least - 1.0) / ratios.std, dtype=torch.float64))
    uniform = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64).cpu()
    return float(1.0 + ratios.std * torch.special.ndtri(low + (0.5 - low) * uniform))


def mean_mask_ratio(ratios: MaskRatios = PUBLISHED) -> float:
    """Expected value of what `draw_mask_ratio` draws, 0.867 by default."""
    low = (ratios.least - 1.0) / ratios.std
    density = [math.exp(-0.5 * each**2) / math.sqrt(2 * math.pi) for each in (low, 0.0)]
    return 1.0 + ratios.std * (density[0] - density[1]) / (0.5 * math.erf(-low / math.sqrt(2)))


def visible_count(ratio: float, tokens: int) -> int:
    """Tokens that stay visible; halves are rounded to even."""
    return round((1 - ratio) * tokens)


def draw_visible(frames: int, tokens: int, count: int, generator: torch.Generator) -> Tensor:
    """Ids of the visible tokens, [frames, count]: the first ones of a random order for each frame."""
    order = torch.rand(frames, tokens, generator=generator, device=generator.device).argsort(dim=1)
    return order[:, :count]


def mask_of(visible: Tensor, tokens: int) -> Tensor:
    """[F, count] ids of visible tokens -> [F, N] mask, True where a token is masked."""
    mask = torch.ones(visible.shape[0], tokens, dtype=torch.bool, device=visible.device)
    return mask.scatter(1, visible, False)


def hidden_ids(visible: Tensor, tokens: int) -> Tensor:
    """[F, count] ids of visible tokens -> [F, N - count] ids of the masked ones, ascending."""
    order = mask_of(visible, tokens).to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return order[:, : tokens - visible.shape[1]]


def set_sizes(steps: int, tokens: int) -> list[int]:
    """Tokens predicted at each set step, those that predict none left out; cosine schedule.

    Tokens still masked after step k of K: round(cos(pi/2 * k/K) * N).
    """
    masked = [round(math.cos(math.pi / 2 * step / steps) * tokens) for step in range(steps + 1)]
    masked[-1] = 0
    return [before - after for before, after in pairwise(masked) if before > after]


def sets(steps: int, tokens: int) -> list[tuple[int, int]]:
    """Tokens known before each set step, and tokens it predicts."""
    sizes = set_sizes(steps, tokens)
    return list(zip(accumulate(sizes, initial=0), sizes, strict=False))


def rounds(settings: SamplingConfig, tokens: int) -> list[list[tuple[int, int]]]:
    """A frame's `sets`, and for each correction those of them again that see at least half of the tokens."""
    made = sets(settings.set_steps, tokens)
    corrected = [(known, count) for known, count in made if 2 * known >= tokens]
    return [made] + [corrected] * settings.corrections
