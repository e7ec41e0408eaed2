"""`nova demo`: the whole loop on a corpus of its own, with the zoo's small models. `make demo` runs it.

    nova demo --output demo

It writes moving shapes as real mp4 and png files (some ugly, duplicated or broken on purpose), curates them, continues
for a few steps the training of the bundled checkpoint, generates images and videos, scores them,
measures whether samples match their prompts, and reports. Run again, it continues where it stopped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from jobs import settings
from jobs.benchmark import run_benchmark
from jobs.curate import CurateConfig, curate
from jobs.evaluate import EvaluateConfig, evaluate
from jobs.generate import GenerateConfig, generate
from jobs.runtime import tracking
from jobs.runtime.tracking import Run
from jobs.shapes_world.audit import audit_corpus
from jobs.shapes_world.benchmark import ShapesBenchmarkConfig
from jobs.shapes_world.corpus import ShapesConfig, check_items, write
from jobs.train.config import TrainConfig, TrainingConfig
from jobs.train.job import train
from pipelines.curation.stages import Curation
from pipelines.curation.summary import Summary
from pipelines.evaluation.metrics import Metrics
from pipelines.generation.config import GenerationConfig
from pipelines.report.audit import Audit
from pipelines.report.curation import curation_section
from pipelines.report.page import write_report
from pipelines.report.samples import SamplesSection, sample_group
from pipelines.report.scores import ScoresSection, score_group
from pipelines.report.training import training_section
from pipelines.shapes_world.prompts import ShapesBenchmark
from pipelines.store.folders import check_output_folder, local_folder
from pipelines.store.locks import exclusive
from pipelines.store.tables import Tables


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Runs the whole loop: media -> tables -> trained NOVA -> images and videos -> scores.

    Example: nova demo --output demo
    """

    RENAMED: ClassVar = {"questions": "shapes.samples"}

    output: str = "demo"
    """Folder for everything."""
    items: int = 120
    """Files of the corpus."""
    prompts: int = 6
    """Number of captions to generate from, as images and as videos."""
    frames: int = 17
    """Frames of the videos."""
    seed: int = 0
    """Seed of the corpus and of the samples."""
    address: str | None = None
    """Ray cluster to run on; by default RAY_ADDRESS, else this machine."""
    curate: Curation
    """The stages of curation."""
    train: TrainingConfig
    """How NOVA is trained."""
    generate: GenerationConfig
    """How samples are generated."""
    evaluate: Metrics
    """The metrics that samples are scored by."""
    shapes: ShapesBenchmark
    """Tasks and number of samples of the benchmark `shapes`."""

    def __post_init__(self) -> None:
        check_items("--items", self.items)


def run(config: DemoConfig) -> int:
    """Runs the loop; 0 on success."""
    config.shapes.check()
    output = local_folder(config.output, "--output")
    check_output_folder(output, "--output", markers=("corpus",))
    Tables(output / "tables")  # raises where Delta cannot store tables below the output
    began = time.monotonic()
    notes = [_how_trained(config.train), *settings.model_notes(config)]
    print(*notes, sep="\n")
    # The commands of the loop log their own settings; this run has what they share.
    flat = {key: value for key, value in settings.flatten(config).items() if "." not in key}
    resume = output / ".demo-mlflow.json"
    with (
        exclusive(output, "demo", option="--output"),
        tracking.start("demo", config=flat, beside=output, resume=resume) as tracked,
        tracking.stored_with(tracked),
    ):
        summary, audits = _curate(config, output, tracked)
        _train(config, output, tracked)
        groups = _samples(config, output, tracked)
        _scores(config, output, tracked, groups)
        _benchmark(config, output, tracked)
        report = _report(output, summary, audits, groups, notes)
        tracked.log_artifact(report)
        tracked.log_metrics({"minutes": (time.monotonic() - began) / 60})
        print(f"\nThe demo took {(time.monotonic() - began) / 60:.1f} minutes. Results:")
        print(f"  report          {report}")
        for name in groups:
            print(f"  {name:<15} {output / 'samples' / name / 'contact_sheet.png'}")
        print(f"  runs in MLflow  {tracked.hint}")
    return 0


def _how_trained(config: TrainingConfig) -> str:
    if not config.init_from:
        return f"NOVA is trained from scratch for {config.steps} steps."
    return (
        f"NOVA's training continues from {config.init_from} for {config.steps} steps; it does not start from scratch."
    )


def _print_step(title: str) -> None:
    print(f"\n== {title}", flush=True)


