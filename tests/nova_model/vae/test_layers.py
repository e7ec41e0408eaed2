"""The video VAE's layers against their formulas, computed here another way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nova_model.vae.layers import Downsample, FrameAttention, Norm, Upsample
from tests.nova_model.models import randn


def pass_through(conv: nn.Module, *tap: int) -> None:
    """Makes every channel of a convolution its own copy of what one tap of the kernel sees."""
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.zero_()
        for channel in range(len(conv.weight)):
            conv.weight[(channel, channel, *tap[-(conv.weight.ndim - 2) :])] = 1


def normed(x: Tensor, groups: int, dims: tuple[int, ...]) -> Tensor:
    """Group norm with eps 1e-6 over each group's channels and `dims` of [B, group, C, T, H, W]."""
    grouped = x.unflatten(1, (groups, -1))
    centred = grouped - grouped.mean(dims, keepdim=True)
    return (centred / (centred.square().mean(dims, keepdim=True) + 1e-6).sqrt()).flatten(1, 2)


ALL_FRAMES, EACH_FRAME = (2, 3, 4, 5), (2, 4, 5)


@pytest.mark.parametrize(("three_d", "dims"), [(True, ALL_FRAMES), (False, EACH_FRAME)])
@torch.no_grad()
def test_norms_run_over_all_frames_or_each(three_d: bool, dims: tuple[int, ...]) -> None:
    x = randn(2, 8, 3, 4, 4) * torch.tensor([1e-3, 2e-3, 3e-3])[:, None, None]  # so small that eps counts
    torch.testing.assert_close(Norm(4, 8, three_d=three_d)(x), normed(x, 4, dims), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("three_d", [True, False])
@pytest.mark.parametrize("tap", [(0, 0, 0), (1, 1, 2), (2, 2, 2)])
@torch.no_grad()
def test_downsampling_repeats_the_first_frame_twice_and_puts_zeros_below_and_right(
    tap: tuple[int, int, int], three_d: bool
) -> None:
    x, layer = randn(1, 2, 5, 4, 6), Downsample(2, three_d=three_d)
    pass_through(layer.conv, *tap)
    time, row, column = tap
    frames = [max(0, 2 * t + time - 2) for t in range(3)] if three_d else list(range(5))
    wide = torch.zeros(1, 2, 5, 5, 7)
    wide[..., :4, :6] = x
    expected = wide[:, :, frames, row::2, column::2][..., :2, :3]
    torch.testing.assert_close(layer(x), expected)


def doubled(x: Tensor, dim: int) -> Tensor:
    """Twice as many values along an axis, a quarter of the way between neighbours, clamped to the ends."""
    count = x.shape[dim]
    before = x.index_select(dim, torch.arange(-1, count - 1).clamp(min=0))
    after = x.index_select(dim, torch.arange(1, count + 1).clamp(max=count - 1))
    pairs = torch.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], dim=dim + 1)
    return pairs.flatten(dim, dim + 1)


@torch.no_grad()
def test_upsampling_interpolates_the_first_frame_alone() -> None:
    x, layer = randn(1, 2, 4, 3, 5), Upsample(2, "temporal")
    pass_through(layer.conv, 2, 1, 1)
    first, rest = x[:, :, :1], x[:, :, 1:]
    expected = torch.cat([doubled(doubled(first, 3), 4), doubled(doubled(doubled(rest, 2), 3), 4)], dim=2)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("kind", ["spatial", "frame"])
@torch.no_grad()
def test_the_last_upsampling_repeats_pixels(kind: str) -> None:
    x, layer = randn(1, 2, 3, 3, 5), Upsample(2, kind)
    pass_through(layer.conv, 0, 1, 1)
    torch.testing.assert_close(layer(x), x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4))


@pytest.mark.parametrize(("three_d", "dims"), [(True, ALL_FRAMES), (False, EACH_FRAME)])
@torch.no_grad()
def test_attention_is_within_each_frame_after_a_norm_over_the_layers_frames(
    three_d: bool, dims: tuple[int, ...]
) -> None:
    x, layer = randn(2, 8, 3, 2, 4), FrameAttention(8, 4, three_d=three_d)
    tokens = normed(x, 4, dims).permute(0, 2, 3, 4, 1).reshape(2, 3, 8, 8)
    scores = layer.to_q(tokens) @ layer.to_k(tokens).transpose(-1, -2) / 8**0.5
    mixed = layer.to_out[0](scores.softmax(-1) @ layer.to_v(tokens))
    expected = x + mixed.reshape(2, 3, 2, 4, 8).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
