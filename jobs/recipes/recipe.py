"""What a recipe is: the settings that belong together, and the config of every command that follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobs import settings
from jobs.ablate.config import AblateConfig
from jobs.curate import CurateConfig
from jobs.demo import DemoConfig
from jobs.evaluate import EvaluateConfig
from jobs.generate import GenerateConfig
from jobs.refresh import RefreshConfig
from jobs.train.config import TrainConfig, TrainingConfig
from pipelines.core.stage import Resources
from pipelines.curation.stages import Curation


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that belong together; a property gives the config of the command of its name."""

    curation: Curation
    training: TrainingConfig
    generate: GenerateConfig
    evaluate: EvaluateConfig

    @property
    def curate(self) -> CurateConfig:
        return settings.extend(CurateConfig, self.curation)

    @property
    def train(self) -> TrainConfig:
        return settings.extend(TrainConfig, self.training)

    @property
    def refresh(self) -> RefreshConfig:
        return settings.extend(RefreshConfig, self.curation, trainer=self.training)

    @property
    def benchmark(self) -> EvaluateConfig:
        """`evaluate`, whose benchmarks make their samples as `generate` does."""
        return replace(self.evaluate, generate=self.generate)

    @property
    def ablate(self) -> AblateConfig:
        return AblateConfig(curate=self.curation, train=self.training, evaluate=self.benchmark)

    @property
    def demo(self) -> DemoConfig:
        return DemoConfig(curate=self.curation, train=self.training, generate=self.generate, evaluate=self.evaluate)


def batches_of(rows: int) -> Resources:
    """One CPU a worker, and batches of so many rows: for small models."""
    return Resources(batch_size=rows)


def on_gpu(share: float, *, workers: tuple[int, int], batch_size: int) -> Resources:
    """A share of a GPU and two CPUs a worker."""
    return Resources(cpus=2, gpus=share, workers=workers, batch_size=batch_size)
