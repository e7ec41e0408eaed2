"""The denoiser: a small MLP that predicts noise (or velocity) for each token (paper section 3.4, spec section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nova_model import ops
from nova_model.embeddings import PatchEmbed
from nova_model.layers import LAYER_NORM_EPS, AdaLayerNorm, SiluMlp, run


class TimeConditionEmbed(nn.Module):
    """condition_proj(z) + timestep_proj([cos(t f), sin(t f)])."""

    def __init__(self, condition: int, width: int) -> None:
        super().__init__()
        self.timestep_proj = SiluMlp(2 * ops.FREQUENCIES, width)
        self.condition_proj = SiluMlp(condition, width)

    def forward(self, t: Tensor, z: Tensor, index: Tensor | None = None) -> Tensor:
        """[...] timesteps and [..., D] conditions, which broadcast -> [..., E].

        Args:
            t: timesteps.
            z: conditions.
            index: where given, t is a table [K], of which each token's timestep is an entry.
        """
        times = self.timestep_proj(ops.cosine_sine(t).to(self.timestep_proj.fc1.weight.dtype))
        if index is not None:
            times = F.embedding(index, times)
        return self.condition_proj(z) + times


class DenoiserBlock(nn.Module):
    """h + gate * norm2(proj(AdaLN(h)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = AdaLayerNorm(width, 3)
        self.proj = SiluMlp(width, width)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, h: Tensor, statistics: tuple[Tensor, ...]) -> Tensor:
        """h [..., E], and what `norm1` says of the condition."""
        normed, gate = self.norm1(h, statistics)
        assert gate is not None
        return torch.addcmul(h, gate, self.norm2(self.proj(normed)))

    def conditioned(self, h: Tensor, condition: Tensor) -> Tensor:
        """The same, given the condition [..., E] after the SiLU that all blocks share."""
        return self(h, self.norm1.statistics(condition))


class Modulation(NamedTuple):
    """What conditions a denoiser's layers, for each token and timestep."""

    blocks: tuple[tuple[Tensor, ...], ...]
    """1 + scale, shift and gate of every block, [..., E] each."""
    last: tuple[Tensor, ...]
    """1 + scale and shift before the head."""

    def at(self, step: int) -> Modulation:
        """That of one timestep, where the leading axis is time."""
        return self._each(lambda values: values[step])

    def first(self, count: int) -> Modulation:
        """That of the first samples."""
        return self._each(lambda values: values[:count])

    def _each(self, pick: Callable[[Tensor], Tensor]) -> Modulation:
        return Modulation(tuple(tuple(map(pick, block)) for block in self.blocks), tuple(map(pick, self.last)))


class Denoiser(nn.Module):
    """Noisy tokens to noise or velocity."""

    def __init__(
        self, *, channels: int, patch: int, condition: int, width: int, depth: int, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.time_cond_embed = TimeConditionEmbed(condition, width)
        self.blocks = nn.ModuleList(DenoiserBlock(width) for _ in range(depth))
        self.norm = AdaLayerNorm(width, 2)
        self.head = nn.Linear(width, patch * patch * channels)

    def forward(self, *, x_t: Tensor, t: Tensor, z: Tensor, index: Tensor | None = None) -> Tensor:
        """What the schedule's step needs; leading axes broadcast.

        Args:
            x_t: noisy tokens [..., p*p*C].
            t: timesteps [...] in 0..1000.
            z: conditions [..., D].
            index: where given, t is a table [K], of which each token's timestep is an entry; cheaper, where there are
                more tokens than timesteps.

        Returns:
            [..., p*p*C].
        """
        condition = F.silu(self.time_cond_embed(t, z, index))
        h = self.patch_embed.tokens(x_t)
        for block in self.blocks:
            h = run(cast(DenoiserBlock, block).conditioned, h, condition, checkpointing=self.checkpointing)
        normed, _ = self.norm(h, self.norm.statistics(condition))
        return self.head(normed)

    def modulation(self, *, t: Tensor, z: Tensor, index: Tensor | None = None) -> Modulation:
        """What depends on timestep and condition alone; sampling knows all its timesteps beforehand."""
        condition = F.silu(self.time_cond_embed(t, z, index))
        norms = (cast(DenoiserBlock, block).norm1 for block in self.blocks)
        blocks = tuple(norm.statistics(condition) for norm in norms)
        return Modulation(blocks, self.norm.statistics(condition))

    def denoised(self, x_t: Tensor, modulation: Modulation) -> Tensor:
        """`forward`, where the modulation is known."""
        h = self.patch_embed.tokens(x_t)
        for block, statistics in zip(self.blocks, modulation.blocks, strict=True):
            h = block(h, statistics)
        normed, _ = self.norm(h, modulation.last)
        return self.head(normed)
