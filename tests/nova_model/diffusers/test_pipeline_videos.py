"""Videos of the pipeline: streams, tiles of the video VAE, and more frames than were trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from nova_model.config import SamplingConfig
from nova_model.diffusers.preparation import WINDOW
from nova_model.sampling.request import Request
from nova_model.sampling.schedule import FlowMatching
from nova_model.sampling.video import generate
from tests.nova_model.folders import make_video_vae
from tests.nova_model.models import generator, one_line_error
from tests.nova_model.pipes import LATENT, QUICK, RED, features

# Streams.


@pytest.mark.parametrize("kind", ["pil", "np", "pt", "latent"])
def test_a_stream_gives_the_frames_of_a_call(pipe, kind):
    asked = {**QUICK, "output_type": kind, "image": RED}
    expected = pipe(["a", "b"], generator=generator(), **asked).frames
    parts = list(pipe.stream(["a", "b"], generator=generator(), **asked))
    assert len(parts) == 5  # AutoencoderKL decodes frame by frame
    for sample in range(2):
        if kind == "pil":
            assert [frame for part in parts for frame in part[sample]] == expected[sample]
        elif kind == "latent":
            assert torch.equal(torch.cat(parts, dim=2), expected)
        else:
            assert np.array_equal(np.concatenate([np.asarray(part) for part in parts], axis=1), np.asarray(expected))


def test_frames_are_streamed_while_the_rest_is_made(pipe):
    sets = []
    stream = pipe.stream("a", callback_on_step_end=lambda *told: sets.append(told[2]) or {}, **QUICK)
    next(stream)
    assert set(sets) == {0}
    next(stream)
    assert set(sets) == {0, 1}
    stream.close()
    assert set(sets) == {0, 1}


def test_a_stream_tells_mistakes_at_once(pipe):
    with one_line_error("latents cannot have a size of 50x64 pixels"):
        pipe.stream("a", height=50)
    with pytest.raises(TypeError, match="num_frame"):
        pipe.stream("a", num_frame=3)


# The video VAE.


@pytest.mark.parametrize(("frames", "tiles"), [(1, [1]), (9, [9]), (17, [17]), (49, [17, 16, 16])])
def test_the_video_vae_shows_tiles(video_pipe, frames, tiles):
    asked = {**QUICK, "num_frames": frames, "output_type": "pt", "height": 32, "width": 32}
    made = video_pipe("red", generator=generator(), **asked)
    latents = video_pipe("red", generator=generator(), **{**asked, "output_type": "latent"}).to_tuple()[0]
    assert latents.shape[2] == 1 + (frames - 1) // 4
    with torch.no_grad():
        pixels = make_video_vae().decode(latents / 0.18215).sample.transpose(1, 2)
    shown = made.images[:, None] if frames == 1 else made.frames
    torch.testing.assert_close(shown, (pixels / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
    parts = list(video_pipe.stream("red", generator=generator(), **asked))
    assert [part.shape[1] for part in parts] == tiles
    assert torch.equal(torch.cat(parts, dim=1), shown)


def test_a_streamed_tile_is_there_before_the_next_is_made(video_pipe):
    frames = []
    stream = video_pipe.stream(
        "red", num_frames=49, callback_on_step_end=lambda *told: frames.append(told[2]) or {}, **QUICK
    )
    next(stream)
    assert max(frames) == 4
    next(stream)
    assert max(frames) == 8
    stream.close()


def test_pictures_and_videos_go_on_with_the_video_vae(video_pipe):
    made = video_pipe(image=RED, generator=generator(), **QUICK).frames
    assert [len(frames) for frames in made] == [17]  # 5 latents were trained
    given = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    latents = video_pipe(video=[Image.fromarray(frame) for frame in given], num_frames=17, **LATENT).frames
    with torch.no_grad():
        pixels = torch.from_numpy(given).permute(3, 0, 1, 2)[None] / 127.5 - 1
        kept = make_video_vae().encode(pixels).latent_dist.mean * 0.18215
    torch.testing.assert_close(latents[:, :, :3], kept, atol=1e-4, rtol=0)


@pytest.mark.parametrize("asked", [{"num_frames": 7}, {"num_frames": 21}, {"video": [RED] * 3, "num_frames": 17}])
def test_a_number_of_frames_that_the_video_vae_cannot_code_is_a_one_line_error(video_pipe, asked):
    with one_line_error(r"frames: the video VAE takes 1\+4k up to 17 and 1\+16k beyond"):
        video_pipe("red", **asked)


# Longer than trained.


def temporal_keys(pipe, frames, **settings):
    """The most tokens that any frame of a video looked at in the temporal encoder, and the latents."""
    seen = []
    block = pipe.transformer.video_encoder.blocks[0]
    hook = block.register_forward_hook(lambda _, args, kwargs, out: seen.append(out[1].keys.shape[2]), with_kwargs=True)
    made = pipe(prompt_embeds=features(), num_frames=frames, generator=generator(), **{**LATENT, **settings})
    hook.remove()
    return max(seen), made.frames


def test_a_window_bounds_what_is_looked_back_at_and_keeps_the_prompt(pipe):
    tokens, first = 4, 4 + 16 + 2  # of a frame; of the begin-of-video block with text, motion and fps
    unbounded, _ = temporal_keys(pipe, 12)
    assert unbounded == first + 11 * tokens
    bounded, made = temporal_keys(pipe, 12, window=6)
    longer, _ = temporal_keys(pipe, 20, window=6)
    assert bounded == longer == first + 5 * tokens
    other = pipe(prompt_embeds=features(2)[1:], num_frames=12, window=6, generator=generator(), **LATENT).frames
    assert ((made - other).abs().amax((0, 1, 3, 4)) > 1e-3).all()  # the prompt reaches every frame


def test_up_to_its_length_a_window_changes_nothing(pipe):
    request = Request(
        text=pipe.transformer.pad_text(features()), frames=8, latent_size=(8, 8), generators=[generator()],
        sampling=SamplingConfig(set_steps=4, diffusion_steps=3),
    )  # fmt: skip
    plain = generate(pipe.transformer, FlowMatching(), request)
    assert torch.equal(temporal_keys(pipe, 8, window=8)[1], plain)
    assert torch.equal(temporal_keys(pipe, 8)[1], plain)
    short = temporal_keys(pipe, 8, window=5)[1]
    assert torch.equal(short[:, :, 0], plain[:, :, 0])
    assert not torch.equal(short, plain)
    assert temporal_keys(pipe, 5, window=5)[0] == 4 + 16 + 2 + 4 * 4


def test_the_window_is_four_trained_lengths_by_default(pipe):
    assert pipe.check("red", num_frames=30).window == WINDOW * 5
    with one_line_error("a window of 4 latent frames; at least 5, as the model was trained"):
        pipe("red", window=4)
