"""Settings of `nova ablate`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobs.ablate.variants import NORMS, Setup, select_variants
from jobs.train.config import TrainingConfig
from pipelines.curation.stages import Curation
from pipelines.generation.config import GenerationConfig
from pipelines.shapes_world.prompts import ShapesBenchmark


@dataclass(frozen=True, kw_only=True)
class AblateConfig:
    """Trains variants of a recipe that each change one thing, and reports what differs. A second run resumes the first.

    Example: nova ablate --recipe debug --tables work/tables --output work/ablation --only no_temporal,set_steps
    """

    tables: str = ""
    """Tables that `nova curate` filled by the same recipe: DIR, or DIR@VERSION."""
    output: str = ""
    """Folder for trainings, samples, tables and results."""
    only: str = ""
    """Variants, separated by commas; all by default. `full` is always among them. Others are no_temporal, no_scaling,
    pre_norm, post_norm, post_add_norm, no_motion, raw_captions, no_aesthetic_filter, flow, ddpm, ddpm_more_steps, and
    the sweeps set_steps and diffusion_steps. jobs/ablate/variants.py describes each."""
    steps: int | None = None
    """Number of steps of each training; the recipe's by default."""
    seeds: int = 1
    """Number of trainings of each variant; from two on, results include their standard deviation."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Learning rates at which variants with other norm positions are tried, in rising order."""
    rate_steps: int | None = None
    """Number of steps at each of these; a quarter of --steps by default."""
    address: str | None = None
    """Ray cluster to run on; RAY_ADDRESS or this machine by default."""
    curate: Curation
    """Stages of curation, for variants that train on tables of their own."""
    train: TrainingConfig
    """Settings of training, except for those that a variant changes."""
    generate: GenerationConfig
    """How samples are generated, except for settings that a variant changes."""
    shapes: ShapesBenchmark
    """Tasks and number of samples of the benchmark `shapes`, which judges each variant."""

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "rate_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: at least 1")
        if list(self.rates) != sorted(set(self.rates)):
            raise ValueError(f"rates={','.join(f'{rate:g}' for rate in self.rates)}: give them rising, each once")

    def unused_settings(self) -> dict[str, str]:
        if set(select_variants(self.only)) & set(NORMS):
            return {}
        reason = f"without one of the variants {', '.join(NORMS)}; add one to --only, or leave it out"
        return {"rates": reason, "rate_steps": reason}

    @property
    def base(self) -> Setup:
        """Settings of the variant `full`, from which all others are derived."""
        train = self.train if self.steps is None else replace(self.train, steps=self.steps)
        return Setup(curate=self.curate, train=train, generate=self.generate)
