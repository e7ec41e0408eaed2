"""Subject consistency: does the subject keep its appearance? VBench's metric, from DINO features of the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipelines.core.devices import device
from pipelines.core.model_hub import folder, loading
from pipelines.core.stage import Row, Stage
from pipelines.media.frames import read_sequence

if TYPE_CHECKING:
    from torch import Tensor


class DinoModel:
    """A DINO vision transformer: unit-length features of its class token."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @classmethod
    def load(cls, name: str) -> DinoModel:
        """Loads a folder or hub id.

        Raises:
            ValueError: the model cannot be loaded.
        """
        from transformers import AutoImageProcessor, AutoModel

        with loading(name):
            place = folder(name)
            return cls(AutoModel.from_pretrained(place).eval().to(device()), AutoImageProcessor.from_pretrained(place))

    def features(self, frames: Sequence[np.ndarray], at_once: int = 32) -> Tensor:
        """RGB uint8 frames [H, W, 3] -> fp32 [N, D], unit length."""
        import torch
        import torch.nn.functional as F

        batches = []
        for start in range(0, len(frames), at_once):
            inputs = self.processor(images=list(frames[start : start + at_once]), return_tensors="pt")
            with torch.inference_mode():
                class_tokens = self.model(**inputs.to(self.model.device)).last_hidden_state[:, 0]  # [B, D]
            batches.append(F.normalize(class_tokens.float(), dim=-1).cpu())
        return torch.cat(batches)


@dataclass(frozen=True, kw_only=True)
class SubjectConsistency(Stage):
    """Scores the similarity of each frame to the first and to the previous one; null for images."""

    name: ClassVar[str] = "subject_consistency"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "start", "end", "fps")
    adds: ClassVar[tuple[str, ...]] = ("subject_consistency",)
    stamps: ClassVar[bool] = False

    model: str
    """Vision transformer of transformers with its image processor; VBench's protocol uses facebook/dino-vitb16."""
    max_frames: int = 256
    """Maximum number of frames to score, from the start of the clip."""
    short_side: int = 256
    """Short side in pixels that frames are decoded to."""

    def load(self) -> DinoModel:
        return DinoModel.load(self.model)

    def process(self, model: DinoModel, rows: Sequence[Row]) -> list[Row | Exception]:
        return [{"subject_consistency": self._score(model, row)} for row in rows]

    def _score(self, model: DinoModel, row: Row) -> float | None:
        if row["kind"] == "image":
            return None
        frames = read_sequence(row["uri"], row["start"], row["end"], limit=self.max_frames, short_side=self.short_side)
        return consistency(model.features(list(frames)).numpy())


def consistency(features_ND: np.ndarray) -> float | None:
    """Mean over frames from the second on of the mean cosine with the first and with the previous frame.

    Args:
        features_ND: unit-length features of the frames; negative cosines count as 0.

    Returns:
        1 for frames with the same features, None for fewer than two frames.
    """
    if len(features_ND) < 2:
        return None
    later = features_ND[1:]
    first = np.maximum(later @ features_ND[0], 0)
    previous = np.maximum((later * features_ND[:-1]).sum(axis=1), 0)
    return float(((first + previous) / 2).mean())
