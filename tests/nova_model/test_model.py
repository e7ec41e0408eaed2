"""The networks put together: parameter counts, and a training step's losses, gradients and draws."""

from dataclasses import replace

import pytest
import torch

from nova_model import masking
from nova_model.layers import gather_tokens
from nova_model.model import Nova
from nova_model.presets import PRESETS
from nova_model.sampling.schedule import FlowMatching
from tests.nova_model.models import OF_CLASSES, generator, one_line_error, randn, tiny

COUNTS = {  # as published
    "nova-d48w1024-sd512": 645_693_456,
    "nova-d48w768-sdxl1024": 363_946_000,
    "nova-d48w1024-sdxl1024": 645_693_456,
    "nova-d48w1536-sdxl1024": 1_449_836_560,
    "nova-d48w1024-osp480": 644_118_544,
}
FLOW = FlowMatching()


def batch(frames=5, size=2):
    return {"latents": randn(size, 4, frames, 8, 8), "text": randn(size, 16, 64, seed=1)}


def step(model, seed=0, **changes):
    return model(**{**batch(), "schedule": FLOW, "generator": generator(seed), **changes})


def draws_with(visible, model, latents, loss_repeat):
    """Draws with a given number of visible tokens, which is random otherwise."""
    draws = model.draw(latents, FLOW, generator(), loss_repeat)
    rows = latents.shape[0] * latents.shape[2]
    return replace(draws, visible=masking.draw_visible(rows, 16, visible, generator(1)))


def count(config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Nova(config).parameters())


def linear(inputs, outputs):
    return inputs * outputs + outputs


@pytest.mark.parametrize("name", COUNTS)
def test_presets_have_as_many_parameters_as_the_released_models(name):
    assert count(PRESETS[name]) == COUNTS[name]


def test_a_mixer_of_rank_24_adds_what_the_released_one_has():
    assert count(replace(PRESETS["nova-d48w1024-osp480"], video_mixer_rank=24)) == 644_194_320


def test_the_parameters_of_tiny_counted_by_hand():
    d, e = 64, 96
    block = 4 * d + linear(d, 3 * d) + linear(d, d) + linear(d, 4 * d) + linear(4 * d, d)
    temporal = linear(4 * 16, d) + 2 * block + 2 * d + d * 8 + linear(8, 2 * d)
    spatial = linear(4 * 4, d) + 4 * block + 2 * d
    projection = linear(256, d) + linear(d, d)
    conditioning = 3 * projection + 2 * d + linear(64, d) + 2 * d + 2 * d
    denoiser = linear(16, e) + linear(256, e) + linear(e, e) + linear(d, e) + linear(e, e)
    denoiser += 2 * (linear(e, 3 * e) + 2 * linear(e, e) + 2 * e) + linear(e, 2 * e) + linear(e, 16)
    assert count(PRESETS["tiny"]) == temporal + spatial + conditioning + denoiser


def test_every_parameter_gets_a_gradient_from_a_video():
    model = tiny()
    step(model).total.backward()
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_an_image_trains_everything_but_what_follows_the_first_frame():
    model = tiny()
    step(model, **batch(frames=1)).total.backward()
    without = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    assert {name.rsplit(".", 1)[0] for name in without} == {
        "video_encoder.patch_embed.proj",
        "video_encoder.mixer.lora",
        "video_encoder.mixer.proj",
    }


def test_a_step_is_a_function_of_its_generator():
    model = tiny()
    assert torch.equal(step(model, seed=3).total, step(model, seed=3).total)
    assert not torch.equal(step(model, seed=3).total, step(model, seed=4).total)


def test_the_losses_by_hand():
    model, latents = tiny(), randn(2, 4, 3, 8, 8)
    z = randn(6, 16, 64, seed=1)
    draws = draws_with(4, model, latents, loss_repeat=2)
    losses = model.diffusion_loss(latents, gather_tokens(z, draws.hidden), FLOW, draws)
    first = later = masked = 0.0
    tokens, mask = model.frame_tokens(latents), masking.mask_of(draws.visible, 16)
    for row in range(12):  # r*B*T + b*T + t
        frame = row % 6
        sigma = FLOW.table()[draws.index[row]][:, None]
        x_t = sigma * draws.noise[row] + (1 - sigma) * tokens[frame]
        output = model.image_decoder(x_t=x_t, t=1000 * sigma[:, 0], z=z[frame])
        error = (output - (draws.noise[row] - tokens[frame])).square().mean(-1)[mask[frame]].sum()
        masked += mask[frame].sum().item()
        if frame % 3 == 0:
            first += error
        else:
            later += error
    torch.testing.assert_close(losses.first_frame, 3 * first / masked)
    torch.testing.assert_close(losses.later_frames, 3 / 2 * later / masked)
    torch.testing.assert_close(losses.total, losses.first_frame + losses.later_frames)


