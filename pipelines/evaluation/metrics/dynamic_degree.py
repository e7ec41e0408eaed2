"""Dynamic degree: does a video move (VBench), by the largest flow of each pair of sampled frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pipelines.core.stage import Row, Stage
from pipelines.curation.motion import Flow, Raft
from pipelines.media.frames import clip_times, read_frames

if TYPE_CHECKING:
    from torch import Tensor

SAMPLED_PER_SECOND = 8
LARGEST_SHARE = 0.05
THRESHOLD = 6.0
THRESHOLD_SIDE = 256
PAIRS, OF_FRAMES = 4, 16


@dataclass(frozen=True, kw_only=True)
class DynamicDegree(Stage):
    """1 where a video moves, 0 where it does not; null for images."""

    name: ClassVar[str] = "dynamic_degree"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "start", "end", "fps")
    adds: ClassVar[tuple[str, ...]] = ("dynamic_degree", "dynamic_pairs", "dynamic_magnitude")
    stamps: ClassVar[bool] = False

    model: Literal["raft_small", "raft_large"] = "raft_small"
    """torchvision architecture; the protocol takes raft_large."""
    weights: str
    """Folder or file with its weights, or a name of torchvision's weights such as C_T_V2."""
    updates: int = 20
    """Refinements of the flow; the protocol's number."""
    pairs_at_once: int = 8
    """Pairs in one call of the network."""

    def load(self) -> Flow:
        return Raft.load(self.model, self.weights, self.updates)

    def process(self, model: Flow, rows: Sequence[Row]) -> list[Row | Exception]:
        return [self._score(model, row) for row in rows]

    def _score(self, flow: Flow, row: Row) -> Row:
        if row["kind"] == "image":
            return dict.fromkeys(self.adds)
        every = max(1, round(row["fps"] / SAMPLED_PER_SECOND))
        times = clip_times(row, fps=row["fps"])[::every]
        if len(times) < 2:
            return dict.fromkeys(self.adds)
        frames = read_frames(row["uri"], times)
        magnitudes = self._magnitudes(flow, frames)
        moving = moving_pairs(magnitudes, short_side=min(frames.shape[1:3]))
        return {
            "dynamic_degree": float(moves(moving, sampled=len(frames))),
            "dynamic_pairs": moving,
            "dynamic_magnitude": float(magnitudes.mean()),
        }

    def _magnitudes(self, flow: Flow, frames: np.ndarray) -> np.ndarray:
        import torch

        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
        first, second = pixels[:-1], pixels[1:]
        parts = [slice(at, at + self.pairs_at_once) for at in range(0, len(first), self.pairs_at_once)]
        return np.concatenate([largest_magnitudes(flow(first[part], second[part])) for part in parts])


def largest_magnitudes(flow: Tensor) -> np.ndarray:
    """Mean of the largest 5 % of flow lengths of each pair, [P, 2, H, W] -> [P] pixels."""
    lengths = flow.float().norm(dim=1).flatten(1)
    count = int(lengths.shape[1] * LARGEST_SHARE)
    return lengths.topk(max(1, count), dim=1).values.mean(dim=1).cpu().numpy()


def moving_pairs(magnitudes: np.ndarray, *, short_side: int) -> int:
    """How many pairs move: above 6 pixels at a short side of 256."""
    return int((magnitudes > THRESHOLD * short_side / THRESHOLD_SIDE).sum())


def moves(pairs: int, *, sampled: int) -> bool:
    """Whether a video of so many sampled frames moves: at least round(4 * sampled / 16) pairs do."""
    return pairs >= round(PAIRS * sampled / OF_FRAMES)
