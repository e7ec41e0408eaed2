"""Attention, blocks and AdaLN against the formulas, computed without torch's fused kernels."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nova_model import ops
from nova_model.layers import AdaLayerNorm, Attention, Block, LayerCache, Mlp, SiluMlp, attend
from tests.nova_model.models import randn


def attention_by_hand(layer, x, mask=None):
    """One head after another: softmax(q k / sqrt(d)) v, with q, k, v in that order and heads inside."""
    size = x.shape[-1] // layer.heads
    q, k, v = layer.qkv(x).split(x.shape[-1], dim=-1)
    heads = []
    for head in range(layer.heads):
        channels = slice(head * size, (head + 1) * size)
        scores = q[..., channels] @ k[..., channels].transpose(1, 2) / math.sqrt(size)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        heads.append(scores.softmax(-1) @ v[..., channels])
    return layer.proj(torch.cat(heads, dim=-1))


def test_attention_by_hand():
    layer, x = Attention(16, heads=4), randn(2, 5, 16)
    out, cache = layer(x)
    torch.testing.assert_close(out, attention_by_hand(layer, x))
    assert cache.keys.shape == cache.values.shape == (2, 4, 5, 4)


@pytest.mark.parametrize("blocks", [(), (2, 1, 3)])
def test_attention_in_bf16_is_that_in_fp32_up_to_rounding(blocks):
    """On a CPU it is computed as plain products, block by block as well."""
    q, k, v = (randn(2, 4, 6, 32, seed=seed).bfloat16().requires_grad_() for seed in range(3))
    exact = [tensor.detach().float().requires_grad_() for tensor in (q, k, v)]
    out, expected = attend(q, k, v, blocks), attend(*exact, blocks)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.03, rtol=0.03)
    out.sum().backward()
    expected.sum().backward()
    for tensor, reference in zip((q, k, v), exact, strict=True):
        torch.testing.assert_close(tensor.grad.float(), reference.grad, atol=0.05, rtol=0.05)


def test_attention_sees_only_what_the_mask_allows():
    layer, x = Attention(16, heads=2), randn(2, 6, 16)
    mask = ops.block_causal_mask(1, 5, 1)
    out, _ = layer(x, blocks=(2, 1, 1, 1, 1))
    torch.testing.assert_close(out, attention_by_hand(layer, x, mask))
    changed = x.clone()
    changed[:, 4:] += 1
    after, _ = layer(changed, blocks=(2, 1, 1, 1, 1))
    torch.testing.assert_close(after[:, :4], out[:, :4])
    assert not torch.allclose(after[:, 4:], out[:, 4:])


def test_cached_keys_and_values_stand_in_for_the_tokens_themselves():
    layer, x = Attention(32, heads=1), randn(2, 6, 32)
    angles = ops.rotary_angles(torch.arange(6), torch.arange(6), torch.arange(6), 32)[None]
    full, full_cache = layer(x, blocks=(4, 2), angles=angles)
    _, cache = layer(x[:, :4], angles=angles[:, :4])
    later, extended = layer(x[:, 4:], angles=angles[:, 4:], past=cache)
    torch.testing.assert_close(later, full[:, 4:])
    torch.testing.assert_close(extended.keys, full_cache.keys)
    torch.testing.assert_close(extended.values, full_cache.values)
    assert cache.keys.shape[2] == 4  # a cache is never changed in place


def test_a_cache_grows_at_its_end():
    old, new = LayerCache(randn(1, 2, 3, 4), randn(1, 2, 3, 4, seed=1)), randn(1, 2, 1, 4, seed=2)
    grown = old.extended(new, -new)
    assert torch.equal(grown.keys[:, :, :3], old.keys)
    assert torch.equal(grown.keys[:, :, 3:], new)
    assert torch.equal(grown.values[:, :, 3:], -new)


def test_rotation_applies_to_queries_and_keys_but_not_to_values():
    layer, x = Attention(32, heads=1), randn(1, 4, 32)
    angles = torch.full((1, 4, 16), 0.7)
    out, cache = layer(x, angles=angles)
    plain, unrotated = layer(x)
    torch.testing.assert_close(out, plain)  # all rotated alike: products stay the same
    torch.testing.assert_close(cache.values, unrotated.values)
    assert not torch.allclose(cache.keys, unrotated.keys)


def test_the_block_norms_each_branch_before_adding_it():
    block, x = Block(16, heads=2), randn(2, 5, 16)
    for parameter in (block.norm1.weight, block.norm1.bias, block.norm2.weight, block.norm2.bias):
        nn.init.normal_(parameter)
    out, _ = block(x)

    def norm(layer, h):
        centred = h - h.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias

    middle = x + norm(block.norm1, attention_by_hand(block.attn, x))
    torch.testing.assert_close(out, middle + norm(block.norm2, block.mlp(middle)), atol=1e-5, rtol=1e-4)


def test_a_post_norm_block_adds_no_more_than_its_norms_allow():
    block, x = Block(16, heads=2), randn(2, 5, 16)
    for layer in (block.attn.proj, block.mlp.fc2):
        nn.init.normal_(layer.weight, std=1e4)  # a branch may grow: what is added to x stays of unit scale
    out, _ = block(x)
    assert (out - x).square().mean().sqrt() < 2.1


def test_the_mlps_nonlinearities():
    x = randn(3, 8)
    gelu, silu = Mlp(8), SiluMlp(8, 12)
    h = gelu.fc1(x)
    torch.testing.assert_close(gelu(x), gelu.fc2(h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))))
    h = silu.fc1(x)
    torch.testing.assert_close(silu(x), silu.fc2(h * torch.sigmoid(h)))


def test_adaln_by_hand():
    layer, x, condition = AdaLayerNorm(8, 3), randn(2, 5, 8) * 1e-3, randn(2, 5, 8, seed=1)
    normed, gate = layer(x, layer.modulation(F.silu(condition)))
    stats = layer.proj(condition * torch.sigmoid(condition))
    centred = x - x.mean(-1, keepdim=True)
    plain = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()  # x is small enough for eps to count
    torch.testing.assert_close(normed, plain * (1 + stats[..., :8]) + stats[..., 8:16])
    torch.testing.assert_close(gate, stats[..., 16:])
    assert AdaLayerNorm(8, 2)(x, condition)[1] is None
