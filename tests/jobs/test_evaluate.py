"""`nova evaluate`: known media get the scores that they must have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.evaluate import EvaluateConfig, evaluate
from jobs.recipes.registry import config_of
from pipelines.media.write import write_image, write_video


def config(**changes: Any) -> EvaluateConfig:
    return replace(config_of("debug", "evaluate"), **changes)


@pytest.fixture(scope="module")
def scored(work: Path, ray_session: None) -> Path:
    folder = work / "any_media"
    still = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 128, 128, 3), dtype=np.uint8) // 8 * 8, 12, axis=0)
    flicker = np.stack([np.full((128, 128, 3), 100 + 51 * (index % 2), np.uint8) for index in range(12)])
    write_video(folder / "still.mp4", still, 12, crf=1)
    write_video(folder / "flicker.mp4", flicker, 12, crf=1)
    write_image(folder / "picture.png", still[0])
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "picture.txt").write_text("a red circle")
    evaluate(config(samples=str(folder), output=str(work / "any_scores")))
    return work / "any_scores"


def by_name(folder: Path) -> dict[str, dict[str, Any]]:
    return {Path(row["uri"]).stem: row for row in pq.read_table(folder / "scores.parquet").to_pylist()}


def test_scores_are_those_of_the_files(scored: Path) -> None:
    rows = by_name(scored)
    assert rows["still"]["temporal_flickering"] == pytest.approx(1.0, abs=0.01)
    assert rows["flicker"]["temporal_flickering"] == pytest.approx((255 - 51) / 255, abs=0.01)
    assert rows["still"]["subject_consistency"] == pytest.approx(1.0, abs=0.02)
    assert rows["still"]["static"]
    assert not rows["flicker"]["static"]


def test_a_picture_has_no_scores_of_videos(scored: Path) -> None:
    picture = by_name(scored)["picture"]
    videos = ("temporal_flickering", "dynamic_degree", "subject_consistency")
    assert [picture[name] for name in videos] == [None] * 3
    assert picture["clip_alignment"] is not None, "its caption file is its prompt"
    assert by_name(scored)["still"]["clip_alignment"] is None


def test_the_summary_says_over_how_many_and_what_failed(scored: Path) -> None:
    summary = json.loads((scored / "summary.json").read_text())
    assert summary["scores"]["temporal_flickering"]["samples"] == 2
    assert summary["scores"]["temporal_flickering_static"]["samples"] == 1
    assert [Path(row["uri"]).name for row in summary["failed"]] == ["broken.mp4"]
    assert summary["provenance"]["judge_dino"] == "zoo/dino"


def test_generated_samples_are_scored_with_their_prompts(trained: Path, work: Path) -> None:
    from jobs.generate import generate

    base = config_of("debug", "generate")
    samples = work / "to_score"
    generate(replace(base, checkpoint=str(trained), prompt="a red circle", samples=2, output=str(samples)))
    summary = evaluate(config(samples=str(samples), output=str(work / "scores")))
    assert summary["clip_alignment"].samples == 2
    assert summary["seconds"].value > 0
    stored = json.loads((work / "scores" / "summary.json").read_text())
    assert stored["provenance"]["checkpoint"] == str(trained / "model")
    assert stored["provenance"]["data_version"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "OUT"}, "--samples is missing"),
        ({"samples": "/nowhere", "output": "OUT"}, "nothing at"),
        ({"samples": "BROKEN", "output": "OUT"}, "nothing to score"),
        ({"samples": "BROKEN"}, "--output is missing"),
        ({"samples": "BROKEN", "output": "BROKEN"}, "holds other files"),
    ],
)
def test_wrong_use_is_one_line(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.mp4").write_bytes(b"no video")
    places = {"OUT": str(tmp_path / "out"), "BROKEN": str(tmp_path / "broken")}
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(config(**{key: places.get(value, value) for key, value in changes.items()}))
    assert "\n" not in str(caught.value)
