"""How activations grow with depth: measured where they leave a block, and nothing is left behind."""

import pytest
import torch

from nova_model.sampling.schedule import FlowMatching
from nova_model.tools.activations import variance_by_depth
from tests.nova_model.models import generator, randn, tiny

LATENTS, TEXT = randn(2, 4, 3, 8, 8), randn(2, 16, 64, seed=1)


def measured(model):
    return variance_by_depth(
        model, lambda: model(latents=LATENTS, text=TEXT, schedule=FlowMatching(), generator=generator())
    )


def test_each_block_of_both_encoders_has_a_variance():
    model = tiny()
    found = measured(model)
    assert {name: len(values) for name, values in found.items()} == {"temporal": 2, "spatial": 4}
    assert all(value > 0 for values in found.values() for value in values)
    assert not any(block._forward_hooks for block in model.video_encoder.blocks), "the model is still watched"


def test_the_variance_is_that_of_the_residual_stream():
    """A block that adds nothing hands on what it was given; norms on the stream itself make its variance one."""
    model = tiny()
    with torch.no_grad():
        first = model.image_encoder.blocks[0]
        first.norm1.weight.zero_()
        first.norm2.weight.zero_()
    given = []
    handle = first.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    found = measured(model)
    handle.remove()
    assert found["spatial"][0] == pytest.approx(given[0].var(correction=0).item(), rel=1e-5)
    assert measured(tiny(norm="post_add"))["spatial"] == pytest.approx([1.0] * 4, rel=1e-2)


def test_pre_norm_grows_with_depth():
    values = measured(tiny(norm="pre"))["spatial"]
    assert values[1] > values[0]


def test_of_several_passes_the_mean_is_told():
    """In the ablation without temporal modelling, the temporal encoder runs once a frame."""
    found = measured(tiny(sees_frames=False))
    assert {name: len(values) for name, values in found.items()} == {"temporal": 2, "spatial": 4}
