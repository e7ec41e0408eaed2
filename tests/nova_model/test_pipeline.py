"""NovaPipeline as diffusers' users call it: what it makes, what that depends on, and how mistakes are told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nova_model.checkpoint import load_config
from nova_model.inputs import WINDOW
from nova_model.model import Nova
from nova_model.outputs import NovaPipelineOutput
from nova_model.pipeline import NovaPipeline
from nova_model.sampling import generate
from nova_model.schedule import FlowMatching
from tests.nova_model.folders import make_released, make_vae, make_video_vae
from tests.nova_model.models import generator, one_line_error, randn, tiny

QUICK = {"num_inference_steps": 4, "num_diffusion_steps": 3}
LATENT = {**QUICK, "output_type": "latent"}
RED = Image.new("RGB", (100, 80), (255, 0, 0))


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_released(tmp_path_factory.mktemp("released") / "nova")


@pytest.fixture(scope="module")
def loaded(folder):
    return quiet(NovaPipeline.from_pretrained(folder))


@pytest.fixture
def pipe(loaded):
    """A pipeline of its own, of the same parts."""
    return quiet(NovaPipeline(**loaded.components))


@pytest.fixture(scope="module")
def precise(loaded):
    """In fp64, where rounding does not hide what a sample depends on."""
    parts = {**loaded.components, "transformer": tiny().double()}
    return quiet(NovaPipeline(**parts))


def features(count=1):
    return [randn(5, 64, seed=index) for index in range(count)]


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
    expected = generate(
        model,
        FlowMatching(),
        text=model.pad_text(rows),
        negative_text=model.pad_text([rows[0]] * 2),
        frames=5,
        latent_size=(8, 8),
        generators=[generator(3)],
        motion=torch.tensor([7.0, 2.0]),
        fps=torch.tensor([8.0, 8.0]),
        settings=pipe.check(texts) and _settings(set_steps=4, diffusion_steps=3, guidance_scale=3.0),
    )
    made = pipe(
        texts, negative_prompt=texts[0], motion_score=[7, 2], fps=8, guidance_scale=3, generator=generator(3), **LATENT
    )
    torch.testing.assert_close(made.frames, expected, atol=1e-4, rtol=0)


def _settings(**values):
    from nova_model.config import SamplingConfig

    return SamplingConfig(**values)


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
    model = quiet(NovaPipeline(tiny(text_token_dim=None, label_classes=10), pipe.scheduler, vae=pipe.vae))
    made = model(class_labels=[3, 7], num_frames=1, generator=generator(), output_type="np", **QUICK).images
    other = model(
        class_labels=torch.tensor([3, 8]), num_frames=1, generator=generator(), output_type="np", **QUICK
    ).images
    assert np.abs(made[1] - other[1]).max() > 1e-3
    with one_line_error("takes class_labels, not prompts"):
        model("a cat")
    with one_line_error("class label 11; the model knows 0 to 9"):
        model(class_labels=11)


def test_shift_of_a_call_is_that_of_a_scheduler(pipe):
    from diffusers import FlowMatchEulerDiscreteScheduler

    made = pipe("red", num_frames=1, shift=3, generator=generator(), **LATENT).images
    plain = pipe("red", num_frames=1, generator=generator(), **LATENT).images
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert torch.equal(made, pipe("red", num_frames=1, generator=generator(), **LATENT).images)
    assert not torch.equal(made, plain)


def test_each_scheduler_has_its_own_number_of_steps(pipe):
    from diffusers import DDPMScheduler

    assert pipe._settings(_inputs())[1].diffusion_steps == 25
    pipe.scheduler = DDPMScheduler(clip_sample=False)
    assert pipe._settings(_inputs())[1].diffusion_steps == 100
    with one_line_error("shift is of flow matching; this pipeline has a DDPMScheduler"):
        pipe("red", shift=2.0)


def _inputs(**values):
    from nova_model.inputs import Inputs

    return Inputs(prompt="red", **values)


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


@pytest.fixture
def video_pipe(pipe):
    return quiet(NovaPipeline(**{**pipe.components, "vae": make_video_vae()}))


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
    plain = generate(
        pipe.transformer, FlowMatching(), text=pipe.transformer.pad_text(features()), frames=8, latent_size=(8, 8),
        generators=[generator()], settings=_settings(set_steps=4, diffusion_steps=3),
    )  # fmt: skip
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


# As elsewhere in diffusers.


def test_callbacks_are_told_of_every_set_step(pipe):
    told = []

    def callback(pipeline, step, frame, tensors):
        told.append((step, frame, sorted(tensors), pipeline.num_timesteps))
        assert tensors["latents"].shape == (1, 4, 3, 8, 8)
        assert tensors["latents"][:, :, frame + 1 :].abs().sum() == 0
        return tensors

    names = ["latents", "prompt_embeds"]
    plain = pipe("red", num_frames=3, generator=generator(), **LATENT).frames
    made = pipe(
        "red", num_frames=3, generator=generator(), callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=names, **LATENT,
    ).frames  # fmt: skip
    assert told == [(step, step // 4, names, 12) for step in range(12)]
    assert torch.equal(made, plain)


@pytest.mark.parametrize("in_place", [False, True])
def test_callbacks_may_change_latents(pipe, in_place):
    def callback(pipeline, step, frame, tensors):
        if step == 3:  # the last set of the first frame
            if in_place:
                tensors["latents"][:, :, 0] = 0.5
                return None
            return {"latents": torch.full_like(tensors["latents"], 0.5)}
        return {}

    plain = pipe("red", num_frames=2, generator=generator(), **LATENT).frames
    made = pipe("red", num_frames=2, generator=generator(), callback_on_step_end=callback, **LATENT).frames
    assert (made[:, :, 0] == 0.5).all()
    assert (made[:, :, 1] - plain[:, :, 1]).abs().max() > 1e-2


def test_callbacks_may_change_guidance(pipe):
    """From the third set on without guidance: as if asked for in the first place, where the sets before agree."""

    def off(pipeline, step, frame, tensors):
        if step == 1:
            pipeline._guidance_scale = 0.0
        return tensors

    rows = []
    pipe.transformer.image_decoder.register_forward_pre_hook(lambda *args: None)
    encoder = pipe.transformer.image_encoder
    hook = encoder.register_forward_pre_hook(lambda _, args, given: rows.append(len(given["prefix"])), with_kwargs=True)
    guided = pipe("red", num_frames=2, generator=generator(), **LATENT).frames
    assert set(rows) == {2}
    rows.clear()
    made = pipe("red", num_frames=2, generator=generator(), callback_on_step_end=off, **LATENT).frames
    hook.remove()
    assert rows == [2, 2, 1, 1, 1, 1, 1, 1]
    assert not torch.equal(made, guided)


def test_diffusers_own_callbacks_work(pipe):
    from diffusers.callbacks import SDCFGCutoffCallback

    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=2)
    plain = pipe("red", num_frames=1, generator=generator(), **LATENT).images
    made = pipe("red", num_frames=1, generator=generator(), callback_on_step_end=cutoff, **LATENT).images
    assert pipe.guidance_scale == 0.0
    assert not torch.equal(made, plain)


def test_an_interrupted_call_gives_what_it_has(pipe):
    def stop(pipeline, step, frame, tensors):
        pipeline._interrupt = step == 5
        return tensors

    plain = pipe("red", num_frames=3, generator=generator(), **LATENT).frames
    made = pipe("red", num_frames=3, generator=generator(), callback_on_step_end=stop, **LATENT).frames
    assert torch.equal(made[:, :, 0], plain[:, :, 0])
    second = made[:, :, 1] != 0
    assert torch.equal(made[:, :, 1][second], plain[:, :, 1][second])
    assert 0 < second.float().mean() < 1
    assert made[:, :, 2].abs().sum() == 0
    assert torch.equal(pipe("red", num_frames=3, generator=generator(), **LATENT).frames, plain)


def test_progress_is_shown_unless_switched_off(loaded, capsys):
    pipe = NovaPipeline(**loaded.components)
    pipe("red", num_frames=2, image=RED, **QUICK)
    assert "4/4" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe("red", num_frames=1, **QUICK)
    assert not capsys.readouterr().err


def test_parts_move_together(folder):
    pipe = quiet(NovaPipeline.from_pretrained(folder))
    assert (pipe.device, pipe.dtype) == (torch.device("cpu"), torch.float32)
    pipe.to(torch.bfloat16)
    assert {pipe.transformer.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}
    made = pipe("red", num_frames=2, output_type="np", image=RED, **QUICK).frames
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert pipe.to("meta").device.type == "meta"


def test_whole_parts_are_offloaded(folder, loaded):
    pytest.importorskip("accelerate")
    asked = {**LATENT, "image": RED, "num_frames": 3, "negative_prompt": "blue"}
    expected = loaded("red", generator=generator(), **asked).frames
    pipe = quiet(NovaPipeline.from_pretrained(folder))
    pipe.enable_model_cpu_offload(device="cpu")  # hooks as on a GPU; every part passes through them
    order = watch(pipe)
    made = pipe("red", generator=generator(), **asked).frames
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
    assert list(dict.fromkeys(order)) == ["text_encoder", "vae", "transformer"]
    order = watch(pipe)
    list(pipe.stream("red", generator=generator(), **{**asked, "output_type": "np"}))
    assert order == ["text_encoder", "vae", *["transformer", "vae"] * 3]


def watch(pipe):
    """Notes which parts are brought to the device."""
    order = []
    for name in ("text_encoder", "vae", "transformer"):
        hook = getattr(pipe, name)._hf_hook

        def brought(*args, name=name, before=hook.pre_forward, **kwargs):
            if not order or order[-1] != name:
                order.append(name)
            return before(*args, **kwargs)

        hook.pre_forward = brought
    return order


def test_layers_are_offloaded(folder, loaded):
    """What enable_sequential_cpu_offload does on a GPU: weights of text encoder and VAE come layer by layer."""
    accelerate = pytest.importorskip("accelerate")
    pipe = quiet(NovaPipeline.from_pretrained(folder))
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module) and name not in pipe._exclude_from_cpu_offload:
            accelerate.cpu_offload(part, torch.device("cpu"))
    assert {str(pipe.vae.device), str(pipe.text_encoder.device)} == {"meta"}
    made = pipe("red", image=RED, generator=generator(), **LATENT).frames
    torch.testing.assert_close(made, loaded("red", image=RED, generator=generator(), **LATENT).frames)


def test_a_pipeline_is_light_to_name():
    import subprocess
    import sys

    code = "import sys, nova_model; assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules); " \
        "from nova_model import NovaPipeline; assert NovaPipeline.__name__ == 'NovaPipeline'"  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)


# Mistakes.


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"prompt": None}, "give a prompt, prompt_embeds or class_labels, or an image"),
        ({"prompt": []}, "the list of prompts is empty"),
        ({"prompt_embeds": features()}, "give prompt or prompt_embeds, not both"),
        ({"generator": [generator(), generator()]}, "2 generators for 1 samples; give one, or one a sample"),
        ({"prompt": ["a", "b"], "generator": [generator()]}, "1 generators for 2 samples"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "1 entries in negative_prompt for 2 prompts"),
        ({"prompt": ["a", "b"], "motion_score": [1, 2, 3]}, "3 entries in motion_score for 2 prompts"),
        ({"prompt": ["a", "b", "c"], "image": [RED, RED]}, "2 images or videos are given for 3 prompts"),
        ({"height": 50}, "cannot have a size of 50x64 pixels; .* multiples of 32, such as 64x64"),
        ({"width": 16}, "cannot have a size of 64x16 pixels; .* such as 64x32"),
        ({"image": torch.rand(1, 3, 50, 70)}, "cannot have a size of 50x70 pixels"),
        ({"image": torch.rand(1, 4, 64, 64)}, "given frames have 4 channels; give RGB"),
        ({"image": "picture.png"}, "image holds a str; give PIL images"),
        ({"image": RED, "video": [RED]}, "give image or video, not both"),
        ({"image": RED, "num_frames": 1}, "num_frames is 1, and as many are given"),
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


def test_what_a_pipeline_without_some_parts_cannot_do(pipe):
    bare = quiet(NovaPipeline(pipe.transformer, pipe.scheduler))
    with one_line_error("has no vae; give given_latents and take output_type='latent'"):
        bare(prompt_embeds=features())
    with one_line_error("has no text encoder"):
        bare("red", output_type="latent")
    assert bare(prompt_embeds=features(), **LATENT).frames.shape == (1, 4, 5, 8, 8)
