"""The random draws of sampling, in the order of the released code, so that one seed gives the release's sample.

Once per video, before the first set of the first generated frame, the order of prediction; then for every set step
normal noise; DDPM draws normal noise at every diffusion step but the last as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Draws for a batch from one generator, or from one generator per sample.

    With one generator per sample, each draws with a batch of one, so that a sample does not depend on its batch.
    """

    generators: Sequence[torch.Generator]
    batch: int
    device: torch.device
    """Device that draws are moved to; they are made on the devices of the generators."""

    def _draw(self, function: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        batch = self.batch if len(self.generators) == 1 else 1
        draws = [function(batch, *shape, generator=rng, device=rng.device) for rng in self.generators]
        return torch.cat(draws).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform draws from 0..1, [B, *shape]."""
        return self._draw(torch.rand, shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal draws, [B, *shape]."""
        return self._draw(torch.randn, shape)

    def order(self, tokens: int) -> Tensor:
        """A random order of a frame's tokens for each sample, [B, N]."""
        return self.uniform(tokens, 1).argsort(dim=1).squeeze(-1)  # [B, N, 1] -> [B, N]
