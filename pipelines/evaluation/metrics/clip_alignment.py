"""CLIP alignment: cosine similarity of a sample's frames and its prompt, mean over frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipelines.core.stage import Row, Stage
from pipelines.curation.aesthetic import ClipModel, unused_weights
from pipelines.media.frames import clip_times, read_frames


@dataclass(frozen=True, kw_only=True)
class ClipAlignment(Stage):
    """Scores how well a sample matches its prompt; null for samples without a prompt."""

    name: ClassVar[str] = "clip_alignment"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "start", "end", "prompt")
    adds: ClassVar[tuple[str, ...]] = ("clip_alignment",)
    stamps: ClassVar[bool] = False

    model: str
    """open_clip model: a folder, a hub id, or an architecture such as ViT-B-32."""
    pretrained: str | None = None
    """Weights of an architecture, such as openai."""
    frames: int = 8
    """Number of frames to score, evenly spread over the clip."""
    short_side: int = 224
    """Short side in pixels that frames are decoded to."""

    def unused_settings(self) -> dict[str, str]:
        return unused_weights(self.model, self.pretrained)

    def load(self) -> ClipModel:
        return ClipModel.load(self.model, self.pretrained)

    def process(self, model: ClipModel, rows: Sequence[Row]) -> list[Row | Exception]:
        return [{"clip_alignment": self._score(model, row)} for row in rows]

    def _score(self, model: ClipModel, row: Row) -> float | None:
        if not row["prompt"]:
            return None
        frames = read_frames(row["uri"], clip_times(row, count=self.frames), short_side=self.short_side)
        return alignment(model.image_features(list(frames)).numpy(), model.text_features([row["prompt"]]).numpy()[0])


def alignment(frames_ND: np.ndarray, text_D: np.ndarray) -> float:
    """Mean cosine of unit-length frame features and a unit-length text feature."""
    return float((frames_ND @ text_D).mean())
