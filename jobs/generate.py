"""`nova generate`: from a checkpoint and prompts to images and videos, in batches on Ray Data.

nova generate --recipe debug --checkpoint work/run --prompt "a red ball rolls to the left" --output work/samples
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nova_model.config import SamplingConfig
from pipelines.core.stage import Resources, Row
from pipelines.store import schema

if TYPE_CHECKING:
    from pipelines.evaluation.benchmarks.layouts import Sample
    from pipelines.generation.stage import Generate

MANIFEST = (
    "sample_id", "uri", "path", "kind", "prompt", "seeds", "frames", "height", "width", "fps", "seconds",
    "device_seconds", "checkpoint", "data_version", "settings",
)  # fmt: skip
FLUSH_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Generates images and videos for prompts or for a benchmark; run again, it makes only what is missing.

    Example: nova generate --recipe debug --checkpoint work/run --prompt "a red ball" --output work/samples
    """

    checkpoint: str = ""
    """A training run, one of its checkpoints, zoo/nova, or a released folder or hub id."""
    prompt: str | None = None
    """One prompt."""
    prompts: str | None = None
    """File of prompts: one a line, JSONL with `prompt`, or a JSON list."""
    benchmark: str | None = None
    """geneval, dpg_bench, t2i_compbench or vbench: its prompts, its number of samples, its official layout."""
    benchmark_data: str | None = None
    """Folder with the benchmark's prompt files."""
    output: str = ""
    """Folder for media, manifest.parquet and contact_sheet.png."""
    samples: int | None = None
    """Samples per prompt; 1 by default, the protocol's number for a benchmark."""
    limit: int | None = None
    """Generate at most this many files."""
    seed: int = 0
    """Of the first sample of every prompt; the next ones count up."""
    address: str | None = None
    """Ray cluster to run on; without it RAY_ADDRESS, else this machine."""

    frames: int = 1
    """Frames of a video; 1 makes images."""
    height: int | None = None
    """Pixels; as trained by default."""
    width: int | None = None
    """Pixels; as trained by default."""
    fps: float = 12.0
    """Frames per second that the model is asked for and the file is written with."""
    full_chroma: bool | None = None
    """Videos keep colours at full resolution (4:4:4), which not every player shows; by default, only those do whose
    pixels the benchmark `shapes` judges."""
    motion: float = 5.0
    """Motion score that the model is asked for; 1 to 10 is useful."""
    negative_prompt: str | None = None
    """Prompt to move away from."""
    image: str | None = None
    """First frame to continue from (image-to-video)."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    samples_at_once: int = 1
    """Samples denoised together on a worker."""
    precision: str = "auto"
    """bf16 or fp32; auto is bf16 on a GPU and fp32 on a CPU."""
    vae: str | None = None
    """Takes the place of the checkpoint's VAE."""
    text_encoder: str | None = None
    """Takes the place of the checkpoint's text encoder."""
    resources: Resources = field(default_factory=lambda: Resources(batch_size=4))
    """Of a worker."""
    parent_run: str | None = None
    """MLflow run that this one belongs to."""


def run(config: GenerateConfig) -> int:
    """Generates; 0 when every sample was made, 1 when some failed."""
    _, failed = generate(config)
    return 1 if failed else 0


def generate(config: GenerateConfig, wanted: Sequence[Sample] | None = None) -> tuple[Path, int]:
    """Generates under an MLflow run; returns the output folder and how many samples failed.

    Args:
        config: how, and where to.
        wanted: what; the config's prompts or benchmark by default.

    Raises:
        ValueError: no checkpoint, no prompts, an output folder that is not ours.
    """
    from jobs import settings
    from jobs.curate import beside
    from jobs.runtime import tracking
    from jobs.runtime.cluster import connect

    wanted = plan(config) if wanted is None else wanted
    stage = build(config, videos=any(sample.video for sample in wanted))
    output = Path(stage.output)
    rows = planned(stage, wanted)
    manifest = Manifest(output)
    todo = [row for row in rows if row["sample_id"] not in manifest.done]
    _write_files(output, wanted)
    flat = settings.flatten(config) | {"data_version": stage.components.data_version}
    with tracking.start(
        "generate", config=flat, beside=beside(str(output)), parent=config.parent_run, resume=output / ".mlflow.json"
    ) as tracked:
        print(f"{len(rows)} samples, {len(rows) - len(todo)} of them already there", flush=True)
        failures: list[Row] = []
        if todo:
            connect(config.address)
            failures = _stream(stage, todo, manifest)
        manifest.keep([row["sample_id"] for row in rows])
        for failure in failures[:3]:
            print(f"failed: {failure['path']}: {failure['failed_error']}: {failure['failed_message']}")
        tracked.log_metrics(_totals(manifest, failures))
        _publish(tracked, output)
    print(f"samples: {output} ({len(manifest.done)} in manifest.parquet, {len(failures)} failed)")
    return output, len(failures)


