"""Pixels to latents and back: scaling, tiles, and what is coded at a time."""

from __future__ import annotations

import pytest
import torch

from nova_model.vae.codec import FRAMES_AT_ONCE, Codec, read_scaling
from tests.nova_model.folders import make_vae, make_video_vae
from tests.nova_model.models import one_line_error, randn

SIZE = 16


def input_sizes(module: torch.nn.Module) -> list[tuple[int, ...]]:
    """Collects the shape of every input from now on."""
    seen: list[tuple[int, ...]] = []
    module.register_forward_hook(lambda _, args, out: seen.append(tuple(args[0].shape)))
    return seen


def test_frames_and_latents_of_both_vaes() -> None:
    video, framewise = Codec(make_video_vae()), Codec(make_vae())
    assert [video.latent_frames(count) for count in (1, 5, 17, 33)] == [1, 2, 5, 9]
    assert [video.frames(count) for count in (1, 2, 5, 9)] == [1, 5, 17, 33]
    assert framewise.latent_frames(6) == framewise.frames(6) == 6
    assert video.stride == framewise.stride == 8
    with one_line_error("6 frames.*such as 5$"):
        video.latent_frames(6)
    with one_line_error("6 latent frames.*such as 5$"):
        video.frames(6)


def test_tiles_say_how_many_latents_the_next_frames_need() -> None:
    assert Codec(make_video_vae()).tiles(9) == [(0, 5), (4, 9)]
    assert Codec(make_vae()).tiles(3) == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("make", [make_vae, make_video_vae])
def test_scaling_is_read_from_the_folder_of_a_vae(make, tmp_path) -> None:
    codec = Codec(make())
    codec.vae.save_pretrained(tmp_path)
    assert read_scaling(tmp_path) == (codec.scaling, codec.shift)


@pytest.mark.parametrize("make", [make_vae, make_video_vae])
def test_latents_are_shifted_and_scaled_means(make) -> None:
    codec, pixels = Codec(make()), randn(2, 3, 5, SIZE, SIZE)
    moments, latents = codec.moments(pixels), codec.encode(pixels)
    mean = moments[:, :4]
    assert moments.shape[:2] == (2, 8)
    torch.testing.assert_close(latents, (mean - codec.shift) * codec.vae.config.scaling_factor)
    if codec.is_video:
        torch.testing.assert_close(mean, codec.vae.encode(pixels).latent_dist.mode())
        again = codec.vae.decode(mean).sample
    else:
        frames = codec.vae.encode(pixels.transpose(1, 2).flatten(0, 1)).latent_dist.mode()
        torch.testing.assert_close(mean, frames.unflatten(0, (2, 5)).transpose(1, 2))
        again = codec.vae.decode(frames).sample.unflatten(0, (2, 5)).transpose(1, 2)
    torch.testing.assert_close(codec.decode(latents, 0), again)


def test_tiles_one_after_another_are_the_whole_video() -> None:
    codec, latents = Codec(make_video_vae()), randn(1, 4, 9, 2, 2)
    tiles = [codec.decode(latents[:, :, start:stop], start) for start, stop in codec.tiles(9)]
    assert [tile.shape[2] for tile in tiles] == [17, 16]
    with torch.no_grad():
        whole = codec.vae.decode(latents / codec.scaling).sample
    torch.testing.assert_close(torch.cat(tiles, dim=2), whole)


def test_one_video_of_a_batch_is_coded_at_a_time() -> None:
    codec, pixels, latents = Codec(make_video_vae()), randn(3, 3, 5, SIZE, SIZE), randn(3, 4, 2, 2, 2)
    encoded, decoded = input_sizes(codec.vae.encoder), input_sizes(codec.vae.decoder)
    moments, frames = codec.moments(pixels), codec.decode(latents, 0)
    assert encoded == [(1, 3, 5, SIZE, SIZE)] * 3
    assert decoded == [(1, 4, 2, 2, 2)] * 3
    assert torch.equal(moments[2:], codec.moments(pixels[2:]))
    assert torch.equal(frames[2:], codec.decode(latents[2:], 0))


def test_few_frames_are_coded_at_a_time_frame_by_frame() -> None:
    codec = Codec(make_vae())
    encoded = input_sizes(codec.vae.encoder)
    assert codec.moments(randn(2, 3, 5, SIZE, SIZE)).shape == (2, 8, 5, 2, 2)
    assert [shape[0] for shape in encoded] == [FRAMES_AT_ONCE, 2]


def test_a_vae_that_overflows_in_fp16_runs_in_fp32() -> None:
    vae = make_vae()
    vae.register_to_config(force_upcast=True)
    codec = Codec(vae.half())
    kinds: list[torch.dtype] = []
    vae.encoder.register_forward_hook(lambda _, args, out: kinds.append(args[0].dtype))
    assert codec.encode(randn(1, 3, 1, SIZE, SIZE)).dtype == torch.float32
    assert kinds == [torch.float32]
    assert vae.dtype == torch.float16, "it keeps its own precision otherwise"
