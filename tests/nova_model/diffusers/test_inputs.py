"""Mistakes of a call: one line each, before any heavy work."""

from __future__ import annotations

import inspect
from dataclasses import fields

import numpy as np
import pytest
import torch

from nova_model.config import SamplingConfig
from nova_model.diffusers.inputs import SAMPLING_OPTIONS, Inputs
from nova_model.diffusers.pipeline import NovaPipeline
from nova_model.vae.codec import Codec, whole_tiles
from nova_model.vae.video_vae import VideoVae
from tests.nova_model.models import generator, one_line_error
from tests.nova_model.pipes import LATENT, RED, features, quiet


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"prompt": None}, "give a prompt, prompt_embeds or class_labels, or an image"),
        ({"prompt": []}, "the list of prompts is empty"),
        ({"prompt_embeds": features()}, "give prompt or prompt_embeds, not both"),
        ({"generator": [generator(), generator()]}, "2 generators for 1 samples; give one, or one per sample"),
        ({"prompt": ["a", "b"], "generator": [generator()]}, "1 generators for 2 samples"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "1 entries in negative_prompt for 2 prompts"),
        ({"prompt": ["a", "b"], "motion_score": [1, 2, 3]}, "3 entries in motion_score for 2 prompts"),
        ({"prompt": ["a", "b", "c"], "image": [RED, RED]}, "2 images or videos are given for 3 prompts"),
        ({"height": 50}, "cannot have a size of 50x64 pixels; .* multiples of 32, such as 64x64"),
        ({"width": 16}, "cannot have a size of 64x16 pixels; .* such as 64x32"),
        ({"image": torch.rand(1, 3, 50, 70)}, "cannot have a size of 50x70 pixels"),
        ({"image": torch.rand(1, 4, 64, 64)}, "given frames have 4 channels; give RGB"),
        ({"image": np.zeros((64, 64))}, r"image has shape \(64, 64\); an image has rows"),
        ({"image": []}, "image is an empty list or holds several kinds"),
        ({"image": [RED, torch.rand(3, 64, 64)]}, "image is an empty list or holds several kinds"),
        ({"prompt": 5}, "prompt holds a int; give text, or a list"),
        ({"negative_prompt": ["a", None]}, "negative_prompt holds a NoneType"),
        ({"generator": 0}, "generator holds a int; give a torch.Generator, or a list"),
        ({"prompt": None, "prompt_embeds": "a cat"}, "prompt_embeds holds a str; give a tensor"),
        ({"image": "picture.png"}, "image holds a str; give PIL images"),
        ({"image": RED, "video": [RED]}, "give image or video, not both"),
        ({"image": RED, "num_frames": 1}, "num_frames is 1, but the first frames already fill it; give more"),
        ({"num_frames": 0}, "num_frames is 0; at least 1"),
        (
            {"given_latents": torch.zeros(1, 3, 1, 8, 8)},
            r"given_latents are \(1, 3, 1, 8, 8\); the model takes \[B, 4,",
        ),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 5, 32)}, r"features of shape \(5, 32\); .* \[up to 16, 64"),
        ({"prompt": None, "prompt_embeds": torch.zeros(17, 64)}, r"features of shape \(17, 64\)"),
        ({"output_type": "jpg"}, "output_type is 'jpg'; one of pil, np, pt, latent"),
        ({"class_labels": 3, "prompt": None}, "takes prompts, not class_labels"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
        ({"num_inference_steps": 0}, "must be at least 1"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "has noise; one of latents, prompt_embeds"),
    ],
)
def test_mistakes_are_one_line_before_any_heavy_work(pipe, monkeypatch, asked, match):
    for part in (pipe.transformer.video_encoder, pipe.vae.encoder, pipe.text_encoder):
        monkeypatch.setattr(part, "forward", lambda *args, **kwargs: pytest.fail("worked before it looked"))
    with one_line_error(match):
        pipe(**{"prompt": "red", "num_frames": 3, **asked})


def test_sampling_settings_are_given_whole_or_one_by_one(pipe):
    settings = SamplingConfig(set_steps=4, diffusion_steps=3, guidance_scale=3.0, temperature=0.9)
    options = {"num_frames": 1, "output_type": "latent"}
    by_config = pipe("red", sampling=settings, generator=generator(), **options).images
    by_options = pipe("red", guidance_scale=3.0, temperature=0.9, generator=generator(), **{**options, **LATENT}).images
    assert torch.equal(by_config, by_options)
    with one_line_error("give sampling or guidance_scale, not both"):
        pipe("red", sampling=settings, guidance_scale=3.0)
    with one_line_error("give sampling or num_inference_steps, not both"):
        pipe.stream("red", sampling=settings, num_inference_steps=4)


def test_every_sampling_setting_is_an_option_of_a_call():
    parameters = inspect.signature(NovaPipeline.__call__).parameters
    assert set(SAMPLING_OPTIONS) <= set(parameters)
    assert {field.name for field in fields(Inputs)} <= set(parameters)


def test_what_a_pipeline_without_some_parts_cannot_do(pipe):
    bare = quiet(NovaPipeline(pipe.transformer, pipe.scheduler))
    with one_line_error("has no vae; give given_latents and take output_type='latent'"):
        bare(prompt_embeds=features())
    with one_line_error("has no text encoder"):
        bare("red", output_type="latent")
    assert bare(prompt_embeds=features(), **LATENT).frames.shape == (1, 4, 5, 8, 8)


def test_a_length_that_nobody_names_fills_the_vaes_tiles():
    small = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
    codec = Codec(VideoVae(**small))
    assert [whole_tiles(latents, codec) for latents in (9, 8, 5, 3, 1)] == [33, 17, 17, 9, 1]
