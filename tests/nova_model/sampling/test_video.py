"""Generation: guidance by hand, order of draws, given frames, and samples that depend on their own seed alone."""

from dataclasses import dataclass

import pytest
import torch

from nova_model import masking, ops
from nova_model.config import SamplingConfig
from nova_model.layers import gather_tokens
from nova_model.sampling.frame import Change
from nova_model.sampling.request import Request
from nova_model.sampling.schedule import Ddpm, FlowMatching
from nova_model.sampling.video import generate
from tests.nova_model.models import OF_CLASSES, generator, one_line_error, randn, tiny

FLOW = FlowMatching()
DDPM = Ddpm({"clip_sample": False, "beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_small_log"})
QUICK = {"set_steps": 4, "diffusion_steps": 3}
ONE_SET = {"set_steps": 1, "diffusion_steps": 1}
ROTARY = {"rotary_pos_embed": True, "arch": ("vit_d2w64h2", "vit_d4w64h2", "mlp_d2w96")}


@dataclass(frozen=True)
class PredictionOnly(FlowMatching):
    """A schedule whose sample is the guided prediction of the denoiser at a timestep, for comparison by hand."""

    t: float = 400.0

    def timesteps(self, steps):
        return torch.full((steps,), self.t)

    def step(self, prediction, index, steps, x, draw):
        return prediction


@pytest.fixture(scope="module")
def model():
    return tiny()


@torch.no_grad()
def sample(model, schedule=FLOW, *, frames=1, batch=2, seeds=(0,), text=None, settings=None, on_step=None, **changes):
    request = Request(
        text=randn(batch, 16, 64, seed=1) if text is None else text,
        frames=frames,
        latent_size=(8, 8),
        generators=[generator(seed) for seed in seeds],
        sampling=SamplingConfig(**{**QUICK, **(settings or {})}),
        **changes,
    )
    return generate(model, schedule, request, on_step)


# What a sample depends on.


@pytest.mark.parametrize("schedule", [FLOW, DDPM], ids=["flow", "ddpm"])
def test_a_sample_depends_on_its_own_seed_whatever_its_batch(schedule):
    model, text = tiny().double(), randn(3, 16, 64).double()  # rounding differs with the batch, and grows over steps
    settings = {"guidance_renorm": 0.8}
    together = sample(model, schedule, frames=2, text=text, seeds=(5, 6, 7), settings=settings)
    alone = sample(model, schedule, frames=2, text=text[1:2], seeds=(6,), settings=settings)
    swapped = sample(model, schedule, frames=2, text=text[[2, 1]], seeds=(9, 6), settings=settings)
    torch.testing.assert_close(together[1:2], alone, atol=1e-7, rtol=0)
    torch.testing.assert_close(swapped[1:2], alone, atol=1e-7, rtol=0)


def test_a_seed_repeats_and_another_seed_differs(model):
    assert torch.equal(sample(model, seeds=(3,)), sample(model, seeds=(3,)))
    assert (sample(model, seeds=(3,)) - sample(model, seeds=(4,))).abs().max() > 0.1
    first, second = sample(model, seeds=(3,), text=randn(1, 16, 64).expand(2, -1, -1))
    assert (first - second).abs().max() > 0.1  # one generator draws different noise for each sample


@pytest.mark.parametrize("name", ["motion", "fps", "negative_text", "text"])
def test_every_condition_reaches_the_sample(model, name):
    values = {
        "motion": (torch.full((2,), 1.0), torch.full((2,), 9.0)),
        "fps": (torch.full((2,), 8.0), torch.full((2,), 24.0)),
        "negative_text": (randn(2, 16, 64, seed=2), randn(2, 16, 64, seed=3)),
        "text": (randn(2, 16, 64, seed=2), randn(2, 16, 64, seed=3)),
    }[name]
    one, other = (sample(model, frames=2, **{name: value}) for value in values)
    assert ((one - other).abs().amax((1, 3, 4)) > 1e-3).all()  # in every frame of every sample


