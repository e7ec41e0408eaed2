"""The denoiser: a small MLP that predicts noise (or velocity) for each token (paper section 3.4, spec section 3)."""

from __future__ import annotations

from torch import Tensor, nn

from nova_model import ops
from nova_model.embeddings import PatchEmbed
from nova_model.layers import LAYER_NORM_EPS, AdaLayerNorm, SiluMlp


class TimeConditionEmbed(nn.Module):
    """condition_proj(z) + timestep_proj([cos(t f), sin(t f)])."""

    def __init__(self, condition: int, width: int) -> None:
        super().__init__()
        self.timestep_proj = SiluMlp(2 * ops.FREQUENCIES, width)
        self.condition_proj = SiluMlp(condition, width)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """[...] timesteps and [..., D] conditions -> [..., E]."""
        times = ops.cosine_sine(t).to(self.timestep_proj.fc1.weight.dtype)
        return self.condition_proj(z) + self.timestep_proj(times)


class DenoiserBlock(nn.Module):
    """h + gate * norm2(proj(AdaLN(h)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = AdaLayerNorm(width, 3)
        self.proj = SiluMlp(width, width)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        normed, gate = self.norm1(h, condition)
        assert gate is not None
        return h + gate * self.norm2(self.proj(normed))


class Denoiser(nn.Module):
    """Noisy tokens to noise or velocity."""

    def __init__(self, *, channels: int, patch: int, condition: int, width: int, depth: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.time_cond_embed = TimeConditionEmbed(condition, width)
        self.blocks = nn.ModuleList(DenoiserBlock(width) for _ in range(depth))
        self.norm = AdaLayerNorm(width, 2)
        self.head = nn.Linear(width, patch * patch * channels)

    def forward(self, *, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """What the schedule's step needs.

        Args:
            x_t: noisy tokens [..., p*p*C].
            t: timesteps [...] in 0..1000.
            z: conditions [..., D].

        Returns:
            [..., p*p*C].
        """
        condition = self.time_cond_embed(t, z)
        h = self.patch_embed.tokens(x_t)
        for block in self.blocks:
            h = block(h, condition)
        normed, _ = self.norm(h, condition)
        return self.head(normed)
