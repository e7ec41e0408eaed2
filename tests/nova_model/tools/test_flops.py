"""The formulas against torch's own counter, which watches the model run."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nova_model.config import SamplingConfig
from nova_model.model import Draws, Nova
from nova_model.presets import PRESETS
from nova_model.sampling import diffusion
from nova_model.sampling.request import Request
from nova_model.sampling.schedule import FlowMatching
from nova_model.sampling.video import generate
from nova_model.tools import flops
from tests.nova_model.models import OF_CLASSES, generator, randn

CHANGES = {
    "tiny": {},
    "images": {"video_base_size": (1, 2, 2), "video_mixer_rank": None},
    "vanilla AdaLN": {"video_mixer_rank": -1},
    "labels": {**OF_CLASSES, "label_classes": 7},
    "rotary": {"rotary_pos_embed": True, "arch": ("vit_d2w64h2", "vit_d4w64h2", "mlp_d2w96")},
    "one layer": {"arch": ("vit_d1w64", "vit_d1w64", "mlp_d1w32")},
    "odd depth": {"arch": ("vit_d3w64", "vit_d5w64", "mlp_d3w32")},
    "no temporal part": {"sees_frames": False},
}


@pytest.fixture(params=list(CHANGES))
def config(request):
    return replace(PRESETS["tiny"], **CHANGES[request.param])


def counted(work):
    """Operations of matrices and convolutions while `work` runs; attention as the products that it is made of."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        work()
    return counter


def prompt_of(config, batch):
    if config.text_token_dim is None:
        return torch.arange(batch) % config.label_classes
    return randn(batch, config.text_token_len, config.text_token_dim)


@pytest.mark.parametrize(("batch", "frames", "visible", "repeat"), [(1, 1, 3, 4), (2, 3, 0, 1), (2, 2, 5, 20)])
def test_a_training_step(config, batch, frames, visible, repeat):
    model, rows = Nova(config), batch * frames
    latents = randn(batch, 4, frames, 8, 12)
    tokens = 24
    draws = Draws(
        visible=torch.rand(rows, tokens).argsort(1)[:, :visible],
        index=torch.zeros(repeat * rows, tokens, dtype=torch.long),
        noise=randn(repeat * rows, tokens, 16),
    )

    def step():
        context = model.context(prompt_of(config, batch), None, None, batch)
        indicators = model.indicators(model.temporal(context, latents))
        z = model.spatial(latents, indicators.flatten(0, 1), draws.visible, draws.hidden)
        model.diffusion_loss(latents, z, FlowMatching(), draws)

    found = flops.training_forward(
        config, flops.Sizes.of(config, 8, 12), batch=batch, frames=frames, visible=visible, loss_repeat=repeat
    )
    counter = counted(step)
    assert found.total == counter.get_total_flops()
    by_module = {name: sum(each.values()) for name, each in counter.get_flop_counts().items()}
    assert found.denoiser == next(count for name, count in by_module.items() if name.endswith("Denoiser"))
    # Patches are embedded outside the encoders' own calls.
    embedded = flops.linear(rows * visible, 16, 64)
    spatial = next(count for name, count in by_module.items() if name.endswith("SpatialEncoder"))
    assert found.spatial == spatial + embedded


@pytest.mark.parametrize(
    ("batch", "frames", "sampling"),
    [
        (1, 1, SamplingConfig(set_steps=5, diffusion_steps=3, guidance_scale=1.0)),
        (2, 3, SamplingConfig(set_steps=3, diffusion_steps=4, guidance_scale=5.0)),
        (1, 2, SamplingConfig(set_steps=25, diffusion_steps=2, image_guidance_scale=2.0)),
        (1, 2, SamplingConfig(set_steps=2, diffusion_steps=2, guidance_renorm=0.5)),
        (2, 2, SamplingConfig(set_steps=6, diffusion_steps=2, corrections=2)),
    ],
    ids=["alone", "guided", "image guidance", "renorm", "corrected"],
)
def test_a_generation(config, batch, frames, sampling, monkeypatch):
    monkeypatch.setattr(diffusion, "MODULATION_BYTES", 20_000)  # several runs of steps
    model = Nova(config).eval()
    request = Request(
        text=prompt_of(config, batch), frames=frames, latent_size=(8, 12), generators=[generator()], sampling=sampling
    )
    counter = counted(lambda: generate(model, FlowMatching(), request))
    found = flops.generation(config, flops.Sizes.of(config, 8, 12), sampling, batch=batch, frames=frames)
    assert found.total == counter.get_total_flops()


def test_a_spatial_layer_by_hand():
    config = replace(PRESETS["tiny"], arch=("vit_d1w64", "vit_d1w64", "mlp_d1w32"))
    sizes = flops.Sizes.of(config, 4, 4)
    assert (sizes.spatial, sizes.temporal) == (4, 1)
    found = flops.training_forward(config, sizes, batch=1, frames=1, visible=0, loss_repeat=1)
    seen = 5  # one temporal token and four masked ones
    keys_values, queries_output, mlp = 2 * seen * 64 * 128, 2 * 2 * 4 * 64 * 64, 2 * 2 * 4 * 64 * 256
    attention = 2 * 2 * 4 * seen * 64
    assert found.spatial == keys_values + queries_output + mlp + attention
