"""Captions: the model sees the clip's own frames and the right question, and bad rows keep to themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.core.stage import apply
from pipelines.curation.caption import Caption, Captioner
from pipelines.media.write import write_image, write_video

caption_stage = partial(Caption, model="fake/captioner")
"""A stage of an untrained captioner."""


class FakeCaptioner:
    """Answers with a description of its frames, and the question."""

    def answer(self, clips: Sequence[np.ndarray], questions: Sequence[str], max_tokens: int, seconds: Any) -> list[str]:
        self.seconds = seconds
        pairs = zip(clips, questions, strict=True)
        return [f"{len(frames)} frames of level {frames.mean():.0f}: {text} [{max_tokens}]" for frames, text in pairs]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("media")
    dark, light = np.full((12, 64, 64, 3), 40, np.uint8), np.full((12, 64, 64, 3), 200, np.uint8)
    write_video(folder / "a.mp4", np.concatenate([dark, light]), 12, crf=1)
    write_image(folder / "b.png", np.full((64, 64, 3), 120, np.uint8))
    return [
        {"uri": str(folder / "a.mp4"), "kind": "video", "start": 1.0, "end": 2.0},
        {"uri": str(folder / "gone.mp4"), "kind": "video", "start": 0.0, "end": 1.0},
        {"uri": str(folder / "b.png"), "kind": "image", "start": 0.0, "end": 0.0},
    ]


def test_each_clip_gets_the_captions_of_its_own_frames(rows: list[dict[str, object]]) -> None:
    stage = caption_stage(
        frames=4, short_prompt="say {kind}", long_prompt="tell {kind}", short_tokens=7, long_tokens=9, short_side=32
    )
    video, gone, image = apply(stage, FakeCaptioner(), rows)
    assert video["caption_short"] in {f"4 frames of level {level}: say video [7]" for level in (199, 200, 201)}
    assert video["caption_long"].endswith("tell video [9]")
    assert image["caption_short"] == "1 frames of level 120: say image [7]"
    assert (gone["failed_stage"], gone["failed_error"]) == ("caption", "MediaError")


def test_videos_are_shown_as_videos_where_that_is_asked_for(rows: list[dict[str, object]]) -> None:
    videos, pictures = FakeCaptioner(), FakeCaptioner()
    apply(caption_stage(short_side=32, as_video=True), videos, rows)
    apply(caption_stage(short_side=32), pictures, rows)
    assert (videos.seconds, pictures.seconds) == ([1.0, 0.0], None)


def test_an_empty_caption_is_a_failure(rows: list[dict[str, object]]) -> None:
    class SilentCaptioner(FakeCaptioner):
        def answer(self, clips: Sequence[np.ndarray], *arguments: object) -> list[str]:
            return [""] * len(clips)

    row = apply(caption_stage(short_side=32), SilentCaptioner(), rows[:1])[0]
    assert row["failed_stage"] == "caption"
    assert "empty caption" in row["failed_message"]


def test_a_real_class_captions_images_and_videos_in_one_batch(rows: list[dict[str, object]]) -> None:
    stage = caption_stage(frames=2, short_side=56, short_tokens=6, long_tokens=8)
    model = stage.load()
    assert isinstance(model, Captioner)
    video, _, image = apply(stage, model, rows)
    alone = apply(stage, model, [rows[2]])[0]
    assert video["caption_short"]
    assert video["caption_long"]
    assert image["caption_short"] == alone["caption_short"], "the caption depends on the batch"


def test_the_fingerprint_follows_model_and_question() -> None:
    assert caption_stage().fingerprint == caption_stage().fingerprint
    assert caption_stage().fingerprint != caption_stage(short_prompt="What is it?").fingerprint


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        Captioner.load(str(tmp_path / "nothing"), "fp32")