def test_the_unconditional_prompt_is_the_default_negative(model):
    explicit = sample(model, frames=2, negative_text=model.null(2))
    assert torch.equal(explicit, sample(model, frames=2))


def test_the_motion_of_the_sample_is_the_default_negative(model):
    quick = {"frames": 2, "motion": torch.tensor([7.0, 7.0])}
    assert torch.equal(sample(model, settings={"negative_motion": 7.0}, **quick), sample(model, **quick))
    assert not torch.equal(sample(model, settings={"negative_motion": 5.0}, **quick), sample(model, **quick))


def test_noise_is_drawn_in_the_releases_order(model):
    """First the order of sets; then for each set of each frame its noise, and for DDPM one draw for every t > 0."""
    rng, noise = generator(0), []
    order = torch.rand(2, 16, 1, generator=rng).argsort(dim=1).squeeze(-1)
    expected = [
        gather_tokens(ops.patchify(torch.randn(2, 4, 8, 8, generator=rng), 2), chosen)
        for _ in range(2)  # frames
        for chosen in order.split(masking.set_sizes(4, 16), dim=1)
        for _ in range(3)  # the start, and a draw for all but the last of three steps
    ]

    class Watched(Ddpm):
        def step(self, prediction, index, steps, x, draw):
            if index == 0:
                noise.append(x)
            return super().step(prediction, index, steps, x, lambda: noise.append(draw()) or noise[-1])

    sample(model, Watched(DDPM.config), frames=2)
    assert len(noise) == len(expected)
    for tokens, expected_tokens in zip(noise, expected, strict=True):
        assert torch.equal(tokens, expected_tokens)


# Given frames.


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("changes", [{}, ROTARY], ids=["absolute", "rotary"])
def test_given_frames_stay_and_the_following_ones_depend_on_them(changes, count):
    model = tiny(**changes)
    frames = randn(2, 4, count, 8, 8)
    video = sample(model, frames=4, first_frames=frames)
    assert torch.equal(video[:, :, :count], frames)
    other = sample(model, frames=4, first_frames=frames + 1)
    assert ((other - video)[:, :, count:].abs().amax((0, 1, 3, 4)) > 1e-2).all()
    assert not torch.equal(sample(model, frames=4)[:, :, :count], frames)


def test_if_all_frames_are_given_they_are_returned(model):
    frames = randn(2, 4, 3, 8, 8)
    assert torch.equal(sample(model, frames=3, first_frames=frames), frames)


def test_more_frames_than_were_trained(model):
    video = sample(model, frames=8)
    assert video.shape == (2, 4, 8, 8, 8)
    assert video.isfinite().all()
    apart = (video[:, :, 1:] - video[:, :, :-1]).abs().amax((0, 1, 3, 4))
    assert (apart > 1e-2).all()


# Against the full pass and by hand.


@pytest.mark.parametrize("changes", [{}, ROTARY, {"video_mixer_rank": None}], ids=["mixer", "rotary", "no mixer"])
@torch.no_grad()
def test_cached_generation_is_the_full_pass(changes):
    """The last set of every frame is the prediction of the teacher-forced pass over the finished video."""
    model, schedule, text = tiny(**changes), PredictionOnly(), randn(2, 16, 64, seed=1)
    video = sample(model, schedule, frames=4, text=text, settings={"diffusion_steps": 1, "guidance_scale": 1})
    rng, sets = generator(0), masking.set_sizes(4, 16)
    order = torch.rand(2, 16, 1, generator=rng).argsort(dim=1).squeeze(-1)
    noise = torch.stack([[torch.randn(2, 4, 8, 8, generator=rng) for _ in sets][-1] for _ in range(4)], dim=2)
    visible, last = order[:, : -sets[-1]], order[:, -sets[-1] :].repeat_interleave(4, dim=0)
    indicators = model.indicators(model.temporal(model.context(text, None, None, 2), video))
    z = model.spatial(video, indicators.flatten(0, 1), visible.repeat_interleave(4, dim=0))
    prediction = model.image_decoder(x_t=model.frame_tokens(noise), t=torch.full((8, 16), schedule.t), z=z)
    rows = torch.arange(8)[:, None]
    torch.testing.assert_close(model.frame_tokens(video)[rows, last], prediction[rows, last], atol=1e-4, rtol=1e-4)


