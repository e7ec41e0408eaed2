"""The temporal encoder, frame by frame (section 3.2 of the paper, equation 2), and scaling and shift (section 3.3).

    p(P, m, B, S_1..S_F) = prod_f p(S_f | P, m, B, S_1..S_{f-1})

with text P, motion score m, begin-of-video tokens B and frames S_f. Scaling and shift turn the begin-of-video features
into the indicator features S'_f of each frame.

Shapes: B batch, T latent frames, L conditioning tokens, M temporal tokens of a frame, S sequence length, D width,
d head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nova_model.embeddings import PatchEmbed
from nova_model.layers import LAYER_NORM_EPS, Block, LayerCache, maybe_checkpoint

Cache = tuple[LayerCache, ...]
"""Keys and values of every layer."""


class Mixer(nn.Module):
    """Scaling and shift: anchor * (1 + scale) + shift, with scale and shift projected from the current frame's output.

    Args:
        width: D.
        rank: rank of the projection; below 0 it has full rank.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.lora = nn.Linear(width, rank, bias=False) if rank > 0 else None
        self.proj = nn.Linear(rank if rank > 0 else width, 2 * width)

    def forward(self, anchor: Tensor, current: Tensor) -> Tensor:
        """[..., M, D], [..., M, D] -> [..., M, D]."""
        condition = F.silu(current)
        if self.lora is not None:
            condition = self.lora(condition)
        scale, shift = self.proj(condition).chunk(2, dim=-1)  # [..., M, 2D] -> [..., M, D] each
        return anchor * (1 + scale) + shift


class TemporalEncoder(nn.Module):
    """Block-causal transformer over frames: bidirectional within a frame, causal between frames."""

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
            frames: input slots [B, T, M, D] with positions added: begin of video, then each frame's predecessor.
            angles: rotary angles of context and frames, [1, L + T*M, d/2].

        Returns:
            [B, T, M, D].
        """
        batch, count, tokens, width = frames.shape
        prefix = context.shape[1]
        x = torch.cat([context, frames.reshape(batch, count * tokens, width)], dim=1)  # [B, L + T*M, D]
        sizes = (prefix + tokens, *[tokens] * (count - 1))  # the conditioning belongs to the first frame's block
        *blocks, last_block = self.blocks
        for block in blocks:
            x, _ = maybe_checkpoint(block, x, blocks=sizes, angles=angles, checkpointing=self.checkpointing)
        rows = slice(prefix, None)  # the outputs of the conditioning are discarded, so the last layer skips them
        x, _ = maybe_checkpoint(last_block, x, blocks=sizes, angles=angles, rows=rows, checkpointing=self.checkpointing)
        return self.norm(x).reshape(batch, count, tokens, width)  # [B, T*M, D] -> [B, T, M, D]

    def step(
        self, *, frame: Tensor, context: Tensor | None, angles: Tensor | None, cache: Cache
    ) -> tuple[Tensor, Cache]:
        """The next frame (inference).

        Args:
            frame: input slot [B, M, D] with positions added.
            context: conditioning tokens [B, L, D], with the first frame only; later frames find them in the cache.
            angles: rotary angles of context and frame, [1, S, d/2].
            cache: cache of the preceding frame, empty for the first one.

        Returns:
            [B, M, D], and the cache for the next frame.
        """
        x = frame if context is None else torch.cat([context, frame], dim=1)  # [B, S, D]
        present: list[LayerCache] = []
        for index, (block, past) in enumerate(zip(self.blocks, cache or [None] * len(self.blocks), strict=True)):
            rows = slice(-frame.shape[1], None) if index == len(self.blocks) - 1 else None
            x, layer_cache = block(x, angles=angles, past=past, rows=rows)
            present.append(layer_cache)
        return self.norm(x), tuple(present)

    def indicator(self, anchor: Tensor, outputs: Tensor) -> Tensor:
        """Indicator features of frames after the first: the anchor, scaled and shifted; without mixer the outputs.

        Args:
            anchor: output of the begin-of-video frame, [B, M, D] or [B, 1, M, D].
            outputs: outputs of the frames, [B, M, D] or [B, T, M, D].
        """
        return self.mixer(anchor, outputs) if self.mixer is not None else outputs