def plan(config: GenerateConfig) -> list[Sample]:
    """What to generate, in order.

    Raises:
        ValueError: not exactly one of prompt, prompts and benchmark.
    """
    from pipelines.evaluation.benchmarks import layouts as benchmarks

    given = [name for name in ("prompt", "prompts", "benchmark") if getattr(config, name)]
    if len(given) != 1:
        raise ValueError(f"give one of --prompt, --prompts or --benchmark, not {' and '.join(given) or 'none'}")
    if config.benchmark:
        if not config.benchmark_data:
            raise ValueError("--benchmark needs --benchmark-data, the folder with its prompt files")
        samples = benchmarks.read(config.benchmark, config.benchmark_data, samples=config.samples, seed=config.seed)
        if samples[0].video != (config.frames > 1):
            kind = "videos: give --frames above 1" if samples[0].video else "images: leave --frames at 1"
            raise ValueError(f"{config.benchmark} takes {kind}")
        return samples[: config.limit]
    prompts = [config.prompt] if config.prompt else benchmarks.read_prompts(config.prompts or "")
    ending = "mp4" if config.frames > 1 else "png"
    return [
        benchmarks.Sample(prompt, f"{index:05d}-{seed}.{ending}", (seed,), video=config.frames > 1)
        for index, prompt in enumerate(prompts)
        for seed in range(config.seed, config.seed + (config.samples or 1))
    ][: config.limit]


def build(config: GenerateConfig, *, videos: bool) -> Generate:
    """The generation stage of a config.

    Raises:
        ValueError: no checkpoint there, or a number of frames that no VAE takes.
    """
    from pipelines.generation import checkpoint_resolution as components
    from pipelines.generation.stage import Generate

    if not config.output:
        raise ValueError("--output is missing; give a folder for the samples")
    if config.frames < 1:
        raise ValueError(f"--frames {config.frames}: at least 1")
    return Generate(
        components=components.find(config.checkpoint, vae=config.vae, text_encoder=config.text_encoder),
        output=str(Path(config.output).expanduser().absolute()),
        frames=config.frames,
        height=config.height,
        width=config.width,
        video_fps=config.fps,
        full_chroma=bool(config.full_chroma),
        motion=config.motion,
        negative_prompt=config.negative_prompt,
        image=config.image,
        sampling=config.sampling,
        samples_at_once=config.samples_at_once,
        precision=config.precision,
        resources=config.resources,
    )


class Manifest:
    """OUT/manifest.parquet: one row a sample, rewritten in one move, so that a killed run loses seconds of work.

    Raises:
        ValueError: the folder holds something that is not ours.
    """

    def __init__(self, output: Path) -> None:
        self.path = output / "manifest.parquet"
        if output.exists() and not output.is_dir():
            raise ValueError(f"--output {output} is a file; give a folder")
        others = [each.name for each in output.glob("*") if not each.name.startswith(".")] if output.exists() else []
        if others and not self.path.exists():
            raise ValueError(f"--output {output} holds other files ({others[0]}); give an empty or new folder")
        rows = pq.read_table(self.path).to_pylist() if self.path.exists() else []
        self.rows: dict[str, Row] = {row["sample_id"]: row for row in rows if Path(row["uri"]).exists()}
        output.mkdir(parents=True, exist_ok=True)
        self.write()

    @property
    def done(self) -> set[str]:
        return set(self.rows)

    def add(self, rows: Sequence[Row]) -> None:
        """Adds finished samples and writes the file."""
        self.rows |= {row["sample_id"]: {name: row[name] for name in MANIFEST} for row in rows}
        self.write()

    def keep(self, order: Sequence[str]) -> None:
        """Drops samples whose file now belongs to another one, and sorts."""
        by_path = {self.rows[each]["path"]: each for each in (*self.rows, *order) if each in self.rows}
        ranks = {each: number for number, each in enumerate(order)}
        kept = sorted(by_path.values(), key=lambda each: (ranks.get(each, len(ranks)), each))
        self.rows = {each: self.rows[each] for each in kept}
        self.write()

    def write(self) -> None:
        table = pa.Table.from_pylist(list(self.rows.values()), schema=pa.schema([schema.field(n) for n in MANIFEST]))
        partial = self.path.with_name(".manifest.parquet")
        pq.write_table(table, partial)
        partial.replace(self.path)