def _curate(config: DemoConfig, output: Path, tracked: Run) -> tuple[Summary, list[Audit]]:
    corpus = output / "corpus"
    _print_step(f"corpus: {config.items} files of moving shapes in {corpus}")
    manifest = write(ShapesConfig(output=str(corpus), items=config.items, seed=config.seed))
    _print_step("curate")
    curate_config = settings.extend(
        CurateConfig, config.curate, input=str(manifest), tables=str(output / "tables"), address=config.address
    )
    audits: list[Audit] = []

    def audited(place: str, tables: Tables) -> Audit | None:
        audit = audit_corpus(place, tables)
        audits.extend([] if audit is None else [audit])  # for the demo's own report
        return audit

    summary = curate(curate_config, parent=tracked.id, auditors=[audited])
    for audit in audits:
        tracked.log_metrics(audit.metrics)
    return summary, audits


def _train(config: DemoConfig, output: Path, tracked: Run) -> None:
    _print_step(f"train: {config.train.steps} steps")
    train(
        settings.extend(
            TrainConfig,
            config.train,
            tables=str(output / "tables"),
            run=str(output / "run"),
            address=config.address,
            parent_run=tracked.id,
        )
    )


def _samples(config: DemoConfig, output: Path, tracked: Run) -> dict[str, str]:
    """Generates; returns the title of each folder below OUTPUT/samples."""
    captions, image = _prompts(output, config.prompts)
    prompts = output / "prompts.txt"
    prompts.write_text("\n".join(captions) + "\n")
    base = settings.extend(
        GenerateConfig, config.generate, checkpoint=str(output / "run"), prompts=str(prompts), seed=config.seed,
        address=config.address, parent_run=tracked.id,
    )  # fmt: skip
    sample_groups = {
        "images": ("Images", replace(base, full_chroma=None)),  # an option of videos
        "videos": ("Videos", replace(base, frames=config.frames)),
        "from_image": (
            "Videos from a first frame",
            replace(base, frames=config.frames, image=image, limit=2),
        ),
    }
    for name, (title, generation) in sample_groups.items():
        _print_step(f"generate: {title.lower()}")
        _, failed = generate(replace(generation, output=str(output / "samples" / name)))
        # The demo shows that everything works, so the first failure ends it, unlike `nova generate`.
        if failed:
            raise RuntimeError(f"{failed} samples failed; see above")
    return {name: title for name, (title, _) in sample_groups.items()}


def _prompts(output: Path, count: int) -> tuple[list[str], str]:
    """Captions of the corpus to generate from, and one of its images to continue."""
    import pyarrow.compute as pc

    tables = Tables(output / "tables")
    columns = ["clip_id", "kind", "uri", "caption_short"]
    rows = tables.read("clips", columns=columns, where=pc.field("accepted")).sort_by("clip_id").to_pylist()
    # Sorted by id, so that the same corpus gives the same prompts: rows of the tables are in the order of commits.
    captions = list(dict.fromkeys(row["caption_short"] for row in rows))[:count]
    image = next((row["uri"] for row in rows if row["kind"] == "image"), rows[0]["uri"])
    return captions, image


def _scores(config: DemoConfig, output: Path, tracked: Run, groups: dict[str, str]) -> None:
    for name, title in groups.items():
        _print_step(f"evaluate: {title.lower()}")
        evaluate(
            settings.extend(
                EvaluateConfig,
                config.evaluate,
                samples=str(output / "samples" / name),
                output=str(output / "scores" / name),
                address=config.address,
                parent_run=tracked.id,
            )
        )


def _benchmark(config: DemoConfig, output: Path, tracked: Run) -> None:
    """Measures, from the pixels, whether images and videos match their prompts."""
    _print_step("benchmark: do samples match their prompts?")
    summary = run_benchmark(
        ShapesBenchmarkConfig(
            shapes=config.shapes,
            generate=config.generate,
            checkpoint=str(output / "run"),
            output=str(output / "benchmark"),
            address=config.address,
            parent_run=tracked.id,
        )
    )
    tracked.log_metrics({name: score["value"] for name, score in summary["scores"].items()})


def _report(output: Path, summary: Summary, audits: list[Audit], groups: dict[str, str], notes: list[str]) -> Path:
    samples = [sample_group(output / "samples" / name, title) for name, title in groups.items()]
    scores = [
        score_group(output / "benchmark", "Do samples match their prompts? (benchmark shapes)"),
        *(score_group(output / "scores" / name, title) for name, title in groups.items()),
    ]
    return write_report(
        output / "report.html",
        title="NOVA demo: from media to scores",
        notes=[*notes, "Prompts are captions written by the captioner."],
        sections=[
            curation_section(Tables(output / "tables"), summary),
            *(audit.section for audit in audits),
            training_section(output / "run"),
            SamplesSection(groups=samples),
            ScoresSection(groups=scores),
        ],
    )
