"""Noise schedules and their solvers: flow matching with Euler steps, and DDPM (section 3.4 of the paper).

Both are read from and written as diffusers' scheduler_config.json. Training noises tokens with `noised`; sampling
starts from noise and calls `step` once for each of `timesteps(n)`. The tables of DDPM come from diffusers' own
scheduler; flow matching is a few lines.

Shapes: P values of a token; leading axes `...` are any.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

Draw = Callable[[], Tensor]


@dataclass(frozen=True)
class Noised:
    """Noised tokens of a training step."""

    x_t: Tensor
    """Noisy tokens [..., P]."""
    t: Tensor
    """Timesteps in 0..1000 that the denoiser is conditioned on, one per token [...]."""
    target: Tensor
    """Regression target of the denoiser [..., P]."""


class Schedule(Protocol):
    """The interface that training and sampling use."""

    @property
    def num_train_timesteps(self) -> int: ...

    @property
    def needs_full_grid(self) -> bool:
        """Whether `step` depends on all of a frame's tokens, not only on those of the set (DDPM's thresholding)."""
        ...

    def draw_timesteps(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Random indices into `train_timesteps`."""
        ...

    def noised(self, x: Tensor, noise: Tensor, index: Tensor) -> Noised:
        """Tokens [..., P] noised at the timesteps of these indices [...]."""
        ...

    def train_timesteps(self) -> Tensor:
        """The timestep of each index, [num_train_timesteps]."""
        ...

    def timesteps(self, steps: int) -> Tensor:
        """Timesteps of a sampling run, descending, [steps]."""
        ...

    def step(self, prediction: Tensor, index: int, steps: int, x: Tensor, draw: Draw) -> Tensor:
        """x at the next timestep.

        Args:
            prediction: output of the denoiser for x.
            index: index of the step.
            steps: number of steps of the sampling run.
            x: noisy tokens.
            draw: gives standard normal noise of x's shape, where the solver needs it.
        """
        ...

    def to_config(self) -> dict[str, Any]:
        """The content of diffusers' scheduler_config.json."""
        ...


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """x_t = sigma*eps + (1-sigma)*x with target eps - x; sampled by Euler steps.

    Raises:
        ValueError: a shift or a number of timesteps out of its range.
    """

    shift: float = 1.0
    """Shift of sigmas towards noise, s*sigma / (1 + (s-1)*sigma)."""
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift={self.shift}: a flow-matching shift is above 0; 1 leaves sigmas as they are")
        if self.num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps={self.num_train_timesteps}: must be at least 1")

    @property
    def needs_full_grid(self) -> bool:
        return False

    def table(self) -> Tensor:
        """Shifted sigmas, descending, fp32 [num_train_timesteps]."""
        return torch.from_numpy(_flow_table(self.shift, self.num_train_timesteps).copy())

    def draw_timesteps(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Indices into the descending table: int(1000 * sigmoid(n)), with n standard normal."""
        normal = torch.randn(shape, generator=generator, device=generator.device)
        # sigmoid rounds to 1 for n above 17, which would be one index too many.
        return (normal.sigmoid() * self.num_train_timesteps).long().clamp(max=self.num_train_timesteps - 1)

    def noised(self, x: Tensor, noise: Tensor, index: Tensor) -> Noised:
        sigma = self.table().to(x.device)[index]  # [...]
        mix = sigma[..., None].to(x.dtype)  # [..., 1]
        return Noised(mix * noise + (1 - mix) * x, sigma * self.num_train_timesteps, noise - x)

    def train_timesteps(self) -> Tensor:
        return self.table() * self.num_train_timesteps

    def sigmas(self, steps: int) -> Tensor:
        """Sigmas of a sampling run and the final 0, [steps + 1]."""
        return torch.from_numpy(_flow_sigmas(self.shift, self.num_train_timesteps, steps).copy())

    def timesteps(self, steps: int) -> Tensor:
        """Timesteps of a sampling run, real-valued, [steps]."""
        return self.sigmas(steps)[:-1] * self.num_train_timesteps

    def step(self, prediction: Tensor, index: int, steps: int, x: Tensor, draw: Draw) -> Tensor:
        """Euler step of the predicted velocity; draws nothing."""
        sigmas = _flow_sigmas(self.shift, self.num_train_timesteps, steps)
        return euler_step(x, prediction, sigmas[index], sigmas[index + 1])

    def to_config(self) -> dict[str, Any]:
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": self.num_train_timesteps,
            "shift": self.shift,
        }


def euler_step(x: Tensor, velocity: Tensor, sigma: np.float32, sigma_next: np.float32) -> Tensor:
    """x + (sigma_next - sigma) * velocity."""
    # As one fused operation, which rounds once; the difference of fp32 sigmas is rounded to fp32, as diffusers does.
    return torch.add(x, velocity, alpha=float(sigma_next - sigma))


# The tables of flow matching are computed in diffusers' order and precision, so that one seed gives the same sample
# with either. They are cached and must never be changed in place.


@functools.lru_cache(maxsize=32)
def _flow_table(shift: float, count: int) -> np.ndarray:
    sigma = np.arange(count, 0, -1, dtype=np.float32) / np.float32(count)
    return shift * sigma / (1 + (shift - 1) * sigma)


@functools.lru_cache(maxsize=32)
def _flow_sigmas(shift: float, count: int, steps: int) -> np.ndarray:
    table = _flow_table(shift, count).astype(np.float64)
    even = np.linspace(table[0] * count, table[-1] * count, steps) / count
    # The table is shifted already; diffusers' set_timesteps shifts once more, and the release was sampled with that.
    shifted = shift * even / (1 + (shift - 1) * even)
    return np.append(shifted, 0.0).astype(np.float32)


@dataclass(frozen=True)
class Ddpm:
    """Prediction of noise (epsilon), v or clean tokens with diffusers' DDPMScheduler, configured by its own keys."""

    config: dict[str, Any] = field(default_factory=dict)

    @property
    def num_train_timesteps(self) -> int:
        return int(self.scheduler().config.num_train_timesteps)

    @property
    def needs_full_grid(self) -> bool:
        return bool(self.config.get("thresholding"))

    def scheduler(self, steps: int | None = None) -> Any:
        """diffusers' scheduler, set to a sampling run of `steps` steps; its tables are read and never changed."""
        return _diffusers_ddpm(self._cache_key, steps)

    @functools.cached_property
    def _cache_key(self) -> str:
        return json.dumps(self.config, sort_keys=True)  # a dictionary cannot be a key of lru_cache

    def draw_timesteps(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Uniform timesteps."""
        return torch.randint(0, self.num_train_timesteps, shape, generator=generator, device=generator.device)

    def noised(self, x: Tensor, noise: Tensor, index: Tensor) -> Noised:
        scheduler = self.scheduler()
        alpha = scheduler.alphas_cumprod.to(x.device)[index][..., None].to(x.dtype)  # [..., 1]
        signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
        x_t = signal * x + sigma * noise
        target = {"epsilon": noise, "sample": x}.get(scheduler.config.prediction_type)
        return Noised(x_t, index.float(), signal * noise - sigma * x if target is None else target)

    def train_timesteps(self) -> Tensor:
        return torch.arange(self.num_train_timesteps).float()

    def timesteps(self, steps: int) -> Tensor:
        """Timesteps of a sampling run, [steps].

        Raises:
            ValueError: a number of steps that this config cannot be sampled with.
        """
        scheduler = self.scheduler(steps)
        timesteps, count = scheduler.timesteps, self.num_train_timesteps
        if timesteps.max() >= count:
            offset = scheduler.config.steps_offset
            raise ValueError(f"{steps} steps with steps_offset {offset} run past {count} timesteps; take fewer")
        if scheduler.config.prediction_type == "epsilon" and scheduler.alphas_cumprod[timesteps].min() == 0:
            raise ValueError(
                "rescale_betas_zero_snr leaves pure noise at the last timestep, from which a prediction of epsilon "
                "recovers nothing; predict v_prediction or sample, or set timestep_spacing to leading"
            )
        return timesteps

    def step(self, prediction: Tensor, index: int, steps: int, x: Tensor, draw: Draw) -> Tensor:
        """DDPM's ancestral step, equation 7 of arXiv 2006.11239; draws noise where t > 0."""
        scheduler = self.scheduler(steps)
        factors = _ddpm_factors(scheduler)[index]
        clean = _predicted_clean(scheduler.config.prediction_type, prediction, x, factors)
        if scheduler.config.thresholding:
            clean = scheduler._threshold_sample(clean)
        elif scheduler.config.clip_sample:
            clean = clean.clamp(-scheduler.config.clip_sample_range, scheduler.config.clip_sample_range)
        mean = factors.clean * clean + factors.x * x
        return mean if factors.std is None else mean + factors.std * draw()

    def to_config(self) -> dict[str, Any]:
        return {"_class_name": "DDPMScheduler", **self.config}


@functools.lru_cache(maxsize=32)
def _diffusers_ddpm(config: str, steps: int | None) -> Any:
    """diffusers' scheduler; cached, as building its tables takes longer than a diffusion step."""
    from diffusers import DDPMScheduler  # here, because it takes seconds and flow matching does without

    scheduler = DDPMScheduler.from_config(json.loads(config))
    if steps is not None:
        max_steps = scheduler.config.num_train_timesteps
        if not 1 <= steps <= max_steps:
            raise ValueError(f"{steps} diffusion steps; this DDPM schedule takes 1 to {max_steps}")
        scheduler.set_timesteps(steps)
    return scheduler


class _DdpmFactors(NamedTuple):
    """Scalar factors of one DDPM step."""

    signal: float
    """sqrt(alpha bar): factor of the clean tokens in x_t."""
    sigma: float
    """sqrt(1 - alpha bar): factor of the noise in x_t."""
    clean: float
    """Factor of the predicted clean tokens in the mean of the next x."""
    x: float
    """Factor of the present x in the mean of the next x."""
    std: float | None
    """Standard deviation of the added noise; None at t = 0."""


def _predicted_clean(kind: str, prediction: Tensor, x: Tensor, factors: _DdpmFactors) -> Tensor:
    """The clean tokens that a prediction of this kind implies for x."""
    if kind == "epsilon":
        return (x - factors.sigma * prediction) / factors.signal
    if kind == "sample":
        return prediction
    return factors.signal * x - factors.sigma * prediction  # v_prediction


@functools.lru_cache(maxsize=32)
def _ddpm_factors(scheduler: Any) -> tuple[_DdpmFactors, ...]:
    """The factors of every step of a sampling run."""
    factors = []
    for t in scheduler.timesteps:
        previous = scheduler.previous_timestep(t)
        alpha = scheduler.alphas_cumprod[t]
        alpha_previous = scheduler.alphas_cumprod[previous] if previous >= 0 else scheduler.one
        ratio = alpha / alpha_previous
        step = _DdpmFactors(
            signal=(alpha**0.5).item(),
            sigma=((1 - alpha) ** 0.5).item(),
            clean=(alpha_previous**0.5 * (1 - ratio) / (1 - alpha)).item(),
            x=(ratio**0.5 * (1 - alpha_previous) / (1 - alpha)).item(),
            std=_ddpm_std(scheduler, t) if t > 0 else None,
        )
        factors.append(step)
    return tuple(factors)


def _ddpm_std(scheduler: Any, t: Tensor) -> float:
    kind = scheduler.config.variance_type
    value = scheduler._get_variance(t)
    if kind == "fixed_small_log":  # diffusers returns the standard deviation itself
        return value.item()
    if kind == "fixed_large_log":  # diffusers returns the logarithm of the variance, and would take the root of that
        return (0.5 * value).exp().item()
    return (value**0.5).item()


_FLOW_UNSUPPORTED = (
    "use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas",
    "stochastic_sampling", "shift_terminal",
)  # fmt: skip
_DDPM_CHOICES = {
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}


def schedule_from_config(config: dict[str, Any]) -> Schedule:
    """Reads diffusers' scheduler_config.json.

    Raises:
        ValueError: a scheduler that NOVA is not sampled with.
    """
    # Released configs may name one class for training and another for sampling.
    name = config.get("_sample_class_name") or config.get("_class_name", "")
    keys = {key: value for key, value in config.items() if not key.startswith("_")}
    if "FlowMatch" in name:
        unsupported = [key for key in _FLOW_UNSUPPORTED if keys.get(key)]
        if unsupported:
            raise ValueError(
                f"this flow-matching config sets {unsupported[0]}, which NOVA has no use for; leave it out"
            )
        return FlowMatching(
            shift=float(keys.get("shift", 1.0)), num_train_timesteps=int(keys.get("num_train_timesteps", 1000))
        )
    if "DDPM" in name:
        _check_ddpm(keys)
        return Ddpm(keys)
    raise ValueError(f"unknown scheduler {name!r}; NOVA takes FlowMatchEulerDiscreteScheduler or DDPMScheduler")


def _check_ddpm(keys: dict[str, Any]) -> None:
    for key, choices in _DDPM_CHOICES.items():
        if keys.get(key, choices[0]) not in choices:
            raise ValueError(f"this DDPM config has {key}={keys[key]!r}; NOVA takes {' or '.join(choices)}")
    count, betas = keys.get("num_train_timesteps", 1000), keys.get("trained_betas")
    if count < 1:
        raise ValueError(f"this DDPM config has num_train_timesteps={count}; at least 1")
    if betas is not None and len(betas) != count:
        raise ValueError(f"this DDPM config has {len(betas)} trained_betas for {count} timesteps; give one each")
