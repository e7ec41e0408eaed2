"""Mask ratios, random orders, and the cosine schedule of sets."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from nova_model import masking
from tests.nova_model.models import generator


def test_mask_ratios_follow_the_truncated_normal():
    rng = generator()
    ratios = np.array([masking.draw_mask_ratio(rng) for _ in range(2000)])
    assert ratios.min() >= 0.7
    assert ratios.max() <= 1.0

    def cdf(x):
        return 0.5 * (1 + math.erf((x - 1.0) / 0.25 / math.sqrt(2)))

    for x in (0.75, 0.85, 0.95):  # 3.5 standard errors of 2000 draws are below 0.04
        assert abs((ratios <= x).mean() - (cdf(x) - cdf(0.7)) / (cdf(1.0) - cdf(0.7))) < 0.04


@pytest.mark.parametrize(
    ("ratio", "tokens", "visible"), [(1.0, 16, 0), (0.7, 16, 5), (0.875, 4, 0), (0.75, 10, 2), (0.75, 6, 2)]
)
def test_visible_tokens_are_rounded_half_to_even(ratio, tokens, visible):
    assert masking.visible_count(ratio, tokens) == visible == int(np.round((1 - ratio) * tokens))


def test_every_frame_has_an_order_of_its_own():
    visible = masking.draw_visible(64, 16, 5, generator())
    assert visible.shape == (64, 5)
    assert all(len(set(row)) == 5 for row in visible.tolist())
    assert len({tuple(row) for row in visible.tolist()}) > 60
    counts = torch.bincount(masking.draw_visible(4000, 16, 4, generator(1)).flatten(), minlength=16)
    assert (counts - 1000).abs().max() < 110  # 4 standard deviations of a fair draw


def test_the_mask_is_false_where_a_token_is_visible():
    mask = masking.mask_of(torch.tensor([[0, 3], [2, 1]]), 4)
    assert mask.tolist() == [[False, True, True, False], [True, False, False, True]]
    assert masking.mask_of(torch.zeros(2, 0, dtype=torch.long), 4).all()


@pytest.mark.parametrize("tokens", [1, 2, 16, 24, 1440, 4096])
@pytest.mark.parametrize("steps", [1, 2, 6, 64, 128])
def test_sets_cover_every_token_once_however_many_steps(steps, tokens):
    sizes = masking.set_sizes(steps, tokens)
    assert sum(sizes) == tokens
    assert min(sizes) >= 1
    assert len(sizes) <= steps


def test_the_cosine_schedule_by_hand():
    # Still masked of 16 after steps 0..4 of 4: 16, 14.78, 11.31, 6.12, 0.
    assert masking.set_sizes(4, 16) == [1, 4, 5, 6]
    # Of 2 after steps 0..4 of 4: 2, 1.85, 1.41, 0.77, 0; the first and the third step predict none.
    assert masking.set_sizes(4, 2) == [1, 1]
    assert masking.set_sizes(1, 7) == [7]


def test_sets_grow():
    sizes = masking.set_sizes(64, 4096)
    assert len(sizes) == 64
    assert sizes[0] < 5
    assert sizes[-1] == round(math.cos(math.pi / 2 * 63 / 64) * 4096) == 101
    assert all(later >= earlier - 1 for earlier, later in pairwise(sizes))