FIRST = randn(2, 4, 1, 8, 8, seed=7)


def guided(schedule=None, **settings):
    """The guided prediction [B, N, P] of frame 1 of a video with a given frame 0, in one set and one step."""
    model = tiny()
    video = sample(model, schedule or PredictionOnly(), frames=2, first_frames=FIRST, settings={**ONE_SET, **settings})
    return ops.patchify(video[:, :, 1], 2)


@torch.no_grad()
def branch(*, prompted=True, sees_frames=True, motion=None, temperature=1.0):
    """Prediction of one branch for the same noise, without any of the sampler's code."""
    model, rng = tiny(), generator(0)
    torch.rand(2, 16, 1, generator=rng)
    noise = temperature * ops.patchify(torch.randn(2, 4, 8, 8, generator=rng), 2)
    context = model.context(randn(2, 16, 64, seed=1) if prompted else model.null(2), motion, None, 2)
    slots = model.mask_embed.bos_token.expand(2, 2, 4, 64)  # without frames, neither place nor time is added
    if sees_frames:
        slots = torch.stack([model.frame_slot(None, 0, 2, FIRST), model.frame_slot(FIRST[:, :, 0], 1, 2, FIRST)], dim=1)
    out = model.video_encoder(context=context, frames=slots, angles=None)
    indicator = model.video_encoder.mixer(out[:, 0], out[:, 1])
    z = model.spatial(FIRST, indicator, torch.zeros(2, 0, dtype=torch.long))
    return model.image_decoder(x_t=noise, t=torch.full((2, 16), PredictionOnly().t), z=z)


def norm(x):
    return x.square().sum((1, 2), keepdim=True).sqrt()


def same(value, expected):
    torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)


def test_without_guidance_the_conditional_branch_decides_alone():
    same(guided(guidance_scale=1), branch())
    assert (branch() - branch(prompted=False)).abs().max() > 0.05
    assert (branch(prompted=False) - branch(prompted=False, sees_frames=False)).abs().max() > 0.05


@pytest.mark.parametrize("scale", [3.0, 7.5])
def test_guidance_moves_from_the_unconditional_branch(scale):
    conditional, unconditional = branch(), branch(prompted=False)
    same(guided(guidance_scale=scale), unconditional + scale * (conditional - unconditional))


def test_guidance_moves_from_the_negative_motion():
    conditional, slow = branch(), torch.full((2,), 1.0)
    unconditional = branch(prompted=False, motion=slow)
    assert (unconditional - branch(prompted=False)).abs().max() > 0.01
    same(guided(guidance_scale=3, negative_motion=1.0), unconditional + 3 * (conditional - unconditional))
    image, unconditional = unconditional, branch(prompted=False, sees_frames=False, motion=slow)
    expected = unconditional + 3 * (conditional - image) + 2 * (image - unconditional)
    same(guided(guidance_scale=3, image_guidance_scale=2, negative_motion=1.0), expected)


def test_guidance_reaches_its_scale_at_the_last_set():
    same(guided(guidance_scale=6, min_guidance_scale=2), guided(guidance_scale=6))


def two_sets(**settings):
    """A frame in two sets of one step each: the tokens of the first set and those of the second, [B, n, P]."""
    video = sample(tiny(), PredictionOnly(), settings={"set_steps": 2, "diffusion_steps": 1, **settings})
    tokens = ops.patchify(video[:, :, 0], 2)
    order = torch.rand(2, 16, 1, generator=generator(0)).argsort(dim=1).squeeze(-1)
    return tuple(tokens[torch.arange(2)[:, None], ids] for ids in order.split(masking.set_sizes(2, 16), dim=1))


