"""Patches, positions and the block-causal mask against their definitions, written out element by element."""

import math

import torch

from nova_model import ops
from tests.nova_model.models import randn


def test_a_token_holds_its_patch_row_by_row_channels_innermost():
    latents = randn(2, 3, 4, 6)
    tokens = ops.patchify(latents, 2)
    assert tokens.shape == (2, 6, 12)
    for row in range(2):
        for column in range(3):
            for q in range(2):
                for r in range(2):
                    expected = latents[:, :, 2 * row + q, 2 * column + r]
                    start = (q * 2 + r) * 3
                    assert torch.equal(tokens[:, row * 3 + column, start : start + 3], expected)


def test_unpatchify_undoes_patchify_on_grids_that_are_not_square():
    latents = randn(2, 4, 4, 10)
    assert torch.equal(ops.unpatchify(ops.patchify(latents, 2), 2, rows=2), latents)


def test_scalars_embed_as_128_sines_and_cosines():
    values = torch.tensor([0.0, 3.0, 12.5])
    embedded = ops.sine_cosine(values)
    assert embedded.shape == (3, 256)
    for index, value in enumerate(values.tolist()):
        for i in (0, 1, 64, 127):
            angle = value * 10000 ** (-i / 128)
            assert math.isclose(embedded[index, i], math.sin(angle), abs_tol=1e-5)
            assert math.isclose(embedded[index, 128 + i], math.cos(angle), abs_tol=1e-5)
    assert torch.equal(ops.cosine_sine(values), embedded.roll(128, dims=1))


def test_positions_are_column_first_and_never_rescaled():
    width = 16
    positions = ops.grid_positions(3, 5, width)
    for row in range(3):
        for column in range(5):
            f = [10000 ** (-i / 4) for i in range(4)]
            expected = [wave(place * rate) for place in (column, row) for wave in (math.sin, math.cos) for rate in f]
            torch.testing.assert_close(positions[row * 5 + column], torch.tensor(expected), atol=1e-6, rtol=0)
    larger = ops.grid_positions(6, 5, width)
    assert torch.equal(larger[:15], positions)


def test_rotary_angles_split_a_head_into_time_row_and_column():
    angles = ops.rotary_angles(torch.tensor([2]), torch.tensor([3]), torch.tensor([5]), head_dim=32)
    # 32 channels: 4 for time, 14 for each of row and column, so 2 + 7 + 7 pairs.
    expected = [2 * 10000 ** (-2 * i / 4) for i in range(2)]
    expected += [3 * 10000 ** (-2 * i / 14) for i in range(7)]
    expected += [5 * 10000 ** (-2 * i / 14) for i in range(7)]
    torch.testing.assert_close(angles[0], torch.tensor(expected))


def test_rotation_acts_on_adjacent_pairs_and_is_the_identity_at_angle_0():
    x = randn(2, 3, 5, 4)
    angles = randn(1, 5, 2, seed=1)
    rotated = ops.rotate(x, angles)
    as_complex = torch.view_as_complex(x.reshape(2, 3, 5, 2, 2)) * torch.polar(torch.ones(1, 1, 5, 2), angles[:, None])
    torch.testing.assert_close(rotated, torch.view_as_real(as_complex).flatten(-2))
    assert torch.equal(ops.rotate(x, torch.zeros(1, 5, 2)), x)


def test_rotated_products_depend_on_the_distance_alone():
    q, k = randn(1, 1, 1, 32), randn(1, 1, 1, 32, seed=1)

    def product(at_q, at_k):
        at_q, at_k = (ops.rotary_angles(*torch.tensor(at)[:, None], 32)[None] for at in (at_q, at_k))
        return (ops.rotate(q, at_q) * ops.rotate(k, at_k)).sum()

    torch.testing.assert_close(product((1, 2, 3), (0, 5, 1)), product((4, 3, 9), (3, 6, 7)), atol=1e-5, rtol=1e-5)
    assert not torch.isclose(product((1, 2, 3), (0, 5, 1)), product((1, 2, 3), (0, 5, 2)), atol=1e-3)


def test_a_token_sees_its_own_frame_and_earlier_ones():
    mask = ops.block_causal_mask(prefix=2, frames=3, tokens=2)
    expected = [
        "11110000",  # the prefix belongs to the first frame
        "11110000",
        "11110000",
        "11110000",
        "11111100",
        "11111100",
        "11111111",
        "11111111",
    ]
    assert mask.tolist() == [[digit == "1" for digit in row] for row in expected]
