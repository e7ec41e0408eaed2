"""What a recipe is: the settings that belong together, and the config of every command that follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jobs import settings
from jobs.ablate.config import AblateConfig
from jobs.benchmark import BenchmarkConfig
from jobs.curate import CurateConfig
from jobs.demo import DemoConfig
from jobs.evaluate import EvaluateConfig
from jobs.generate import GenerateConfig
from jobs.refresh import RefreshConfig
from jobs.shapes_world.benchmark import ShapesBenchmarkConfig
from jobs.train.config import TrainConfig, TrainingConfig
from pipelines.core.stage import Resources
from pipelines.curation.stages import Curation
from pipelines.evaluation.metrics import Metrics
from pipelines.generation.config import GenerationConfig
from pipelines.shapes_world.prompts import ShapesBenchmark


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that belong together; a property gives the config of the command of its name."""

    curation: Curation
    training: TrainingConfig
    generation: GenerationConfig
    frames: int = 1
    """Frames that `nova generate` makes by default."""
    metrics: Metrics
    shapes: ShapesBenchmark = field(default_factory=ShapesBenchmark)
    """Settings of the benchmark `shapes`."""

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
    def generate(self) -> GenerateConfig:
        return settings.extend(GenerateConfig, self.generation, frames=self.frames)

    @property
    def evaluate(self) -> EvaluateConfig:
        return settings.extend(EvaluateConfig, self.metrics)

    @property
    def benchmarks(self) -> dict[str, BenchmarkConfig]:
        """Available benchmarks, by name."""
        return {"shapes": ShapesBenchmarkConfig(generate=self.generation, shapes=self.shapes)}

    @property
    def benchmark(self) -> BenchmarkConfig:
        """The benchmark that `nova benchmark --help` is about where no name is given."""
        return self.benchmarks["shapes"]

    @property
    def ablate(self) -> AblateConfig:
        return AblateConfig(curate=self.curation, train=self.training, generate=self.generation, shapes=self.shapes)

    @property
    def demo(self) -> DemoConfig:
        shapes = replace(self.shapes, tasks=("single_object", "colors", "direction"), samples=24)
        return DemoConfig(
            curate=self.curation, train=self.training, generate=self.generation, evaluate=self.metrics, shapes=shapes
        )


def batches_of(rows: int) -> Resources:
    """One CPU per worker, batches of `rows` rows."""
    return Resources(batch_size=rows)


def on_gpu(share: float, *, workers: tuple[int, int], batch_size: int) -> Resources:
    """A share of a GPU and two CPUs per worker."""
    return Resources(cpus=2, gpus=share, workers=workers, batch_size=batch_size)
