"""Ablations as config, in training and in generation; activation checkpointing by networks."""

import pytest
import torch
import torch.nn.functional as F

from nova_model.config import NETWORKS, SamplingConfig
from nova_model.layers import LayerCache
from nova_model.model import Nova
from nova_model.presets import ABLATIONS
from nova_model.sampling.request import Request
from nova_model.sampling.schedule import FlowMatching
from nova_model.sampling.video import generate
from tests.nova_model.models import generator, one_line_error, randn, tiny

FRAMES = 3
LATENTS = randn(2, 4, FRAMES, 8, 8)
TEXT = randn(2, 16, 64, seed=1)
ROTARY = {"rotary_pos_embed": True, "arch": ("vit_d2w64h2", "vit_d4w64h2", "mlp_d2w96")}
SAMPLING = SamplingConfig(set_steps=3, diffusion_steps=2, guidance_scale=3.0)


def indicators(model, latents=LATENTS):
    with torch.no_grad():
        return model.indicators(model.temporal(model.context(TEXT, None, None, 2), latents))


def losses(model):
    return model(latents=LATENTS, text=TEXT, schedule=FlowMatching(), generator=generator(), text_dropout=0.0)


def sample(model, **changes):
    request = Request(
        text=TEXT, frames=FRAMES, latent_size=(8, 8), generators=[generator(3)], sampling=SAMPLING, **changes
    )
    return generate(model, FlowMatching(), request)


def prefixes_of(model):
    """A list that fills up with the prefixes the spatial encoder is called with."""
    prefixes = []
    model.image_encoder.register_forward_pre_hook(
        lambda _, __, inputs: prefixes.append(inputs["prefix"]), with_kwargs=True
    )
    return prefixes


@pytest.mark.parametrize("changes", [{}, ROTARY, {"video_mixer_rank": None}], ids=["absolute", "rotary", "no mixer"])
def test_without_temporal_modelling_no_frame_sees_another(changes):
    model = tiny(sees_frames=False, **changes)
    other = randn(*LATENTS.shape, seed=5)
    assert torch.equal(indicators(model, LATENTS), indicators(model, other))
    assert not torch.allclose(indicators(tiny(**changes), LATENTS), indicators(tiny(**changes), other), atol=1e-3)


def test_without_temporal_modelling_frames_still_differ_by_time_and_prompt():
    model = tiny(sees_frames=False)
    out = indicators(model)
    assert (out[:, 1] - out[:, 2]).abs().max() > 1e-2
    assert (out[0] - out[1]).abs().max() > 1e-2  # other prompts


@pytest.mark.parametrize("changes", [{}, ROTARY, {"video_mixer_rank": None}], ids=["absolute", "rotary", "no mixer"])
def test_without_temporal_modelling_the_first_frame_is_the_same(changes):
    full, without = tiny(**changes), tiny(sees_frames=False, **changes)
    torch.testing.assert_close(indicators(without)[:, 0], indicators(full)[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, ROTARY], ids=["absolute", "rotary"])
def test_without_temporal_modelling_generation_computes_the_features_of_training(changes):
    """Given all frames but the last, the sets of the last one see the same indicator features as in training."""
    model = tiny(sees_frames=False, **changes)
    prefixes = prefixes_of(model)
    sample(model, first_frames=LATENTS[:, :, :2])
    torch.testing.assert_close(prefixes[-1][:2], indicators(model)[:, 2], atol=1e-5, rtol=1e-5)


def test_without_temporal_modelling_given_frames_do_not_change_the_following_ones():
    model = tiny(sees_frames=False)
    one = sample(model, first_frames=LATENTS[:, :, :1])
    other = sample(model, first_frames=-LATENTS[:, :, :1])
    assert torch.equal(one[:, :, 1:], other[:, :, 1:])
    assert not torch.equal(one[:, :, 0], other[:, :, 0])


