"""`nova benchmark shapes`: samples of a checkpoint are generated once, judged, and scored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pyarrow.parquet as pq
import pytest

from jobs import cli
from jobs.benchmark import output_folder, run, run_benchmark
from jobs.recipes.registry import config_of
from jobs.shapes_world.benchmark import ShapesBenchmarkConfig
from nova_model.config import SamplingConfig
from pipelines.core.stage import Resources
from pipelines.shapes_world.prompts import IMAGE_TASKS, TASKS, ShapesBenchmark

TINY = (
    "shapes.samples=1", "shapes.per_level=1", "shapes.motion_levels=1,8", "shapes.frames=5",
    "generate.sampling.set_steps=1", "generate.sampling.diffusion_steps=1", "generate.sampling.guidance_scale=1",
    "generate.samples_at_once=2",
)  # fmt: skip


def nova(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    """Exit status, lines of standard output, and standard error of a command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out.splitlines(), output.err


def tiny(checkpoint: Path, *more: str) -> list[str]:
    settings = [word for setting in (*TINY, *more) for word in ("--set", setting)]
    return ["benchmark", "shapes", "--recipe", "debug", "--checkpoint", str(checkpoint), "--json", *settings]


def config(checkpoint: Path, **changes: Any) -> ShapesBenchmarkConfig:
    base = config_of("debug", "benchmark")
    generate = replace(
        base.generate,
        sampling=SamplingConfig(set_steps=1, diffusion_steps=1, guidance_scale=1.0),
        resources=Resources(batch_size=4),
    )
    return replace(base, checkpoint=str(checkpoint), generate=generate, **changes)


@pytest.fixture(scope="module")
def evaluated(trained: Path) -> Path:
    """The output folder of a tiny benchmark."""
    return trained.with_name(f"{trained.name}-shapes")


