"""The fast paths give what the plain reference gives: losses, gradients and generations."""

import pytest
import torch

from nova_model.config import SamplingConfig
from nova_model.sampling.request import Request
from nova_model.sampling.schedule import FlowMatching, schedule_from_config
from nova_model.sampling.video import generate
from nova_model.tools import reference
from tests.nova_model.models import generator, randn, tiny

FLOW = FlowMatching(shift=2.0)
DDPM = schedule_from_config({"_class_name": "DDPMScheduler", "clip_sample": False})
IMAGES = {"video_base_size": (1, 2, 2), "video_mixer_rank": None}


@pytest.mark.parametrize("schedule", [FLOW, DDPM], ids=["flow", "ddpm"])
@pytest.mark.parametrize(("frames", "changes"), [(1, IMAGES), (3, {}), (2, {"video_mixer_rank": None})])
@pytest.mark.parametrize("batch", [2, 24])  # more tokens than timesteps take another way through the denoiser
def test_a_training_step(schedule, frames, changes, batch):
    model, latents, text = tiny(**changes), randn(batch, 4, frames, 8, 8), randn(batch, 16, 64, seed=1)
    draws = model.draw(latents, schedule, generator(3), 4)
    assert (draws.noise[..., 0].numel() > schedule.num_train_timesteps) == (batch > 2)
    plain = reference.losses(model, latents=latents, text=text, schedule=schedule, draws=draws)
    plain.total.backward()
    expected = {name: each.grad for name, each in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    context = model.context(text, None, None, batch)
    indicators = model.indicators(model.temporal(context, latents))
    z = model.spatial(latents, indicators.flatten(0, 1), draws.visible, draws.hidden)
    ours = model.diffusion_loss(latents, z, schedule, draws)
    ours.total.backward()
    for one, other in zip(vars(ours).values(), vars(plain).values(), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for name, each in model.named_parameters():
        assert (each.grad is None) == (expected[name] is None), name
        if each.grad is not None:
            torch.testing.assert_close(each.grad, expected[name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("schedule", [FLOW, DDPM], ids=["flow", "ddpm"])
@pytest.mark.parametrize("frames", [1, 3])
@torch.no_grad()
def test_a_generation(schedule, frames, monkeypatch):
    model, text = tiny().double(), randn(2, 16, 64, seed=1).double()  # rounding grows over DDPM's steps
    sampling = SamplingConfig(set_steps=5, diffusion_steps=4, guidance_scale=3.0, min_guidance_scale=1.5)
    arguments = {"text": text, "frames": frames, "latent_size": (8, 8), "sampling": sampling}
    plain = reference.generate(model, schedule, generators=[generator(7)], **arguments)
    ours = generate(model, schedule, Request(generators=[generator(7)], **arguments))
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-6)
    monkeypatch.setattr("nova_model.sampling.diffusion.MODULATION_BYTES", 1)  # one diffusion step's at a time
    alone = generate(model, schedule, Request(generators=[generator(7)], **arguments))
    torch.testing.assert_close(alone, plain, atol=1e-6, rtol=1e-6)
