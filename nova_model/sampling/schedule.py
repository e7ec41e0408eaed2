"""Noise schedules: flow matching and DDPM (spec section 3, Schedulers), and guidance (section 5).

Both are read from and written as diffusers' scheduler_config.json. A training draw gives `Noised`; sampling walks over
`steps(n)` with `step`. DDPM's tables come from diffusers' own scheduler; flow matching is a few lines.
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
    """A training draw."""

    x_t: Tensor
    """Noisy tokens, as the tokens given."""
    t: Tensor
    """Timestep in 0..1000 that the denoiser is given, one a token."""
    target: Tensor
    """What the denoiser shall say."""


class Schedule(Protocol):
    """What training and sampling need of a noise schedule."""

    @property
    def num_train_timesteps(self) -> int: ...

    @property
    def steps_whole_grids(self) -> bool:
        """Whether `step` needs all of a frame's tokens, not those of the set alone (DDPM's thresholding)."""
        ...

    def draw_timesteps(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor: ...

    def noised(self, x: Tensor, noise: Tensor, index: Tensor) -> Noised: ...

    def train_timesteps(self) -> Tensor: ...

    def timesteps(self, steps: int) -> Tensor: ...

    def step(self, output: Tensor, index: int, steps: int, x: Tensor, draw: Draw) -> Tensor: ...

    def to_config(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """x_t = sigma*eps + (1-sigma)*x, target eps - x; sampled by Euler steps."""

    shift: float = 1.0
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift={self.shift}: a flow-matching shift is above 0; 1 leaves sigmas as they are")
        if self.num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps={self.num_train_timesteps}: must be at least 1")

    @property
    def steps_whole_grids(self) -> bool:
        return False

    def table(self) -> Tensor:
        """Shifted sigmas, descending, fp32 [num_train_timesteps]."""
        return torch.from_numpy(_flow_table(self.shift, self.num_train_timesteps).copy())

    def draw_timesteps(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Indices into the descending table: int(1000 * sigmoid(n)), n standard normal."""
        normal = torch.randn(shape, generator=generator, device=generator.device)
        return (normal.sigmoid() * self.num_train_timesteps).long().clamp(max=self.num_train_timesteps - 1)

    def noised(self, x: Tensor, noise: Tensor, index: Tensor) -> Noised:
        """Tokens [..., P] with noise at table indices [...]."""
        sigma = self.table().to(x.device)[index]
        mix = sigma[..., None].to(x.dtype)
        return Noised(mix * noise + (1 - mix) * x, sigma * self.num_train_timesteps, noise - x)

    def train_timesteps(self) -> Tensor:
        """The timestep of each index, as `noised` gives it, [num_train_timesteps]."""
        return self.table() * self.num_train_timesteps

    def sigmas(self, steps: int) -> Tensor:
        """Sigmas of a sampling run and the final 0, [steps + 1]."""
        return torch.from_numpy(_flow_sigmas(self.shift, self.num_train_timesteps, steps).copy())

    def timesteps(self, steps: int) -> Tensor:
        """Timesteps of a sampling run, real-valued, [steps]."""
        return self.sigmas(steps)[:-1] * self.num_train_timesteps

    def step(self, output: Tensor, index: int, steps: int, x: Tensor, draw: Draw) -> Tensor:
        """x at the next sigma; draws nothing."""
        return torch.add(x, output, alpha=_sigma_steps(self, steps)[index])

    def to_config(self) -> dict[str, Any]:
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": self.num_train_timesteps,
            "shift": self.shift,
        }


# Tables are rounded where diffusers rounds them, so that one seed gives one picture; they are read and never changed.


@functools.lru_cache(maxsize=32)
def _flow_table(shift: float, count: int) -> np.ndarray:
    sigma = np.arange(count, 0, -1, dtype=np.float32) / np.float32(count)
    return shift * sigma / (1 + (shift - 1) * sigma)


