"""The causal video VAE: the released values, tiles, causality, and what it cannot take."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nova_model.vae.layers import CausalConv, Resnet, Upsample
from nova_model.vae.video_vae import VideoVae, tiles
from tests.nova_model.models import one_line_error, randn

D2, D3, U2, U3 = "DownEncoderBlock2D", "DownEncoderBlock3D", "UpDecoderBlock2D", "UpDecoderBlock3D"
SMALL = {
    "block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 3,
}  # fmt: skip


def small(**changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VideoVae(**{**SMALL, **changes}).eval()


@pytest.fixture(scope="module")
def released(shared):
    folder = shared / "golden" / "video_vae"
    vae = VideoVae.from_config(json.loads((folder / "config.json").read_text()))
    vae.load_state_dict(load_file(folder / "weights.safetensors"))
    return vae.eval(), load_file(folder / "golden.safetensors")


@pytest.mark.parametrize("frames", [1, 17, 33])
@torch.no_grad()
def test_the_released_values(released, frames):
    vae, golden = released
    moments = vae.encode(golden[f"video_{frames}"]).latent_dist.parameters
    torch.testing.assert_close(moments, golden[f"moments_{frames}"], atol=5e-5, rtol=0)
    decoded = vae.decode(golden[f"moments_{frames}"].chunk(2, dim=1)[0]).sample
    torch.testing.assert_close(decoded, golden[f"decoded_{frames}"], atol=5e-5, rtol=0)


@torch.no_grad()
def test_an_image_is_one_frame(released):
    vae, golden = released
    moments = vae.encode(golden["image"]).latent_dist.parameters
    torch.testing.assert_close(moments, golden["image_moments"], atol=5e-5, rtol=0)
    mean = moments.chunk(2, dim=1)[0]
    picture = vae.decode(mean).sample
    assert picture.shape == golden["image"].shape
    assert torch.equal(picture, vae.decode(mean[:, :, None]).sample[:, :, 0])


# Tiles.


def test_tiles_share_a_frame():
    assert tiles(1, 17) == [(0, 1)]
    assert tiles(9, 17) == [(0, 9)]
    assert tiles(17, 17) == [(0, 17)]
    assert tiles(49, 17) == [(0, 17), (16, 33), (32, 49)]
    assert tiles(9, 5) == [(0, 5), (4, 9)]


@torch.no_grad()
def test_a_long_video_is_its_tiles_one_at_a_time():
    vae, video = small(), randn(1, 3, 49, 16, 16)
    seen = []
    vae.encoder.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[2]))
    vae.decoder.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[2]))
    mean = vae.encode(video).latent_dist.mode()
    assert mean.shape == (1, 3, 13, 2, 2)
    alone = vae.encode(video[:, :, 16:33]).latent_dist.mode()
    torch.testing.assert_close(mean[:, :, 5:9], alone[:, :, 1:])
    decoded = vae.decode(mean).sample
    assert decoded.shape == video.shape
    torch.testing.assert_close(decoded[:, :, 17:33], vae.decode(mean[:, :, 4:9]).sample[:, :, 1:])
    assert seen == [17, 17, 17, 17, 5, 5, 5, 5]


@torch.no_grad()
def test_tiles_are_decoded_as_they_are_asked_for():
    vae, z = small(), randn(2, 3, 13, 2, 2)
    count = []
    vae.decoder.register_forward_hook(lambda *_: count.append(1))
    stream = vae.decode_tiles(z)
    first = next(stream)
    assert (first.shape[2], len(count)) == (17, 1)
    rest = list(stream)
    assert [each.shape[2] for each in rest] == [16, 16]
    torch.testing.assert_close(torch.cat([first, *rest], dim=2), vae.decode(z).sample)


# What depends on what.


@torch.no_grad()
def test_convolutions_see_no_later_frame_and_no_copy_of_it():
    layer, x = CausalConv(2, 3), randn(1, 2, 6, 5, 5)
    out = layer(x)
    changed = x.clone()
    changed[:, :, 3:] += 1
    after = layer(changed)
    assert out.shape == (1, 3, 6, 5, 5)
    torch.testing.assert_close(after[:, :, :3], out[:, :, :3])
    assert (after[:, :, 3:] - out[:, :, 3:]).abs().amax((0, 1, 3, 4)).min() > 1e-3
    by_hand = nn.functional.conv3d(torch.cat([x[:, :, :1], x[:, :, :1], x[:, :, :1]], dim=2), layer.weight, layer.bias,
                                   padding=(0, 1, 1))  # fmt: skip
    torch.testing.assert_close(out[:, :, :1], by_hand)


@torch.no_grad()
def test_frames_are_apart_in_2d_layers_and_share_statistics_in_3d_ones():
    x = randn(1, 8, 3, 4, 4)
    changed = x.clone()
    changed[:, :, 2] *= 3
    for three_d in (False, True):
        layer = Resnet(8, 8, 4, three_d=three_d)
        difference = (layer(changed) - layer(x))[:, :, 0].abs().max()
        assert (difference > 1e-3) == three_d


@torch.no_grad()
def test_upsampling_leaves_the_first_frame_one_frame():
    x = randn(1, 4, 3, 2, 2)
    layers = {kind: Upsample(4, kind) for kind in ("temporal", "spatial", "frame")}
    assert layers["temporal"](x).shape == (1, 4, 5, 4, 4)
    assert layers["spatial"](x).shape == layers["frame"](x).shape == (1, 4, 3, 4, 4)
    for layer in layers.values():
        torch.testing.assert_close(layer(x)[:, :, :1], layer(x[:, :, :1]))


@pytest.mark.parametrize(
    ("changes", "latents"),
    [
        ({}, (5, 2)),
        ({"down_block_types": [D3, D2, D3, D3]}, (5, 2)),
        ({"block_out_channels": (8, 8, 16), "down_block_types": [D2, D2, D3], "up_block_types": [U3] * 3}, (9, 4)),
        ({"down_block_types": [D2] * 4, "up_block_types": [U2] * 4}, (17, 2)),
        ({"up_block_types": [U3, U3, U3, U2], "layers_per_block": 2}, (5, 2)),
        ({"use_quant_conv": False, "use_post_quant_conv": False}, (5, 2)),
    ],
    ids=["released", "3d first", "two downsamplings", "2d", "2d last", "no quant"],
)  # fmt: skip
@torch.no_grad()
def test_other_configs(changes, latents, tmp_path):
    vae, video = small(**changes), randn(1, 3, 17, 16, 16)
    mean = vae.encode(video).latent_dist.mode()
    assert mean.shape == (1, 3, latents[0], latents[1], latents[1])
    assert vae.latent_frames(17) == latents[0]
    assert vae.frames(latents[0]) == 17
    assert vae(video).shape == video.shape
    vae.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "AutoencoderKLOpenSora"
    loaded = VideoVae.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(video).latent_dist.mode(), mean)


def test_gradients_reach_every_weight():
    vae = small()
    (
        vae(randn(1, 3, 5, 16, 16)).square().mean() + vae.encode(randn(1, 3, 5, 16, 16)).latent_dist.logvar.mean()
    ).backward()
    assert not [name for name, each in vae.named_parameters() if each.grad is None or not each.grad.abs().max() > 0]


# Wrong input.


@pytest.mark.parametrize(("frames", "near"), [(4, 5), (16, 17), (18, 17), (32, 33), (0, 1)])
def test_frames_that_do_not_tile_name_the_nearest_that_do(frames, near):
    with one_line_error(f"{frames} frames.*such as {near}$"):
        small().encode(torch.zeros(1, 3, frames, 16, 16))


def test_latents_that_do_not_tile():
    with one_line_error("7 latent frames.*such as 9"):
        small().decode(torch.zeros(1, 3, 7, 2, 2))


def test_sizes_and_channels_that_do_not_fit():
    with one_line_error("12x16 do not divide by the video VAE's 8"):
        small().encode(torch.zeros(1, 3, 1, 12, 16))
    with one_line_error("frames have 1 channels; the video VAE takes 3"):
        small().encode(torch.zeros(1, 1, 16, 16))
    with one_line_error("latents have 6 channels; the video VAE takes 3"):
        small().decode(torch.zeros(1, 6, 2, 2))
    with one_line_error(r"frames of shape \(3, 16, 16\)"):
        small().encode(torch.zeros(3, 16, 16))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"down_block_types": [D2] * 3}, "3 block types for 4"),
        ({"up_block_types": ["UpBlock"] * 4}, "unknown block type 'UpBlock'"),
        ({"norm_num_groups": 3}, "which norm_num_groups=3 must divide"),
        ({"down_block_types": [D3] * 4}, "maps 8 frames to one latent frame, the decoder maps it to 4"),
        ({"down_block_types": [D2] * 4}, "3D only where the last encoder block is"),
        ({"layers_per_block": 0}, "at least 1"),
    ],
)
def test_configs_that_cannot_be_built(changes, match):
    with one_line_error(match):
        small(**changes)
