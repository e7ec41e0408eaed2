"""Ablations as config: what each leaves out, in training and in generation; activation checkpointing by parts."""

import pytest
import torch
import torch.nn.functional as F

from nova_model.config import ABLATIONS, PARTS, SamplingConfig
from nova_model.layers import LayerCache
from nova_model.model import Nova
from nova_model.sampling.schedule import FlowMatching
from nova_model.sampling.video import generate
from tests.nova_model.models import generator, one_line_error, randn, tiny

FRAMES = 3
LATENTS = randn(2, 4, FRAMES, 8, 8)
TEXT = randn(2, 16, 64, seed=1)
ROTARY = {"rotary_pos_embed": True, "arch": ("vit_d2w64h2", "vit_d4w64h2", "mlp_d2w96")}
SETTINGS = SamplingConfig(set_steps=3, diffusion_steps=2, guidance_scale=3.0)


def indicators(model, latents=LATENTS):
    with torch.no_grad():
        return model.indicators(model.context(TEXT, None, None, 2), latents)


def losses(model):
    return model(latents=LATENTS, text=TEXT, schedule=FlowMatching(), generator=generator(), text_dropout=0.0)


def made(model, **changes):
    return generate(
        model, FlowMatching(), text=TEXT, frames=FRAMES, latent_size=(8, 8), generators=[generator(3)],
        settings=SETTINGS, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("changes", [{}, ROTARY, {"video_mixer_rank": None}], ids=["absolute", "rotary", "no mixer"])
def test_without_temporal_part_no_frame_sees_another(changes):
    model = tiny(sees_frames=False, **changes)
    others = randn(*LATENTS.shape, seed=5)
    assert torch.equal(indicators(model, LATENTS), indicators(model, others))
    assert not torch.allclose(indicators(tiny(**changes), LATENTS), indicators(tiny(**changes), others), atol=1e-3)


def test_without_temporal_part_frames_still_have_their_place_in_time_and_their_prompt():
    model = tiny(sees_frames=False)
    out = indicators(model)
    assert (out[:, 1] - out[:, 2]).abs().max() > 1e-2
    assert (out[0] - out[1]).abs().max() > 1e-2  # other prompts


@pytest.mark.parametrize("changes", [{}, ROTARY, {"video_mixer_rank": None}], ids=["absolute", "rotary", "no mixer"])
def test_without_temporal_part_the_first_frame_is_as_ever(changes):
    with_part, without = tiny(**changes), tiny(sees_frames=False, **changes)
    torch.testing.assert_close(indicators(without)[:, 0], indicators(with_part)[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, ROTARY], ids=["absolute", "rotary"])
def test_without_temporal_part_generation_computes_what_training_does(changes):
    """Given all frames but the last, the last one's sets see the same indicator features as in training."""
    model = tiny(sees_frames=False, **changes)
    seen = []
    model.image_encoder.register_forward_pre_hook(lambda _, __, given: seen.append(given["prefix"]), with_kwargs=True)
    made(model, first_frames=LATENTS[:, :, :2])
    torch.testing.assert_close(seen[-1][:2], indicators(model)[:, 2], atol=1e-5, rtol=1e-5)


def test_without_temporal_part_given_frames_change_nothing_of_those_that_follow():
    model = tiny(sees_frames=False)
    one = made(model, first_frames=LATENTS[:, :, :1])
    other = made(model, first_frames=-LATENTS[:, :, :1])
    assert torch.equal(one[:, :, 1:], other[:, :, 1:])
    assert not torch.equal(one[:, :, 0], other[:, :, 0])


@pytest.mark.parametrize("norm", ["post", "pre", "post_add"])
def test_where_the_norm_sits(norm):
    block = tiny(norm=norm).video_encoder.blocks[0]
    x = randn(2, 5, 64)

    def normed(layer, y):
        return F.layer_norm(y, (64,), layer.weight, layer.bias, 1e-5)

    with torch.no_grad():
        block.norm1.weight.mul_(2).add_(randn(64) * 0.1)
        block.norm2.bias.add_(randn(64, seed=1))
        if norm == "post":
            y = x + normed(block.norm1, block.attn(x)[0])
            expected = y + normed(block.norm2, block.mlp(y))
        elif norm == "pre":
            y = x + block.attn(normed(block.norm1, x))[0]
            expected = y + block.mlp(normed(block.norm2, y))
        else:
            y = normed(block.norm1, x + block.attn(x)[0])
            expected = normed(block.norm2, y + block.mlp(y))
        torch.testing.assert_close(block(x)[0], expected)
        torch.testing.assert_close(block(x, rows=slice(3, None))[0], expected[:, 3:])


@pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)
def test_every_ablation_trains_and_generates_with_its_cache(changes):
    """Frame by frame with a cache gives what one pass over all frames gives."""
    model = tiny(**changes)
    losses(model).total.backward()
    seen = []
    model.image_encoder.register_forward_pre_hook(lambda _, __, given: seen.append(given["prefix"]), with_kwargs=True)
    video = made(model)
    assert torch.isfinite(video).all()
    torch.testing.assert_close(seen[-1][:2], indicators(model, video)[:, 2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)
def test_an_ablation_is_another_model(changes):
    assert abs(losses(tiny(**changes)).total - losses(tiny()).total) > 1e-4


def test_ablations_that_leave_out_no_layers_have_the_released_keys():
    for name, changes in ABLATIONS.items():
        same = set(tiny(**changes).state_dict()) == set(tiny().state_dict())
        assert same == (name not in ("no_scaling", "no_motion"))


def test_without_motion_the_score_changes_nothing():
    def seen(model, score):
        with torch.no_grad():
            return model.context(TEXT, torch.full((2,), score), torch.full((2,), 12.0), 2)

    with_motion, without = tiny(), tiny(**ABLATIONS["no_motion"])
    assert seen(without, 1.0).shape[1] == seen(with_motion, 1.0).shape[1] - 2
    assert torch.equal(seen(without, 1.0), seen(without, 9.0))
    assert not torch.equal(seen(with_motion, 1.0), seen(with_motion, 9.0))
    assert without.config.makes_videos
    assert not without.config.has_motion


# Activation checkpointing.


def trained(checkpointing, **changes):
    """Losses and gradients of a step."""
    model = tiny(**changes)
    again = Nova(model.config, checkpointing)
    again.load_state_dict(model.state_dict())
    found = losses(again.train())
    found.total.backward()
    return found, {name: parameter.grad for name, parameter in again.named_parameters()}


def kept_bytes(model):
    """Of tensors that autograd keeps for the backward pass, each storage once; weights aside."""
    sizes = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = losses(model)
    assert found.total.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("parts", [("temporal",), ("spatial",), ("denoiser",), PARTS], ids="+".join)
@pytest.mark.parametrize("changes", [{}, ROTARY], ids=["absolute", "rotary"])
def test_checkpointing_gives_the_same_losses_and_gradients(parts, changes):
    plain, gradients = trained((), **changes)
    again, others = trained(parts, **changes)
    torch.testing.assert_close(again.total, plain.total, atol=0, rtol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_checkpointing_gives_the_same_in_bf16():
    found = []
    for parts in ((), PARTS):
        model = Nova(tiny().config, parts)
        model.load_state_dict(tiny().state_dict())
        with torch.autocast("cpu", torch.bfloat16):
            total = losses(model.train()).total
        total.backward()
        found.append((total, model.image_encoder.blocks[0].attn.qkv.weight.grad))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize(
    ("parts", "most"), [(("temporal",), 0.95), (("spatial",), 0.9), (("denoiser",), 0.7), (PARTS, 0.4)]
)
def test_checkpointing_keeps_less(parts, most):
    plain = tiny().train()
    again = Nova(plain.config, parts).train()
    assert kept_bytes(again) < most * kept_bytes(plain)


def test_generation_is_the_same_with_checkpointing():
    again = Nova(tiny().config, PARTS).eval()
    again.load_state_dict(tiny().state_dict())
    assert torch.equal(made(again), made(tiny()))


def test_an_unknown_part_is_a_one_line_error():
    with one_line_error("checkpointing encoder: choose from temporal, spatial, denoiser"):
        Nova(tiny().config, ("encoder",))


def test_a_cache_is_no_reason_to_keep_activations():
    """Blocks return keys and values; the backward pass must not hold them where they are computed again."""
    again = Nova(tiny().config, ("temporal",)).train()
    alive = []

    def watch(_, __, output):
        assert isinstance(output[1], LayerCache)
        alive.append(torch.utils.weak.WeakTensorKeyDictionary({output[1].keys: True}))

    for block in again.video_encoder.blocks:
        block.register_forward_hook(watch)
    losses(again)
    assert [len(each) for each in alive] == [0, 0]
