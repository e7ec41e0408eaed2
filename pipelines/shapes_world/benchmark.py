"""The benchmark `shapes`, prepared for a checkpoint: prompts of a grammar, and a judgement of the pixels.

    prompts.py     the grammar of questions
    verdicts.py    the judgement of one sample
    scores.py      scores over all samples
    sheets.py      contact sheets of judged samples

Some videos continue drawn pictures, which are written to OUTPUT/first_frames/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.core.model_hub import folder, loading
from pipelines.core.ray_data import stream_rows
from pipelines.core.stage import Row
from pipelines.evaluation.benchmarks.benchmark import BenchmarkResult
from pipelines.generation.checkpoint_resolution import ResolvedCheckpoint
from pipelines.generation.config import GenerationConfig
from pipelines.generation.requests import SampleRequest
from pipelines.media.write import write_image
from pipelines.shapes_world.draw import render
from pipelines.shapes_world.prompts import Canvas, Question, ShapesBenchmark, questions
from pipelines.shapes_world.scores import speed_details, summarise
from pipelines.shapes_world.sheets import sheets
from pipelines.shapes_world.verdicts import JudgeShapes, write_scene
from pipelines.store import schema

SCORE_COLUMNS = (
    "sample_id", "uri", "path", "kind", "task", "prompt", "asked", "asked_motion", "first_frame", "seeds", "frames",
    "fps", "right", "fault", "seen", "color_right", "shape_right", "direction_right", "color_kept", "shape_kept",
    "motion_measured", "seconds", "device_seconds", "checkpoint", "data_version", "settings",
)  # fmt: skip
WRONG_ENTRIES = ("path", "task", "prompt", "seeds", "fault")


@dataclass(frozen=True, kw_only=True)
class PreparedShapes:
    """The questions of the benchmark `shapes` to one checkpoint, as a `Benchmark`."""

    config: ShapesBenchmark
    generation: GenerationConfig
    canvas: Canvas
    questions: list[Question]
    requests: list[SampleRequest]
    """One for each question."""
    name: str = "shapes"

    @classmethod
    def prepare(
        cls, config: ShapesBenchmark, generation: GenerationConfig, checkpoint: ResolvedCheckpoint, output: Path
    ) -> PreparedShapes:
        """Prepares the questions that a checkpoint can answer, and draws the first frames that some of them need.

        Args:
            config: tasks and their numbers of samples.
            generation: how samples are generated.
            checkpoint: the checkpoint to benchmark.
            output: folder for the first frames.

        Raises:
            ValueError: as `questions`, or a number of frames that the checkpoint's VAE does not encode.
        """
        if generation.full_chroma is None:
            # At half resolution (4:2:0), the colours of things that are a few pixels large blur, which the judge would
            # count against the model.
            generation = replace(generation, full_chroma=True)
        canvas = canvas_of(config, generation, checkpoint)
        listed = questions(config, canvas)
        requests = [_request(question, output) for question in listed]
        return cls(config=config, generation=generation, canvas=canvas, questions=listed, requests=requests)

    def provenance(self) -> dict[str, Any]:
        """Settings that the scores depend on, besides the checkpoint and how samples are generated."""
        settings = {name: value for name, value in asdict(self.config).items() if name != "resources"}
        return {"seed": self.config.seed, "shapes": settings, "canvas": asdict(self.canvas)}

    def judge(self, samples: Sequence[Row | None]) -> BenchmarkResult:
        """Judges samples on Ray; see `Benchmark.judge`."""
        answers = zip(self.questions, self.requests, samples, strict=True)
        rows = self._run_judge(
            [{**sample, **self._columns(question, request)} for question, request, sample in answers if sample]
        )
        judged = [row for row in rows if row["failed_stage"] is None]
        return BenchmarkResult(
            rows=rows,
            columns=SCORE_COLUMNS,
            scores=summarise(judged),
            wrong=[{name: row[name] for name in WRONG_ENTRIES} for row in judged if row["right"] is False],
            details={"speed": speed_details(judged)},
        )

    def draw_sheets(self, result: BenchmarkResult, folder: Path) -> list[Path]:
        """Draws FOLDER/images.png and FOLDER/videos.png."""
        return sheets(result.rows, folder)

    def _columns(self, question: Question, request: SampleRequest) -> Row:
        motion = self.generation.motion if question.motion is None and question.frames > 1 else question.motion
        return {
            "task": question.task,
            "asked": write_scene(question.scene),
            "asked_motion": motion,
            "first_frame": request.image,
        }

    def _run_judge(self, rows: list[Row]) -> list[Row]:
        stage = JudgeShapes(resources=self.config.resources)
        with stream_rows(rows, [stage], columns=(*stage.reads, "sample_id")) as blocks:
            verdicts = {row["sample_id"]: row for block in blocks for row in block}
        return [{**row, **verdicts[row["sample_id"]]} for row in rows]


def canvas_of(config: ShapesBenchmark, generation: GenerationConfig, checkpoint: ResolvedCheckpoint) -> Canvas:
    """Sizes and lengths that a checkpoint generates.

    Raises:
        ValueError: shapes.frames is set for a checkpoint of images, or its VAE does not encode that number.
    """
    # These modules import torch, which a wrong command line should not wait for.
    from nova_model.checkpoints.released import load_vae
    from nova_model.checkpoints.weights import load_config
    from nova_model.vae.codec import Codec, whole_tiles

    model = load_config(checkpoint.transformer)
    height, width = model.pixel_size
    height, width = generation.height or height, generation.width or width
    if not model.makes_videos:
        if config.frames is not None:
            raise ValueError("shapes.frames is set, but the checkpoint generates images only; leave it out")
        return Canvas(height=height, width=width, frames=None)
    with loading(checkpoint.vae):
        codec = Codec(load_vae(folder(checkpoint.vae)))
    frames = whole_tiles(model.default_frames, codec) if config.frames is None else config.frames
    extended = whole_tiles(2 * codec.latent_frames(frames), codec)
    return Canvas(height=height, width=width, frames=frames, extended=extended, fps=generation.fps)


def _request(question: Question, output: Path) -> SampleRequest:
    """The request of a question; draws its first frame where the sample continues one."""
    image = None
    if question.continues:
        # Named by a hash of its scene, so pictures of another seed are never reused.
        image = output / "first_frames" / f"{schema.derived_id(question.scene)}.png"
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
