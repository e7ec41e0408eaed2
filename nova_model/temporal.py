"""The temporal encoder: frame by frame, with scaling and shift of the anchor (paper section 3.2, spec section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nova_model.embeddings import PatchEmbed
from nova_model.layers import LAYER_NORM_EPS, Block, LayerCache, run

Cache = tuple[LayerCache, ...]


class Mixer(nn.Module):
    """anchor * (1 + scale) + shift, where scale and shift come from the current frame's output."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.lora = nn.Linear(width, rank, bias=False) if rank > 0 else None
        self.proj = nn.Linear(rank if rank > 0 else width, 2 * width)

    def forward(self, anchor: Tensor, current: Tensor) -> Tensor:
        """[..., M, D], [..., M, D] -> [..., M, D]."""
        condition = F.silu(current)
        if self.lora is not None:
            condition = self.lora(condition)
        scale, shift = self.proj(condition).chunk(2, dim=-1)
        return anchor * (1 + scale) + shift


class TemporalEncoder(nn.Module):
    """Block-causal transformer over frames."""

    def __init__(
        self, *, channels: int, width: int, depth: int, heads: int, patch: int, mixer_rank: int | None,
        norm: str = "post", checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.checkpointing = checkpointing
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.blocks = nn.ModuleList(Block(width, heads, norm) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mixer = Mixer(width, mixer_rank) if mixer_rank else None

    def forward(self, *, context: Tensor, frames: Tensor, angles: Tensor | None) -> Tensor:
        """All frames at once, teacher-forced (training).

        Args:
            context: conditioning tokens [B, L, D].
            frames: input slots [B, T, M, D] with positions added: begin of video, then the frames before each.
            angles: rotary angles of context and frames, [1, L + T*M, head_dim/2].

        Returns:
            [B, T, M, D].
        """
        batch, count, tokens, width = frames.shape
        prefix = context.shape[1]
        x = torch.cat([context, frames.reshape(batch, count * tokens, width)], dim=1)
        sizes = (prefix + tokens, *[tokens] * (count - 1))
        *blocks, last = self.blocks
        for block in blocks:
            x, _ = run(block, x, blocks=sizes, angles=angles, checkpointing=self.checkpointing)
        rows = slice(prefix, None)  # nobody reads the conditioning's outputs
        x, _ = run(last, x, blocks=sizes, angles=angles, rows=rows, checkpointing=self.checkpointing)
        return self.norm(x).reshape(batch, count, tokens, width)

    def step(
        self, *, frame: Tensor, context: Tensor | None, angles: Tensor | None, cache: Cache
    ) -> tuple[Tensor, Cache]:
        """The next frame (inference).

        Args:
            frame: input slot [B, M, D] with positions added.
            context: conditioning tokens, with the first frame only.
            angles: rotary angles of context and frame, [1, S, head_dim/2].
            cache: from the frame before, empty for the first one.

        Returns:
            [B, M, D], and the cache for the next frame.
        """
        x = frame if context is None else torch.cat([context, frame], dim=1)
        present: list[LayerCache] = []
        for index, (block, past) in enumerate(zip(self.blocks, cache or [None] * len(self.blocks), strict=True)):
            rows = slice(-frame.shape[1], None) if index == len(self.blocks) - 1 else None
            x, kept = block(x, angles=angles, past=past, rows=rows)
            present.append(kept)
        return self.norm(x), tuple(present)

    def indicator(self, anchor: Tensor, outputs: Tensor) -> Tensor:
        """Indicator features of frames after the first: scaling and shift of the anchor, or the outputs themselves."""
        return self.mixer(anchor, outputs) if self.mixer is not None else outputs
