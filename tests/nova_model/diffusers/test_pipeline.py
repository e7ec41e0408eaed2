"""NovaPipeline as diffusers' users call it: what it makes, of what, and what a sample depends on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nova_model.checkpoints.weights import load_config
from nova_model.config import SamplingConfig
from nova_model.diffusers.outputs import NovaPipelineOutput
from nova_model.diffusers.pipeline import NovaPipeline
from nova_model.model import Nova
from nova_model.sampling.request import Request
from nova_model.sampling.schedule import FlowMatching
from nova_model.sampling.video import generate
from tests.nova_model.folders import make_vae
from tests.nova_model.models import OF_CLASSES, generator, one_line_error, tiny
from tests.nova_model.pipes import LATENT, QUICK, RED, features, quiet

# What is made.


def test_text_to_image(pipe):
    made = pipe("a red ball", num_frames=1, generator=generator(), **QUICK)
    assert isinstance(made, NovaPipelineOutput)
    assert [image.size for image in made.images] == [(64, 64)]
    assert made.frames is None
    assert pipe("a red ball", num_frames=1, generator=generator(), return_dict=False, **QUICK)[0] == made.images


def test_text_to_video_of_the_trained_length_by_default(pipe):
    made = pipe(["a", "b"], generator=generator(), **QUICK)
    assert made.images is None
    assert [len(frames) for frames in made.frames] == [5, 5]


def test_the_forms_of_what_is_shown_agree(pipe):
    made = {kind: pipe("red", generator=generator(), output_type=kind, **QUICK).frames for kind in ("pil", "np", "pt")}
    assert made["np"].shape == (1, 5, 64, 64, 3)
    assert made["pt"].shape == (1, 5, 3, 64, 64)
    assert 0 <= made["np"].min() < made["np"].max() <= 1
    np.testing.assert_array_equal(made["np"], made["pt"].permute(0, 1, 3, 4, 2).numpy())
    whole = (made["np"][0] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(np.stack([np.asarray(frame) for frame in made["pil"][0]]), whole)


def test_pixels_are_what_the_vae_says_to_the_latents(pipe):
    latents = pipe("red", generator=generator(), **LATENT).frames
    shown = pipe("red", generator=generator(), output_type="pt", **QUICK).frames
    vae = make_vae()
    for index in range(5):
        with torch.no_grad():
            pixels = vae.decode(latents[:, :, index] / 0.5 + 0.25).sample
        torch.testing.assert_close(shown[:, index], (pixels / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)


def test_a_call_is_generation_from_the_prompts_features(pipe):
    model, encoder = pipe.transformer, pipe.text_encoder
    texts = ["red ball", "a blue one that moves"]
    rows = []
    for text in texts:
        ids = torch.tensor([pipe.tokenizer(text)["input_ids"]])[:, :16]
        with torch.no_grad():
            rows.append(encoder.model(ids).last_hidden_state[0])
    request = Request(
        text=model.pad_text(rows),
        negative_text=model.pad_text([rows[0]] * 2),
        frames=5,
        latent_size=(8, 8),
        generators=[generator(3)],
        motion=torch.tensor([7.0, 2.0]),
        fps=torch.tensor([8.0, 8.0]),
        sampling=SamplingConfig(set_steps=4, diffusion_steps=3, guidance_scale=3.0),
    )
    expected = generate(model, FlowMatching(), request)
    made = pipe(
        texts, negative_prompt=texts[0], motion_score=[7, 2], fps=8, guidance_scale=3, generator=generator(3), **LATENT
    )
    torch.testing.assert_close(made.frames, expected, atol=1e-4, rtol=0)


GENERATIONS = [
    ("t2i_flow", name) for name in ("gen_seed123", "gen_noguidance_seed5", "gen_trunc_renorm_seed9")
] + [
    ("t2v_ddpm", name)
    for name in ("gen_seed123", "gen_trunc_renorm_seed9", "gen_first_frame_seed11", "gen_extrapolate_seed13")
]  # fmt: skip


@pytest.mark.parametrize(("name", "asked"), GENERATIONS)
def test_the_released_models_samples_from_their_seeds(shared, name, asked):
    import diffusers

    folder = shared / "golden" / name
    golden, tensors = json.loads((folder / "golden.json").read_text()), load_file(folder / "golden.safetensors")
    model = Nova(load_config(folder)).eval()
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    values = golden["scheduler"]
    kinds = {"flow": diffusers.FlowMatchEulerDiscreteScheduler, "ddpm": diffusers.DDPMScheduler}
    scheduler = kinds[values["kind"]].from_config({key: value for key, value in values.items() if key != "kind"})
    settings = dict(golden["generations"][asked])
    first = settings.pop("first_frame")
    made = quiet(NovaPipeline(model, scheduler))(
        prompt_embeds=[tensors["prompt_0"], tensors["prompt_1"]],
        num_frames=settings.pop("latent_frames"),
        num_inference_steps=settings.pop("set_steps"),
        num_diffusion_steps=settings.pop("diffusion_steps"),
        motion_score=settings.pop("motion_flow"),
        generator=generator(settings.pop("seed")),
        height=8 * tensors["latents"].shape[-2],
        width=8 * tensors["latents"].shape[-1],
        given_latents=tensors["latents"][:, :, :1] if first else None,
        output_type="latent",
        return_dict=False,
        **settings,
    )[0]
    torch.testing.assert_close(made, tensors[asked], atol=3e-4, rtol=1e-3)


# What goes in.


@pytest.mark.parametrize(
    "image",
    [
        RED,
        np.full((64, 64, 3), [255, 0, 0], np.uint8),
        np.full((1, 64, 64, 3), [1.0, 0, 0]),
        torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 64, 64),
        [RED],
    ],
    ids=["pil", "bytes", "array", "tensor", "list"],
)
def test_image_to_video(pipe, image):
    """In every form that diffusers takes, also without a prompt: the first frame is the picture as the VAE keeps it."""
    made = pipe(image=image, num_frames=3, generator=generator(), **LATENT).frames
    with torch.no_grad():
        pixels = torch.tensor([1.0, -1, -1])[None, :, None, None].expand(1, 3, 64, 64)
        kept = (make_vae().encode(pixels).latent_dist.mean - 0.25) * 0.5
    torch.testing.assert_close(made[:, :, 0], kept, atol=1e-4, rtol=0)
    other = pipe(image=Image.new("RGB", (64, 64)), num_frames=3, generator=generator(), **LATENT).frames
    assert ((other - made)[:, :, 1:].abs().amax((0, 1, 3, 4)) > 1e-4).all()


@pytest.mark.parametrize("kind", ["pil", "np", "pt", "several"])
def test_video_to_video(pipe, kind):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 2, 64, 64, 3), dtype=np.uint8)
    video = {
        "pil": [Image.fromarray(frame) for frame in frames[0]],
        "np": frames[0] / 255,
        "pt": torch.from_numpy(frames[:1]).permute(0, 1, 4, 2, 3),
        "several": [[Image.fromarray(frame) for frame in each] for each in frames],
    }[kind]
    made = pipe(
        "red", video=video if kind != "np" else video[None], num_frames=4, generator=generator(), **LATENT
    ).frames
    assert made.shape == (2 if kind == "several" else 1, 4, 4, 8, 8)
    with torch.no_grad():
        pixels = torch.from_numpy(frames[0]).permute(0, 3, 1, 2) / 127.5 - 1
        kept = (make_vae().encode(pixels).latent_dist.mean - 0.25) * 0.5
    torch.testing.assert_close(made[0, :, :2], kept.transpose(0, 1), atol=1e-4, rtol=0)


def test_going_on_from_latents_that_were_made(pipe):
    first = pipe("red", num_frames=2, generator=generator(), **LATENT).frames
    made = pipe("red", given_latents=first, num_frames=4, generator=generator(1), **LATENT).frames
    assert torch.equal(made[:, :, :2], first)
    assert made[:, :, 2:].abs().amin() > 0


@pytest.mark.parametrize("size", [(32, 64), (96, 32)])
def test_other_sizes_than_the_trained_one(pipe, size):
    made = pipe("red", num_frames=1, height=size[0], width=size[1], output_type="np", **QUICK).images
    assert made.shape == (1, *size, 3)


def test_arrays_give_the_size_of_the_video_and_pictures_are_resized(pipe):
    small = torch.rand(1, 3, 32, 64)
    assert pipe(image=small, num_frames=2, **LATENT).frames.shape[-2:] == (4, 8)
    assert pipe(image=small, height=64, width=64, num_frames=2, **LATENT).frames.shape[-2:] == (8, 8)
    assert pipe(image=RED, num_frames=2, **LATENT).frames.shape[-2:] == (8, 8)


def test_features_computed_beforehand(pipe):
    expected = pipe("red ball", negative_prompt="blue", generator=generator(), **LATENT).frames
    embeds, negative = pipe.encode_prompt("red ball"), pipe.encode_prompt("blue")
    assert embeds[0].shape[1] == 64
    for form in (embeds, torch.stack(embeds), pipe.transformer.pad_text(embeds)):
        made = pipe(prompt_embeds=form, negative_prompt_embeds=negative, generator=generator(), **LATENT).frames
        assert torch.equal(made, expected)
    assert (pipe("red ball", generator=generator(), **LATENT).frames - expected).abs().max() > 1e-2


def test_an_empty_prompt_is_the_unconditional_one(pipe):
    made = pipe("", num_frames=2, generator=generator(), **LATENT).frames
    null = pipe(prompt_embeds=torch.zeros(1, 0, 64), num_frames=2, generator=generator(), **LATENT).frames
    assert torch.equal(made, null)


def test_a_model_of_classes(pipe):
    model = quiet(NovaPipeline(tiny(**OF_CLASSES, label_classes=10), pipe.scheduler, vae=pipe.vae))
    made = model(class_labels=[3, 7], num_frames=1, generator=generator(), output_type="np", **QUICK).images
    other = model(
        class_labels=torch.tensor([3, 8]), num_frames=1, generator=generator(), output_type="np", **QUICK
    ).images
    assert np.abs(made[1] - other[1]).max() > 1e-3
    options = {"num_frames": 1, **LATENT}
    request = Request(
        text=torch.tensor([3, 7]), frames=1, latent_size=(8, 8), generators=[generator()],
        sampling=SamplingConfig(set_steps=4, diffusion_steps=3),
    )  # fmt: skip
    expected = generate(model.transformer, FlowMatching(), request)
    for labels in ([3, 7], torch.tensor([3, 7], dtype=torch.uint8), np.array([3, 7]), (np.int64(3), 7)):
        assert torch.equal(model(class_labels=labels, generator=generator(), **options).images, expected)
    assert model(class_labels=4, image=[RED, RED], num_frames=2, **LATENT).frames.shape == (2, 4, 2, 8, 8)
    null = model(class_labels=10, guidance_scale=1, generator=generator(), **options).images
    torch.testing.assert_close(model(class_labels=10, generator=generator(), **options).images, null)


def test_a_model_of_classes_is_saved_and_read(pipe, tmp_path):
    model = quiet(NovaPipeline(tiny(**OF_CLASSES, label_classes=10), pipe.scheduler, vae=pipe.vae))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "transformer" / "config.json").read_text())
    del config["label_classes"]  # as released: the weights have it
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    loaded = quiet(NovaPipeline.from_pretrained(tmp_path))
    assert (loaded.text_encoder, loaded.tokenizer) == (None, None)
    images = [
        each(class_labels=[3, 7], num_frames=1, generator=generator(), **LATENT).images for each in (model, loaded)
    ]
    torch.testing.assert_close(*images)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"prompt": "a cat"}, "this model takes class_labels, not prompts"),
        ({"prompt_embeds": torch.zeros(1, 5, 64)}, "this model takes class_labels, not prompts"),
        ({"class_labels": 3, "negative_prompt": "a cat"}, "this model takes class_labels, not prompts"),
        ({"class_labels": 11}, "class label 11; the model has classes 0 to 9, and 10 for no class"),
        ({"class_labels": [3, -1]}, "class label -1; the model has classes 0 to 9"),
        ({"class_labels": 1.5}, "class labels are float32 of shape .*; give one whole number per sample"),
        ({"class_labels": True}, "class labels are bool"),
        ({"class_labels": "cat"}, "class_labels is 'cat'; give the number of a class, or a list with one for each"),
        ({"class_labels": [3, "cat"]}, r"class_labels is \[3, 'cat'\]; give the number of a class"),
        ({"class_labels": []}, "the list of prompts is empty"),
        ({"class_labels": [1, 2], "image": [RED] * 3}, "3 images or videos are given for 2 prompts"),
    ],
)
def test_what_a_model_of_classes_does_not_take_is_a_one_line_error(pipe, options, match):
    model = quiet(NovaPipeline(tiny(**OF_CLASSES, label_classes=10), pipe.scheduler, vae=pipe.vae))
    with one_line_error(match):
        model(**options)
    if options.keys() == {"prompt"}:
        with one_line_error(match):
            model.encode_prompt("a cat")


def test_shift_of_a_call_is_that_of_a_scheduler(pipe):
    from diffusers import FlowMatchEulerDiscreteScheduler

    made = pipe("red", num_frames=1, shift=3, generator=generator(), **LATENT).images
    plain = pipe("red", num_frames=1, generator=generator(), **LATENT).images
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert torch.equal(made, pipe("red", num_frames=1, generator=generator(), **LATENT).images)
    assert not torch.equal(made, plain)


def test_each_scheduler_has_its_own_number_of_steps(pipe):
    from diffusers import DDPMScheduler

    assert pipe._prepare(prompt="red")[0].sampling.diffusion_steps == 25
    pipe.scheduler = DDPMScheduler(clip_sample=False)
    assert pipe._prepare(prompt="red")[0].sampling.diffusion_steps == 100
    with one_line_error("shift has no effect with DDPMScheduler; leave it out"):
        pipe("red", shift=2.0)


# What a sample depends on.


def test_a_sample_does_not_depend_on_what_it_was_made_with(precise):
    rows = features(3)
    together = precise(prompt_embeds=rows, generator=[generator(seed) for seed in (5, 6, 7)], **LATENT).frames
    alone = precise(prompt_embeds=rows[1:2], generator=[generator(6)], **LATENT).frames
    single = precise(prompt_embeds=rows[1:2], generator=generator(6), **LATENT).frames
    torch.testing.assert_close(together[1:2], alone, atol=1e-7, rtol=0)
    assert torch.equal(alone, single)


def test_several_samples_of_a_prompt_stand_beside_each_other(precise):
    rows, seeds = features(2), (1, 2, 3, 4)
    made = precise(
        prompt_embeds=rows, num_images_per_prompt=2, generator=[generator(seed) for seed in seeds], motion_score=[3, 8],
        **LATENT,
    ).frames  # fmt: skip
    assert len(made) == 4
    second = precise(prompt_embeds=rows[1:], generator=generator(3), motion_score=8, **LATENT).frames
    torch.testing.assert_close(made[2:3], second, atol=1e-7, rtol=0)
    assert (made[2] - made[3]).abs().max() > 0.1


def test_without_a_generator_torchs_seed_decides(pipe):
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(pipe("red", num_frames=1, **LATENT).images)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
