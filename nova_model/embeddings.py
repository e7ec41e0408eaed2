"""Embeddings of the inputs: patches, text, class labels, motion score and frame rate, frame times, special tokens.

They make the conditioning of section 3.2 of the paper (text P, motion score m, begin-of-video tokens B) and the tokens
of the three networks.

Shapes: B batch, C latent channels, H x W latent size, p patch size, N tokens of a frame, P = p*p*C values of a token,
L text tokens of a prompt, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nova_model import ops
from nova_model.config import TEXT_ROWS
from nova_model.layers import LAYER_NORM_EPS

STD = 0.02
"""Standard deviation of the initial values of embedding tables."""


class PatchEmbed(nn.Module):
    """Latents [B, C, H, W] -> tokens [B, N, D]: a convolution whose stride is its kernel size."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, latents: Tensor) -> Tensor:
        return self.proj(latents).flatten(2).transpose(1, 2)  # [B, D, H/p, W/p] -> [B, D, N] -> [B, N, D]

    def embed_tokens(self, tokens_BNP: Tensor) -> Tensor:
        """The same for patchified latents [..., P] -> [..., D], as a matrix product.

        Only some tokens of a frame are embedded (visible or noisy ones), which a convolution cannot do.
        """
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)  # [D, C, p, p] -> [D, p, p, C] -> [D, P]
        return nn.functional.linear(tokens_BNP, weight, self.proj.bias)


class TextEmbed(nn.Module):
    """norm(proj(text)), and a buffer of rows that pads short prompts and stands for the unconditional one."""

    weight: Tensor

    def __init__(self, token_dim: int, width: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.proj = nn.Linear(token_dim, width)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        # A buffer, not a parameter: the release saves it with the weights and never trains it.
        self.register_buffer("weight", torch.randn(TEXT_ROWS, token_dim) * STD)

    def pad(self, prompts: Sequence[Tensor | None]) -> Tensor:
        """Features [tokens, dim] of each prompt -> [B, L, dim]; position i, where free, holds row i of the buffer.

        Raises:
            ValueError: a prompt with features of another size, or longer than L.
        """
        padded = self.weight[: self.length].repeat(len(prompts), 1, 1)  # [B, L, dim]
        for index, prompt in enumerate(prompts):
            if prompt is None:
                continue
            if prompt.ndim != 2 or prompt.shape[1] != padded.shape[2] or prompt.shape[0] > self.length:
                raise ValueError(
                    f"prompt {index} has features of shape {tuple(prompt.shape)}; "
                    f"the model takes [up to {self.length}, {padded.shape[2]}]"
                )
            padded[index, : prompt.shape[0]] = prompt.to(padded)
        return padded

    def forward(self, text: Tensor) -> Tensor:
        """[B, L, dim] -> [B, L, D]."""
        return self.norm(self.proj(text))


def class_ids(labels: Tensor, classes: int, *, null: bool) -> Tensor:
    """Class labels as ids [B], int64, which has room for the id of the null class.

    Args:
        labels: labels of a batch, whole numbers of any size.
        classes: number of classes, whose ids are 0..classes-1.
        null: whether the null class, which has the id `classes`, is allowed as well.

    Raises:
        ValueError: labels that are not whole numbers [B], or out of range, where indexing would take a negative one
            from the end.
    """
    whole_numbers = labels.dtype != torch.bool and not labels.is_floating_point() and not labels.is_complex()
    if labels.ndim != 1 or not whole_numbers:
        dtype = str(labels.dtype).removeprefix("torch.")
        raise ValueError(f"class labels are {dtype} of shape {tuple(labels.shape)}; give one whole number per sample")
    for label in labels.tolist():
        if not 0 <= label < classes + null:
            none = f", and {classes} for no class" if null else ""
            raise ValueError(f"class label {label}; the model has classes 0 to {classes - 1}{none}")
    return labels.long()


class LabelEmbed(nn.Module):
    """One context token per class; the last embedding is the null class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.weight = nn.Parameter(torch.randn(classes + 1, width) * STD)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, labels: Tensor) -> Tensor:
        """[B] -> [B, 1, D]."""
        return self.norm(self.weight[labels])[:, None]


def _scalar_mlp(width: int) -> nn.Sequential:
    """Projection of a scalar's sine-cosine embedding."""
    return nn.Sequential(nn.Linear(2 * ops.FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))


def _first_weight(module: nn.Module) -> Tensor:
    """A weight of a module, for its device and dtype."""
    return next(module.parameters())


class MotionEmbed(nn.Module):
    """One token for the motion score and one for the frames per second."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.flow_proj = _scalar_mlp(width)
        self.fps_proj = _scalar_mlp(width)

    def forward(self, motion: Tensor, fps: Tensor) -> Tensor:
        """[B], [B] -> [B, 2, D]."""
        flow = self.flow_proj(ops.sine_cosine(motion).to(_first_weight(self.flow_proj)))  # [B, D]
        rate = self.fps_proj(ops.sine_cosine(fps).to(_first_weight(self.fps_proj)))  # [B, D]
        return torch.stack([flow, rate], dim=1)


class TimeEmbed(nn.Module):
    """norm(time_proj(sine-cosine of t * T_base / T)): a longer video interpolates between the trained times."""

    def __init__(self, base_frames: int, width: int) -> None:
        super().__init__()
        self.base_frames = base_frames
        self.time_proj = _scalar_mlp(width)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, start: int, stop: int, frames: int) -> Tensor:
        """Embeddings of frames start..stop-1 of a video of `frames` frames, [stop - start, D]."""
        weight = _first_weight(self.time_proj)
        times = torch.arange(start, stop, device=weight.device).float() * (self.base_frames / frames)
        return self.norm(self.time_proj(ops.sine_cosine(times).to(weight)))


class MaskEmbed(nn.Module):
    """The begin-of-video token and the mask token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bos_token = nn.Parameter(torch.randn(1, width) * STD)
        self.mask_token = nn.Parameter(torch.randn(1, width) * STD)