def test_guidance_rises_over_the_sets():
    """From 2 to 6 in two sets: the first is guided by 4, the second by 6."""
    rising, at_4, at_6 = (
        two_sets(min_guidance_scale=2, guidance_scale=6),
        two_sets(guidance_scale=4),
        two_sets(guidance_scale=6),
    )
    assert torch.equal(rising[0], at_4[0])
    assert (rising[0] - at_6[0]).abs().max() > 1e-3
    assert (rising[1] - at_4[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("min_scale", "alone"), [(-3.0, True), (-2.5, True), (-1.0, False)])
def test_a_set_is_guided_only_where_its_scale_is_above_1(min_scale, alone):
    """Rising to 4 in two sets, the first has a scale of 0.5, 0.75 or 1.5."""
    first, _ = two_sets(min_guidance_scale=min_scale, guidance_scale=4)
    conditional, _ = two_sets(guidance_scale=1)
    if alone:
        same(first, conditional)
    else:
        same(first, two_sets(guidance_scale=1.5)[0])
        assert (first - conditional).abs().max() > 1e-3


@torch.no_grad()
def test_noise_outside_the_set_counts_in_the_norm():
    model, rng = tiny(), generator(0)
    chosen = torch.rand(2, 16, 1, generator=rng).argsort(dim=1)[:, : masking.set_sizes(2, 16)[0]]
    noise = ops.patchify(torch.randn(2, 4, 8, 8, generator=rng), 2)
    grids = []
    for prompt in (randn(2, 16, 64, seed=1), model.null(2)):
        indicator = model.indicators(model.temporal(model.context(prompt, None, None, 2), FIRST))[:, 0]
        z = model.spatial(FIRST, indicator, torch.zeros(2, 0, dtype=torch.long))
        prediction = model.image_decoder(x_t=noise, t=torch.full((2, 16), PredictionOnly().t), z=z)
        inside = torch.zeros(2, 16, 1, dtype=torch.bool).scatter(1, chosen, True)
        grids.append(torch.where(inside, prediction, noise))
    mixed = grids[1] + 9 * (grids[0] - grids[1])
    scaled = mixed * norm(grids[0]) / norm(mixed)
    expected = scaled.gather(1, chosen.expand(-1, -1, 16))
    same(two_sets(guidance_scale=9, guidance_renorm=0.01)[0], expected)


@pytest.mark.parametrize("min_factor", [0.1, 0.99])
def test_renorm_scales_down_to_the_conditional_norm_at_most_to_its_floor(min_factor):
    conditional, unconditional = branch(), branch(prompted=False)
    mixed = unconditional + 9 * (conditional - unconditional)
    factor = (norm(conditional) / norm(mixed)).clamp(min_factor, 1)
    same(guided(guidance_scale=9, guidance_renorm=min_factor), mixed * factor)
    assert (factor < 0.995).all()


def test_below_trunc_the_conditional_branch_decides_alone():
    settings = {"guidance_scale": 6, "guidance_renorm": 0.5}
    same(guided(guidance_trunc=401, **settings), branch())
    same(guided(guidance_trunc=400, **settings), guided(**settings))
    assert (guided(**settings) - branch()).abs().max() > 0.01


@pytest.mark.parametrize("renorm", [1.0, 0.6])
def test_image_guidance_by_hand(renorm):
    conditional, image = branch(), branch(prompted=False)
    unconditional = branch(prompted=False, sees_frames=False)
    mixed = unconditional + 4 * (conditional - image)
    if renorm < 1:
        mixed = mixed * (norm(conditional) / norm(mixed)).clamp(renorm, 1)
    expected = mixed + 2.5 * (image - unconditional)
    same(guided(guidance_scale=4, image_guidance_scale=2.5, guidance_renorm=renorm), expected)


def test_image_guidance_of_1_and_1_is_the_conditional_branch():
    same(guided(guidance_scale=1, image_guidance_scale=1), branch())


@pytest.mark.parametrize(
    ("settings", "rows"),
    [({"guidance_scale": 1}, 2), ({"guidance_scale": 0.5}, 2), ({}, 4), ({"image_guidance_scale": 1.5}, 6)],
)
def test_only_branches_that_the_settings_ask_for_run(settings, rows):
    model, batches = tiny(), []
    for network in (model.image_encoder, model.image_decoder, model.video_encoder.blocks[0]):
        network.register_forward_pre_hook(
            lambda _, args, kwargs: batches.append(
                len(kwargs["x_t"] if "x_t" in kwargs else kwargs.get("prefix", *args))
            ),
            with_kwargs=True,
        )
    sample(model, settings=settings)
    assert set(batches) == {rows}


# Kinds of models, progress, mistakes.


def test_a_model_of_classes_generates_from_labels():
    model = tiny(**OF_CLASSES, label_classes=300)
    video = sample(model, text=torch.tensor([3, 7]), frames=2)
    other = sample(model, text=torch.tensor([3, 8]), frames=2)
    assert video.shape == (2, 4, 2, 8, 8)
    assert (video[1] - other[1]).abs().max() > 1e-3
    # 300, the null class that guidance leads away from, does not fit into uint8.
    assert torch.equal(sample(model, text=torch.tensor([3, 7], dtype=torch.uint8), frames=2), video)
    away = sample(model, text=torch.tensor([3, 7]), negative_text=torch.tensor([300, 5]), frames=2)
    assert torch.equal(away[0], video[0])
    assert (away[1] - video[1]).abs().max() > 1e-3
    unconditional = sample(model, text=model.null(2), settings={"guidance_scale": 1})
    same(sample(model, text=model.null(2)), unconditional)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"text": torch.tensor([3, 11])}, "class label 11; the model has classes 0 to 9, and 10 for no class"),
        ({"text": torch.tensor([-1, 3])}, "class label -1; the model has classes 0 to 9"),
        ({"text": torch.tensor([3, 4]), "negative_text": torch.tensor([3, 11])}, "class label 11"),
        ({"text": randn(2, 16, 64)}, r"class labels are float32 of shape \(2, 16, 64\); give one whole number"),
        ({"text": torch.tensor(3)}, r"class labels are int64 of shape \(\)"),
    ],
)
def test_a_request_for_no_class_is_a_one_line_error(changes, match):
    with one_line_error(match):
        sample(tiny(**OF_CLASSES, label_classes=10), **changes)


