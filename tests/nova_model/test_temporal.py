"""Frame by frame: block-causality, the key-value cache, scaling and shift of the anchor."""

import pytest
import torch
import torch.nn.functional as F

from nova_model.temporal import Mixer, TemporalEncoder
from tests.nova_model.models import randn, tiny

ROTARY = {"rotary_pos_embed": True, "arch": ("vit_d2w64h2", "vit_d4w64h2", "mlp_d2w96")}
FRAMES = 5


@pytest.fixture(params=[{}, ROTARY], ids=["absolute", "rotary"])
def model(request):
    return tiny(**request.param)


def temporal(model, latents, context):
    with torch.no_grad():
        return model.temporal(context, latents)


def inputs(frames=FRAMES, batch=2):
    return randn(batch, 4, frames, 8, 8), randn(batch, 18, 64, seed=1)


@pytest.mark.parametrize("changed", range(FRAMES))
def test_a_frame_changes_only_what_comes_after_it(model, changed):
    latents, context = inputs()
    before = temporal(model, latents, context)
    assert before.shape == (2, FRAMES, 4, 64)
    latents[:, :, changed] += 1
    after = temporal(model, latents, context)
    torch.testing.assert_close(after[:, : changed + 1], before[:, : changed + 1], atol=1e-5, rtol=1e-5)
    for later in range(changed + 1, FRAMES):
        assert (after[:, later] - before[:, later]).abs().max() > 1e-2


def test_inside_a_frame_every_token_sees_every_other(model):
    latents, context = inputs()
    before = temporal(model, latents, context)
    latents[:, :, 1, :4, :4] += 1  # one temporal patch: the first token of frame 2's slot
    difference = (temporal(model, latents, context) - before)[:, 2].abs().amax(-1)
    assert (difference > 1e-3).all()


def test_a_prompt_reaches_every_frame_of_its_own_sample_alone(model):
    latents, context = inputs()
    before = temporal(model, latents, context)
    context[0, 3] += 1
    after = temporal(model, latents, context)
    assert ((after - before)[0].abs().amax((1, 2)) > 1e-3).all()
    torch.testing.assert_close(after[1], before[1], atol=1e-5, rtol=1e-5)


def test_frame_by_frame_with_the_cache_is_the_full_pass(model):
    latents, context = inputs()
    full = temporal(model, latents, context)
    cache = ()
    for index in range(FRAMES):
        slot = model.frame_slot(latents[:, :, index - 1] if index else None, index, FRAMES, latents)
        prefix = 0 if index else context.shape[1]
        angles = model.temporal_angles(prefix, index, index + 1, 2, 2, latents.device)
        with torch.no_grad():
            out, cache = model.video_encoder.step(
                frame=slot, context=None if index else context, angles=angles, cache=cache
            )
        torch.testing.assert_close(out, full[:, index], atol=1e-5, rtol=1e-4)
        assert [layer.keys.shape[2] for layer in cache] == [18 + 4 * (index + 1)] * 2


def test_frames_differ_by_time_and_tokens_by_position(model):
    latents, context = inputs()
    out = temporal(model, torch.zeros_like(latents), context)
    for one, other in ((2, 3), (1, 4)):  # the same input, one frame later
        assert (out[:, one] - out[:, other]).abs().max() > 1e-2
    assert (out[:, :, 0] - out[:, :, 3]).abs().amax((0, 2)).min() > 1e-2


def test_the_anchor_is_scaled_and_shifted_by_the_current_frame():
    mixer, anchor, current = Mixer(8, rank=2), randn(2, 3, 8), randn(2, 3, 8, seed=1)
    stats = mixer.proj(mixer.lora(current * torch.sigmoid(current)))
    torch.testing.assert_close(mixer(anchor, current), anchor * (1 + stats[..., :8]) + stats[..., 8:])
    assert mixer.lora.bias is None
    assert mixer.lora.weight.shape == (2, 8)


def test_a_rank_below_0_leaves_the_low_rank_step_out():
    mixer, anchor, current = Mixer(8, rank=-1), randn(2, 3, 8), randn(2, 3, 8, seed=1)
    assert mixer.lora is None
    scale, shift = mixer.proj(F.silu(current)).chunk(2, dim=-1)
    torch.testing.assert_close(mixer(anchor, current), anchor * (1 + scale) + shift)


def test_without_a_mixer_each_frame_uses_its_own_output():
    encoder = TemporalEncoder(channels=4, width=16, depth=1, heads=2, patch=4, mixer_rank=None)
    anchor, outputs = randn(2, 1, 3, 16), randn(2, 4, 3, 16, seed=1)
    assert torch.equal(encoder.indicator(anchor, outputs), outputs)


@pytest.mark.parametrize("rank", [8, -1, 0, None])
def test_the_first_frames_indicator_is_its_own_output(rank):
    model = tiny(video_mixer_rank=rank)
    latents, context = inputs()
    with torch.no_grad():
        out, indicators = model.temporal(context, latents), model.indicators(model.temporal(context, latents))
    assert torch.equal(indicators[:, 0], out[:, 0])
    if rank:
        mixed = torch.stack([model.video_encoder.mixer(out[:, 0], out[:, t]) for t in range(1, FRAMES)], dim=1)
        torch.testing.assert_close(indicators[:, 1:], mixed)
    else:
        assert model.video_encoder.mixer is None
        assert torch.equal(indicators, out)
