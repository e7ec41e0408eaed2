"""`nova generate`: from a checkpoint and prompts to images and videos, in batches on Ray Data.

nova generate --recipe debug --checkpoint work/run --prompt "a red ball rolls to the left" --output work/samples
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs import settings
from jobs.runtime import tracking
from jobs.runtime.cluster import connect
from pipelines.core.stage import Row
from pipelines.evaluation.benchmarks import layouts
from pipelines.generation.checkpoint_resolution import resolve_checkpoint
from pipelines.generation.config import GenerationConfig
from pipelines.generation.file_names import check_file_system, check_paths
from pipelines.generation.manifest import (
    SampleManifest,
    check_samples_folder,
    generate_samples,
    sample_rows,
    totals,
    write_companion_files,
)
from pipelines.generation.requests import SampleRequest, prompt_requests, read_prompts
from pipelines.generation.stage import Generate
from pipelines.report.contact_sheet import sheet_from_manifest
from pipelines.store.folders import local_folder
from pipelines.store.locks import exclusive
from pipelines.store.texts import repair

# One cause usually fails all samples alike; the last line counts them.
PRINTED_FAILURES = 3


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(GenerationConfig):
    """Generates images and videos for prompts or a benchmark; a second run generates only the missing ones.

    Example: nova generate --recipe debug --checkpoint work/run --prompt "a red ball" --output work/samples
    """

    checkpoint: str = ""
    """A training run, one of its checkpoints, zoo/nova, or a released folder or hub id."""
    prompt: str | None = None
    """A single prompt."""
    prompts: str | None = None
    """File of prompts: one per line, JSONL with `prompt`, or a JSON list."""
    benchmark: str | None = None
    """geneval, dpg_bench, t2i_compbench or vbench: its prompts, its number of samples and its official layout, for its
    official scorer."""
    benchmark_data: str | None = None
    """Folder with the benchmark's prompt files."""
    output: str = ""
    """Folder for media, manifest.parquet and contact_sheet.png."""
    samples: int | None = None
    """Samples per prompt; 1 by default, or the protocol's number for a benchmark."""
    limit: int | None = None
    """Generate at most this many files."""
    seed: int = 0
    """Seed of the first sample of every prompt; the next ones count up."""
    frames: int = 1
    """Frames of a video; 1 generates images."""
    image: str | None = None
    """First frame to continue from (image-to-video)."""
    address: str | None = None
    """Ray cluster to run on; without it RAY_ADDRESS, else this machine."""
    parent_run: str | None = None
    """MLflow run that this one belongs to."""

    def unused_settings(self) -> dict[str, str]:
        unused = super().unused_settings()
        if self.benchmark:
            unused.pop("samples_at_once", None)  # a file of some benchmarks holds several samples
        return unused


def run(config: GenerateConfig) -> int:
    """Generates; returns 0 when every sample exists, 1 when some failed."""
    _, failed = generate(config)
    return 1 if failed else 0


def check(config: GenerateConfig) -> None:
    """Raises ValueError where options contradict each other or one of them has no effect."""
    sources = [name for name in ("prompt", "prompts", "benchmark") if getattr(config, name)]
    if len(sources) != 1:
        raise ValueError(f"give one of --prompt, --prompts or --benchmark, not {' and '.join(sources) or 'none'}")
    if config.benchmark and not config.benchmark_data:
        raise ValueError("--benchmark needs --benchmark-data, the folder with its prompt files")
    if config.benchmark_data and not config.benchmark:
        raise ValueError("--benchmark-data has no effect without --benchmark; leave it out")
    if config.frames < 1:
        raise ValueError(f"--frames {config.frames}: at least 1")
    if config.frames == 1:
        for name in ("image", "full_chroma"):
            if getattr(config, name) is not None:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} has no effect on images; leave it out, or give --frames above 1")


