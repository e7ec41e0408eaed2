"""Pure functions on tensors: patches, sine-cosine and rotary positions, the block-causal mask.

The mask is the block-causal one of section 3.2 of the paper (figure 3a); the positions follow the released model, as
the paper does not give them.

Shapes: B batch, T latent frames, C latent channels, H x W latent size, p patch size, N tokens of a frame,
P = p*p*C values of a token, D width, S sequence length, d head size, F frequencies.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

FREQUENCIES = 128
"""Frequencies of a scalar's embedding, for each of sine and cosine."""


def patchify(latents_BCHW: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, N, P]; inside a token: row in the patch, column in the patch, channel."""
    return rearrange(latents_BCHW, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(tokens_BNP: Tensor, patch: int, rows: int) -> Tensor:
    """[B, N, P] -> [B, C, H, W]; `rows` is H / p."""
    return rearrange(tokens_BNP, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=patch, q=patch)


def frequencies(count: int, device: torch.device | None = None) -> Tensor:
    """10000^(-i/count) for i = 0..count-1, in fp32."""
    steps = torch.arange(count, dtype=torch.float32, device=device)
    return torch.exp(-math.log(10000.0) * steps / count)


def sine_cosine(values: Tensor) -> Tensor:
    """[...] -> [..., 2F], sines first: the embedding of frame times, motion scores and frames per second."""
    angles = values.float()[..., None] * frequencies(FREQUENCIES, values.device)  # [..., F]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def cosine_sine(values: Tensor) -> Tensor:
    """[...] -> [..., 2F], cosines first: the embedding of the denoiser's timesteps."""
    angles = values.float()[..., None] * frequencies(FREQUENCIES, values.device)  # [..., F]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_positions(rows: int, columns: int, width: int, device: torch.device | None = None) -> Tensor:
    """Absolute positions [rows*columns, D]: [sin(w f), cos(w f), sin(h f), cos(h f)], never rescaled."""
    f = frequencies(width // 4, device)
    h, w = torch.meshgrid(
        torch.arange(rows, device=device).float(), torch.arange(columns, device=device).float(), indexing="ij"
    )
    angle_w, angle_h = w.reshape(-1, 1) * f, h.reshape(-1, 1) * f  # [rows*columns, D/4] each
    return torch.cat([angle_w.sin(), angle_w.cos(), angle_h.sin(), angle_h.cos()], dim=-1)


def rotary_angles(time: Tensor, row: Tensor, column: Tensor, head_dim: int) -> Tensor:
    """Angles [..., d/2] that pairs of channels are rotated by: an eighth of them for time, the rest in halves for row
    and column."""
    time_dim = head_dim // 8
    plane_dim = (head_dim - time_dim) // 2
    angles = []
    for position, dim in ((time, time_dim), (row, plane_dim), (column, plane_dim)):
        angles.append(position.float()[..., None] * frequencies(dim // 2, position.device))  # [..., dim/2]
    return torch.cat(angles, dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates adjacent pairs of channels of queries or keys.

    Args:
        x: [B, heads, S, d].
        angles: [B or 1, S, d/2].
    """
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # [B or 1, 1, S, d/2]
    even, odd = x.float()[..., 0::2], x.float()[..., 1::2]  # [B, heads, S, d/2]
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)  # [B, heads, S, d/2, 2]
    return rotated.flatten(-2).to(x.dtype)  # [B, heads, S, d]


def block_causal_mask(prefix: int, frames: int, tokens: int, device: torch.device | None = None) -> Tensor:
    """Attention mask [S, S] with S = prefix + frames*tokens; True where a query (row) attends to a key (column).

    A token sees its own frame and earlier ones; the prefix belongs to the first frame. The model never builds this
    mask, it attends block by block (`layers.attend`); the reference implementation and the tests compare against it.
    """
    block = torch.arange(frames, device=device).repeat_interleave(tokens)  # [frames*tokens]
    block = torch.cat([torch.zeros(prefix, dtype=block.dtype, device=device), block])  # [S]
    return block[:, None] >= block[None, :]
