"""Pure functions on tensors: patches, positions, the block-causal mask (spec sections 2 and 3).

Shapes: B batch, T latent frames, C channels, H x W latent size, p patch, N tokens of a frame, D width.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

FREQUENCIES = 128


def patchify(latents_BCHW: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, N, p*p*C]; inside a token: row in the patch, column in the patch, channel."""
    return rearrange(latents_BCHW, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(tokens_BNP: Tensor, patch: int, rows: int) -> Tensor:
    """[B, N, p*p*C] -> [B, C, H, W]; `rows` is H / p."""
    return rearrange(tokens_BNP, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=patch, q=patch)


def frequencies(count: int, device: torch.device | None = None) -> Tensor:
    """10000^(-i/count) for i = 0..count-1, in fp32."""
    steps = torch.arange(count, dtype=torch.float32, device=device)
    return torch.exp(-math.log(10000.0) * steps / count)


def sine_cosine(values: Tensor) -> Tensor:
    """[...] -> [..., 256]: sines, then cosines, at 128 frequencies; for frame times, motion scores and fps."""
    angles = values.float()[..., None] * frequencies(FREQUENCIES, values.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def cosine_sine(values: Tensor) -> Tensor:
    """[...] -> [..., 256]: cosines first, as the denoiser takes its timesteps."""
    angles = values.float()[..., None] * frequencies(FREQUENCIES, values.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_positions(rows: int, columns: int, width: int, device: torch.device | None = None) -> Tensor:
    """Absolute positions [rows*columns, D]: [sin(w f), cos(w f), sin(h f), cos(h f)], never rescaled."""
    f = frequencies(width // 4, device)
    h, w = torch.meshgrid(
        torch.arange(rows, device=device).float(), torch.arange(columns, device=device).float(), indexing="ij"
    )
    angle_w, angle_h = w.reshape(-1, 1) * f, h.reshape(-1, 1) * f
    return torch.cat([angle_w.sin(), angle_w.cos(), angle_h.sin(), angle_h.cos()], dim=-1)


def rotary_angles(time: Tensor, row: Tensor, column: Tensor, head_dim: int) -> Tensor:
    """Angles [..., head_dim/2] by which channel pairs turn: an eighth for time, the rest halved for row and column."""
    time_dim = head_dim // 8
    plane_dim = (head_dim - time_dim) // 2
    parts = []
    for position, dim in ((time, time_dim), (row, plane_dim), (column, plane_dim)):
        parts.append(position.float()[..., None] * frequencies(dim // 2, position.device))
    return torch.cat(parts, dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turns adjacent channel pairs of queries or keys.

    Args:
        x: [B, heads, S, head_dim].
        angles: [B or 1, S, head_dim/2].
    """
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    even, odd = x.float()[..., 0::2], x.float()[..., 1::2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def block_causal_mask(prefix: int, frames: int, tokens: int, device: torch.device | None = None) -> Tensor:
    """What may attend to what, [S, S] with S = prefix + frames*tokens; True where it may.

    A token sees its own frame and earlier ones; the prefix belongs to the first frame.
    """
    block = torch.arange(frames, device=device).repeat_interleave(tokens)
    block = torch.cat([torch.zeros(prefix, dtype=block.dtype, device=device), block])
    return block[:, None] >= block[None, :]
