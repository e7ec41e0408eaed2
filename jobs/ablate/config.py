"""Settings of `nova ablate`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobs.ablate.variants import Setup
from jobs.train.config import TrainingConfig
from pipelines.curation.stages import Curation
from pipelines.generation.config import GenerationConfig
from pipelines.shapes_world.prompts import ShapesBenchmark


@dataclass(frozen=True, kw_only=True)
class AblateConfig:
    """Trains without one part of the recipe at a time and says what moved; run again, it goes on where it was.

    Example: nova ablate --recipe debug --tables work/tables --output work/ablation --only no_temporal,set_steps
    """

    tables: str = ""
    """Tables that `nova curate` filled by the same recipe: DIR, or DIR@VERSION."""
    output: str = ""
    """Folder for trainings, samples, tables and what is said of them."""
    only: str = ""
    """Variants, separated by commas; all by default, and `full` always: no_temporal, no_scaling, pre_norm, post_norm,
    post_add_norm, no_motion, raw_captions, no_aesthetic_filter, flow, ddpm, ddpm_more_steps, and set_steps and
    diffusion_steps for their sweeps. jobs/ablate/variants.py says what each is."""
    steps: int | None = None
    """Of each training; the recipe's by default."""
    seeds: int = 1
    """Trainings of each variant; from two on, the spread over them is told."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Learning rates that the places of the norms are tried at, rising."""
    rate_steps: int | None = None
    """Steps of such a try; a quarter of --steps by default."""
    address: str | None = None
    """Ray cluster to run on; without it RAY_ADDRESS, else this machine."""
    curate: Curation
    """Stages of curation, for variants that train on tables of their own."""
    train: TrainingConfig
    """How each variant is trained, but for what the variant changes."""
    generate: GenerationConfig
    """How samples are generated, but for what the variant changes."""
    shapes: ShapesBenchmark
    """Tasks and number of samples of the benchmark `shapes`, which judges each variant."""

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "rate_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: at least 1")
        if list(self.rates) != sorted(set(self.rates)):
            raise ValueError(f"rates={','.join(f'{rate:g}' for rate in self.rates)}: give them rising, each once")

    @property
    def base(self) -> Setup:
        """What the variants are functions of."""
        train = self.train if self.steps is None else replace(self.train, steps=self.steps)
        return Setup(curate=self.curate, train=train, generate=self.generate)
