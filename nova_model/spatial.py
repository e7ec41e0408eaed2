"""The spatial encoder: set by set inside a frame (paper section 3.3, spec section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nova_model.embeddings import PatchEmbed
from nova_model.layers import LAYER_NORM_EPS, Block, run


class SpatialEncoder(nn.Module):
    """Bidirectional transformer; its first half sees only what is visible, its second half every token."""

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
        known: Tensor,
        masked: Tensor,
        visible: Tensor,
        angles: Tensor | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Features of a frame's tokens.

        Args:
            prefix: indicator features [B, M, D].
            known: the visible tokens' embedded patches with positions added [B, V, D].
            masked: mask token with positions added [1, N, D].
            visible: ids of the visible tokens [B, V].
            angles: rotary angles of the frame's tokens [N, head_dim/2]; the prefix is not turned.
            wanted: ids of the tokens whose features are wanted [B, n], for which alone the last layer works; all by
                default.

        Returns:
            z, [B, n or N, D].
        """
        count, half = prefix.shape[1], len(self.blocks) // 2
        x = torch.cat([prefix, known], dim=1)
        some = None if angles is None else _behind_prefix(angles[visible], count)
        for block in self.blocks[:half]:
            x, _ = run(block, x, angles=some, checkpointing=self.checkpointing)
        grid = masked.expand(len(x), -1, -1).to(x.dtype)
        grid = grid.scatter(1, visible[..., None].expand(-1, -1, x.shape[2]), x[:, count:])
        x = torch.cat([x[:, :count], grid], dim=1)
        every = None if angles is None else _behind_prefix(angles[None], count)
        *blocks, last = self.blocks[half:]
        for block in blocks:
            x, _ = run(block, x, angles=every, checkpointing=self.checkpointing)
        rows = slice(count, None) if wanted is None else wanted + count
        x, _ = run(last, x, angles=every, rows=rows, checkpointing=self.checkpointing)
        return self.norm(x)


def _behind_prefix(angles: Tensor, count: int) -> Tensor:
    """[B, S, d] -> [B, count + S, d]; the prefix stands at position 0, where the rotation is the identity."""
    return torch.cat([angles.new_zeros(len(angles), count, angles.shape[2]), angles], dim=1)
