"""The denoiser against its formula, token by token."""

import math

import torch
import torch.nn.functional as F

from nova_model.denoiser import Denoiser
from tests.nova_model.models import randn


def denoiser():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Denoiser(channels=4, patch=2, condition=8, width=12, depth=2)


def inputs():
    return randn(2, 5, 16), torch.tensor([[0.0, 1.0, 250.5, 700.0, 1000.0]] * 2), randn(2, 5, 8, seed=1)


def silu_mlp(mlp, x):
    return mlp.fc2(F.silu(mlp.fc1(x)))


def test_the_denoiser_by_hand():
    net = denoiser()
    x, t, z = inputs()
    f = torch.tensor([math.exp(-math.log(10000) * i / 128) for i in range(128)])
    times = torch.cat([(t[..., None] * f).cos(), (t[..., None] * f).sin()], dim=-1)
    embed = net.time_cond_embed
    c = silu_mlp(embed.condition_proj, z) + silu_mlp(embed.timestep_proj, times)
    # Inside a token values run row, column, channel; a convolution's weight is [D, channel, row, column].
    h = torch.einsum("bnhwc,dchw->bnd", x.reshape(2, 5, 2, 2, 4), net.patch_embed.proj.weight)
    h = h + net.patch_embed.proj.bias
    for block in net.blocks:
        scale, shift, gate = block.norm1.proj(F.silu(c)).chunk(3, dim=-1)
        branch = silu_mlp(block.proj, F.layer_norm(h, (12,), eps=1e-6) * (1 + scale) + shift)
        h = h + gate * F.layer_norm(branch, (12,), block.norm2.weight, block.norm2.bias, eps=1e-5)
    scale, shift = net.norm.proj(F.silu(c)).chunk(2, dim=-1)
    expected = net.head(F.layer_norm(h, (12,), eps=1e-6) * (1 + scale) + shift)
    torch.testing.assert_close(net(x_t=x, t=t, z=z), expected, atol=1e-5, rtol=1e-4)


def test_tokens_are_denoised_apart_from_each_other():
    net = denoiser()
    x, t, z = inputs()
    out = net(x_t=x, t=t, z=z)
    for changed in ({"x_t": x + 1}, {"t": t + 100}, {"z": z + 1}):
        arguments = {"x_t": x.clone(), "t": t.clone(), "z": z.clone()}
        for name, value in changed.items():
            arguments[name][0, 2] = value[0, 2]
        difference = (net(**arguments) - out).abs().amax(-1)
        assert difference[0, 2] > 1e-3
        difference[0, 2] = 0
        assert difference.max() < 1e-6


def test_real_valued_timesteps_differ():
    net = denoiser()
    x, t, z = inputs()
    assert (net(x_t=x, t=t + 0.5, z=z) - net(x_t=x, t=t, z=z)).abs().max() > 1e-4