@pytest.mark.parametrize("norm", ["post", "pre", "post_add"])
def test_the_position_of_the_norm(norm):
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
    prefixes = prefixes_of(model)
    video = sample(model)
    assert torch.isfinite(video).all()
    torch.testing.assert_close(prefixes[-1][:2], indicators(model, video)[:, 2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)
def test_an_ablation_is_another_model(changes):
    assert abs(losses(tiny(**changes)).total - losses(tiny()).total) > 1e-4


def test_ablations_that_leave_out_no_layers_have_the_released_keys():
    for name, changes in ABLATIONS.items():
        same = set(tiny(**changes).state_dict()) == set(tiny().state_dict())
        assert same == (name not in ("no_scaling", "no_motion"))


def test_without_motion_the_score_changes_nothing():
    def context(model, score):
        with torch.no_grad():
            return model.context(TEXT, torch.full((2,), score), torch.full((2,), 12.0), 2)

    with_motion, without = tiny(), tiny(**ABLATIONS["no_motion"])
    assert context(without, 1.0).shape[1] == context(with_motion, 1.0).shape[1] - 2
    assert torch.equal(context(without, 1.0), context(without, 9.0))
    assert not torch.equal(context(with_motion, 1.0), context(with_motion, 9.0))
    assert without.config.makes_videos
    assert not without.config.has_motion


# Activation checkpointing.


def with_checkpointing(model, networks):
    """A copy of a model that recomputes the activations of these networks."""
    copy = Nova(model.config, networks)
    copy.load_state_dict(model.state_dict())
    return copy


def training_step(networks, **changes):
    """Losses and gradients of a step."""
    model = with_checkpointing(tiny(**changes), networks).train()
    result = losses(model)
    result.total.backward()
    return result, {name: parameter.grad for name, parameter in model.named_parameters()}


def saved_bytes(model):
    """Bytes of the tensors that autograd saves for the backward pass, each storage once, without weights."""
    sizes = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def count(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        total = losses(model).total
    assert total.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("networks", [("temporal",), ("spatial",), ("denoiser",), NETWORKS], ids="+".join)
@pytest.mark.parametrize("changes", [{}, ROTARY], ids=["absolute", "rotary"])
def test_checkpointing_gives_the_same_losses_and_gradients(networks, changes):
    expected, expected_gradients = training_step((), **changes)
    actual, gradients = training_step(networks, **changes)
    torch.testing.assert_close(actual.total, expected.total, atol=0, rtol=1e-6)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_checkpointing_gives_the_same_in_bf16():
    results = []
    for networks in ((), NETWORKS):
        model = with_checkpointing(tiny(), networks).train()
        with torch.autocast("cpu", torch.bfloat16):
            total = losses(model).total
        total.backward()
        results.append((total, model.image_encoder.blocks[0].attn.qkv.weight.grad))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize(
    ("networks", "max_share"), [(("temporal",), 0.95), (("spatial",), 0.9), (("denoiser",), 0.7), (NETWORKS, 0.4)]
)
def test_checkpointing_saves_memory(networks, max_share):
    plain = tiny().train()
    checkpointed = Nova(plain.config, networks).train()
    assert saved_bytes(checkpointed) < max_share * saved_bytes(plain)


def test_generation_is_the_same_with_checkpointing():
    checkpointed = with_checkpointing(tiny(), NETWORKS).eval()
    assert torch.equal(sample(checkpointed), sample(tiny()))


def test_an_unknown_network_is_a_one_line_error():
    with one_line_error("checkpointing encoder: choose from temporal, spatial, denoiser"):
        Nova(tiny().config, ("encoder",))


def test_returned_caches_do_not_keep_activations_alive():
    """Blocks return keys and values, which must not stay alive where they are recomputed in the backward pass."""
    model = Nova(tiny().config, ("temporal",)).train()
    alive = []

    def watch(_, __, output):
        assert isinstance(output[1], LayerCache)
        alive.append(torch.utils.weak.WeakTensorKeyDictionary({output[1].keys: True}))

    for block in model.video_encoder.blocks:
        block.register_forward_hook(watch)
    losses(model)
    assert [len(references) for references in alive] == [0, 0]