def plan_requests(config: GenerateConfig) -> list[SampleRequest]:
    """What the config asks for, in order.

    Raises:
        ValueError: a prompt file is missing or malformed, or --frames does not fit the benchmark.
    """
    if config.benchmark:
        assert config.benchmark_data is not None  # as `check` demands
        requests = layouts.read(config.benchmark, config.benchmark_data, samples=config.samples, seed=config.seed)
        # Official scorers read fixed endings; a video under the name of a picture would be scored as a broken file.
        if requests[0].is_video != (config.frames > 1):
            kind = "videos: give --frames above 1" if requests[0].is_video else "images: leave --frames at 1"
            raise ValueError(f"{config.benchmark} takes {kind}")
        _warn_of_names(config.benchmark, requests)
    else:
        prompts = [repair(config.prompt)] if config.prompt else read_prompts(config.prompts or "")
        requests = prompt_requests(prompts, samples=config.samples or 1, seed=config.seed, video=config.frames > 1)
    # After the requests have their seeds, so that a limit does not change the samples that remain.
    return requests[: config.limit]


def _warn_of_names(benchmark: str, requests: Sequence[SampleRequest]) -> None:
    prompts = dict.fromkeys(request.prompt for request in requests if not layouts.maps_back(benchmark, request))
    if prompts:
        tracking.warn(
            f"no file name holds {len(prompts)} of the prompts as the scorer of {benchmark} reads it, such as "
            f"{next(iter(prompts))[:200]!r}: it scores them by other words or not at all; reword them"
        )


def generate(config: GenerateConfig, requests: Sequence[SampleRequest] | None = None) -> tuple[Path, int]:
    """Generates under an MLflow run; returns the output folder and how many samples failed.

    Args:
        config: settings, checkpoint and output folder.
        requests: samples to generate; by default those that the config describes.

    Raises:
        ValueError: options that do not fit together, no checkpoint, no prompts, an output folder with other files, or
            samples that would share a file.
    """
    if requests is None:
        check(config)
        requests = plan_requests(config)
    stage = build_stage(config)
    output = Path(stage.output)
    check_paths(requests)
    check_file_system(output, [request.path for request in requests])
    rows = sample_rows(stage, requests)
    check_samples_folder(output)
    with exclusive(output, option="--output"):
        return output, _generate(config, requests, stage, rows)


def _generate(config: GenerateConfig, requests: Sequence[SampleRequest], stage: Generate, rows: Sequence[Row]) -> int:
    """Generates the samples that the output folder lacks; returns how many failed."""
    output = Path(stage.output)
    manifest = SampleManifest(output)
    missing = [row for row in rows if row["sample_id"] not in manifest]
    # Before the samples, as they need no model: a scorer can start on an output that is still growing.
    write_companion_files(output, requests)
    params = settings.flatten(config) | {"data_version": stage.checkpoint.data_version}
    with tracking.start(
        "generate",
        config=params,
        beside=tracking.store_folder(str(output)),
        parent=config.parent_run,
        resume=output / ".mlflow.json",
    ) as tracked:
        print(f"{len(rows)} samples, {len(rows) - len(missing)} of them already there", flush=True)
        failures = []
        # Starting Ray takes seconds, which a complete output does not need.
        if missing:
            connect(config.address)
            failures = generate_samples(stage, missing, manifest)
        # Last, as only now is it clear which files were overwritten by samples of other settings.
        manifest.prune([row["sample_id"] for row in rows])
        for failure in failures[:PRINTED_FAILURES]:
            path = " ".join(failure["path"].split())  # a prompt as a name may have line ends
            print(f"failed: {path}: {failure['failed_error']}: {failure['failed_message']}")
        tracked.log_metrics(totals(manifest, failures))
        _publish(tracked, output)
    print(f"samples: {output} ({len(manifest)} in manifest.parquet, {len(failures)} failed)")
    return len(failures)


def build_stage(config: GenerateConfig) -> Generate:
    """The generation stage of a config.

    Raises:
        ValueError: the output is missing, or the checkpoint cannot be resolved.
    """
    if not config.output:
        raise ValueError("--output is missing; give a folder for the samples")
    return Generate.from_config(
        config,
        resolve_checkpoint(config.checkpoint, vae=config.vae, text_encoder=config.text_encoder),
        local_folder(config.output, "--output"),
        frames=config.frames,
        image=config.image,
    )


def _publish(tracked: tracking.Run, output: Path) -> None:
    tracked.log_artifact(output / "manifest.parquet")
    sheet = sheet_from_manifest(output)
    if sheet is not None:
        tracked.log_artifact(sheet)
        print(f"contact sheet: {sheet}")
