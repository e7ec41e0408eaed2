"""What users of diffusers expect of any pipeline: callbacks, progress, moving and offloading."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import nova_model
from nova_model.diffusers.pipeline import NovaPipeline
from tests.nova_model.models import generator
from tests.nova_model.pipes import LATENT, QUICK, RED, quiet


def test_callbacks_run_after_every_set_step(pipe):
    calls = []

    def callback(pipeline, step, frame, tensors):
        calls.append((step, frame, sorted(tensors), pipeline.num_timesteps))
        assert tensors["latents"].shape == (1, 4, 3, 8, 8)
        assert tensors["latents"][:, :, frame + 1 :].abs().sum() == 0
        return tensors

    names = ["latents", "prompt_embeds"]
    plain = pipe("red", num_frames=3, generator=generator(), **LATENT).frames
    made = pipe(
        "red", num_frames=3, generator=generator(), callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=names, **LATENT,
    ).frames  # fmt: skip
    assert calls == [(step, step // 4, names, 12) for step in range(12)]
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


def test_callbacks_run_after_corrections_and_can_end_them(pipe):
    """Four sets, the last of which sees half of the tokens and more; each correction repeats that one."""
    settings = {**LATENT, "num_frames": 2, "corrections": 2}
    steps = []

    def listen(pipeline, step, frame, tensors):
        steps.append((step, frame))
        return tensors

    def stop(pipeline, step, frame, tensors):
        pipeline._interrupt = step == 4
        return tensors

    corrected = pipe("red", generator=generator(), callback_on_step_end=listen, **settings).frames
    assert steps == [(step, step // 6) for step in range(pipe.num_timesteps)]
    assert len(steps) == 12
    made = pipe("red", generator=generator(), callback_on_step_end=stop, **settings).frames
    once = pipe("red", generator=generator(), **{**settings, "corrections": 1}).frames
    assert torch.equal(made[:, :, 0], once[:, :, 0])
    assert not torch.equal(made[:, :, 0], corrected[:, :, 0])
    assert made[:, :, 1].abs().sum() == 0


def test_progress_is_shown_unless_switched_off(loaded, capsys):
    pipe = NovaPipeline(**loaded.components)
    pipe("red", num_frames=2, image=RED, **QUICK)
    assert "4/4" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe("red", num_frames=1, **QUICK)
    assert not capsys.readouterr().err


def test_components_move_together(released_folder):
    pipe = quiet(NovaPipeline.from_pretrained(released_folder))
    assert (pipe.device, pipe.dtype) == (torch.device("cpu"), torch.float32)
    pipe.to(torch.bfloat16)
    assert {pipe.transformer.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}
    made = pipe("red", num_frames=2, output_type="np", image=RED, **QUICK).frames
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert pipe.to("meta").device.type == "meta"


def test_whole_networks_are_offloaded(released_folder, loaded):
    pytest.importorskip("accelerate")
    asked = {**LATENT, "image": RED, "num_frames": 3, "negative_prompt": "blue"}
    expected = loaded("red", generator=generator(), **asked).frames
    pipe = quiet(NovaPipeline.from_pretrained(released_folder))
    pipe.enable_model_cpu_offload(device="cpu")  # hooks as on a GPU; every network passes through them
    order = watch(pipe)
    made = pipe("red", generator=generator(), **asked).frames
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
    assert list(dict.fromkeys(order)) == ["text_encoder", "vae", "transformer"]
    order = watch(pipe)
    list(pipe.stream("red", generator=generator(), **{**asked, "output_type": "np"}))
    assert order == ["text_encoder", "vae", *["transformer", "vae"] * 3]


def watch(pipe):
    """Records the order in which networks are moved to the device."""
    order = []
    for name in ("text_encoder", "vae", "transformer"):
        hook = getattr(pipe, name)._hf_hook

        def pre_forward(*args, name=name, before=hook.pre_forward, **kwargs):
            if not order or order[-1] != name:
                order.append(name)
            return before(*args, **kwargs)

        hook.pre_forward = pre_forward
    return order


def test_layers_are_offloaded(released_folder, loaded):
    """What enable_sequential_cpu_offload does on a GPU: weights of text encoder and VAE come layer by layer."""
    accelerate = pytest.importorskip("accelerate")
    pipe = quiet(NovaPipeline.from_pretrained(released_folder))
    for name, component in pipe.components.items():
        if isinstance(component, torch.nn.Module) and name not in pipe._exclude_from_cpu_offload:
            accelerate.cpu_offload(component, torch.device("cpu"))
    assert {str(pipe.vae.device), str(pipe.text_encoder.device)} == {"meta"}
    made = pipe("red", image=RED, generator=generator(), **LATENT).frames
    torch.testing.assert_close(made, loaded("red", image=RED, generator=generator(), **LATENT).frames)


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_offload"])
def test_offloading_on_a_gpu(released_folder, way):
    asked = {**QUICK, "image": RED, "negative_prompt": "blue", "output_type": "np"}
    whole = quiet(NovaPipeline.from_pretrained(released_folder)).to("cuda")
    expected = whole("red", generator=generator(), **asked).frames
    pipe = quiet(NovaPipeline.from_pretrained(released_folder))
    of_groups = {"onload_device": torch.device("cuda"), "offload_type": "leaf_level"}
    getattr(pipe, way)(**(of_groups if "group" in way else {}))
    made = pipe("red", generator=generator(), **asked).frames
    np.testing.assert_allclose(made, expected, atol=1e-2)
    streamed = np.concatenate(list(pipe.stream("red", generator=generator(), **asked)), axis=1)
    np.testing.assert_allclose(streamed, expected, atol=1e-2)


def test_a_compiled_transformer_is_saved_as_any_other(pipe, tmp_path):
    expected = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    pipe.transformer = torch.compile(pipe.transformer)
    pipe.save_pretrained(tmp_path)
    saved = NovaPipeline.from_pretrained(tmp_path).transformer.state_dict()
    assert list(saved) == list(expected)
    assert all(torch.equal(value, saved[name]) for name, value in expected.items())


def test_the_package_is_light_to_import_and_names_the_pipeline():
    code = "import sys, nova_model; assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert nova_model.NovaPipeline is NovaPipeline
