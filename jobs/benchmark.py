"""`nova benchmark NAME`: a checkpoint generates what the prompts of a benchmark ask for, and the samples are judged.

nova benchmark shapes --recipe shapes --checkpoint work/run --output work/run-shapes --json

    OUTPUT/samples/          samples, with the manifest of `nova generate`
    OUTPUT/scores.parquet    a row per sample: the requested content, the content recognised, and the error
    OUTPUT/wrong.json        only the wrong samples
    OUTPUT/summary.json      scores and their provenance
    OUTPUT/*.png             contact sheets of samples and their prompts, marked right or wrong

A second run generates only missing samples and judges all of them again. This module is independent of the benchmarks:
a benchmark is a subclass of `BenchmarkConfig`, and jobs/recipes lists the available ones.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from jobs import settings
from jobs.generate import GenerateConfig, build_stage, generate
from jobs.runtime import tracking
from jobs.runtime.cluster import connect
from pipelines.core.model_hub import digest
from pipelines.core.stage import Row
from pipelines.evaluation.benchmarks import layouts
from pipelines.evaluation.benchmarks.benchmark import FILES, Benchmark, missing_samples, write_result
from pipelines.evaluation.metrics import Score
from pipelines.evaluation.results import score_table
from pipelines.generation.checkpoint_resolution import ResolvedCheckpoint, resolve_checkpoint
from pipelines.generation.config import GenerationConfig
from pipelines.generation.manifest import read_manifest, sample_rows
from pipelines.store.folders import check_output_folder, local_folder
from pipelines.store.locks import exclusive


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(ABC):
    """What every benchmark has; each one is a subclass that adds its own settings."""

    name: ClassVar[str]
    """NAME on the command line."""
    files: ClassVar[tuple[str, ...]]
    """Names in the output folder besides samples/ and the files that every benchmark writes."""

    checkpoint: str = ""
    """A training run, one of its checkpoints, zoo/nova, or a released folder or hub id."""
    output: str = ""
    """Folder for samples and scores; by default RUN-NAME beside the training run."""
    json: bool = False
    """Print the content of summary.json as one line of JSON, the last one."""
    address: str | None = None
    """Ray cluster to run on; without it RAY_ADDRESS, else this machine."""
    parent_run: str | None = None
    """MLflow run that this one belongs to."""
    generate: GenerationConfig = field(default_factory=GenerationConfig)
    """How samples are generated."""

    @abstractmethod
    def check(self) -> None:
        """Raises ValueError where settings of the benchmark are wrong or have no effect."""

    @abstractmethod
    def prepare(self, checkpoint: ResolvedCheckpoint, output: Path) -> Benchmark:
        """Prepares the benchmark for a checkpoint.

        Args:
            checkpoint: checkpoint that generates the samples.
            output: folder for everything.

        Raises:
            ValueError: the checkpoint cannot do what the settings ask for.
        """


def select(benchmarks: Mapping[str, BenchmarkConfig], arguments: Sequence[str]) -> tuple[BenchmarkConfig, list[str]]:
    """The benchmark that a command line names first, and the options after its name.

    Args:
        benchmarks: configs of a recipe, by name.
        arguments: options of `nova benchmark`. Without a name, --help is about the first benchmark.

    Raises:
        ValueError: no benchmark is named, or the name is unknown.
    """
    name = arguments[0] if arguments else ""
    if name in benchmarks:
        return benchmarks[name], list(arguments[1:])
    if name in ("-h", "--help"):
        return next(iter(benchmarks.values())), list(arguments)
    if not name or name.startswith("-"):
        raise ValueError(f"NAME is missing; write nova benchmark NAME, with one of {', '.join(benchmarks)}")
    if name in layouts.BENCHMARKS:
        raise ValueError(
            f"benchmark {name} has an official scorer; nova generate --benchmark {name} writes the samples as it reads "
            "them"
        )
    raise ValueError(f"unknown benchmark {name!r}{settings.nearest(name, benchmarks)}")


def run(config: BenchmarkConfig) -> int:
    """Runs a benchmark; returns 0 when every sample was generated and judged, 1 when some were not."""
    return 1 if run_benchmark(config)["failed"] else 0


def run_benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Generates, judges and scores under an MLflow run; returns the content of summary.json.

    Raises:
        ValueError: wrong settings, no checkpoint, or an output folder with other files.
    """
    if not config.checkpoint:
        raise ValueError("--checkpoint is missing; give a training run, one of its checkpoints or a hub id")
    # Before the checkpoint is resolved, which may download it.
    config.check()
    checkpoint = resolve_checkpoint(
        config.checkpoint, vae=config.generate.vae, text_encoder=config.generate.text_encoder
    )
    output = output_folder(config)
    check_output_folder(output, "--output", contents=("samples", *FILES, *config.files))
    # Scores without samples may be those of `nova evaluate`, which this run would overwrite.
    check_output_folder(output, "--output", markers=("samples", *config.files))
    with exclusive(output, option="--output"):
        return _run_benchmark(config, checkpoint, output)


