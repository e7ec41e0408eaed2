"""The benchmark `shapes` as a job: a checkpoint answers a grammar of prompts, and the pixels are judged.

nova evaluate --benchmark shapes --checkpoint work/run --output work/run-shapes --json

    OUTPUT/samples/          what `nova generate` makes of the prompts, with its manifest
    OUTPUT/first_frames/     drawn pictures that some videos go on from
    OUTPUT/scores.parquet    a row a sample: what was asked for, what it shows, and why that is wrong
    OUTPUT/wrong.json        the wrong ones alone
    OUTPUT/summary.json      scores, and what they lead back to
    OUTPUT/images.png        some samples next to their prompts, marked right or wrong; videos.png likewise

Run again, it makes only what is missing, and judges everything again: about 0.01 s of a core for a frame.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import settings
from jobs.runtime import tracking
from pipelines.core.stage import Row
from pipelines.generation.requests import SampleRequest
from pipelines.shapes_world.prompts import Canvas, Question, questions
from pipelines.store.files import write_json, write_parquet
from pipelines.store.folders import check_output_folder

if TYPE_CHECKING:
    from jobs.evaluate import EvaluateConfig
    from jobs.generate import GenerateConfig
    from pipelines.generation.checkpoint_resolution import ResolvedCheckpoint

BENCHMARKS = ("shapes",)
OURS = {"samples", "first_frames", "scores.parquet", "wrong.json", "summary.json", "images.png", "videos.png"}
GIVEN = ("prompt", "prompts", "benchmark", "benchmark_data", "image")
"""Settings of `nova generate` that the benchmark makes itself."""
KEPT = (
    "sample_id", "uri", "path", "kind", "task", "prompt", "asked", "asked_motion", "first_frame", "seeds", "frames",
    "fps", "right", "fault", "seen", "color_right", "shape_right", "direction_right", "color_kept", "shape_kept",
    "motion_measured", "seconds", "device_seconds", "checkpoint", "data_version", "settings",
)  # fmt: skip
READ = ("sample_id", "uri", "frames", "fps", "task", "asked")


def run(config: EvaluateConfig) -> int:
    """Evaluates; 0 when every sample could be made and judged, 1 when some could not."""
    return 1 if evaluate(config)["failed"] else 0


def check(config: EvaluateConfig) -> None:
    """Raises ValueError where options do not go together."""
    if config.benchmark is None:
        raise ValueError("--checkpoint needs --benchmark shapes; --samples scores media that are there already")
    if config.benchmark not in BENCHMARKS:
        from pipelines.evaluation.benchmarks import layouts as benchmarks

        if config.benchmark in benchmarks.BENCHMARKS:
            raise ValueError(
                f"--benchmark {config.benchmark} has a scorer of its own; nova generate --benchmark {config.benchmark} "
                "writes the samples as it expects them"
            )
        raise ValueError(f"unknown benchmark {config.benchmark!r}{settings.nearest(config.benchmark, BENCHMARKS)}")
    if not config.checkpoint:
        raise ValueError(
            f"--benchmark {config.benchmark} needs --checkpoint: a training run, a checkpoint folder or a hub id"
        )
    if config.samples:
        raise ValueError(
            "--benchmark makes its own samples; leave out --samples, or --benchmark to score what is there"
        )
    if config.limit is not None:
        raise ValueError("--limit is for --samples; for fewer samples of a benchmark, --set shapes.samples=8")
    for name in GIVEN:
        if getattr(config.generate, name):
            raise ValueError(f"--benchmark makes its own prompts and first frames; leave out generate.{name}")
    config.shapes.check()


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Generates, judges and scores under an MLflow run; returns what summary.json holds.

    Raises:
        ValueError: wrong use, no checkpoint, or an output folder that is not ours.
    """
    from rich.console import Console

    from jobs.evaluate import table
    from jobs.generate import generate
    from jobs.runtime.cluster import connect
    from pipelines.evaluation.metrics import Score
    from pipelines.generation.checkpoint_resolution import resolve_checkpoint

    check(config)
    if config.generate.full_chroma is None:
        # At half the resolution (4:2:0) colours blunt what is a few pixels large, which the judge would hold against
        # the model: of true videos, coded and decoded with some noise, 5 in 100 lost their outline that way.
        config = replace(config, generate=replace(config.generate, full_chroma=True))
    parts = resolve_checkpoint(config.checkpoint, vae=config.generate.vae, text_encoder=config.generate.text_encoder)
    output = _usable(_output(config))
    canvas = _canvas(config, parts)
    asked = questions(config.shapes, canvas)
    wanted = [_sample(output, question) for question in asked]
    with (
        tracking.start(
            "evaluate", config=settings.flatten(config), beside=tracking.store_folder(str(output)),
            parent=config.parent_run, resume=output / ".mlflow.json",
        ) as tracked,
        tracking.stored_with(tracked),
    ):  # fmt: skip
        making = _generation(config, output, tracked.id)
        generate(making, wanted)
        connect(config.address)
        rows, missing = _made(making, asked, wanted)
        judged = _judge(config, rows)
        provenance = _provenance(config, parts, canvas)
        found = _summary(output, judged, missing, provenance)
        _publish(tracked, output, judged, found)
    scores = {name: Score(**score) for name, score in found["scores"].items()}
    Console().print(table(scores, found["samples"], len(found["failed"])))
    print(f"scores: {output}")
    if config.json:
        print(json.dumps(found))
    return found


