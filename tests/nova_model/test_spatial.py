"""Set by set: what the spatial encoder sees, and what it must not."""

import pytest
import torch

from nova_model import masking, ops
from tests.nova_model.models import generator, randn, tiny

ROTARY = {"rotary_pos_embed": True, "arch": ("vit_d2w64h2", "vit_d4w64h2", "mlp_d2w96")}
TOKENS = 16


@pytest.fixture(params=[{}, ROTARY], ids=["absolute", "rotary"])
def model(request):
    return tiny(**request.param)


def inputs(batch=2, frames=3, count=5):
    latents, prefix = randn(batch, 4, frames, 8, 8), randn(batch * frames, 4, 64, seed=1)
    return latents, prefix, masking.draw_visible(batch * frames, TOKENS, count, generator())


def spatial(model, latents, prefix, visible):
    with torch.no_grad():
        return model.spatial(latents, prefix, visible)


def repainted(model, latents, where):
    """Latents with other values in the tokens where a mask [F, N] is true."""
    mask = where.reshape(2, 3, 4, 4).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return torch.where(mask[:, None], latents + 1, latents)


def test_masked_tokens_are_not_read(model):
    latents, prefix, visible = inputs()
    hidden = repainted(model, latents, masking.mask_of(visible, TOKENS))
    assert not torch.equal(hidden, latents)
    z = spatial(model, latents, prefix, visible)
    assert z.shape == (6, TOKENS, 64)
    assert torch.equal(spatial(model, hidden, prefix, visible), z)


def test_each_visible_token_reaches_every_token_of_its_frame_alone(model):
    latents, prefix, visible = inputs()
    before = spatial(model, latents, prefix, visible)
    one = torch.zeros(6, TOKENS, dtype=torch.bool)
    one[4, visible[4, 0]] = True
    difference = (spatial(model, repainted(model, latents, one), prefix, visible) - before).abs().amax(-1)
    assert (difference[4] > 1e-4).all()
    difference[4] = 0
    assert difference.max() < 1e-5


def test_the_order_of_visible_ids_means_nothing(model):
    latents, prefix, visible = inputs()
    z, flipped = (spatial(model, latents, prefix, ids) for ids in (visible, visible.flip(1)))
    torch.testing.assert_close(flipped, z, atol=1e-5, rtol=1e-4)


def test_the_prefix_reaches_every_token(model):
    latents, prefix, visible = inputs()
    before = spatial(model, latents, prefix, visible)
    prefix[2, 1] += 1
    difference = (spatial(model, latents, prefix, visible) - before).abs().amax(-1)
    assert (difference[2] > 1e-4).all()
    assert difference[[0, 1, 3, 4, 5]].max() < 1e-5


def test_masked_tokens_differ_by_position(model):
    latents, prefix, visible = inputs(count=0)  # the first set: nothing is visible yet
    z = spatial(model, latents, prefix, visible)
    distance = torch.cdist(z[0], z[0]) + 10 * torch.eye(TOKENS)
    assert distance.min() > 1e-2


def test_only_the_second_half_sees_masked_tokens():
    model = tiny()
    latents, prefix, visible = inputs()
    lengths = []
    for block in model.image_encoder.blocks:
        block.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    spatial(model, latents, prefix, visible)
    assert lengths == [4 + 5, 4 + 5, 4 + TOKENS, 4 + TOKENS]


def test_masked_tokens_are_the_mask_token_at_their_positions():
    model = tiny()
    latents, prefix, visible = inputs()
    block_inputs = []
    model.image_encoder.blocks[2].register_forward_pre_hook(lambda _, args: block_inputs.append(args[0]))
    spatial(model, latents, prefix, visible)
    expected = model.mask_embed.mask_token + ops.grid_positions(4, 4, 64)
    mask = masking.mask_of(visible, TOKENS)
    for frame in range(6):
        torch.testing.assert_close(block_inputs[0][frame, 4:][mask[frame]], expected[mask[frame]])
        assert not torch.isclose(block_inputs[0][frame, 4:][~mask[frame]], expected[~mask[frame]]).all(-1).any()


def test_with_every_token_visible_the_mask_token_is_unused():
    model = tiny()
    latents, prefix, _ = inputs()
    visible = torch.arange(TOKENS).expand(6, -1)
    before = spatial(model, latents, prefix, visible)
    with torch.no_grad():
        model.mask_embed.mask_token += 1
    assert torch.equal(spatial(model, latents, prefix, visible), before)
