"""Settings of what training optimises and how; no torch, so that a command line is parsed without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("flow", "ddpm")
MUON_LR = 2e-3


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizers and their learning rates.

    Raises:
        ValueError: an unknown optimizer, a value out of its range, or an option that the optimizer does not use.
    """

    name: str = "adamw"
    """adamw, or muon: Muon for the matrices inside the blocks and AdamW for the rest, which learns faster per step."""
    lr: float = 1e-4
    """Learning rate of AdamW."""
    muon_lr: float | None = None
    """Learning rate of Muon, on AdamW's scale; 2e-3 by default."""
    warmup_steps: int = 10
    """Steps over which the learning rates rise from zero."""
    cooldown: float = 0.0
    """Share of the steps, at the end, over which the learning rates fall to zero; 0 keeps them constant."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Moment decays of AdamW."""
    weight_decay: float = 0.02
    """Applied to matrices only, not to norms and biases."""
    clip_norm: float = 1.0
    """Largest gradient norm; larger gradients are scaled down to it."""

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ValueError(f"optimizer.name={self.name!r}: choose {' or '.join(OPTIMIZERS)}")
        if self.name != "muon" and self.muon_lr is not None:
            raise ValueError(
                f"optimizer.muon_lr={self.muon_lr:g} has no effect with optimizer.name={self.name}; "
                "leave it out, or set optimizer.name=muon"
            )
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"optimizer.cooldown={self.cooldown}: a share of the steps, from 0 to 1")

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """Peak learning rate of each optimizer, in the order of `build_optimizers`."""
        if self.name != "muon":
            return (self.lr,)
        return (self.lr, MUON_LR if self.muon_lr is None else self.muon_lr)


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """The moving average of the weights, which is what gets evaluated and released.

    Raises:
        ValueError: an update interval below one step.
    """

    decay: float = 0.97
    """Weight of the previous average at each update."""
    every: int = 100
    """Steps between two updates."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"ema.every={self.every}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """The diffusion process that the denoiser learns to reverse.

    Raises:
        ValueError: an unknown schedule, or a shift with DDPM, which has none.
    """

    schedule: str = "flow"
    """flow (flow matching) or ddpm (epsilon prediction)."""
    shift: float = 1.0
    """Shift of the flow-matching schedule: above 1, more steps at high noise."""
    repeat: int = 4
    """Noise draws per masked token and step."""

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"noise.schedule={self.schedule!r}: choose {' or '.join(SCHEDULES)}")
        if self.schedule == "ddpm" and self.shift != 1.0:
            raise ValueError(f"noise.shift={self.shift:g} has no effect with noise.schedule=ddpm; leave it out")
        if self.repeat < 1:
            raise ValueError(f"noise.repeat={self.repeat}: must be at least 1")

    def to_scheduler_config(self) -> dict[str, Any]:
        """The schedule in the form of diffusers' scheduler_config.json."""
        if self.schedule == "flow":
            return {
                "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": self.shift,
            }  # fmt: skip
        return {
            "_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "scaled_linear",
            "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "epsilon", "clip_sample": False,
            "timestep_spacing": "leading", "variance_type": "fixed_small",
        }  # fmt: skip
