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
from typing import Any, Protocol

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

    def _shifted(self, sigma: Tensor) -> Tensor:
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def table(self) -> Tensor:
        """Shifted sigmas, descending, fp32 [num_train_timesteps]."""
        steps = torch.arange(self.num_train_timesteps, 0, -1, dtype=torch.float64) / self.num_train_timesteps
        return self._shifted(steps).float()

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
        table = self._shifted(torch.arange(1, self.num_train_timesteps + 1).double() / self.num_train_timesteps)
        even = torch.linspace(table[-1].item(), table[0].item(), steps, dtype=torch.float64)
        return torch.cat([self._shifted(even), torch.zeros(1, dtype=torch.float64)]).float()

    def timesteps(self, steps: int) -> Tensor:
        """Timesteps of a sampling run, real-valued, [steps]."""
        return self.sigmas(steps)[:-1] * self.num_train_timesteps

    def step(self, output: Tensor, index: int, steps: int, x: Tensor, draw: Draw) -> Tensor:
        """x at the next sigma; draws nothing."""
        sigmas = self.sigmas(steps)
        return x + output * (sigmas[index + 1] - sigmas[index]).to(x.device)

    def to_config(self) -> dict[str, Any]:
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": self.num_train_timesteps,
            "shift": self.shift,
        }


@dataclass(frozen=True)
class Ddpm:
    """Epsilon (or v) prediction with diffusers' DDPMScheduler, configured by its own keys."""

    config: dict[str, Any] = field(default_factory=dict)

    @property
    def num_train_timesteps(self) -> int:
        return int(self._scheduler().config.num_train_timesteps)

    def _scheduler(self, steps: int | None = None) -> Any:
        return _diffusers_ddpm(json.dumps(self.config, sort_keys=True), steps)

    def draw_timesteps(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Uniform timesteps."""
        return torch.randint(0, self.num_train_timesteps, shape, generator=generator, device=generator.device)

    def noised(self, x: Tensor, noise: Tensor, index: Tensor) -> Noised:
        """Tokens [..., P] with noise at timesteps [...]."""
        scheduler = self._scheduler()
        alpha = scheduler.alphas_cumprod.to(x.device)[index][..., None].to(x.dtype)
        x_t = alpha.sqrt() * x + (1 - alpha).sqrt() * noise
        velocity = scheduler.config.prediction_type == "v_prediction"
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * x if velocity else noise
        return Noised(x_t, index.float(), target)

    def train_timesteps(self) -> Tensor:
        """The timestep of each index: itself."""
        return torch.arange(self.num_train_timesteps).float()

    def timesteps(self, steps: int) -> Tensor:
        """Timesteps of a sampling run, [steps]."""
        return self._scheduler(steps).timesteps

    def step(self, output: Tensor, index: int, steps: int, x: Tensor, draw: Draw) -> Tensor:
        """x at the next timestep; draws noise of x's shape where t > 0."""
        scheduler = self._scheduler(steps)
        t = scheduler.timesteps[index]
        previous = scheduler.previous_timestep(t)
        alpha = scheduler.alphas_cumprod[t].item()
        alpha_previous = scheduler.alphas_cumprod[previous].item() if previous >= 0 else 1.0
        ratio = alpha / alpha_previous
        clean = _predicted_clean(scheduler, output, x, alpha)
        keep_clean = math.sqrt(alpha_previous) * (1 - ratio) / (1 - alpha)
        keep_x = math.sqrt(ratio) * (1 - alpha_previous) / (1 - alpha)
        mean = keep_clean * clean + keep_x * x
        if t == 0:
            return mean
        variance = scheduler._get_variance(t)
        std = variance if scheduler.config.variance_type == "fixed_small_log" else variance**0.5
        return mean + std.to(x) * draw()

    def to_config(self) -> dict[str, Any]:
        return {"_class_name": "DDPMScheduler", **self.config}


@functools.lru_cache(maxsize=32)
def _diffusers_ddpm(config: str, steps: int | None) -> Any:
    """Building the tables takes longer than a step; they are read and never changed."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(json.loads(config))
    if steps is not None:
        scheduler.set_timesteps(steps)
    return scheduler


def _predicted_clean(scheduler: Any, output: Tensor, x: Tensor, alpha: float) -> Tensor:
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        clean = (x - math.sqrt(1 - alpha) * output) / math.sqrt(alpha)
    else:
        clean = math.sqrt(alpha) * x - math.sqrt(1 - alpha) * output
    if scheduler.config.clip_sample:
        limit = scheduler.config.clip_sample_range
        clean = clean.clamp(-limit, limit)
    return clean


_FLOW_REFUSED = (
    "use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas",
    "stochastic_sampling", "shift_terminal",
)  # fmt: skip
_DDPM_KNOWN = {
    "prediction_type": ("epsilon", ("epsilon", "v_prediction")),
    "variance_type": ("fixed_small", ("fixed_small", "fixed_small_log", "fixed_large")),
    "beta_schedule": ("linear", ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")),
}
"""Key -> diffusers' default, and what is taken."""


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
        if plain.get("thresholding"):
            raise ValueError("this DDPM config uses thresholding, which NOVA has no use for; leave it out")
        for key, (default, known) in _DDPM_KNOWN.items():
            if plain.get(key, default) not in known:
                raise ValueError(f"this DDPM config has {key}={plain[key]!r}; NOVA takes {' or '.join(known)}")
        return Ddpm(plain)
    raise ValueError(f"unknown scheduler {name!r}; NOVA takes FlowMatchEulerDiscreteScheduler or DDPMScheduler")


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