def _run_benchmark(config: BenchmarkConfig, checkpoint: ResolvedCheckpoint, output: Path) -> dict[str, Any]:
    """Generates, judges and scores in a folder that this process has to itself."""
    # The benchmark may adapt the generation to the checkpoint, so provenance and parameters come from what it returns.
    benchmark = config.prepare(checkpoint, output)
    provenance = _provenance(benchmark, checkpoint)
    with (
        tracking.start(
            "benchmark", config=settings.flatten(replace(config, generate=benchmark.generation)),
            beside=tracking.store_folder(str(output)), parent=config.parent_run, resume=output / ".mlflow.json",
        ) as tracked,
        tracking.stored_with(tracked),
    ):  # fmt: skip
        generate_config = settings.extend(
            GenerateConfig, benchmark.generation, checkpoint=config.checkpoint, output=str(output / "samples"),
            address=config.address, parent_run=tracked.id,
        )  # fmt: skip
        # Every sample that the manifest lists already is skipped: the manifest is the state that a second run continues
        # from.
        generate(generate_config, benchmark.requests)
        # `generate` starts Ray only where samples are missing.
        connect(config.address)
        samples = _read_samples(generate_config, benchmark)
        result = benchmark.judge(samples)
        missing = missing_samples(benchmark.requests, samples, output / "samples")
        summary = write_result(output, benchmark.name, result, missing=missing, provenance=provenance)
        _publish(tracked, output, summary, benchmark.draw_sheets(result, output))
    scores = {name: Score(**score) for name, score in summary["scores"].items()}
    Console().print(score_table(scores, samples=summary["samples"], failed=len(summary["failed"])))
    print(f"scores: {output}")
    if config.json:
        # The last line, whatever was printed before: scripts take `tail -1`.
        print(json.dumps(summary))
    return summary


def output_folder(config: BenchmarkConfig) -> Path:
    """The output folder; by default beside the training run, or in the working directory for other models."""
    if config.output:
        return local_folder(config.output, "--output")
    place = Path(config.checkpoint).expanduser().absolute()
    if not place.is_dir():
        return Path.cwd() / f"{config.checkpoint.rpartition('/')[2]}-{config.name}"
    run = next((folder for folder in (place, *place.parents[:2]) if (folder / "run.json").exists()), place)
    step = [] if place in (run, run / "model") else [place.name]
    return run.parent / "-".join([run.name, *step, config.name])


def _read_samples(config: GenerateConfig, benchmark: Benchmark) -> list[Row | None]:
    """Rows of the manifest in the order of the benchmark's requests; None where a sample is missing."""
    # By id and not by position: the manifest is in the order in which workers finished.
    by_id = {row["sample_id"]: row for row in read_manifest(Path(config.output))}
    return [by_id.get(row["sample_id"]) for row in sample_rows(build_stage(config), benchmark.requests)]


def _provenance(benchmark: Benchmark, checkpoint: ResolvedCheckpoint) -> dict[str, Any]:
    """What the scores depend on."""
    # Resources decide where and how fast samples are generated, never which.
    generation = {name: value for name, value in asdict(benchmark.generation).items() if name != "resources"}
    return {
        "benchmark": benchmark.name,
        "checkpoint": checkpoint.checkpoint,
        # A path may hold other weights tomorrow; their hash tells whether two scores are of one model.
        "weights": digest(checkpoint.transformer)[:32],
        "data_version": checkpoint.data_version,
        "preset": checkpoint.preset,
        "vae": checkpoint.vae,
        "text_encoder": checkpoint.text_encoder,
        "generate": generation,
        **benchmark.provenance(),
    }


def _publish(tracked: tracking.Run, output: Path, summary: Mapping[str, Any], sheets: Sequence[Path]) -> None:
    tracked.log_metrics({name: score["value"] for name, score in summary["scores"].items()})
    tracked.log_metrics({"samples": summary["samples"], "wrong": summary["wrong"], "failed": len(summary["failed"])})
    tracked.set_tags({name: str(value) for name, value in summary["provenance"].items()})
    for name in FILES:
        tracked.log_artifact(output / name)
    for sheet in sheets:
        tracked.log_artifact(sheet)
        print(f"contact sheet: {sheet}")
