"""The denoiser: an MLP that predicts each token's noise or velocity (section 3.4 of the paper, equation 4).

    L(x_n | z_n) = E || eps - eps_theta(x_n^t | t, z_n) ||^2

with token x_n, its noised version x_n^t, and its features z_n from the spatial encoder.

Shapes: K timesteps, P = p*p*C values of a token, D width of the condition z, E width of the denoiser, F frequencies.
Leading axes `...` are batch and tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nova_model import ops
from nova_model.embeddings import PatchEmbed
from nova_model.layers import LAYER_NORM_EPS, AdaLayerNorm, SiluMlp, maybe_checkpoint


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
            index: with it, t is a table [K], and each token's timestep is the entry t[index].
        """
        waves = ops.cosine_sine(t).to(self.timestep_proj.fc1.weight.dtype)  # [..., 2F]
        times = self.timestep_proj(waves)  # [..., E]
        if index is not None:
            times = F.embedding(index, times)  # [K, E] -> [..., E]
        return self.condition_proj(z) + times


class DenoiserBlock(nn.Module):
    """h + gate * norm2(proj(AdaLN(h)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = AdaLayerNorm(width, 3)
        self.proj = SiluMlp(width, width)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, h: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        """h [..., E]; the modulation is that of `norm1`."""
        normed, gate = self.norm1(h, modulation)
        assert gate is not None
        return torch.addcmul(h, gate, self.norm2(self.proj(normed)))

    def forward_conditioned(self, h: Tensor, condition: Tensor) -> Tensor:
        """`forward` with the modulation computed from the condition [..., E], which has passed the shared SiLU."""
        return self(h, self.norm1.modulation(condition))


class Modulation(NamedTuple):
    """Scales, shifts and gates of all layers, for each token and timestep."""

    blocks: tuple[tuple[Tensor, ...], ...]
    """1 + scale, shift and gate of every block, [..., E] each."""
    head: tuple[Tensor, ...]
    """1 + scale and shift before the head, [..., E] each."""

    def at_step(self, step: int) -> Modulation:
        """The modulation at one timestep, where the leading axis is time."""
        return self._map(lambda values: values[step])

    def first_rows(self, count: int) -> Modulation:
        """The modulation of the first rows of the batch."""
        return self._map(lambda values: values[:count])

    def _map(self, function: Callable[[Tensor], Tensor]) -> Modulation:
        return Modulation(tuple(tuple(map(function, block)) for block in self.blocks), tuple(map(function, self.head)))


class Denoiser(nn.Module):
    """Noisy tokens, timesteps and conditions to predicted noise or velocity."""

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
        """The prediction; what it means (noise, velocity, clean tokens) is up to the schedule. Leading axes broadcast.

        Args:
            x_t: noisy tokens [..., P].
            t: timesteps [...] in 0..1000.
            z: conditions [..., D].
            index: with it, t is a table [K], and each token's timestep is the entry t[index]; cheaper where there are
                more tokens than timesteps.

        Returns:
            [..., P].
        """
        condition = F.silu(self.time_cond_embed(t, z, index))  # [..., E]
        h = self.patch_embed.embed_tokens(x_t)  # [..., E]
        for block in self.blocks:
            layer = cast(DenoiserBlock, block).forward_conditioned
            h = maybe_checkpoint(layer, h, condition, checkpointing=self.checkpointing)
        normed, _ = self.norm(h, self.norm.modulation(condition))
        return self.head(normed)

    def modulation(self, *, t: Tensor, z: Tensor, index: Tensor | None = None) -> Modulation:
        """Everything that depends on timestep and condition alone; sampling computes it for many timesteps at once."""
        condition = F.silu(self.time_cond_embed(t, z, index))  # [..., E]
        norms = (cast(DenoiserBlock, block).norm1 for block in self.blocks)
        blocks = tuple(norm.modulation(condition) for norm in norms)
        return Modulation(blocks, self.norm.modulation(condition))

    def predict(self, x_t: Tensor, modulation: Modulation) -> Tensor:
        """`forward` with a precomputed modulation."""
        h = self.patch_embed.embed_tokens(x_t)  # [..., E]
        for block, block_modulation in zip(self.blocks, modulation.blocks, strict=True):
            h = block(h, block_modulation)
        normed, _ = self.norm(h, modulation.head)
        return self.head(normed)
