"""Counted bytes against tensors that are really there, and against torch's profiler."""

import json
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from nova_model.config import NETWORKS
from nova_model.model import Nova
from nova_model.presets import PRESETS
from nova_model.tools import memory
from nova_model.tools.memory import Allocations, Step, activation_bytes, step_bytes

STEP = Step(batch=2, frames=3, latent_size=(8, 12), visible=3, loss_repeat=4, precision="fp32")
CONFIG = replace(PRESETS["tiny"], arch=("vit_d4w64", "vit_d8w64", "mlp_d4w96"))


def real(checkpointing=()):
    model = Nova(CONFIG, checkpointing).train()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


def profiled_peak(model, step, tmp_path):
    """Most bytes that the profiler saw allocated, beyond what was allocated before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step_bytes(model, step)
    seen.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    totals = [each["args"] for each in events if each.get("name") == "[memory]"]
    before = totals[0]["Total Allocated"] - totals[0]["Bytes"]
    return max(each["Total Allocated"] for each in totals) - before


def test_storages_are_counted_once_and_until_they_are_freed():
    known = torch.zeros(1000)
    with Allocations([known]) as counted:
        first = torch.ones(100)
        view = first[:50].view(5, 10)
        torch.mul(known, 1)
        assert counted.now == 400
        del first
        assert counted.now == 400
        del view
        assert counted.now == 0
    assert counted.peak == 400 + 4000


@pytest.mark.parametrize("checkpointing", [(), ("spatial",), NETWORKS], ids=["plain", "spatial", "all"])
def test_tensors_without_values_are_counted_as_real_ones(checkpointing):
    assert activation_bytes(CONFIG, STEP, checkpointing) == pytest.approx(
        step_bytes(real(checkpointing), STEP), rel=0.01
    )


@pytest.mark.parametrize("checkpointing", [(), NETWORKS], ids=["plain", "all"])
def test_the_profiler_sees_as_much(checkpointing, tmp_path):
    model = real(checkpointing)
    step_bytes(model, STEP)  # what torch allocates once
    assert activation_bytes(CONFIG, STEP, checkpointing) == pytest.approx(
        profiled_peak(model, STEP, tmp_path), rel=0.05
    )


def test_checkpointing_keeps_less_at_the_peak():
    step = replace(STEP, latent_size=(16, 16))
    plain = activation_bytes(CONFIG, step)
    each = {part: activation_bytes(CONFIG, step, (part,)) for part in NETWORKS}
    assert all(count < plain for count in each.values())
    assert activation_bytes(CONFIG, step, NETWORKS) < min(each.values()) < 0.8 * plain
    assert activation_bytes(CONFIG, step, NETWORKS) < 0.4 * plain


def test_activations_grow_with_the_batch_and_bf16_keeps_less_of_them():
    one, two, three = (activation_bytes(CONFIG, replace(STEP, batch=batch)) for batch in (1, 2, 3))
    assert three - two == pytest.approx(two - one, rel=0.02)
    fp32, bf16 = (activation_bytes(CONFIG, replace(STEP, batch=8, precision=kind)) for kind in ("fp32", "bf16"))
    assert 0.5 * fp32 < bf16 < 0.85 * fp32


def test_norms_are_as_ever_afterwards():
    before = torch.nn.functional.layer_norm
    with memory._gpu_norms(enabled=True):
        assert torch.nn.functional.layer_norm is not before
        x = torch.randn(2, 8).bfloat16()
        assert torch.nn.functional.layer_norm(x, (8,)).dtype == torch.float32
    assert torch.nn.functional.layer_norm is before
