"""Attention, MLP and the post-norm block that both encoders are made of; AdaLN (spec section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nova_model import ops

LAYER_NORM_EPS = 1e-5
ADALN_EPS = 1e-6
SHORT = 256
"""Keys up to which attention is written out on a CPU in bf16."""


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one attention layer, [B, heads, S, head_dim] each."""

    keys: Tensor
    values: Tensor

    def extended(self, keys: Tensor, values: Tensor) -> LayerCache:
        """A cache with the new ones behind the old ones."""
        return LayerCache(torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2))


Rows = slice | Tensor
"""Which rows of [B, S, D] are wanted: a slice, or ids [B, n]."""


def take(x: Tensor, rows: Rows) -> Tensor:
    """Those rows of x [B or 1, S, D]."""
    if isinstance(rows, slice):
        return x[:, rows]
    return x.expand(len(rows), -1, -1).gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def run(layer: Callable[..., Any], *given: Tensor, checkpointing: bool, **named: Any) -> Any:
    """layer(...); with checkpointing, what it computes on the way is computed again in the backward pass, not kept."""
    if not (checkpointing and torch.is_grad_enabled()):
        return layer(*given, **named)
    return checkpoint(layer, *given, use_reentrant=False, preserve_rng_state=False, **named)


def attend(q: Tensor, k: Tensor, v: Tensor, blocks: Sequence[int] = ()) -> Tensor:
    """Attention of queries [B, heads, Q, d] to keys and values [B, heads, S, d], merged to [B, Q, heads*d].

    Args:
        q: queries; with blocks, where there are fewer than keys, they are the last ones.
        k: keys.
        v: values.
        blocks: sizes that sum to S: a block sees itself and those before it. Block by block, what a mask would hide is
            never computed. By default everything is seen.
    """
    short = q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[2] <= SHORT
    attention = _written_out if short else F.scaled_dot_product_attention
    if len(blocks) < 2:
        return attention(q, k, v).transpose(1, 2).flatten(2)
    skipped, end, parts = k.shape[2] - q.shape[2], 0, []
    for size in blocks:
        start, end = max(end - skipped, 0), end + size
        seen = attention(q[:, :, start : end - skipped], k[:, :, :end], v[:, :, :end])
        parts.append(seen.transpose(1, 2))
    return torch.cat(parts, dim=1).flatten(2)


def _written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention written out: on a CPU in bf16, PyTorch's own takes five times as long for some tens of keys."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return scores.softmax(dim=-1) @ v


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values from one projection, heads inside."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        *,
        blocks: Sequence[int] = (),
        angles: Tensor | None = None,
        past: LayerCache | None = None,
        rows: Rows | None = None,
    ) -> tuple[Tensor, LayerCache]:
        """Attends within x, and to what came before it.

        Args:
            x: [B, S, D].
            blocks: sizes of x's blocks, each of which sees itself and those before it; all is seen by default.
            angles: rotary angles of x, [B or 1, S, head_dim/2].
            past: keys and values that x may see as well.
            rows: those of x that attend, all by default; with blocks the last ones.

        Returns:
            [B, S (or as many as rows), D], and the keys and values of past and x.
        """
        if rows is None:
            q, k, v = rearrange(self.qkv(x), "b s (three h d) -> three b h s d", three=3, h=self.heads)
        else:
            width, weight, bias = x.shape[-1], self.qkv.weight, self.qkv.bias
            q = F.linear(take(x, rows), weight[:width], bias[:width])
            q = rearrange(q, "b s (h d) -> b h s d", h=self.heads)
            both = F.linear(x, weight[width:], bias[width:])
            k, v = rearrange(both, "b s (two h d) -> two b h s d", two=2, h=self.heads)
        if angles is not None:
            q, k = ops.rotate(q, angles if rows is None else take(angles, rows)), ops.rotate(k, angles)
        present = LayerCache(k, v) if past is None else past.extended(k, v)
        return self.proj(attend(q, present.keys, present.values, blocks)), present


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + norm(attention(x)), then x + norm(mlp(x)): the norm sits on the branch's output, before the addition.

    Ablations: pre, x + attention(norm(x)); post_add, norm(x + attention(x)).
    """

    def __init__(self, width: int, heads: int, norm: str = "post") -> None:
        super().__init__()
        self.place = norm
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width)

    def forward(
        self,
        x: Tensor,
        *,
        blocks: Sequence[int] = (),
        angles: Tensor | None = None,
        past: LayerCache | None = None,
        rows: Rows | None = None,
    ) -> tuple[Tensor, LayerCache]:
        """As `Attention.forward`."""
        pre = self.place == "pre"
        attended, present = self.attn(
            self.norm1(x) if pre else x, blocks=blocks, angles=angles, past=past, rows=rows
        )  # fmt: skip
        x = self._added(x if rows is None else take(x, rows), attended, self.norm1)
        return self._added(x, self.mlp(self.norm2(x) if pre else x), self.norm2), present

    def _added(self, x: Tensor, branch: Tensor, norm: nn.LayerNorm) -> Tensor:
        if self.place == "post":
            return x + norm(branch)
        return x + branch if self.place == "pre" else norm(x + branch)


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

    def statistics(self, condition: Tensor) -> tuple[Tensor, ...]:
        """1 + scale, shift (and gate), [..., E] each, of a condition [..., E] after the SiLU that all layers share."""
        scale, *others = self.proj(condition).chunk(self.stats, dim=-1)
        return 1 + scale, *others

    def forward(self, x: Tensor, statistics: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """LN(x) * (1 + scale) + shift, and the gate where there are three statistics."""
        factor, shift, *gate = statistics
        normed = F.layer_norm(x, (self.width,), eps=ADALN_EPS)
        return torch.addcmul(shift, normed, factor), gate[0] if gate else None
