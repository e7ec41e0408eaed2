"""Benchmarks: the published prompts, the protocol's number of samples, the official layout."""

import json
from collections import Counter

import pytest

from pipelines.evaluation.benchmarks import layouts as benchmarks


def test_geneval_layout(shared):
    samples = benchmarks.read("geneval", shared / "benchmarks")
    assert len({sample.prompt for sample in samples}) == 553
    assert len(samples) == 553 * 4
    assert [sample.path for sample in samples[:5]] == [
        "00000/samples/0000.png", "00000/samples/0001.png", "00000/samples/0002.png", "00000/samples/0003.png",
        "00001/samples/0000.png",
    ]  # fmt: skip
    assert json.loads(samples[0].files["00000/metadata.jsonl"])["prompt"] == samples[0].prompt


def test_dpg_bench_is_a_grid_of_four_per_prompt(shared):
    samples = benchmarks.read("dpg_bench", shared / "benchmarks", seed=10)
    assert len(samples) == 1065
    assert samples[0].path == "0.png"
    assert samples[0].seeds == (10, 11, 12, 13)


def test_compbench_has_ten_samples_of_300_prompts_per_category(shared):
    samples = benchmarks.read("t2i_compbench", shared / "benchmarks")
    counts = Counter(sample.path.split("/")[0] for sample in samples)
    assert set(counts.values()) == {3000}
    assert len(counts) == 8
    assert "color/samples/a green bench and a blue bowl_000009.png" in {sample.path for sample in samples}


def test_vbench_has_five_videos_a_prompt_and_25_for_flickering(shared):
    samples = benchmarks.read("vbench", shared / "benchmarks")
    counts = Counter(sample.prompt for sample in samples)
    assert len(counts) == 944
    assert Counter(counts.values()) == {5: 869, 25: 75}
    assert counts["In a still frame, a stop sign"] == 25
    assert "In a still frame, a stop sign-24.mp4" in {sample.path for sample in samples}
    assert all(sample.is_video for sample in samples)


def test_no_two_samples_share_a_file(shared):
    for name in benchmarks.BENCHMARKS:
        samples = benchmarks.read(name, shared / "benchmarks")
        assert len({sample.path for sample in samples}) == len(samples)


def test_a_prompt_makes_a_safe_file_name():
    assert benchmarks.safe_name("cats/dogs") == "cats dogs"
    assert len((benchmarks.safe_name("ü" * 300) + "_000000.png").encode()) <= 255


def test_missing_prompts_are_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"evaluation_metadata\.jsonl is missing"):
        benchmarks.read("geneval", tmp_path)
    with pytest.raises(ValueError, match="unknown benchmark"):
        benchmarks.read("gen_eval", tmp_path)
    with pytest.raises(ValueError, match="no prompts of t2i_compbench"):
        benchmarks.read("t2i_compbench", tmp_path)
    (tmp_path / "evaluation_metadata.jsonl").write_text('{"tag": "x"}\n')
    with pytest.raises(ValueError, match="not as published"):
        benchmarks.read("geneval", tmp_path)
