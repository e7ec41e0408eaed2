"""Every tensor of the reference material: passes of the released model, and generations from their seeds."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from nova_model.checkpoint import check_keys, load_config
from nova_model.config import SamplingConfig
from nova_model.model import Draws, Nova
from nova_model.sampling import generate
from nova_model.schedule import schedule_from_config
from tests.nova_model.models import generator

SCHEDULERS = {"flow": "FlowMatchEulerDiscreteScheduler", "ddpm": "DDPMScheduler"}
INPUTS = {
    "latents",
    "prompt_0",
    "prompt_1",
    "train_visible_ids",
    "train_timesteps",
    "train_noise",
    "motion_flow",
    "fps",
}
PASS = ["text_padded", "context", "temporal_out", "spatial_out", "denoiser_out"]
PASSES = {"t2i_flow": [*PASS, "loss"], "t2v_ddpm": [*PASS, "context_with_motion", "loss_t2i", "loss_i2i"]}
TABLES = {"t2i_flow": ["sched_timesteps_5", "sched_sigmas_5"], "t2v_ddpm": ["sched_timesteps_5"]}
COMMON = ["gen_seed123", "gen_noguidance_seed5", "gen_trunc_renorm_seed9", "gen_renorm_floor_seed19"]
GENERATIONS = {"t2i_flow": COMMON, "t2v_ddpm": [*COMMON, "gen_first_frame_seed11", "gen_extrapolate_seed13"]}


def cases(named):
    return [(folder, name) for folder, names in named.items() for name in names]


@pytest.fixture(scope="module")
def golden(shared):
    """Reads a folder once: its model, schedule, tensors, and settings of generations."""
    loaded = {}

    def load(name):
        if name not in loaded:
            folder = shared / "golden" / name
            model, weights = Nova(load_config(folder)), load_file(folder / "weights.safetensors")
            check_keys(model, weights)
            model.load_state_dict(weights)
            settings = json.loads((folder / "golden.json").read_text())
            scheduler = settings["scheduler"]
            scheduler["_class_name"] = SCHEDULERS[scheduler.pop("kind")]
            loaded[name] = SimpleNamespace(
                model=model.eval(),
                schedule=schedule_from_config(scheduler),
                tensors=load_file(folder / "golden.safetensors"),
                settings=settings,
            )
        return loaded[name]

    return load


@pytest.fixture(scope="module")
def passed(golden):
    """Everything that a training pass computes on the way, from the same inputs and draws."""
    done = {}

    def run(name):
        if name not in done:
            with torch.no_grad():
                done[name] = training_pass(golden(name))
        return done[name]

    return run


def training_pass(case):
    model, given, schedule = case.model, case.tensors, case.schedule
    latents, visible, noise = given["latents"], given["train_visible_ids"], given["train_noise"]
    text = model.pad_text([given["prompt_0"], given["prompt_1"]])
    context = model.context(text, given.get("motion_flow"), given.get("fps"), len(latents))
    spatial = model.spatial(latents, model.indicators(context, latents).flatten(0, 1), visible)
    repeats = len(noise) // len(spatial)
    assert repeats == case.settings["loss_repeat"]
    x = model.frame_tokens(latents).repeat(repeats, 1, 1)
    noised = schedule.noised(x, noise, given["train_timesteps"])
    draws = Draws(visible=visible, index=given["train_timesteps"], noise=noise)
    losses = model.losses(latents, model.indicators(context, latents), schedule, draws)
    return {
        "text_padded": text,
        "context": model.text_embed(text),
        "context_with_motion": context,
        "temporal_out": model.temporal(context, latents),
        "spatial_out": spatial,
        "denoiser_out": model.image_decoder(x_t=noised.x_t, t=noised.t, z=spatial.repeat(repeats, 1, 1)),
        "loss": losses.total,
        "loss_t2i": losses.first_frame,
        "loss_i2i": losses.later_frames,
    }


@pytest.mark.parametrize("folder", PASSES)
def test_no_reference_tensor_is_left_out(golden, folder):
    tested = {*PASSES[folder], *TABLES[folder], *GENERATIONS[folder]}
    assert set(golden(folder).tensors) - INPUTS == tested
    assert set(golden(folder).settings["generations"]) == set(GENERATIONS[folder])


@pytest.mark.parametrize(("folder", "name"), cases(PASSES))
def test_a_training_pass(golden, passed, folder, name):
    expected = golden(folder).tensors[name]
    value = passed(folder)[name]
    assert value.numel() == expected.numel()
    torch.testing.assert_close(value.reshape(expected.shape), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("folder", "name"), cases(TABLES))
def test_a_schedules_table(golden, folder, name):
    case = golden(folder)
    table = case.schedule.timesteps(5) if "timesteps" in name else case.schedule.sigmas(5)
    torch.testing.assert_close(table.double(), case.tensors[name].double(), atol=1e-3, rtol=1e-6)


@pytest.mark.parametrize(("folder", "name"), cases(GENERATIONS))
def test_a_generation_from_its_seed(golden, folder, name):
    case = golden(folder)
    asked, latents = case.settings["generations"][name], case.tensors["latents"]
    keys = ("set_steps", "diffusion_steps", "guidance_scale", "min_guidance_scale", "guidance_trunc", "guidance_renorm")
    with torch.no_grad():
        made = generate(
            case.model,
            case.schedule,
            text=case.model.pad_text([case.tensors["prompt_0"], case.tensors["prompt_1"]]),
            frames=asked["latent_frames"],
            latent_size=tuple(latents.shape[-2:]),
            generators=[generator(asked["seed"])],
            settings=SamplingConfig(**{key: asked[key] for key in keys if key in asked}),
            motion=torch.full((2,), asked["motion_flow"]),
            fps=torch.full((2,), float(asked["fps"])),
            first_frames=latents[:, :, :1] if asked["first_frame"] else None,
        )
    torch.testing.assert_close(made, case.tensors[name], atol=3e-4, rtol=1e-3)