def test_an_image_has_one_loss():
    losses = step(tiny(), **batch(frames=1))
    assert losses.later_frames is None
    assert torch.equal(losses.total, losses.first_frame)


def test_only_masked_tokens_count():
    model, latents = tiny(), batch()["latents"]
    draws = draws_with(5, model, latents, loss_repeat=4)
    visible = ~masking.mask_of(draws.visible, 16).repeat(4, 1)
    indicators, noise = randn(2, 5, 4, 64, seed=1).requires_grad_(), draws.noise.clone().requires_grad_()
    draws = replace(draws, noise=noise)
    z = model.spatial(latents, indicators.flatten(0, 1), draws.visible, draws.hidden)
    model.diffusion_loss(latents, z, FLOW, draws).total.backward()
    assert not noise.grad[visible].any()
    assert noise.grad[~visible].abs().amax(-1).min() > 0
    assert indicators.grad.abs().amax(-1).min() > 0


def test_draws_fit_the_batch():
    model, latents = tiny(), batch()["latents"]
    draws = model.draw(latents, FLOW, generator(), loss_repeat=3)
    assert draws.visible.shape[0] == 10
    assert draws.visible.shape[1] <= round(0.3 * 16)
    ids = torch.cat([draws.visible, draws.hidden], dim=1)
    assert torch.equal(ids.sort(dim=1).values, torch.arange(16).expand(10, -1))  # every token is visible or hidden
    assert draws.index.shape == (30, 16)
    assert draws.noise.shape == (30, 16, 16)
    assert draws.noise.std() == pytest.approx(1, abs=0.05)
    assert (draws.noise[:10] != draws.noise[10:20]).any()
    counts = {model.draw(latents, FLOW, generator(seed), 1).visible.shape[1] for seed in range(30)}
    assert len(counts) > 2  # one ratio a step, another each step


@pytest.mark.parametrize("changed", range(5))
def test_a_later_frame_does_not_change_the_features_of_earlier_frames(changed):
    model, inputs = tiny(), batch()
    visible = masking.draw_visible(10, 16, 5, generator())

    def features(latents):
        with torch.no_grad():
            frame_features = model.temporal(model.context(inputs["text"], None, None, 2), latents)
            indicators = model.indicators(frame_features)
            return model.spatial(latents, indicators.flatten(0, 1), visible).unflatten(0, (2, 5))

    before = features(inputs["latents"])
    later = inputs["latents"].clone()
    later[:, :, changed] += 1
    difference = (features(later) - before).abs().amax((0, 2, 3))
    assert (difference[:changed] < 1e-5).all()
    assert (difference[changed:] > 1e-3).all()


def test_dropped_prompts_are_the_unconditional_one():
    model, text = tiny(), batch()["text"]
    assert torch.equal(model.drop(text, None, 0.0, generator()), text)
    assert torch.equal(model.drop(text, None, 1.0, generator()), model.null(2))
    assert torch.equal(model.null(2), model.text_embed.weight[:16].expand(2, -1, -1))
    text = randn(2000, 1, 64).expand(-1, 16, -1)
    dropped = (model.drop(text, None, 0.1, generator()) == model.null(2000)).flatten(1)
    assert (dropped.all(1) == dropped.any(1)).all()  # all rows of a prompt are dropped, or none
    assert dropped.all(1).float().mean() == pytest.approx(0.1, abs=0.025)


def test_motion_and_fps_have_defaults_and_follow_the_text():
    model, text = tiny(), batch()["text"]
    five, twelve = torch.full((2,), 5.0), torch.full((2,), 12.0)
    context = model.context(text, None, None, 2)
    assert context.shape == (2, 18, 64)
    assert torch.equal(context, model.context(text, five, twelve, 2))
    faster = model.context(text, five + 3, twelve, 2)
    assert (faster != context).any(-1).nonzero()[:, 1].unique().tolist() == [16]
    smoother = model.context(text, five, twelve + 12, 2)
    assert (smoother != context).any(-1).nonzero()[:, 1].unique().tolist() == [17]