def test_the_last_line_is_one_object_with_every_score(
    trained: Path, evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines, error = nova(capsys, *tiny(trained))
    assert status == 0, error
    summary = json.loads(lines[-1])
    assert set(summary["scores"]) >= {*TASKS, "color_accuracy", "shape_accuracy", "permanence"}
    assert all(0 <= score["value"] <= 1 for score in summary["scores"].values())
    assert summary["scores"]["speed"]["samples"] == 2
    assert summary["scores"]["counting"]["samples"] == 1
    assert (summary["samples"], summary["failed"]) == (10, [])
    assert summary["output"] == str(evaluated), "beside the run by default"
    assert json.loads((evaluated / "summary.json").read_text()) == summary


def test_scores_have_their_provenance(trained: Path, evaluated: Path) -> None:
    summary = json.loads((evaluated / "summary.json").read_text())
    provenance = summary["provenance"]
    assert (provenance["checkpoint"], provenance["data_version"]) == (str(trained / "model"), 1)
    assert (provenance["canvas"]["frames"], provenance["canvas"]["extended"], provenance["seed"]) == (5, 13, 0)
    assert provenance["generate"]["sampling"]["set_steps"] == 1
    rows = pq.read_table(evaluated / "scores.parquet").to_pylist()
    assert [row["task"] for row in rows] == sorted((*TASKS, "speed"), key=TASKS.index)
    by_task = {row["task"]: row for row in rows}
    assert json.loads(by_task["speed"]["settings"])["motion"] == by_task["speed"]["asked_motion"] == 8
    assert by_task["direction"]["asked_motion"] == 5
    assert [row["frames"] for row in rows] == [1] * 5 + [5] * 4 + [13]
    assert all(Path(by_task[task]["first_frame"]).exists() for task in ("image_to_video", "extrapolation"))
    assert {row["first_frame"] for row in rows[:8]} == {None}
    wrong = json.loads((evaluated / "wrong.json").read_text())
    assert [entry["path"] for entry in wrong] == [row["path"] for row in rows if row["right"] is False]
    assert all(entry["fault"] for entry in wrong)
    assert len(wrong) == summary["wrong"] > 0, "it is hardly trained"


def test_the_judge_gets_colours_at_full_resolution(evaluated: Path) -> None:
    with av.open(str(evaluated / "samples" / "direction" / "0000.mp4")) as container:
        assert container.streams.video[0].pix_fmt == "yuv444p"
    assert json.loads((evaluated / "summary.json").read_text())["provenance"]["generate"]["full_chroma"] is True


def test_mlflow_has_the_scores_and_their_provenance(trained: Path, evaluated: Path) -> None:
    from mlflow import MlflowClient

    stored = json.loads((evaluated / ".mlflow.json").read_text())
    client = MlflowClient(tracking_uri=stored["uri"])
    run = client.get_run(stored["run_id"])
    scores = json.loads((evaluated / "summary.json").read_text())["scores"]
    assert {name: run.data.metrics[name] for name in scores} == {name: score["value"] for name, score in scores.items()}
    assert run.data.tags["checkpoint"] == str(trained / "model")
    assert run.data.tags["data_version"] == "1"
    assert run.info.status == "FINISHED"
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names == {"scores.parquet", "wrong.json", "summary.json", "images.png", "videos.png"}
    generation = client.get_run(json.loads((evaluated / "samples" / ".mlflow.json").read_text())["run_id"])
    assert generation.data.tags["mlflow.parentRunId"] == run.info.run_id


def test_a_second_run_generates_only_missing_samples(
    trained: Path, evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((evaluated / "samples").rglob("*.*4")) + sorted((evaluated / "samples").rglob("0*.png"))
    assert len(files) == 10
    before = {path: path.stat().st_mtime_ns for path in files}
    scores = (evaluated / "scores.parquet").read_bytes()
    files[0].unlink()
    (evaluated / "summary.json").unlink()  # as after a kill
    status, lines, _ = nova(capsys, *tiny(trained))
    assert status == 0
    assert "10 samples, 9 of them already there" in lines
    assert {path: path.stat().st_mtime_ns for path in files[1:]} == {path: before[path] for path in files[1:]}
    repeated = pq.read_table(evaluated / "scores.parquet").drop_columns(["seconds", "device_seconds"])
    (evaluated / "before.parquet").write_bytes(scores)
    assert repeated.equals(pq.read_table(evaluated / "before.parquet").drop_columns(["seconds", "device_seconds"]))
    (evaluated / "before.parquet").unlink()


def test_some_tasks_at_the_trained_length(trained: Path, work: Path) -> None:
    output = work / "directions"
    shapes = ShapesBenchmark(tasks=("direction", "colors"), samples=1)
    summary = run_benchmark(config(trained, output=str(output), shapes=shapes))
    assert set(summary["scores"]) == {
        "colors", "color_accuracy", "shape_accuracy", "direction", "direction_accuracy", "color_kept", "shape_kept",
        "permanence",
    }  # fmt: skip
    assert summary["speed"] == {}
    rows = pq.read_table(output / "scores.parquet").to_pylist()
    assert [(row["task"], row["frames"]) for row in rows] == [("colors", 1), ("direction", 17)]


def test_missing_samples_are_listed_and_set_the_exit_status(
    trained: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs import benchmark

    generate = benchmark.generate
    monkeypatch.setattr(benchmark, "generate", lambda config, requests: generate(config, requests[:1]))
    shapes = ShapesBenchmark(tasks=IMAGE_TASKS[:2], samples=1)
    shortened = config(trained, output=str(work / "half"), shapes=shapes)
    assert run(shortened) == 1
    summary = json.loads((work / "half" / "summary.json").read_text())
    assert [Path(failure["uri"]).parent.name for failure in summary["failed"]] == ["two_objects"]
    assert set(summary["scores"]) == {"single_object", "color_accuracy", "shape_accuracy"}


def test_scores_of_media_are_one_object_too(
    trained: Path, evaluated: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines, _ = nova(
        capsys,
        "evaluate",
        "--samples",
        str(evaluated / "samples"),
        "--limit",
        "1",
        "--output",
        str(work / "plain"),
        "--json",
    )
    assert status == 0
    assert json.loads(lines[-1]) == json.loads((work / "plain" / "summary.json").read_text())


@pytest.mark.parametrize(
    ("place", "name"),
    [("run", "run-shapes"), ("run/model", "run-shapes"), ("run/checkpoints/step-2", "run-step-2-shapes"),
     ("release", "release-shapes")],
)  # fmt: skip
def test_scores_go_beside_the_run_by_default(place: str, name: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / "release").mkdir(exist_ok=True)
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    assert output_folder(config(tmp_path / place)) == tmp_path / name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("benchmark", "write nova benchmark NAME, with one of shapes"),
        ("benchmark --checkpoint RUN", "write nova benchmark NAME, with one of shapes"),
        ("benchmark shpes --checkpoint RUN", "did you mean shapes?"),
        ("benchmark geneval --checkpoint RUN", "nova generate --benchmark geneval"),
        ("benchmark shapes", "--checkpoint is missing"),
        ("benchmark shapes --checkpoint /nowhere", "no such folder"),
        ("benchmark shapes --checkpoint RUN --output FILE", "is a file"),
        ("benchmark shapes --checkpoint RUN --output FOLDER", "holds other files"),
        ("benchmark shapes --checkpoint RUN --samples x", "unrecognized option --samples"),
        ("benchmark shapes --checkpoint RUN --limit 3", "unrecognized option --limit"),
        ("benchmark shapes --checkpoint RUN --set shapes.frames=6", "takes 1+4k"),
        ("benchmark shapes --checkpoint RUN --set generate.prompt=x", "unknown key 'generate.prompt'"),
        ("benchmark shapes --checkpoint RUN --set shapes.tasks=colours", "did you mean colors"),
        ("benchmark shapes --checkpoint RUN --set shapes.samples=0", "at least 1"),
        ("benchmark shapes --checkpoint RUN --set shapes.sample=1", "did you mean shapes.samples"),
        (
            "benchmark shapes --checkpoint RUN --set shapes.tasks=colors --set shapes.frames=5",
            "shapes.frames has no effect on tasks of pictures",
        ),
        (
            "benchmark shapes --set generate.negative_prompt=x --set generate.sampling.guidance_scale=1",
            "negative_prompt has no effect without guidance",
        ),
        ("evaluate --benchmark shapes --checkpoint RUN", "nova benchmark shapes --checkpoint RUN"),
        ("evaluate --set shapes.samples=8", "nova benchmark shapes --checkpoint RUN"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    line: str, message: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    places = {"RUN": str(trained), "FILE": str(tmp_path / "thesis.txt"), "FOLDER": str(tmp_path)}
    status, lines, error = nova(capsys, *(places.get(argument, argument) for argument in line.split()))
    assert (status, lines) == (2, [])
    assert message in " ".join(error.split())
    assert error.startswith("nova: error: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_help_shows_every_option_that_the_benchmark_uses(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, _ = nova(capsys, "benchmark", "shapes", "--help")
    text = " ".join(lines)
    assert status == 0
    assert all(option in text for option in ("--checkpoint", "--generate.sampling.set-steps", "--shapes.samples"))
    assert not any(option in text for option in ("--generate.prompt ", "--generate.frames", "--generate.image "))
    assert nova(capsys, "benchmark", "--help")[1] == lines, "without a name, the help is about the first benchmark"


def test_the_printed_config_is_what_set_takes(capsys: pytest.CaptureFixture[str]) -> None:
    _, lines, _ = nova(capsys, "benchmark", "shapes", "--recipe", "shapes", "--print-config")
    assert "shapes.calibration=16.0" in lines
    assignments = [f"--set={line}" for line in lines if not line.endswith(("=None", "="))]
    _, repeated, error = nova(capsys, "benchmark", "shapes", *assignments, "--print-config")
    assert (repeated, error) == (lines, "")