def planned(stage: Generate, samples: Sequence[Sample]) -> list[Row]:
    """The rows that the stage reads; their `sample_id` changes when, and only when, what is made may change."""
    weights = _weights(stage.components.transformer)
    return [_row(stage, sample, weights) for sample in samples]


def _row(stage: Generate, sample: Sample, weights: str) -> Row:
    settings = {
        "sampling": asdict(stage.sampling), "frames": stage.frames, "height": stage.height, "width": stage.width,
        "fps": stage.video_fps, "motion": stage.motion, "negative_prompt": stage.negative_prompt, "image": stage.image,
        "precision": stage.precision, "vae": stage.components.vae, "text_encoder": stage.components.text_encoder,
    }  # fmt: skip
    own = {
        "frames": sample.frames, "motion": sample.motion, "image": sample.image,
        "full_chroma": (stage.full_chroma and sample.video) or None,
    }  # fmt: skip
    text = json.dumps(settings | {name: value for name, value in own.items() if value is not None}, sort_keys=True)
    made_of = (weights, sample.prompt, sample.seeds, sample.path, text)
    return {
        "sample_id": schema.derived_id(*made_of),
        "prompt": sample.prompt,
        "path": sample.path,
        "seeds": list(sample.seeds),
        "asked_frames": sample.frames,
        "asked_motion": sample.motion,
        "first_frame": sample.image,
        "checkpoint": stage.components.checkpoint,
        "data_version": stage.components.data_version,
        "settings": text,
    }


def _weights(folder: str) -> str:
    """Changes when the weights in a folder do: a run's newest checkpoint keeps its place but not its content."""
    from pipelines.core.model_hub import digest

    return digest(folder)


def _stream(stage: Generate, todo: list[Row], manifest: Manifest) -> list[Row]:
    from pipelines.core import progress
    from pipelines.core.ray_data import run_stages

    table = pa.Table.from_pylist(todo, schema=pa.schema([schema.field(name) for name in todo[0]]))
    meter = progress.start_meter()
    failures: list[Row] = []
    finished: list[Row] = []
    flushed = time.monotonic()
    with progress.show(meter, [stage.name], len(todo)):
        for block in run_stages(table, [stage], meter=meter):
            rows = block.to_pylist()
            failures += [row for row in rows if row["failed_stage"]]
            finished += [row for row in rows if not row["failed_stage"]]
            if time.monotonic() - flushed > FLUSH_SECONDS:
                manifest.add(finished)
                finished, flushed = [], time.monotonic()
        manifest.add(finished)
    return failures


def _write_files(output: Path, samples: Sequence[Sample]) -> None:
    files = {path: text for sample in samples for path, text in sample.files.items()}
    for path, text in files.items():
        (output / path).parent.mkdir(parents=True, exist_ok=True)
        (output / path).write_text(text + "\n")


def _totals(manifest: Manifest, failures: Sequence[Row]) -> dict[str, float]:
    count = max(1, len(manifest.rows))
    return {
        "samples": len(manifest.rows),
        "failed": len(failures),
        "seconds_per_sample": sum(row["seconds"] for row in manifest.rows.values()) / count,
        "device_seconds_per_sample": sum(row["device_seconds"] for row in manifest.rows.values()) / count,
    }


def _publish(tracked: Any, output: Path) -> None:
    from pipelines.report.contact_sheet import sheet_from_manifest

    sheet = sheet_from_manifest(output)
    tracked.log_artifact(output / "manifest.parquet")
    if sheet is not None:
        tracked.log_artifact(sheet)
        print(f"contact sheet: {sheet}")