def test_a_model_of_images_has_no_motion_tokens():
    model = tiny(video_base_size=(1, 2, 2))
    assert model.motion_embed is None
    assert model.context(batch()["text"], torch.ones(2), None, 2).shape == (2, 16, 64)


def test_a_model_of_classes_trains_on_labels():
    model = of_classes(10)
    losses = step(model, text=None, labels=torch.tensor([0, 9]), text_dropout=0.0)
    losses.total.backward()
    assert model.label_embed.weight.grad.any(dim=1).nonzero().flatten().tolist() == [0, 9]
    assert model.null(3).tolist() == [10, 10, 10]
    assert model.context(torch.tensor([1, 2]), None, None, 2).shape == (2, 3, 64)  # class, motion, frames per second


def of_classes(classes):
    return tiny(**OF_CLASSES, label_classes=classes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_dropped_labels_become_the_null_class(dtype):
    """With the chance and the draws of prompts; 300 is an id that does not fit into uint8."""
    model, labels = of_classes(300), torch.arange(250, 256).repeat(500).to(dtype)
    dropped = torch.rand(3000, generator=generator(3)) < 0.1
    assert 240 < dropped.sum() < 360
    expected = torch.where(dropped, 300, labels.long())
    assert torch.equal(model.drop(None, labels, 0.1, generator(3)), expected)
    without = step(model, text=None, labels=labels[:2], text_dropout=1.0).total
    assert torch.equal(without, step(model, text=None, labels=labels[2:4], text_dropout=1.0).total)


@pytest.mark.odd_input(
    "Models",
    "A class label that is negative, too large, or no whole number",
    "An error that names the label and the range of classes, in training and in sampling.",
)
@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([0, 10], "class label 10; the model has classes 0 to 9$"),  # the null class is for dropped labels
        ([-1, 3], "class label -1; the model has classes 0 to 9"),
        ([0.0, 1.0], r"class labels are float32 of shape \(2,\); give one whole number per sample"),
        ([True, False], r"class labels are bool of shape \(2,\)"),
        ([[0], [1]], r"class labels are int64 of shape \(2, 1\)"),
    ],
)
def test_labels_that_are_no_classes_are_a_one_line_error(labels, match):
    with one_line_error(match):
        step(of_classes(10), text=None, labels=torch.tensor(labels))


def test_text_for_a_model_of_classes_is_a_one_line_error():
    model = of_classes(10)
    with one_line_error("no prompt: give text features, or labels where text_token_dim is null"):
        step(model)
    with one_line_error("two kinds of prompts: give text features, or labels"):
        step(model, labels=torch.tensor([0, 1]))
    with one_line_error("this model takes class labels; give labels"):
        model.pad_text([None])


@pytest.mark.parametrize("changes", [{"text": None}, {"text": None, "labels": torch.tensor([0, 1])}])
def test_a_missing_prompt_is_a_one_line_error(changes):
    with one_line_error("give text features, or labels where text_token_dim is null"):
        step(tiny(), **changes)


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((2, 8, 1, 8, 8), "latents have 8 channels; the model takes 4"),
        ((2, 4, 1, 8, 6), "latents of 8x6 do not divide by the temporal patch 4"),
        ((2, 4, 1, 10, 8), "latents of 10x8 do not divide"),
    ],
)
def test_latents_of_a_wrong_size_are_a_one_line_error(shape, match):
    with one_line_error(match):
        step(tiny(), latents=torch.zeros(shape))


def test_training_teaches_which_prompt_means_which_image():
    model = tiny().train()
    text = randn(2, 16, 64)
    latents = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1, 1).expand(2, 4, 1, 8, 8)  # one white, one black
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rng = generator()

    def loss(text):
        return model(latents=latents, text=text, schedule=FLOW, generator=rng, text_dropout=0.0).total

    start = loss(text).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss(text).backward()
        optimizer.step()
    with torch.no_grad():
        right = sum(loss(text).item() for _ in range(8)) / 8
        swapped = sum(loss(text.flip(0)).item() for _ in range(8)) / 8
    assert right < 0.5 * start
    assert swapped > 1.5 * right


def test_bfloat16_gives_about_the_same_loss():
    expected = step(tiny()).total
    with torch.autocast("cpu", torch.bfloat16):
        mixed = step(tiny()).total
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, expected, atol=0, rtol=0.02)


def test_modules_keep_no_state_between_calls():
    model = tiny()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    step(model)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
