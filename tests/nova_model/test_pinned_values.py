"""A training step and samples have the values of earlier versions, bit for bit on the same machine.

`pinned_values.safetensors` was written by version 0.1.0, except for the samples with image guidance, which version
0.2.0 corrected. Kernels differ between CPUs in the last bits, so the test requires equal bits where torch's version and
the CPU are those that wrote the file, and close values elsewhere. To write it again, after a change that is meant to
change values: python -m tests.nova_model.test_pinned_values
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from nova_model.config import SamplingConfig
from nova_model.model import Nova
from nova_model.sampling.request import Request
from nova_model.sampling.schedule import Schedule, schedule_from_config
from nova_model.sampling.video import generate
from tests.nova_model.models import generator, randn, tiny

STORED = Path(__file__).with_name("pinned_values.safetensors")
FLOW = schedule_from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.0})
DDPM = schedule_from_config(
    {"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
)
STEPS = {
    "flow": {"frames": 3, "schedule": FLOW},
    "ddpm": {"frames": 1, "schedule": DDPM},
    "rotary": {"frames": 3, "schedule": FLOW, "rotary_pos_embed": True},
}
SAMPLES: dict[str, dict[str, Any]] = {
    "plain": {},
    "image_guidance": {"guidance_scale": 3.0, "image_guidance_scale": 1.5},
    "renorm": {"guidance_renorm": 0.5, "guidance_trunc": 300.0, "min_guidance_scale": 1.0},
    "corrections": {"corrections": 2, "temperature": 0.85, "negative_motion": 5.0},
}


def training_step(name: str) -> dict[str, Tensor]:
    """The losses, and the norm of every parameter's gradient."""
    changes = dict(STEPS[name])
    frames, schedule = changes.pop("frames"), changes.pop("schedule")
    model = _model(changes)
    losses = model(
        latents=randn(2, 4, frames, 8, 8), text=_text(model), motion=torch.tensor([2.0, 7.0]),
        schedule=schedule, generator=generator(1),
    )  # fmt: skip
    losses.total.backward()
    later = losses.first_frame if losses.later_frames is None else losses.later_frames
    gradients = [torch.zeros(()) if weight.grad is None else weight.grad.norm() for weight in model.parameters()]
    return {
        f"{name}.losses": torch.stack([losses.total, losses.first_frame, later]).detach(),
        f"{name}.gradients": torch.stack(gradients),
    }


def sample(name: str, schedule: Schedule) -> Tensor:
    model = _model({})
    sampling = SamplingConfig(**({"set_steps": 4, "diffusion_steps": 5, "guidance_scale": 4.0} | SAMPLES[name]))
    request = Request(
        text=_text(model), frames=4, latent_size=(8, 8), generators=[generator(3), generator(4)], sampling=sampling,
        first_frames=randn(2, 4, 1, 8, 8) if name == "corrections" else None, window=None,
    )  # fmt: skip
    return generate(model, schedule, request)


def _model(changes: dict[str, Any]) -> Nova:
    if changes.get("rotary_pos_embed"):
        changes |= {"arch": ("vit_d2w64h2", "vit_d4w64h2", "mlp_d2w96")}
    return tiny(5, **changes)


def _text(model: Nova) -> Tensor:
    return model.pad_text([randn(5, 64, seed=1), randn(9, 64, seed=2)])


def computed() -> dict[str, Tensor]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = {key: value for name in STEPS for key, value in training_step(name).items()}
        flow = {f"sample.{name}.flow": sample(name, FLOW) for name in SAMPLES}
        return steps | flow | {f"sample.{name}.ddpm": sample(name, DDPM) for name in SAMPLES}
    finally:
        torch.set_num_threads(threads)


def machine() -> dict[str, str]:
    """What the last bits of a sum depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "cpu": f"{model or platform.processor()} {capability}"}


@pytest.fixture(scope="module")
def values() -> dict[str, Tensor]:
    return computed()


NAMES = [
    *(f"{name}.{kind}" for name in STEPS for kind in ("losses", "gradients")),
    *(f"sample.{name}.{schedule}" for name in SAMPLES for schedule in ("flow", "ddpm")),
]


@pytest.mark.parametrize("name", NAMES)
def test_steps_and_samples_have_the_values_of_earlier_versions(name: str, values: dict[str, Tensor]) -> None:
    with safe_open(STORED, "pt") as file:
        stored, exact = file.get_tensor(name), file.metadata() == machine()
    torch.testing.assert_close(values[name], stored, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-4)


if __name__ == "__main__":
    save_file(computed(), STORED, metadata=machine())