def test_labels_for_a_model_of_prompts_are_a_one_line_error(model):
    with one_line_error(r"text features have shape \(2,\); the model takes \[B, 16, 64\]"):
        sample(model, text=torch.tensor([3, 7]))


def test_sizes_other_than_the_trained_one(model):
    request = Request(
        text=model.null(1), frames=1, latent_size=(12, 4), generators=[generator()], sampling=SamplingConfig(**QUICK)
    )
    image = generate(model, FLOW, request)
    assert image.shape == (1, 4, 1, 12, 4)
    assert image.abs().amin() > 0  # no token was left out


def test_more_set_steps_than_tokens(model):
    image = sample(model, settings={"set_steps": 64})
    assert image.isfinite().all()
    assert image.abs().amin() > 0


def test_temperature_scales_the_noise_that_tokens_are_denoised_from():
    same(guided(guidance_scale=1, temperature=0.5), branch(temperature=0.5))
    assert (branch(temperature=0.5) - branch()).abs().max() > 0.05


@pytest.mark.parametrize("schedule", [FLOW, DDPM], ids=["flow", "ddpm"])
def test_without_noise_samples_of_a_prompt_are_alike(model, schedule):
    """In one set, as the order of prediction is random, too."""
    cold = {"temperature": 0.0, "set_steps": 1}
    one, other = (sample(model, schedule, seeds=(seed,), settings=cold) for seed in (3, 4))
    torch.testing.assert_close(one, other)
    assert (one[0] - one[1]).abs().max() > 1e-3  # prompts still differ
    with one_line_error("temperature is -1"):
        SamplingConfig(temperature=-1)