def _output(config: EvaluateConfig) -> Path:
    """Where to: beside the training run by default, or here for a model from elsewhere."""
    if config.output:
        return Path(config.output).expanduser().absolute()
    place = Path(config.checkpoint).expanduser().absolute()
    if not place.is_dir():
        return Path.cwd() / f"{config.checkpoint.rpartition('/')[2]}-{config.benchmark}"
    run = next((each for each in (place, *place.parents[:2]) if (each / "run.json").exists()), place)
    inside = [] if place in (run, run / "model") else [place.name]
    return run.parent / "-".join([run.name, *inside, str(config.benchmark)])


def _usable(output: Path) -> Path:
    check_output_folder(output, "--output", contents=OURS)
    check_output_folder(output, "--output", markers=("samples", "first_frames"))
    return output


def _canvas(config: EvaluateConfig, parts: ResolvedCheckpoint) -> Canvas:
    """What the checkpoint makes; a length that its VAE does not code is a ValueError."""
    from nova_model.checkpoints.released import load_vae
    from nova_model.checkpoints.weights import load_config
    from nova_model.vae.codec import Codec, whole_tiles
    from pipelines.core.model_hub import folder, loading

    model, asked = load_config(parts.transformer), config.shapes.frames
    height, width = model.pixel_size
    height, width = config.generate.height or height, config.generate.width or width
    if not model.makes_videos:
        if asked is not None:
            raise ValueError("shapes.frames is set, but the checkpoint makes pictures only; leave it out")
        return Canvas(height=height, width=width, frames=None)
    with loading(parts.vae):
        codec = Codec(load_vae(folder(parts.vae)))
    frames = whole_tiles(model.usual_frames, codec) if asked is None else asked
    extended = whole_tiles(2 * codec.latent_frames(frames), codec)
    return Canvas(height=height, width=width, frames=frames, extended=extended, fps=config.generate.fps)


def _sample(output: Path, question: Question) -> SampleRequest:
    """What `nova generate` is asked for; the first frame is drawn where one is given."""
    from pipelines.media.write import write_image
    from pipelines.shapes_world.draw import render
    from pipelines.store.schema import derived_id

    image = None
    if question.continues:
        image = output / "first_frames" / f"{derived_id(question.scene)}.png"  # another scene is another sample
        if not image.exists():
            write_image(image, render(question.scene)[0])
    return SampleRequest(
        prompt=question.prompt,
        path=question.path,
        seeds=(question.seed,),
        frames=question.frames,
        motion=question.motion,
        image=None if image is None else str(image),
    )


def _generation(config: EvaluateConfig, output: Path, run: str) -> GenerateConfig:
    return replace(
        config.generate, checkpoint=config.checkpoint, output=str(output / "samples"), frames=1,
        address=config.address, parent_run=run,
    )  # fmt: skip


