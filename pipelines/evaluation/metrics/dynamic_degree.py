"""Dynamic degree: does a video move? VBench's metric, from the largest optical flow of pairs of sampled frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pipelines.core.stage import Row, Stage
from pipelines.curation.motion import Flow, Raft
from pipelines.media.frames import read_sequence

if TYPE_CHECKING:
    from torch import Tensor

# Constants of VBench's protocol, which is tuned on videos of 16 frames with a short side of 256 pixels.
SAMPLED_PER_SECOND = 8
LARGEST_SHARE = 0.05
THRESHOLD = 6.0
THRESHOLD_SIDE = 256
MIN_PAIRS, PROTOCOL_FRAMES = 4, 16


@dataclass(frozen=True, kw_only=True)
class DynamicDegree(Stage):
    """Scores 1 for a video that moves and 0 for one that does not; null for images."""

    name: ClassVar[str] = "dynamic_degree"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "start", "end", "fps")
    adds: ClassVar[tuple[str, ...]] = ("dynamic_degree", "dynamic_pairs", "dynamic_magnitude")
    stamps: ClassVar[bool] = False

    model: Literal["raft_small", "raft_large"] = "raft_small"
    """Architecture of torchvision; VBench's protocol uses raft_large."""
    weights: str
    """Folder or file of its weights, or a name of torchvision's weights such as C_T_V2."""
    updates: int = 20
    """Iterative refinements of the flow; VBench's number by default."""
    pairs_at_once: int = 8
    """Pairs of frames in one call of the network."""

    def load(self) -> Flow:
        return Raft.load(self.model, self.weights, self.updates)

    def process(self, model: Flow, rows: Sequence[Row]) -> list[Row | Exception]:
        return [self._score(model, row) for row in rows]

    def _score(self, flow: Flow, row: Row) -> Row:
        if row["kind"] == "image":
            return dict.fromkeys(self.adds)
        stride = max(1, round(row["fps"] / SAMPLED_PER_SECOND))
        frames = read_sequence(row["uri"], row["start"], row["end"], stride=stride)
        if len(frames) < 2:
            return dict.fromkeys(self.adds)
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
        batches = [slice(start, start + self.pairs_at_once) for start in range(0, len(first), self.pairs_at_once)]
        return np.concatenate([largest_magnitudes(flow(first[batch], second[batch])) for batch in batches])


def largest_magnitudes(flow: Tensor) -> np.ndarray:
    """Mean length of the longest 5 % of flow vectors of each pair, [P, 2, H, W] -> [P] in pixels."""
    lengths = flow.float().norm(dim=1).flatten(1)
    count = int(lengths.shape[1] * LARGEST_SHARE)
    return lengths.topk(max(1, count), dim=1).values.mean(dim=1).cpu().numpy()


def moving_pairs(magnitudes: np.ndarray, *, short_side: int) -> int:
    """Number of pairs that move by more than 6 pixels, scaled to a short side of 256."""
    return int((magnitudes > THRESHOLD * short_side / THRESHOLD_SIDE).sum())


def moves(pairs: int, *, sampled: int) -> bool:
    """Whether a video moves: at least round(4 * sampled / 16) of its pairs do.

    Args:
        pairs: number of pairs that move.
        sampled: number of sampled frames.
    """
    return pairs >= round(MIN_PAIRS * sampled / PROTOCOL_FRAMES)
