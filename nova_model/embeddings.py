"""What turns inputs into tokens: patches, text, labels, motion and fps, frame times, mask tokens (spec section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nova_model import ops
from nova_model.config import TEXT_ROWS
from nova_model.layers import LAYER_NORM_EPS

STD = 0.02


class PatchEmbed(nn.Module):
    """Latents [B, C, H, W] -> tokens [B, N, D]: a convolution whose stride is its kernel."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, latents: Tensor) -> Tensor:
        return self.proj(latents).flatten(2).transpose(1, 2)

    def tokens(self, tokens_BNP: Tensor) -> Tensor:
        """The same for patchified latents [..., p*p*C]: a matrix product."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)  # [D, p*p*C]
        return nn.functional.linear(tokens_BNP, weight, self.proj.bias)


class TextEmbed(nn.Module):
    """norm(proj(text)), and the rows that pad prompts and stand for no prompt."""

    weight: Tensor

    def __init__(self, token_dim: int, width: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.proj = nn.Linear(token_dim, width)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.register_buffer("weight", torch.randn(TEXT_ROWS, token_dim) * STD)

    def pad(self, prompts: Sequence[Tensor | None]) -> Tensor:
        """Features [tokens, dim] of each prompt -> [B, L, dim]; row i of the buffer stands at a free position i.

        Raises:
            ValueError: a prompt of other features, or longer than L.
        """
        padded = self.weight[: self.length].repeat(len(prompts), 1, 1)
        for index, prompt in enumerate(prompts):
            if prompt is None:
                continue
            if prompt.ndim != 2 or prompt.shape[1] != padded.shape[2] or prompt.shape[0] > self.length:
                wanted = f"[up to {self.length}, {padded.shape[2]}]"
                raise ValueError(
                    f"prompt {index} has features of shape {tuple(prompt.shape)}; the model takes {wanted}"
                )
            padded[index, : prompt.shape[0]] = prompt.to(padded)
        return padded

    def forward(self, text: Tensor) -> Tensor:
        """[B, L, dim] -> [B, L, D]."""
        return self.norm(self.proj(text))


class LabelEmbed(nn.Module):
    """One context token a class; the last one means no class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.weight = nn.Parameter(torch.randn(classes + 1, width) * STD)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, labels: Tensor) -> Tensor:
        """[B] -> [B, 1, D]."""
        return self.norm(self.weight[labels])[:, None]


def _projection(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * ops.FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))


def _weight(projection: nn.Sequential) -> Tensor:
    return next(projection.parameters())


class MotionEmbed(nn.Module):
    """A token for the motion score and one for the frames per second."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.flow_proj = _projection(width)
        self.fps_proj = _projection(width)

    def forward(self, motion: Tensor, fps: Tensor) -> Tensor:
        """[B], [B] -> [B, 2, D]."""
        flow = self.flow_proj(ops.sine_cosine(motion).to(_weight(self.flow_proj)))
        rate = self.fps_proj(ops.sine_cosine(fps).to(_weight(self.fps_proj)))
        return torch.stack([flow, rate], dim=1)


class TimeEmbed(nn.Module):
    """norm(time_proj(sine-cosine of t * T_base / T)): a longer video interpolates between trained times."""

    def __init__(self, base_frames: int, width: int) -> None:
        super().__init__()
        self.base_frames = base_frames
        self.time_proj = _projection(width)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, start: int, stop: int, frames: int) -> Tensor:
        """Embeddings of frames start..stop-1 of a video of `frames` frames, [stop - start, D]."""
        weight = _weight(self.time_proj)
        times = torch.arange(start, stop, device=weight.device).float() * (self.base_frames / frames)
        return self.norm(self.time_proj(ops.sine_cosine(times).to(weight)))


class MaskEmbed(nn.Module):
    """The begin-of-video token and the mask token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bos_token = nn.Parameter(torch.randn(1, width) * STD)
        self.mask_token = nn.Parameter(torch.randn(1, width) * STD)