def _made(
    making: GenerateConfig, asked: Sequence[Question], wanted: Sequence[SampleRequest]
) -> tuple[list[Row], list[dict[str, str]]]:
    """Samples with what they were asked for, and those that could not be made."""
    import pyarrow.parquet as pq

    from jobs.generate import build_stage
    from pipelines.generation.manifest import sample_rows
    from pipelines.shapes_world.benchmark import write_scene

    manifest = pq.read_table(Path(making.output) / "manifest.parquet").to_pylist()
    made = {row["sample_id"]: row for row in manifest}
    rows, missing = [], []
    stage = build_stage(making)
    for question, plan in zip(asked, sample_rows(stage, wanted), strict=True):
        sample = made.get(plan["sample_id"])
        if sample is None:
            path = str(Path(making.output) / question.path)
            missing.append({"uri": path, "stage": "generate", "message": "not made; run again, its reason is above"})
            continue
        motion = making.motion if question.motion is None and question.frames > 1 else question.motion
        own = {"task": question.task, "asked": write_scene(question.scene), "asked_motion": motion}
        rows.append({**sample, **own, "first_frame": plan["first_frame"]})
    return rows, missing


def _judge(config: EvaluateConfig, rows: list[Row]) -> list[Row]:
    """The rows with their verdicts, in order."""
    from pipelines.core.ray_data import stream_rows
    from pipelines.shapes_world.benchmark import JudgeShapes

    stage = JudgeShapes(resources=config.shapes.resources)
    with stream_rows(rows, [stage], columns=READ) as blocks:
        judged = {row["sample_id"]: row for block in blocks for row in block}
    return [{**row, **judged[row["sample_id"]]} for row in rows]


def _provenance(config: EvaluateConfig, parts: ResolvedCheckpoint, canvas: Canvas) -> dict[str, Any]:
    """What the scores lead back to."""
    from pipelines.core.model_hub import digest

    ours = (*GIVEN, "checkpoint", "output", "samples", "limit", "seed", "frames", "address", "parent_run", "resources")
    return {
        "benchmark": config.benchmark,
        "checkpoint": parts.checkpoint,
        "weights": digest(parts.transformer)[:32],
        "data_version": parts.data_version,
        "preset": parts.preset,
        "vae": parts.vae,
        "text_encoder": parts.text_encoder,
        "seed": config.shapes.seed,
        "generate": {name: value for name, value in asdict(config.generate).items() if name not in ours},
        "shapes": {name: value for name, value in asdict(config.shapes).items() if name != "resources"},
        "canvas": asdict(canvas),
    }


def _summary(
    output: Path, judged: Sequence[Row], missing: Sequence[Mapping[str, str]], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes scores.parquet, wrong.json and summary.json; returns what the last one holds."""
    import pyarrow as pa

    from pipelines.shapes_world.benchmark import speed_details, summarise
    from pipelines.store import schema

    whole = [row for row in judged if row["failed_stage"] is None]
    rows = [{name: row[name] for name in KEPT} for row in judged]
    table = pa.Table.from_pylist(rows, schema=pa.schema([schema.field(name) for name in KEPT]))
    write_parquet(output / "scores.parquet", table)
    said = ("path", "task", "prompt", "seeds", "fault")
    wrong = [{name: row[name] for name in said} for row in whole if row["right"] is False]
    write_json(output / "wrong.json", wrong)
    unread = [
        {"uri": row["uri"], "stage": row["failed_stage"], "message": row["failed_message"]}
        for row in judged
        if row["failed_stage"] is not None
    ]
    found = {
        "benchmark": provenance["benchmark"],
        "scores": {name: asdict(score) for name, score in summarise(whole).items()},
        "speed": speed_details(whole),
        "samples": len(whole),
        "wrong": len(wrong),
        "failed": [*missing, *unread],
        "output": str(output),
        "provenance": dict(provenance),
    }
    write_json(output / "summary.json", found)
    return found


def _publish(tracked: tracking.Run, output: Path, judged: Sequence[Row], found: Mapping[str, Any]) -> None:
    from pipelines.shapes_world.sheets import sheets

    tracked.log_metrics({name: score["value"] for name, score in found["scores"].items()})
    tracked.log_metrics({"samples": found["samples"], "wrong": found["wrong"], "failed": len(found["failed"])})
    tracked.set_tags({name: str(value) for name, value in found["provenance"].items()})
    for name in ("scores.parquet", "wrong.json", "summary.json"):
        tracked.log_artifact(output / name)
    for path in sheets(judged, output):
        tracked.log_artifact(path)
        print(f"contact sheet: {path}")
