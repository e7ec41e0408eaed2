"""The spatial encoder, set by set within a frame (section 3.3 of the paper, equation 3).

    p(S'_f, S_(f,1..K)) = prod_k p(S_(f,k) | S'_f, S_(f,1..k-1))

with the frame's indicator features S'_f and its K sets of tokens S_(f,k).

Shapes: B batch (of frames), M temporal tokens of a frame (the prefix), N spatial tokens of a frame, V visible tokens,
n target tokens, D width, d head size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nova_model.embeddings import PatchEmbed
from nova_model.layers import LAYER_NORM_EPS, Block, maybe_checkpoint


class SpatialEncoder(nn.Module):
    """Bidirectional transformer; its first half sees the visible tokens only, its second half all tokens."""

    def __init__(
        self, *, channels: int, width: int, depth: int, heads: int, patch: int, norm: str = "post",
        checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.checkpointing = checkpointing
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.blocks = nn.ModuleList(Block(width, heads, norm) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(
        self,
        *,
        prefix: Tensor,
        tokens: Tensor,
        mask_tokens: Tensor,
        visible: Tensor,
        angles: Tensor | None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Features z of a frame's tokens.

        Args:
            prefix: indicator features [B, M, D].
            tokens: embeddings of the visible tokens with positions added [B, V, D].
            mask_tokens: the mask token with each position added [1, N, D].
            visible: ids of the visible tokens [B, V].
            angles: rotary angles of the frame's tokens [N, d/2]; the prefix is not rotated.
            targets: ids of the tokens to compute features of [B, n], all by default; the last layer works for them
                only.

        Returns:
            z, [B, n or N, D].
        """
        count, half = prefix.shape[1], len(self.blocks) // 2
        x = torch.cat([prefix, tokens], dim=1)  # [B, M + V, D]
        visible_angles = None if angles is None else _with_prefix(angles[visible], count)
        for block in self.blocks[:half]:
            x, _ = maybe_checkpoint(block, x, angles=visible_angles, checkpointing=self.checkpointing)

        grid = mask_tokens.expand(len(x), -1, -1).to(x.dtype)  # [B, N, D]
        grid = grid.scatter(1, visible[..., None].expand(-1, -1, x.shape[2]), x[:, count:])  # index [B, V, D]
        x = torch.cat([x[:, :count], grid], dim=1)  # [B, M + N, D]
        grid_angles = None if angles is None else _with_prefix(angles[None], count)
        *blocks, last_block = self.blocks[half:]
        for block in blocks:
            x, _ = maybe_checkpoint(block, x, angles=grid_angles, checkpointing=self.checkpointing)
        rows = slice(count, None) if targets is None else targets + count
        x, _ = maybe_checkpoint(last_block, x, angles=grid_angles, rows=rows, checkpointing=self.checkpointing)
        return self.norm(x)


def _with_prefix(angles: Tensor, count: int) -> Tensor:
    """[B, S, d/2] -> [B, count + S, d/2]: the prefix is at position 0, where the rotation is the identity."""
    return torch.cat([angles.new_zeros(len(angles), count, angles.shape[2]), angles], dim=1)
