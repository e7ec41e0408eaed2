"""Guidance by hand: the combination of branches, renormalisation, and the scale of each set."""

import pytest
import torch

from nova_model.config import SamplingConfig
from nova_model.sampling.guidance import combine, guidance_branches, guide, ramp, renorm_factor
from nova_model.sampling.request import Request
from tests.nova_model.models import generator, randn, tiny


def test_guidance_by_hand():
    unconditional, conditional = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5])
    assert guide(unconditional, conditional, 5.0).tolist() == [1 + 5 * 2, -2 + 5 * 2.5]
    assert torch.equal(guide(unconditional, conditional, 1.0), conditional)
    assert torch.equal(guide(unconditional, conditional, 0.0), unconditional)


def test_renorm_takes_one_norm_a_sample_and_never_scales_up():
    conditional = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]).repeat(3, 1, 1)  # norm 5
    guided = torch.stack([torch.full((2, 2), 4.0), torch.full((2, 2), 25.0), torch.full((2, 2), 1.0)])  # 8, 50, 2
    factor = renorm_factor(guided, conditional, 0.5)
    assert factor.shape == (3, 1, 1)
    torch.testing.assert_close(factor.flatten(), torch.tensor([5 / 8, 0.5, 1.0]))


def test_guidance_rises_linearly_and_ends_at_its_scale():
    assert ramp(None, 5.0, 3) == [5.0, 5.0, 5.0]
    assert ramp(2.0, 6.0, 4) == [3.0, 4.0, 5.0, 6.0]
    assert ramp(1.0, 7.0, 1) == [7.0]


@pytest.mark.parametrize(
    ("sampling", "sees_frames"),
    [
        ({"guidance_scale": 1.0}, (True,)),
        ({}, (True, True)),
        ({"guidance_scale": 1.0, "image_guidance_scale": 1.5}, (True, True, False)),
    ],
)
def test_the_conditional_branch_comes_first_and_the_unconditional_one_last(sampling, sees_frames):
    model, text = tiny(), randn(2, 16, 64)
    request = Request(
        text=text, frames=1, latent_size=(8, 8), generators=[generator()], sampling=SamplingConfig(**sampling)
    )
    branches = guidance_branches(model, request)
    assert branches.sees_frames == sees_frames
    contexts = branches.contexts.chunk(len(sees_frames))
    torch.testing.assert_close(contexts[0], model.context(text, None, None, 2))
    for context in contexts[1:]:
        torch.testing.assert_close(context, model.context(model.null(2), None, None, 2))


def test_branches_combine_by_hand():
    conditional, image, unconditional = (randn(2, 3, 4, seed=seed) for seed in range(3))
    assert combine([conditional], 5.0, SamplingConfig()) is conditional
    expected = unconditional + 5.0 * (conditional - unconditional)
    torch.testing.assert_close(combine([conditional, unconditional], 5.0, SamplingConfig()), expected)
    sampling = SamplingConfig(image_guidance_scale=2.0)
    expected = unconditional + 5.0 * (conditional - image) + 2.0 * (image - unconditional)
    torch.testing.assert_close(combine([conditional, image, unconditional], 5.0, sampling), expected)
