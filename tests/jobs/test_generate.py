"""`nova generate`: results depend on prompt and seed alone, nothing is made twice, benchmarks get their own layout."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.generate import GenerateConfig, generate, plan_requests
from jobs.recipes.registry import config_of
from nova_model.config import SamplingConfig
from pipelines.core.stage import Resources
from pipelines.generation.requests import SampleRequest


def config(trained: Path, output: Path, **changes: Any) -> GenerateConfig:
    base = config_of("debug", "generate")
    return replace(
        base, checkpoint=str(trained), output=str(output),
        sampling=SamplingConfig(set_steps=2, diffusion_steps=2, guidance_scale=2.0), **changes,
    )  # fmt: skip


def manifest(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "manifest.parquet").to_pylist()


@pytest.fixture(scope="module")
def prompts(work: Path) -> Path:
    path = work / "prompts.txt"
    path.write_text("a red circle\na blue square moves to the left\n\na green star\n")
    return path


@pytest.fixture(scope="module")
def images(trained: Path, work: Path, prompts: Path) -> Path:
    folder = work / "images"
    assert generate(config(trained, folder, prompts=str(prompts), samples=2))[1] == 0
    return folder


def test_each_prompt_and_seed_gives_a_file_and_a_row(images: Path) -> None:
    rows = manifest(images)
    assert [(row["prompt"], row["seeds"]) for row in rows][:3] == [
        ("a red circle", [0]), ("a red circle", [1]), ("a blue square moves to the left", [0]),
    ]  # fmt: skip
    assert len({row["sample_id"] for row in rows}) == len(rows) == 6
    for row in rows:
        assert Image.open(row["uri"]).size == (64, 64)
        assert row["data_version"] == 1
        assert row["seconds"] > 0
        assert json.loads(row["settings"])["sampling"]["set_steps"] == 2
    assert (images / "contact_sheet.png").exists()


def test_results_do_not_depend_on_batching_or_workers(images: Path, trained: Path, work: Path, prompts: Path) -> None:
    folder, alone = work / "pool", Resources(batch_size=1, workers=2, cpus=0.5)
    generate(config(trained, folder, prompts=str(prompts), samples=2, resources=alone, samples_at_once=1))
    for one, other in zip(manifest(images), manifest(folder), strict=True):
        assert Path(one["uri"]).read_bytes() == Path(other["uri"]).read_bytes(), one["prompt"]


def test_samples_denoised_together_agree_to_rounding(images: Path, trained: Path, work: Path, prompts: Path) -> None:
    folder = work / "together"
    generate(config(trained, folder, prompts=str(prompts), samples=2, samples_at_once=4))
    for one, other in zip(manifest(images), manifest(folder), strict=True):
        first, second = (np.asarray(Image.open(row["uri"])).astype(int) for row in (one, other))
        assert np.abs(first - second).max() <= 2


def test_another_seed_gives_another_picture(images: Path) -> None:
    rows = manifest(images)
    assert Path(rows[0]["uri"]).read_bytes() != Path(rows[1]["uri"]).read_bytes()


def test_a_second_run_makes_only_what_is_missing(images: Path, trained: Path, prompts: Path) -> None:
    rows = manifest(images)
    gone, kept = Path(rows[2]["uri"]), Path(rows[0]["uri"])
    content, written = gone.read_bytes(), kept.stat().st_mtime_ns
    gone.unlink()
    generate(config(trained, images, prompts=str(prompts), samples=2))
    assert gone.read_bytes() == content
    assert kept.stat().st_mtime_ns == written
    assert len(manifest(images)) == 6


def test_a_video_begins_with_the_given_image(work: Path, ray_session: None) -> None:
    from pipelines.media.frames import read_frames
    from pipelines.media.write import write_image
    from pipelines.shapes_world.draw import render
    from pipelines.shapes_world.scenes import sample_scene

    picture = render(sample_scene(np.random.default_rng(0), width=64, height=64))[0]
    write_image(work / "first.png", picture)
    folder = work / "continued"
    generate(config(Path("zoo/nova"), folder, prompt="a red wall", frames=5, image=str(work / "first.png")))
    row = manifest(folder)[0]
    with av.open(row["uri"]) as container:
        assert sum(1 for _ in container.decode(video=0)) == row["frames"] == 5
    first = read_frames(row["uri"], [0.0])[0].astype(int)
    assert np.abs(first - picture).mean() < 3, "what the VAE and the video's compression take"
    assert np.abs(first - picture[:, ::-1]).mean() > 4, "the check would not see another picture"


def test_samples_of_their_own_kind_are_what_they_are_alone(trained: Path, work: Path) -> None:
    """Frames, motion and first frame of each sample: made together, they are what each is alone."""
    from pipelines.media.frames import read_frames
    from pipelines.media.write import write_image

    for index, colour in enumerate([(200, 60, 60), (40, 60, 220)]):
        write_image(work / f"plain{index}.png", np.full((64, 64, 3), colour, np.uint8))
    wanted = [
        SampleRequest(prompt="a wall", path="picture.png", seeds=(0,), frames=1),
        SampleRequest(prompt="a wall", path="first.mp4", seeds=(1,), frames=5, image=str(work / "plain0.png")),
        SampleRequest(
            prompt="a ball", path="other.mp4", seeds=(1,), frames=5, image=str(work / "plain1.png"), motion=8.0
        ),
        SampleRequest(prompt="a ball", path="free.mp4", seeds=(1,), frames=5, motion=1.0),
    ]
    together, alone = (
        config(trained, work / "kinds", samples_at_once=4),
        config(trained, work / "kinds_alone", frames=5, motion=8.0, prompt="a ball", image=str(work / "plain1.png")),
    )
    assert generate(together, wanted)[1] == 0
    generate(replace(alone, seed=1))
    rows = {row["path"]: row for row in manifest(work / "kinds")}
    assert [rows[sample.path]["frames"] for sample in wanted] == [1, 5, 5, 5]
    asked = json.loads(rows["other.mp4"]["settings"])
    assert (asked["motion"], asked["frames"], asked["image"]) == (8.0, 5, str(work / "plain1.png"))
    times = np.arange(5) / 12
    one, other = (read_frames(row["uri"], times) for row in (rows["other.mp4"], manifest(work / "kinds_alone")[0]))
    assert np.abs(one.astype(int) - other).mean() < 1
    first = read_frames(rows["first.mp4"]["uri"], times)
    assert first[0].mean(axis=(0, 1))[0] > first[0].mean(axis=(0, 1))[2], "a red wall"
    assert generate(together, wanted)[1] == 0
    assert {row["sample_id"] for row in manifest(work / "kinds")} == {row["sample_id"] for row in rows.values()}


def test_a_released_folder_gives_what_the_run_gives(trained: Path, work: Path, images: Path) -> None:
    from pipelines.shapes_world import zoo

    released = work / "released"
    for component in ("transformer", "scheduler"):
        shutil.copytree(trained / "model" / component, released / component)
    for component, name in (("vae", "vae"), ("text_encoder", "text_encoder"), ("tokenizer", "text_encoder")):
        shutil.copytree(zoo.path(name), released / component)
    (released / "model_index.json").write_text('{"_class_name": "NOVAPipeline"}')
    generate(config(released, work / "from_released", prompt="a red circle"))
    made = Path(manifest(work / "from_released")[0]["uri"])
    assert made.read_bytes() == Path(manifest(images)[0]["uri"]).read_bytes()


def test_a_benchmark_gets_its_official_layout(trained: Path, work: Path, tmp_path: Path) -> None:
    line = {"tag": "colors", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
    (tmp_path / "evaluation_metadata.jsonl").write_text(json.dumps(line) + "\n")
    folder = work / "geneval"
    generate(config(trained, folder, benchmark="geneval", benchmark_data=str(tmp_path)))
    assert json.loads((folder / "00000" / "metadata.jsonl").read_text()) == line
    assert sorted(path.name for path in (folder / "00000" / "samples").iterdir()) == [f"{i:04d}.png" for i in range(4)]


def test_settings_are_part_of_what_a_sample_is(images: Path, trained: Path, work: Path, prompts: Path) -> None:
    folder = work / "guided"
    stronger = replace(
        config(trained, folder, prompts=str(prompts)),
        sampling=SamplingConfig(set_steps=2, diffusion_steps=2, guidance_scale=6.0),
    )
    generate(stronger)
    ids = {row["sample_id"] for row in manifest(images)}
    assert not ids & {row["sample_id"] for row in manifest(folder)}


def test_prompts_that_the_scorer_reads_otherwise_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "color_val.txt").write_text("a cat/a dog\na bird\n")
    plan = GenerateConfig(benchmark="t2i_compbench", benchmark_data=str(tmp_path), samples=1)
    assert [request.path for request in plan_requests(plan)] == [
        "color/samples/a cat a dog_000000.png",
        "color/samples/a bird_000000.png",
    ]
    error = capsys.readouterr().err
    assert "no file name holds 1 of the prompts as the scorer of t2i_compbench reads it, such as 'a cat/a dog'" in error


def test_half_a_character_in_the_prompt_is_replaced() -> None:
    (request,) = plan_requests(GenerateConfig(prompt="cut \ud83d"))
    assert request.prompt == "cut \ufffd"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "give one of --prompt"),
        ({"prompts": "file"}, "give one of --prompt"),
        ({"checkpoint": ""}, "--checkpoint is missing"),
        ({"checkpoint": "/nowhere"}, "no such folder"),
        ({"output": ""}, "--output is missing"),
        ({"prompt": None, "benchmark": "geneval"}, "--benchmark-data"),
        ({"frames": 0}, "at least 1"),
        ({"benchmark_data": "folder"}, "--benchmark-data has no effect without --benchmark"),
        ({"image": "first.png"}, "--image has no effect on images"),
        ({"full_chroma": True}, "--full-chroma has no effect on images"),
    ],
)
def test_wrong_use_is_one_line(changes: dict[str, Any], message: str, trained: Path, tmp_path: Path) -> None:
    given = replace(config(trained, tmp_path / "out", prompt="a dog"), **changes)
    with pytest.raises(ValueError, match=message) as caught:
        generate(given)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_ours_is_left_alone(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        generate(config(trained, tmp_path, prompt="a dog"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