@functools.lru_cache(maxsize=32)
def _flow_sigmas(shift: float, count: int, steps: int) -> np.ndarray:
    table = _flow_table(shift, count).astype(np.float64)
    even = np.linspace(table[0] * count, table[-1] * count, steps) / count
    shifted = shift * even / (1 + (shift - 1) * even)
    return np.append(shifted, 0.0).astype(np.float32)


@functools.lru_cache(maxsize=32)
def _sigma_steps(schedule: FlowMatching, steps: int) -> list[float]:
    """From each sigma to the next, as fp32 numbers."""
    return np.diff(_flow_sigmas(schedule.shift, schedule.num_train_timesteps, steps)).tolist()


@dataclass(frozen=True)
class Ddpm:
    """Noise (or v, or clean) prediction with diffusers' DDPMScheduler, configured by its own keys."""

    config: dict[str, Any] = field(default_factory=dict)

    @property
    def num_train_timesteps(self) -> int:
        return int(self.scheduler().config.num_train_timesteps)

    @property
    def steps_whole_grids(self) -> bool:
        return bool(self.config.get("thresholding"))

    def scheduler(self, steps: int | None = None) -> Any:
        """diffusers' own, set to a run of so many steps; its tables are read, never changed."""
        return _diffusers_ddpm(self._written, steps)

    @functools.cached_property
    def _written(self) -> str:
        return json.dumps(self.config, sort_keys=True)

    def draw_timesteps(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Uniform timesteps."""
        return torch.randint(0, self.num_train_timesteps, shape, generator=generator, device=generator.device)

    def noised(self, x: Tensor, noise: Tensor, index: Tensor) -> Noised:
        """Tokens [..., P] with noise at timesteps [...]."""
        scheduler = self.scheduler()
        alpha = scheduler.alphas_cumprod.to(x.device)[index][..., None].to(x.dtype)
        clean, noisy = alpha.sqrt(), (1 - alpha).sqrt()
        x_t = clean * x + noisy * noise
        kind = scheduler.config.prediction_type
        target = {"epsilon": noise, "sample": x}.get(kind)
        return Noised(x_t, index.float(), clean * noise - noisy * x if target is None else target)

    def train_timesteps(self) -> Tensor:
        """The timestep of each index: itself."""
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
                "rescale_betas_zero_snr leaves nothing but noise at the last timestep, where epsilon says nothing; "
                "predict v_prediction or sample, or set timestep_spacing to leading"
            )
        return timesteps

    def step(self, output: Tensor, index: int, steps: int, x: Tensor, draw: Draw) -> Tensor:
        """x at the next timestep; draws noise of x's shape where t > 0."""
        scheduler = self.scheduler(steps)
        said = _ddpm_steps(scheduler)[index]
        kind = scheduler.config.prediction_type
        if kind == "epsilon":
            clean = (x - said.noise_share * output) / said.clean_share
        elif kind == "sample":
            clean = output
        else:
            clean = said.clean_share * x - said.noise_share * output
        if scheduler.config.thresholding:
            clean = scheduler._threshold_sample(clean)
        elif scheduler.config.clip_sample:
            clean = clean.clamp(-scheduler.config.clip_sample_range, scheduler.config.clip_sample_range)
        mean = said.keep_clean * clean + said.keep_x * x
        return mean if said.std is None else mean + said.std * draw()

    def to_config(self) -> dict[str, Any]:
        return {"_class_name": "DDPMScheduler", **self.config}


@functools.lru_cache(maxsize=32)
def _diffusers_ddpm(config: str, steps: int | None) -> Any:
    """Building the tables takes longer than a step; they are read and never changed."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(json.loads(config))
    if steps is not None:
        if not 1 <= steps <= scheduler.config.num_train_timesteps:
            most = scheduler.config.num_train_timesteps
            raise ValueError(f"{steps} diffusion steps; this DDPM schedule takes 1 to {most}")
        scheduler.set_timesteps(steps)
    return scheduler


class _DdpmStep(NamedTuple):
    """What a step multiplies with."""

    clean_share: float
    """sqrt(alpha bar), of the clean tokens in x_t."""
    noise_share: float
    """sqrt(1 - alpha bar)."""
    keep_clean: float
    keep_x: float
    std: float | None
    """Of the noise that is added; None at t = 0."""


@functools.lru_cache(maxsize=32)
def _ddpm_steps(scheduler: Any) -> tuple[_DdpmStep, ...]:
    """Equation 7 of DDPM (arXiv 2006.11239) for every step of a run."""
    found = []
    for t in scheduler.timesteps:
        previous = scheduler.previous_timestep(t)
        alpha = scheduler.alphas_cumprod[t]
        alpha_previous = scheduler.alphas_cumprod[previous] if previous >= 0 else scheduler.one
        ratio = alpha / alpha_previous
        step = _DdpmStep(
            clean_share=(alpha**0.5).item(),
            noise_share=((1 - alpha) ** 0.5).item(),
            keep_clean=(alpha_previous**0.5 * (1 - ratio) / (1 - alpha)).item(),
            keep_x=(ratio**0.5 * (1 - alpha_previous) / (1 - alpha)).item(),
            std=_ddpm_std(scheduler, t) if t > 0 else None,
        )
        found.append(step)
    return tuple(found)


def _ddpm_std(scheduler: Any, t: Tensor) -> float:
    kind = scheduler.config.variance_type
    value = scheduler._get_variance(t)
    if kind == "fixed_small_log":  # diffusers gives the deviation itself
        return value.item()
    if kind == "fixed_large_log":  # the logarithm of the variance, whose root diffusers would take
        return (0.5 * value).exp().item()
    return (value**0.5).item()


_FLOW_REFUSED = (
    "use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas",
    "stochastic_sampling", "shift_terminal",
)  # fmt: skip
_DDPM_KNOWN = {
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
    name = config.get("_sample_class_name") or config.get("_class_name", "")
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    if "FlowMatch" in name:
        wrong = [key for key in _FLOW_REFUSED if plain.get(key)]
        if wrong:
            raise ValueError(f"this flow-matching config sets {wrong[0]}, which NOVA has no use for; leave it out")
        return FlowMatching(
            shift=float(plain.get("shift", 1.0)), num_train_timesteps=int(plain.get("num_train_timesteps", 1000))
        )
    if "DDPM" in name:
        _check_ddpm(plain)
        return Ddpm(plain)
    raise ValueError(f"unknown scheduler {name!r}; NOVA takes FlowMatchEulerDiscreteScheduler or DDPMScheduler")


def _check_ddpm(plain: dict[str, Any]) -> None:
    for key, known in _DDPM_KNOWN.items():
        if plain.get(key, known[0]) not in known:
            raise ValueError(f"this DDPM config has {key}={plain[key]!r}; NOVA takes {' or '.join(known)}")
    count, betas = plain.get("num_train_timesteps", 1000), plain.get("trained_betas")
    if count < 1:
        raise ValueError(f"this DDPM config has num_train_timesteps={count}; at least 1")
    if betas is not None and len(betas) != count:
        raise ValueError(f"this DDPM config has {len(betas)} trained_betas for {count} timesteps; give one each")


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """uncond + g*(cond - uncond)."""
    return unconditional + scale * (conditional - unconditional)


def renorm_factor(guided: Tensor, conditional: Tensor, least: float) -> Tensor:
    """clamp(|cond| / |guided|, r, 1) with one L2 norm a sample over the whole grid, [B, 1, 1]."""
    norms = (torch.linalg.vector_norm(each.float(), dim=(1, 2), keepdim=True) for each in (conditional, guided))
    conditional_norm, guided_norm = norms
    return (conditional_norm / guided_norm).clamp(least, 1.0).to(guided.dtype)


def ramp(least: float | None, most: float, steps: int) -> list[float]:
    """Guidance scale of each set step: least + (most - least) * k/K for k = 1..K, or constant."""
    if least is None:
        return [most] * steps
    return [least + (most - least) * (step + 1) / steps for step in range(steps)]
