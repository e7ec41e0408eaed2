"""`nova benchmark shapes`: prompts of a grammar, and samples judged from their pixels; see jobs/benchmark.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from jobs.benchmark import BenchmarkConfig
from pipelines.evaluation.benchmarks.benchmark import Benchmark
from pipelines.generation.checkpoint_resolution import ResolvedCheckpoint
from pipelines.shapes_world.benchmark import PreparedShapes
from pipelines.shapes_world.prompts import VIDEO_TASKS, ShapesBenchmark


@dataclass(frozen=True, kw_only=True)
class ShapesBenchmarkConfig(BenchmarkConfig):
    """Generates scenes of the shapes world from a checkpoint, and judges whether they show what their prompts say.

    Example: nova benchmark shapes --recipe shapes --checkpoint work/run --json
    """

    name: ClassVar[str] = "shapes"
    files: ClassVar[tuple[str, ...]] = ("first_frames", "images.png", "videos.png")

    shapes: ShapesBenchmark = field(default_factory=ShapesBenchmark)
    """Tasks and number of samples."""

    def unused_settings(self) -> dict[str, str]:
        if not self.shapes.tasks or set(self.shapes.tasks) & set(VIDEO_TASKS):
            return {}
        return {"generate.full_chroma": "on image tasks; leave it out, or add a video task"}

    def check(self) -> None:
        self.shapes.check()

    def prepare(self, checkpoint: ResolvedCheckpoint, output: Path) -> Benchmark:
        return PreparedShapes.prepare(self.shapes, self.generate, checkpoint, output)
