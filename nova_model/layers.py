"""Attention, MLP and the post-norm block that both encoders are made of; AdaLN (spec section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from nova_model import ops

LAYER_NORM_EPS = 1e-5
ADALN_EPS = 1e-6


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one attention layer, [B, heads, S, head_dim] each."""

    keys: Tensor
    values: Tensor

    def extended(self, keys: Tensor, values: Tensor) -> LayerCache:
        """A cache with the new ones behind the old ones."""
        return LayerCache(torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2))


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values from one projection, heads inside."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, angles: Tensor | None = None, past: LayerCache | None = None
    ) -> tuple[Tensor, LayerCache]:
        """Attends within x, and to what came before it.

        Args:
            x: [B, S, D].
            mask: [S, S] bool, True where a row may see a column.
            angles: rotary angles of x, [B or 1, S, head_dim/2].
            past: keys and values that x may see as well.

        Returns:
            [B, S, D], and the keys and values of past and x.
        """
        q, k, v = rearrange(self.qkv(x), "b s (three h d) -> three b h s d", three=3, h=self.heads)
        if angles is not None:
            q, k = ops.rotate(q, angles), ops.rotate(k, angles)
        present = LayerCache(k, v) if past is None else past.extended(k, v)
        out = F.scaled_dot_product_attention(q, present.keys, present.values, attn_mask=mask)
        return self.proj(rearrange(out, "b h s d -> b s (h d)")), present


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + norm(attention(x)), then x + norm(mlp(x)): the norm sits on the branch's output, before the addition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, angles: Tensor | None = None, past: LayerCache | None = None
    ) -> tuple[Tensor, LayerCache]:
        """As `Attention.forward`."""
        attended, present = self.attn(x, mask=mask, angles=angles, past=past)
        x = x + self.norm1(attended)
        return x + self.norm2(self.mlp(x)), present


class SiluMlp(nn.Module):
    """Two linear layers with a SiLU between."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(given, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class AdaLayerNorm(nn.Module):
    """LayerNorm without weights whose scale and shift (and perhaps a gate) come from a condition."""

    def __init__(self, width: int, stats: int) -> None:
        super().__init__()
        self.stats = stats
        self.width = width
        self.proj = nn.Linear(width, stats * width)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor | None]:
        """LN(x) * (1 + scale) + shift, and the gate where there are three statistics. x and condition [..., E]."""
        scale, shift, *gate = self.proj(F.silu(condition)).chunk(self.stats, dim=-1)
        normed = F.layer_norm(x, (self.width,), eps=ADALN_EPS)
        return normed * (1 + scale) + shift, gate[0] if gate else None
