"""Schedules step for step against diffusers' own schedulers."""

import math

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from nova_model.sampling.schedule import Ddpm, FlowMatching, schedule_from_config
from tests.nova_model.models import generator, one_line_error, randn

SHAPE = (2, 6, 16)
TRAINED_BETAS = torch.linspace(0.003, 0.3, 40).double().round(decimals=4).tolist()
DDPM_CONFIGS = {
    "released": {"beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_small_log", "clip_sample": False},
    "clipped": {"clip_sample": True, "clip_sample_range": 0.7},
    "velocity": {"prediction_type": "v_prediction", "beta_schedule": "scaled_linear", "clip_sample": False},
    "trailing": {"timestep_spacing": "trailing", "variance_type": "fixed_large", "clip_sample": False},
    "offset": {"timestep_spacing": "leading", "steps_offset": 1, "num_train_timesteps": 400},
    "clean": {"prediction_type": "sample", "beta_schedule": "sigmoid", "timestep_spacing": "linspace"},
    "laplace": {"beta_schedule": "laplace", "timestep_spacing": "trailing", "clip_sample": False},
    "trained": {"trained_betas": TRAINED_BETAS, "num_train_timesteps": 40, "clip_sample": False},
    "no signal": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    "thresholded": {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5},
}


@pytest.fixture(params=list(DDPM_CONFIGS))
def ddpm_config(request):
    return DDPM_CONFIGS[request.param]


def draws(count, seed=0):
    """A draw of noise at a time, and diffusers' generator that gives the same ones."""
    rng = generator(seed)
    return (lambda: torch.randn(SHAPE, generator=rng)), generator(seed)


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("steps", [1, 5, 25])
def test_flow_matching_walks_as_diffusers_does(shift, steps):
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    reference.set_timesteps(steps)
    schedule = FlowMatching(shift=shift)
    assert torch.equal(schedule.timesteps(steps), reference.timesteps)
    assert torch.equal(schedule.sigmas(steps), reference.sigmas)
    x = expected = randn(*SHAPE)
    for index, t in enumerate(reference.timesteps):
        output = randn(*SHAPE, seed=index + 1)
        x = schedule.step(output, index, steps, x, pytest.fail)  # an Euler step draws nothing
        expected = reference.step(output, t, expected).prev_sample
        torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_ddpm_walks_as_diffusers_does(ddpm_config, steps):
    reference = DDPMScheduler(**ddpm_config)
    reference.set_timesteps(steps)
    schedule = Ddpm(ddpm_config)
    assert torch.equal(schedule.timesteps(steps), reference.timesteps)
    draw, rng = draws(steps)
    x = expected = randn(*SHAPE, seed=100)
    for index, t in enumerate(reference.timesteps):
        output = randn(*SHAPE, seed=index + 1)
        x = schedule.step(output, index, steps, x, draw)
        expected = reference.step(output, t, expected, generator=rng).prev_sample
        assert torch.equal(x, expected)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_ddpm_takes_each_variance_spacing_and_betas(spacing, variance, betas):
    config = {"timestep_spacing": spacing, "variance_type": variance, "beta_schedule": betas, "clip_sample": False}
    reference, schedule = DDPMScheduler(**config), schedule_from_config({"_class_name": "DDPMScheduler", **config})
    reference.set_timesteps(6)
    draw, rng = draws(0)
    x = expected = randn(*SHAPE)
    for index, t in enumerate(reference.timesteps):
        output = randn(*SHAPE, seed=index + 1)
        x = schedule.step(output, index, 6, x, draw)
        expected = reference.step(output, t, expected, generator=rng).prev_sample
    assert torch.equal(x, expected)


def test_the_logarithm_of_a_large_variance_is_the_large_variance():
    """diffusers takes the root of the logarithm, which may be negative."""
    log, large = (Ddpm({"variance_type": name, "clip_sample": False}) for name in ("fixed_large_log", "fixed_large"))
    x, output = randn(*SHAPE), randn(*SHAPE, seed=1)
    results = [schedule.step(output, 1, 4, x, lambda: randn(*SHAPE, seed=2)) for schedule in (log, large)]
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-6)


def test_only_thresholding_needs_the_full_grid():
    assert Ddpm(DDPM_CONFIGS["thresholded"]).needs_full_grid
    assert not Ddpm(DDPM_CONFIGS["clipped"]).needs_full_grid
    assert not FlowMatching().needs_full_grid


def test_ddpm_draws_no_noise_at_its_last_step():
    schedule = Ddpm(DDPM_CONFIGS["released"])
    assert schedule.timesteps(4)[-1] == 0
    schedule.step(randn(*SHAPE), 3, 4, randn(*SHAPE), pytest.fail)
    drawn = []
    schedule.step(randn(*SHAPE), 2, 4, randn(*SHAPE), lambda: drawn.append(1) or randn(*SHAPE))
    assert drawn == [1]


