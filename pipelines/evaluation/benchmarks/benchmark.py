"""What a benchmark that judges samples itself provides, and the files that its result becomes.

OUTPUT/scores.parquet    a row per sample: the requested content, the content recognised, and the error
OUTPUT/wrong.json        the wrong samples alone
OUTPUT/summary.json      scores and their provenance
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipelines.core.stage import Row
from pipelines.evaluation.metrics import Score
from pipelines.evaluation.results import failure_entry, write_scores
from pipelines.generation.config import GenerationConfig
from pipelines.generation.requests import SampleRequest
from pipelines.store.files import write_json

FILES = ("scores.parquet", "wrong.json", "summary.json")


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """Judged samples of a benchmark."""

    rows: list[Row]
    """Judged samples in the order of the requests, with the columns of scores.parquet and `failed_*`."""
    columns: tuple[str, ...]
    """Columns of scores.parquet."""
    scores: Mapping[str, Score]
    wrong: list[Row]
    """Entries of wrong.json."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of summary.json."""

    @property
    def judged(self) -> int:
        """Number of samples that could be judged."""
        return sum(row["failed_stage"] is None for row in self.rows)


class Benchmark(Protocol):
    """A benchmark that is prepared for one checkpoint."""

    @property
    def name(self) -> str: ...

    @property
    def generation(self) -> GenerationConfig:
        """How its samples are generated."""

    @property
    def requests(self) -> Sequence[SampleRequest]:
        """The samples that it judges, in order."""

    def provenance(self) -> dict[str, Any]:
        """Settings that its scores depend on, besides the checkpoint and how samples are generated."""

    def judge(self, samples: Sequence[Row | None]) -> BenchmarkResult:
        """Judges samples, on Ray.

        Args:
            samples: rows of the manifest in the order of the requests; None where a sample could not be generated.
        """

    def draw_sheets(self, result: BenchmarkResult, folder: Path) -> list[Path]:
        """Draws contact sheets of judged samples."""


def missing_samples(requests: Sequence[SampleRequest], samples: Sequence[Row | None], folder: Path) -> list[Row]:
    """Entries of summary.json for samples that could not be generated."""
    message = "it could not be generated; its error is printed above; run the same command again"
    return [
        {"uri": str(folder / request.path), "stage": "generate", "message": message}
        for request, sample in zip(requests, samples, strict=True)
        if sample is None
    ]


def write_result(
    output: Path, name: str, result: BenchmarkResult, *, missing: Sequence[Row], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes scores.parquet, wrong.json and summary.json; returns the content of the last one.

    Args:
        output: folder for the files.
        name: name of the benchmark.
        result: judged samples of the benchmark.
        missing: entries for samples that could not be generated.
        provenance: origin of the scores, such as checkpoint and data version.
    """
    write_scores(output, result.rows, result.columns)
    write_json(output / "wrong.json", result.wrong)
    unreadable = [failure_entry(row) for row in result.rows if row["failed_stage"] is not None]
    summary = {
        "benchmark": name,
        "scores": {score_name: asdict(score) for score_name, score in result.scores.items()},
        **result.details,
        "samples": result.judged,
        "wrong": len(result.wrong),
        "failed": [*missing, *unreadable],
        "output": str(output),
        "provenance": dict(provenance),
    }
    write_json(output / "summary.json", summary)
    return summary
