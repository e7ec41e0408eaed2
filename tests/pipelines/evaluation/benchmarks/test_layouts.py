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


def test_scorers_read_every_published_prompt_from_the_name_of_its_file(shared):
    for name in benchmarks.BENCHMARKS:
        samples = benchmarks.read(name, shared / "benchmarks")
        assert all(benchmarks.maps_back(name, sample) for sample in samples)
        assert all(len(part.encode()) <= 255 for sample in samples for part in sample.path.split("/"))


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


def prompt_file(folder, benchmark, prompts):
    """Writes a benchmark's prompt files with some prompts."""
    if benchmark == "vbench":
        entries = [{"prompt_en": prompt, "dimension": ["scene"]} for prompt in prompts]
        (folder / "VBench_full_info.json").write_text(json.dumps(entries))
    elif benchmark == "dpg_bench":
        lines = [json.dumps({"file": f"{prompt}.txt", "prompt": prompt}) for prompt in prompts]
        (folder / "prompts.jsonl").write_text("\n".join(lines))
    else:
        (folder / "color_val.txt").write_text("\n".join(prompts))
    return folder


LONG = "a very long prompt about a cat and a dog, " * 10


@pytest.mark.parametrize(
    ("benchmark", "prompts", "clash"),
    [
        ("vbench", ["a/b", "a b"], "a b-0.mp4"),
        ("vbench", [f"{LONG}one", f"{LONG}two"], "-0.mp4"),
        ("t2i_compbench", ["a/b", "a b"], "color/samples/a b_000000.png"),
        ("t2i_compbench", ["a_b", "a b"], "color/samples/a b_000000.png"),
        ("dpg_bench", ["x/1", "y/1"], "1.png"),
    ],
)
@pytest.mark.odd_input(
    "Names and places",
    "Prompts of a benchmark whose samples would share a file, such as `a/b` and `a b`",
    "An error before anything is generated, which names both prompts.",
)
def test_prompts_that_would_share_a_file_are_an_error(tmp_path, benchmark, prompts, clash):
    with pytest.raises(ValueError, match="two samples would share the file") as caught:
        benchmarks.read(benchmark, prompt_file(tmp_path, benchmark, prompts))
    assert clash in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("benchmark", ["vbench", "t2i_compbench"])
@pytest.mark.odd_input(
    "Names and places",
    "Prompts of a benchmark that are longer than a file name may be",
    "The name is cut to 255 bytes, with a warning that the scorer reads the shortened prompt.",
)
def test_long_prompts_are_cut_and_told(tmp_path, benchmark):
    samples = benchmarks.read(benchmark, prompt_file(tmp_path, benchmark, [LONG, "é" * 120, "short"]), samples=2)
    assert {len(sample.path.rpartition("/")[2].encode()) for sample in samples if sample.prompt in LONG} == {255}
    assert {sample.prompt for sample in samples if not benchmarks.maps_back(benchmark, sample)} == {samples[0].prompt}
    assert samples[0].prompt in (LONG, LONG.strip())


def test_a_prompt_that_is_listed_twice_is_generated_once(tmp_path):
    for benchmark in ("vbench", "t2i_compbench", "dpg_bench"):
        samples = benchmarks.read(benchmark, prompt_file(tmp_path, benchmark, ["a", "b", "a"]), samples=1)
        assert [sample.prompt for sample in samples] == ["a", "b"]


def test_prompts_keep_what_looks_like_a_line_end_inside_them(tmp_path):
    samples = benchmarks.read("t2i_compbench", prompt_file(tmp_path, "t2i_compbench", ["a\u2028b", "c\r"]), samples=1)
    assert [sample.prompt for sample in samples] == ["a\u2028b", "c"]
    (tmp_path / "evaluation_metadata.jsonl").write_text('{"prompt": "a\u2028b"}\n{"prompt": "cut \\ud83d"}\n')
    samples = benchmarks.read("geneval", tmp_path, samples=1)
    assert [sample.prompt for sample in samples] == ["a\u2028b", "cut \ufffd"]
    assert json.loads(samples[1].files["00001/metadata.jsonl"]) == {"prompt": "cut \ufffd"}


@pytest.mark.parametrize("name", ["", "."])
def test_an_entry_without_a_name_is_not_as_published(tmp_path, name):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"file": name, "prompt": "a"}))
    with pytest.raises(ValueError, match="no path for a sample"):
        benchmarks.read("dpg_bench", tmp_path)


def test_a_prompt_that_is_no_text_is_not_as_published(tmp_path):
    (tmp_path / "VBench_full_info.json").write_text('[{"prompt_en": NaN, "dimension": ["scene"]}]')
    with pytest.raises(ValueError, match=r"not as published.*nan is no prompt"):
        benchmarks.read("vbench", tmp_path)
