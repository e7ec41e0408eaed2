"""Layers shared by the networks: attention, MLPs, the post-norm block of both encoders (section 3.3), AdaLN.

Shapes: B batch, S sequence length, Q queries, n selected tokens, D width of an encoder, E width of the denoiser,
d head size.
"""

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

# As in the released model: LayerNorms with weights use torch's default, those without (AdaLN) a smaller epsilon.
LAYER_NORM_EPS = 1e-5
ADALN_EPS = 1e-6
MAX_EXPLICIT_KEYS = 256
"""Number of keys up to which attention on a CPU in bf16 is computed as two plain products."""


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one attention layer, [B, heads, S, d] each."""

    keys: Tensor
    values: Tensor

    def extended(self, keys: Tensor, values: Tensor) -> LayerCache:
        """A new cache with these keys and values after the present ones."""
        return LayerCache(torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2))


Rows = slice | Tensor
"""A selection of tokens of [B, S, D]: a slice, or ids [B, n]."""


def gather_tokens(x: Tensor, rows: Rows) -> Tensor:
    """The selected tokens of x [B or 1, S, D], [B, n, D]."""
    if isinstance(rows, slice):
        return x[:, rows]
    index = rows[..., None].expand(-1, -1, x.shape[-1])  # [B, n] -> [B, n, D]
    return x.expand(len(rows), -1, -1).gather(1, index)


def maybe_checkpoint(layer: Callable[..., Any], *inputs: Tensor, checkpointing: bool, **options: Any) -> Any:
    """layer(*inputs, **options); with checkpointing, activations are recomputed in the backward pass, not stored."""
    if not (checkpointing and torch.is_grad_enabled()):
        return layer(*inputs, **options)
    # No layer draws random numbers, so the state of the generators need not be saved for the recomputation.
    return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False, **options)


def attend(q: Tensor, k: Tensor, v: Tensor, blocks: Sequence[int] = ()) -> Tensor:
    """Attention of queries [B, heads, Q, d] to keys and values [B, heads, S, d], with heads merged: [B, Q, heads*d].

    Args:
        q: queries; if there are fewer than keys, `blocks` takes them as the last ones.
        k: keys.
        v: values.
        blocks: sizes of blocks that sum to S, each of which attends to itself and to those before it. Attending block
            by block computes none of the products that a dense mask would discard. By default all attend to all.
    """
    # Torch's fused attention is slow for bf16 on a CPU where there are few keys.
    explicit = q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[2] <= MAX_EXPLICIT_KEYS
    attention = _explicit_attention if explicit else F.scaled_dot_product_attention
    if len(blocks) < 2:
        return attention(q, k, v).transpose(1, 2).flatten(2)  # [B, heads, Q, d] -> [B, Q, heads, d] -> [B, Q, heads*d]
    keys_without_query, end, outputs = k.shape[2] - q.shape[2], 0, []
    for size in blocks:
        start, end = max(end - keys_without_query, 0), end + size
        output = attention(q[:, :, start : end - keys_without_query], k[:, :, :end], v[:, :, :end])
        outputs.append(output.transpose(1, 2))  # [B, size, heads, d]
    return torch.cat(outputs, dim=1).flatten(2)  # [B, Q, heads*d]


def _explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v as plain products of matrices."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # [B, heads, Q, S]
    return scores.softmax(dim=-1) @ v


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values come from one projection, heads inside."""

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
        """Attends within x, and from x to the cached tokens before it.

        Args:
            x: [B, S, D].
            blocks: sizes of x's blocks, each of which attends to itself and to those before it; by default all tokens
                attend to all.
            angles: rotary angles of x, [B or 1, S, d/2].
            past: keys and values of earlier tokens, which x attends to as well.
            rows: tokens of x that have queries, all by default; with blocks they must be the last ones.

        Returns:
            [B, S (or n), D], and the keys and values of past and x.
        """
        if rows is None:
            q, k, v = rearrange(self.qkv(x), "b s (three h d) -> three b h s d", three=3, h=self.heads)
        else:
            # The same projection in two products: queries for the selected tokens only.
            width, weight, bias = x.shape[-1], self.qkv.weight, self.qkv.bias
            q = F.linear(gather_tokens(x, rows), weight[:width], bias[:width])  # [B, n, D]
            q = rearrange(q, "b n (h d) -> b h n d", h=self.heads)
            keys_values = F.linear(x, weight[width:], bias[width:])  # [B, S, 2D]
            k, v = rearrange(keys_values, "b s (two h d) -> two b h s d", two=2, h=self.heads)
        if angles is not None:
            query_angles = angles if rows is None else gather_tokens(angles, rows)
            q, k = ops.rotate(q, query_angles), ops.rotate(k, angles)
        present = LayerCache(k, v) if past is None else past.extended(k, v)
        return self.proj(attend(q, present.keys, present.values, blocks)), present


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + norm(attention(x)), then x + norm(mlp(x)): the norm is on the branch's output, before the addition.

    Ablations: pre, x + attention(norm(x)); post_add, norm(x + attention(x)).
    """

    def __init__(self, width: int, heads: int, norm: str = "post") -> None:
        super().__init__()
        self.norm_position = norm
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
        """See `Attention.forward`; with rows, the MLP too works for the selected tokens only."""
        pre = self.norm_position == "pre"
        attention, present = self.attn(
            self.norm1(x) if pre else x, blocks=blocks, angles=angles, past=past, rows=rows
        )  # fmt: skip
        x = x if rows is None else gather_tokens(x, rows)
        x = self._add_branch(x, attention, self.norm1)
        x = self._add_branch(x, self.mlp(self.norm2(x) if pre else x), self.norm2)
        return x, present

    def _add_branch(self, x: Tensor, branch: Tensor, norm: nn.LayerNorm) -> Tensor:
        if self.norm_position == "post":
            return x + norm(branch)
        return x + branch if self.norm_position == "pre" else norm(x + branch)


class SiluMlp(nn.Module):
    """Two linear layers with a SiLU between them."""

    def __init__(self, input_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class AdaLayerNorm(nn.Module):
    """LayerNorm without weights whose scale and shift, and optionally a gate, are projected from a condition.

    Args:
        width: E.
        stats: 2 for scale and shift, 3 for scale, shift and gate.
    """

    def __init__(self, width: int, stats: int) -> None:
        super().__init__()
        self.stats = stats
        self.width = width
        self.proj = nn.Linear(width, stats * width)

    def modulation(self, condition: Tensor) -> tuple[Tensor, ...]:
        """1 + scale, shift (and gate), [..., E] each, of a condition [..., E].

        The condition has already passed the SiLU, which is the same for all layers and so is computed once.
        """
        scale, *shift_gate = self.proj(condition).chunk(self.stats, dim=-1)  # [..., stats*E] -> stats x [..., E]
        return 1 + scale, *shift_gate

    def forward(self, x: Tensor, modulation: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """LN(x) * (1 + scale) + shift, and the gate if there is one."""
        factor, shift, *gate = modulation
        normed = F.layer_norm(x, (self.width,), eps=ADALN_EPS)
        return torch.addcmul(shift, normed, factor), gate[0] if gate else None