def test_a_correction_predicts_half_of_the_tokens_again(model):
    tokens = ops.patchify(sample(model)[:, :, 0], model.config.patch_size)
    for rounds in (1, 3):
        after = ops.patchify(sample(model, settings={"corrections": rounds})[:, :, 0], model.config.patch_size)
        changed = (after != tokens).any(-1).float().mean(dim=1)
        assert (changed > 0).all()
        assert (changed <= 0.5 if rounds == 1 else changed > 0.5).all()


def test_without_corrections_later_frames_are_drawn_as_they_were(model):
    """The golden tensors hold the order of draws; corrections draw more, and a negative number is refused."""
    torch.testing.assert_close(sample(model, settings={"corrections": 0}), sample(model))
    with one_line_error("corrections is -1"):
        SamplingConfig(corrections=-1)


def test_the_callback_runs_after_every_set_of_every_generated_frame(model):
    steps = []
    sample(model, frames=3, first_frames=FIRST, on_step=lambda step: steps.append((step.frame, step.step)))
    assert steps == [(frame, step) for frame in (1, 2) for step in range(4)]


def test_the_callback_sees_and_changes_the_complete_video(model):
    """Changed latents condition the frames that follow; the callback's own tensor is never written to."""
    changed = randn(2, 4, 3, 8, 8, seed=9)
    original, shapes = changed.clone(), []

    def on_step(step):
        shapes.append(tuple(step.latents.shape))
        return Change(latents=changed) if (step.frame, step.step) == (1, 3) else None

    video, plain = sample(model, frames=3, on_step=on_step), sample(model, frames=3)
    assert set(shapes) == {(2, 4, 3, 8, 8)}
    assert torch.equal(changed, original)
    assert torch.equal(video[:, :, 0], plain[:, :, 0])  # it was finished before the change
    assert torch.equal(video[:, :, 1], changed[:, :, 1])
    assert (video[:, :, 2] - plain[:, :, 2]).abs().max() > 1e-3


def test_the_callback_stops_the_generation_and_changes_guidance(model):
    stopped = sample(model, frames=3, on_step=lambda step: Change(stop=(step.frame, step.step) == (1, 1)))
    assert stopped.shape == (2, 4, 2, 8, 8)
    predicted = ops.patchify(stopped[:, :, 1], 2).ne(0).any(-1).sum(1)
    assert predicted.tolist() == [sum(masking.set_sizes(4, 16)[:2])] * 2
    weaker = sample(model, frames=2, on_step=lambda _: Change(guidance_scale=2.0))
    assert (weaker - sample(model, frames=2)).abs().amax((1, 3, 4)).min() > 1e-3


def test_bfloat16_weights_give_bfloat16_samples():
    model = tiny().to(torch.bfloat16)
    video = sample(model, frames=2, text=randn(2, 16, 64, seed=1).bfloat16(), settings={"guidance_scale": 2})
    assert video.dtype == torch.bfloat16
    apart = (video.float() - sample(tiny(), frames=2, settings={"guidance_scale": 2})).abs().mean()
    assert apart < 0.1


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"seeds": (1, 2, 3)}, "3 generators for 2 samples; give one, or one per sample"),
        ({"first_frames": torch.zeros(2, 4, 1, 8, 12)}, "first frames are"),
        ({"first_frames": torch.zeros(2, 4, 2, 8, 8)}, "first frames are"),
    ],
)
def test_inputs_that_do_not_fit_are_a_one_line_error(model, changes, match):
    with one_line_error(match):
        sample(model, **changes)


def test_a_size_that_patches_do_not_divide_is_a_one_line_error(model):
    with one_line_error("latents of 6x8 do not divide by the temporal patch 4"):
        request = Request(text=model.null(1), frames=1, latent_size=(6, 8), generators=[generator()])
        generate(model, FLOW, request)


def test_a_motion_below_0_is_a_one_line_error():
    with one_line_error("negative_motion is -1; it must be a motion score, 0 or more"):
        SamplingConfig(negative_motion=-1)


@pytest.mark.parametrize("settings", [{"set_steps": 0}, {"diffusion_steps": 0}])
def test_no_steps_are_a_one_line_error(settings):
    with one_line_error("must be at least 1"):
        SamplingConfig(**settings)
