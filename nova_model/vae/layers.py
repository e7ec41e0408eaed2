"""Layers of the causal video VAE (spec section 6), under the key names of diffusers.

A layer is either 2D and works on each frame on its own, or 3D and causal in time: the output for a frame depends on no
later frame, except through the norms of 3D layers, whose statistics are those of all frames of a tile.

Shapes: [B, C, T, H, W] (batch, channels, frames, height, width) throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6  # as in the release; torch's default is 1e-5


def per_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies a 2D layer to each frame."""
    frames = layer(x.transpose(1, 2).flatten(0, 1))  # [B, C, T, H, W] -> [B*T, C, H, W]
    return frames.unflatten(0, (len(x), -1)).transpose(1, 2)


def repeat_first(x: Tensor, times: int) -> Tensor:
    """Prepends copies of the first frame."""
    return torch.cat([x[:, :, :1].expand(-1, -1, times, -1, -1), x], dim=2) if times else x


class CausalConv(nn.Conv3d):
    """A 3D convolution without later frames: only the start of time is padded, by copies of the first frame."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int | tuple[int, int, int] = 3, stride: int = 1
    ) -> None:
        sizes = (kernel,) * 3 if isinstance(kernel, int) else kernel
        padding = (0, sizes[1] // 2, sizes[2] // 2) if stride == 1 else 0
        super().__init__(in_channels, out_channels, sizes, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] == 1:
            # All time steps of the kernel meet copies of the same frame, so that their sum does a third of the work.
            frame = F.conv2d(x[:, :, 0], self.weight.sum(2), self.bias, self.stride[1:], self.padding[1:])  # type: ignore[arg-type]
            return frame[:, :, None]
        return super().forward(repeat_first(x, self.kernel_size[0] - 1))


class FrameConv(nn.Conv2d):
    """A 2D convolution of each frame."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2 if stride == 1 else 0)

    def forward(self, x: Tensor) -> Tensor:
        return per_frame(super().forward, x)


class Norm(nn.GroupNorm):
    """Group norm with the statistics of all frames (3D), or of each frame on its own (2D)."""

    def __init__(self, groups: int, channels: int, *, three_d: bool) -> None:
        super().__init__(groups, channels, eps=NORM_EPS)
        self.three_d = three_d

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.three_d else per_frame(super().forward, x)


def conv(in_channels: int, out_channels: int, kernel: int = 3, *, three_d: bool) -> nn.Module:
    """A convolution that preserves the size."""
    return (CausalConv if three_d else FrameConv)(in_channels, out_channels, kernel)


class Resnet(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, *, three_d: bool) -> None:
        super().__init__()
        self.norm1 = Norm(groups, in_channels, three_d=three_d)
        self.conv1 = conv(in_channels, out_channels, three_d=three_d)
        self.norm2 = Norm(groups, out_channels, three_d=three_d)
        self.conv2 = conv(out_channels, out_channels, three_d=three_d)
        changes_width = in_channels != out_channels
        self.conv_shortcut = conv(in_channels, out_channels, 1, three_d=three_d) if changes_width else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nn.Module):
    """Halves height and width; the 3D kind also halves the number of frames after the first."""

    def __init__(self, channels: int, *, three_d: bool) -> None:
        super().__init__()
        self.conv = (CausalConv if three_d else FrameConv)(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # at the right and the bottom only, as in diffusers' VAEs


class Upsample(nn.Module):
    """Doubles height and width; the temporal kind also doubles the number of frames after the first.

    Args:
        channels: channels of the input and the output.
        kind: `temporal` interpolates in three dimensions, `spatial` repeats pixels (in a decoder's last 3D layer),
            `frame` repeats pixels in 2D layers.
    """

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv: nn.Module
        if kind == "frame":
            self.conv = FrameConv(channels, channels)
        else:
            self.conv = CausalConv(channels, channels, 3 if kind == "temporal" else (1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind != "temporal":
            return self.conv(F.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="nearest"))
        # The first frame has no frames before it, and stays one frame.
        frames = [F.interpolate(x[:, :, :1], scale_factor=(1.0, 2.0, 2.0), mode="trilinear")]
        if x.shape[2] > 1:
            frames.append(F.interpolate(x[:, :, 1:], scale_factor=(2.0, 2.0, 2.0), mode="trilinear"))
        return self.conv(torch.cat(frames, dim=2))


class FrameAttention(nn.Module):
    """x + attention with one head, within each frame."""

    def __init__(self, channels: int, groups: int, *, three_d: bool) -> None:
        super().__init__()
        self.group_norm = Norm(groups, channels, three_d=three_d)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[-2]
        tokens = self.group_norm(x).permute(0, 2, 3, 4, 1).flatten(2, 3)  # [B, T, H*W, C]
        # One head each: [B*T, 1, H*W, C]
        q, k, v = (project(tokens).flatten(0, 1)[:, None] for project in (self.to_q, self.to_k, self.to_v))
        output = self.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])  # [B*T, H*W, C]
        grid = output.unflatten(0, (len(x), -1)).unflatten(2, (height, -1))  # [B, T, H, W, C]
        return x + grid.permute(0, 4, 1, 2, 3)


class Level(nn.Module):
    """Resnets of one resolution, followed by a change of resolution."""

    def __init__(self, resnets: list[Resnet], downsample: Downsample | None, upsample: Upsample | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if downsample is not None:
            self.downsamplers = nn.ModuleList([downsample])
        if upsample is not None:
            self.upsamplers = nn.ModuleList([upsample])
        self.has_downsample, self.has_upsample = downsample is not None, upsample is not None

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        if self.has_downsample:
            x = self.downsamplers[0](x)
        return self.upsamplers[0](x) if self.has_upsample else x


class Middle(nn.Module):
    """Resnet, attention, resnet."""

    def __init__(self, channels: int, groups: int, *, three_d: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([FrameAttention(channels, groups, three_d=three_d)])
        self.resnets = nn.ModuleList(Resnet(channels, channels, groups, three_d=three_d) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.resnets[1](self.attentions[0](self.resnets[0](x))))
