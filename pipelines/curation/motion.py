"""How much a clip moves, by optical flow (torchvision RAFT).

**Motion score = mean over sampled pairs of the mean flow magnitude, in pixels at a short side of 256, between frames
1/12 s apart, times a calibration constant.** Motion scores of different tools are not comparable; this one does not
depend on resolution or frame rate, and the raw statistics are kept beside it, so that a new calibration needs no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pipelines.core.stage import Row, Stage
from pipelines.media.errors import MediaError
from pipelines.media.frames import read_frames

if TYPE_CHECKING:
    import torch
    from torch import Tensor

REFERENCE_SIDE = 256
"""Short side in pixels that scores are stated at."""
REFERENCE_SECONDS = 1 / 12
"""Time between two frames that scores are stated for."""
RAFT_LEAST = 128
"""RAFT raises below this many pixels a side."""
RAFT_MULTIPLE = 8

Flow = Callable[["Tensor", "Tensor"], "Tensor"]
"""Flow between RGB frames in 0..255, [P, 3, H, W] each -> displacement in pixels (x, y), [P, 2, H, W]."""


class Raft:
    """torchvision's RAFT at any size: small frames are enlarged, sides padded, and the flow brought back.

    Args:
        network: raft_small or raft_large, in eval mode.
        updates: refinements of the flow.
    """

    def __init__(self, network: torch.nn.Module, updates: int) -> None:
        self.network, self.updates = network, updates

    @classmethod
    def load(cls, architecture: str, weights: str, updates: int) -> Raft:
        """Builds the network with weights from a folder or file (safetensors or .pth), or torchvision's by enum name.

        Raises:
            ValueError: no such architecture or weights.
        """
        from torchvision.models import optical_flow

        from pipelines.core.devices import device
        from pipelines.core.model_hub import loading

        build = getattr(optical_flow, architecture)
        known = getattr(optical_flow, "Raft_Small_Weights" if "small" in architecture else "Raft_Large_Weights")
        with loading(weights):
            if weights in known.__members__:
                network = build(weights=known[weights], progress=False)
            else:
                network = build()
                network.load_state_dict(_state(weights))
        return cls(network.eval().to(device()), updates)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        height, width = first.shape[-2:]
        scale = max(1.0, RAFT_LEAST / min(height, width))
        size = (round(height * scale), round(width * scale))
        where = next(self.network.parameters()).device
        pairs = [
            F.interpolate(each.float().to(where) / 127.5 - 1, size=size, mode="bilinear") for each in (first, second)
        ]
        right, bottom = (-size[1] % RAFT_MULTIPLE, -size[0] % RAFT_MULTIPLE)
        padded = [F.pad(each, (0, right, 0, bottom), mode="replicate") for each in pairs]
        with torch.inference_mode():
            flow = self.network(*padded, num_flow_updates=self.updates)[-1]
        flow = F.interpolate(flow[..., : size[0], : size[1]], size=(height, width), mode="bilinear")
        grown = torch.tensor([size[1] / width, size[0] / height], device=where).reshape(1, 2, 1, 1)
        return (flow / grown).cpu()


def _state(weights: str) -> dict[str, Tensor]:
    import torch
    from safetensors.torch import load_file

    from pipelines.core.model_hub import folder

    place = folder(weights)
    path = place if place.is_file() else next(iter([*place.glob("*.safetensors"), *place.glob("*.pth")]), place)
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def mean_magnitudes(flow: Tensor) -> np.ndarray:
    """Mean length of the displacement of each pair, [P, 2, H, W] -> [P] pixels."""
    return flow.float().norm(dim=1).mean(dim=(1, 2)).cpu().numpy()


def normalised(pixels: float, *, short_side: int, seconds: float) -> float:
    """Pixels at a short side and between frames some seconds apart -> pixels at 256 per 1/12 s."""
    return pixels * (REFERENCE_SIDE / short_side) * (REFERENCE_SECONDS / seconds)


@dataclass(frozen=True, kw_only=True)
class Motion(Stage):
    """Measures the motion of videos; an image and a clip of one frame have score 0 and no pairs."""

    name: ClassVar[str] = "motion"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "start", "end", "fps")
    adds: ClassVar[tuple[str, ...]] = (
        "motion_score", "motion_raw_mean", "motion_raw_std", "motion_raw_max", "motion_pairs", "motion_interval",
        "motion_short_side",
    )  # fmt: skip

    model: Literal["raft_small", "raft_large"] = "raft_small"
    """torchvision architecture."""
    weights: str
    """Folder or file with its weights, or a name of torchvision's weights such as C_T_SKHT_V2."""
    updates: int = 12
    """Refinements of the flow."""
    pairs_per_second: float = 2.0
    """Frame pairs sampled from each second of a clip."""
    max_pairs: int = 16
    """Pairs sampled from a clip at most, evenly spread."""
    short_side: int = 256
    """Pixels that flow is computed at."""
    pairs_at_once: int = 8
    """Pairs in one call of the network."""
    calibration: float = 1.0
    """Constant that scores are multiplied by."""

    def identity(self) -> tuple[object, ...]:
        from pipelines.core.model_hub import digest

        named = "/" not in self.weights and self.weights.isupper()  # torchvision's own weights never change
        return (*super().identity(), self.weights if named else digest(self.weights))

    def load(self) -> Flow:
        return Raft.load(self.model, self.weights, self.updates)

    def process(self, model: Flow, rows: Sequence[Row]) -> list[Row | Exception]:
        return [self._measured(model, row) for row in rows]

    def _measured(self, flow: Flow, row: Row) -> Row | Exception:
        times = self.pair_times(row)
        if not times:
            return self._row(row, np.zeros(0), 0.0)
        try:
            frames = read_frames(row["uri"], [t for pair in times for t in pair], short_side=self.short_side)
        except MediaError as error:
            return error
        magnitudes = self._magnitudes(flow, frames)
        return self._row(row, magnitudes, float(np.mean([later - earlier for earlier, later in times])))

    def pair_times(self, row: Row) -> list[tuple[float, float]]:
        """Seconds of the frames of each pair: whole frames apart, as near to 1/12 s as the frame rate allows."""
        if row["kind"] == "image" or not row["fps"]:
            return []
        frame = 1 / row["fps"]
        gap = max(1, round(REFERENCE_SECONDS / frame)) * frame
        usable = row["end"] - row["start"] - frame - gap  # the last frame starts one frame before the end
        if usable < -frame / 2:
            return []
        usable = max(usable, 0.0)
        count = int(np.clip(np.ceil(usable * self.pairs_per_second), 1, self.max_pairs))
        starts = row["start"] + (np.arange(count) + 0.5) * usable / count
        first = np.round(starts / frame) * frame + frame / 4  # inside a frame: rounding must not pick its neighbour
        return [(float(start), float(start + gap)) for start in first]

    def _magnitudes(self, flow: Flow, frames: np.ndarray) -> np.ndarray:
        import torch

        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
        first, second = pixels[0::2], pixels[1::2]
        calls = range(0, len(first), self.pairs_at_once)
        parts = [slice(start, start + self.pairs_at_once) for start in calls]
        return np.concatenate([mean_magnitudes(flow(first[part], second[part])) for part in parts])

    def _row(self, row: Row, magnitudes: np.ndarray, interval: float) -> Row:
        pairs = len(magnitudes)
        mean = float(magnitudes.mean()) if pairs else 0.0
        score = normalised(mean, short_side=self.short_side, seconds=interval) if pairs else 0.0
        return {
            "motion_score": score * self.calibration,
            "motion_raw_mean": mean,
            "motion_raw_std": float(magnitudes.std()) if pairs else 0.0,
            "motion_raw_max": float(magnitudes.max()) if pairs else 0.0,
            "motion_pairs": pairs,
            "motion_interval": interval if pairs else None,
            "motion_short_side": self.short_side if pairs else None,
        }