def test_ddpm_noises_as_diffusers_does(ddpm_config):
    reference = DDPMScheduler(**ddpm_config)
    x, noise = randn(7, 16), randn(7, 16, seed=1)
    index = torch.randint(0, reference.config.num_train_timesteps, (7,), generator=generator())
    noised = Ddpm(ddpm_config).noised(x, noise, index)
    torch.testing.assert_close(noised.x_t, reference.add_noise(x, noise, index))
    torch.testing.assert_close(noised.t, index.float())
    velocity = reference.get_velocity(x, noise, index)
    targets = {"epsilon": noise, "sample": x, "v_prediction": velocity}
    torch.testing.assert_close(noised.target, targets[reference.config.prediction_type])


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_noises_as_diffusers_does(shift):
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = FlowMatching(shift=shift)
    assert torch.equal(schedule.table(), reference.sigmas)
    x, noise = randn(5, 16), randn(5, 16, seed=1)
    index = torch.tensor([0, 1, 500, 998, 999])
    noised = schedule.noised(x, noise, index)
    torch.testing.assert_close(noised.x_t, reference.scale_noise(x, reference.timesteps[index], noise))
    assert torch.equal(noised.t, reference.timesteps[index])
    torch.testing.assert_close(noised.target, noise - x)
    assert torch.equal(noised.x_t[0], noise[0])  # index 0 is sigma 1: noise alone


@pytest.mark.parametrize("schedule", [FlowMatching(shift=2.0), Ddpm(DDPM_CONFIGS["released"])], ids=["flow", "ddpm"])
def test_a_true_prediction_leads_from_noise_to_the_data(schedule):
    x = randn(*SHAPE)
    current = noise = randn(*SHAPE, seed=1)
    for index, t in enumerate(schedule.timesteps(20).tolist()):
        if isinstance(schedule, FlowMatching):
            output = noise - x
        else:
            alpha = DDPMScheduler(**schedule.config).alphas_cumprod[int(t)]
            output = (current - alpha.sqrt() * x) / (1 - alpha).sqrt()
        current = schedule.step(output, index, 20, current, lambda: randn(*SHAPE, seed=9))
    torch.testing.assert_close(current, x, atol=2e-3, rtol=0)


def test_flow_matching_trains_on_a_logit_normal():
    schedule = FlowMatching()
    rng = generator()
    index = schedule.draw_timesteps((20000,), rng)
    expected = (1000 * torch.randn(20000, generator=generator()).sigmoid()).int()
    assert torch.equal(index.int(), expected)
    for place in (250, 500, 750):  # the logistic of a standard normal
        share = 0.5 * (1 + math.erf(math.log(place / (1000 - place)) / math.sqrt(2)))
        assert abs((index < place).float().mean() - share) < 0.015


def test_ddpm_trains_on_every_timestep_alike():
    index = Ddpm({"num_train_timesteps": 10}).draw_timesteps((10000,), generator())
    counts = torch.bincount(index, minlength=10)
    assert len(counts) == 10
    assert (counts - 1000).abs().max() < 120


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "num_train_timesteps": 1000}, FlowMatching),
        ({"_class_name": "DDPMScheduler", **DDPM_CONFIGS["released"], "_diffusers_version": "0.30"}, Ddpm),
    ],
)
def test_configs_are_read_and_written_as_diffusers_has_them(config, kind):
    schedule = schedule_from_config(config)
    assert isinstance(schedule, kind)
    plain = {key: value for key, value in config.items() if key != "_diffusers_version"}
    assert schedule.to_config() == plain
    assert schedule_from_config(schedule.to_config()) == schedule


def test_the_sampling_class_decides_where_a_config_names_two():
    config = {"_class_name": "Mixed", "_noise_class_name": "DDPMScheduler", "_sample_class_name": "DDPMScheduler"}
    assert isinstance(schedule_from_config(config), Ddpm)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"_class_name": "EulerDiscreteScheduler"}, "unknown scheduler 'EulerDiscreteScheduler'; NOVA takes"),
        ({}, "unknown scheduler ''"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned_range"}, "variance_type='learned_range'; NOVA"),
        ({"_class_name": "DDPMScheduler", "beta_schedule": "cosine"}, "beta_schedule='cosine'; NOVA takes linear"),
        ({"_class_name": "DDPMScheduler", "timestep_spacing": "trailin"}, "timestep_spacing='trailin'; NOVA takes"),
        ({"_class_name": "DDPMScheduler", "prediction_type": "flow"}, "prediction_type='flow'; NOVA takes epsilon"),
        ({"_class_name": "DDPMScheduler", "trained_betas": [0.1, 0.2]}, "2 trained_betas for 1000 timesteps"),
        ({"_class_name": "DDPMScheduler", "num_train_timesteps": 0}, "num_train_timesteps=0; at least 1"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0.0}, "shift=0.0: a flow-matching shift is above"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 0}, "num_train_timesteps=0"),
        *[
            ({"_class_name": "FlowMatchEulerDiscreteScheduler", key: value}, f"sets {key}, which NOVA has no use for")
            for key, value in [
                ("use_dynamic_shifting", True),
                ("use_karras_sigmas", True),
                ("use_exponential_sigmas", True),
                ("use_beta_sigmas", True),
                ("invert_sigmas", True),
                ("stochastic_sampling", True),
                ("shift_terminal", 0.1),
            ]
        ],
    ],
)
def test_a_scheduler_that_nova_does_not_take_is_a_one_line_error(config, match):
    with one_line_error(match):
        schedule_from_config(config)


@pytest.mark.parametrize(
    ("config", "steps", "match"),
    [
        ({"num_train_timesteps": 40}, 41, "41 diffusion steps; this DDPM schedule takes 1 to 40"),
        ({"steps_offset": 1}, 1000, "1000 steps with steps_offset 1 run past 1000 timesteps"),
        ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 5, "recovers nothing"),
    ],
)
def test_steps_that_a_schedule_cannot_make_are_a_one_line_error(config, steps, match):
    with one_line_error(match):
        schedule_from_config({"_class_name": "DDPMScheduler", **config}).timesteps(steps)
