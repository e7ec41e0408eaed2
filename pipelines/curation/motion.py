"""Motion scores of clips, by optical flow (torchvision RAFT).

The motion score of a clip tells how far its pixels move in 1/12 s, if the clip is scaled to a short side of 256 pixels.
Flow is estimated for pairs of frames; the lengths of its vectors are averaged over pixels and pairs, and multiplied by
the configured calibration. Scores of clips of different resolution or frame rate are comparable, scores of other tools
are not. The statistics before calibration are stored too, so that a new calibration needs no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pipelines.core.devices import device
from pipelines.core.model_hub import digest, folder, loading
from pipelines.core.stage import Row, Stage
from pipelines.media.errors import MediaError
from pipelines.media.frames import read_frames

if TYPE_CHECKING:
    import torch
    from torch import Tensor

REFERENCE_SIDE = 256
"""Short side in pixels to which scores refer."""
REFERENCE_SECONDS = 1 / 12
"""Time between two frames to which scores refer: NOVA's frame rate is 12."""
RAFT_MIN_SIDE = 128
"""RAFT raises an error below this many pixels a side: its correlation pyramid halves 1/8 of them three times."""
RAFT_MULTIPLE = 8
"""RAFT's features have 1/8 of the resolution, so that sides must be multiples of 8."""

Flow = Callable[["Tensor", "Tensor"], "Tensor"]
"""Flow between RGB frames in 0..255, [P, 3, H, W] each -> displacement in pixels (x, y), [P, 2, H, W]."""


class Raft:
    """torchvision's RAFT at any size: small frames are enlarged, sides are padded, and the flow is scaled back.

    Args:
        network: raft_small or raft_large, in eval mode.
        updates: iterative refinements of the flow.
    """

    def __init__(self, network: torch.nn.Module, updates: int) -> None:
        self.network, self.updates = network, updates

    @classmethod
    def load(cls, architecture: str, weights: str, updates: int) -> Raft:
        """Builds the network with weights from a folder or file (safetensors or .pth), or torchvision's by enum name.

        Raises:
            ValueError: the weights cannot be loaded into this architecture.
        """
        from torchvision.models import optical_flow

        build = getattr(optical_flow, architecture)
        published = getattr(optical_flow, "Raft_Small_Weights" if "small" in architecture else "Raft_Large_Weights")
        with loading(weights):
            if weights in published.__members__:
                network = build(weights=published[weights], progress=False)
            else:
                network = build()
                network.load_state_dict(_state(weights))
        return cls(network.eval().to(device()), updates)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow between RGB frames in 0..255, [P, 3, H, W] each: displacement in pixels (x, y), [P, 2, H, W]."""
        import torch
        import torch.nn.functional as F

        height, width = first.shape[-2:]
        scale = max(1.0, RAFT_MIN_SIDE / min(height, width))
        size = (round(height * scale), round(width * scale))
        network_device = next(self.network.parameters()).device
        # torchvision's RAFT takes values in -1..1.
        resized = [
            F.interpolate(frames.float().to(network_device) / 127.5 - 1, size=size, mode="bilinear")
            for frames in (first, second)
        ]
        right, bottom = (-size[1] % RAFT_MULTIPLE, -size[0] % RAFT_MULTIPLE)
        # Edges are repeated, because the contrast of a black border would disturb the flow near it.
        padded = [F.pad(frames, (0, right, 0, bottom), mode="replicate") for frames in resized]
        with torch.inference_mode():
            flow = self.network(*padded, num_flow_updates=self.updates)[-1]  # one flow per refinement; the last is best
        # The padding is cut off before the flow is scaled back, along with the size.
        flow = F.interpolate(flow[..., : size[0], : size[1]], size=(height, width), mode="bilinear")
        # Displacements are in pixels of the enlarged frame, and width and height round differently.
        enlargement = torch.tensor([size[1] / width, size[0] / height], device=network_device).reshape(1, 2, 1, 1)
        return (flow / enlargement).cpu()


def _state(weights: str) -> dict[str, Tensor]:
    """Reads weights from a file, or from the first file of a folder, safetensors before .pth."""
    import torch
    from safetensors.torch import load_file

    path = folder(weights)
    if path.is_dir():
        path = next(iter([*path.glob("*.safetensors"), *path.glob("*.pth")]), path)
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def mean_magnitudes(flow: Tensor) -> np.ndarray:
    """Mean length of the displacements of each pair in pixels: [P, 2, H, W] -> [P]."""
    return flow.float().norm(dim=1).mean(dim=(1, 2)).cpu().numpy()


def normalised(pixels: float, *, short_side: int, seconds: float) -> float:
    """Converts a displacement to the unit of motion scores: pixels at a short side of 256 per 1/12 s.

    Args:
        pixels: displacement between two frames.
        short_side: short side of the frames in pixels.
        seconds: time between the frames.
    """
    return pixels * (REFERENCE_SIDE / short_side) * (REFERENCE_SECONDS / seconds)


@dataclass(frozen=True, kw_only=True)
class Motion(Stage):
    """Measures the motion of videos. Images and clips of one frame have a score of 0 and no pairs."""

    name: ClassVar[str] = "motion"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "start", "end", "fps")
    adds: ClassVar[tuple[str, ...]] = (
        "motion_score", "motion_raw_mean", "motion_raw_std", "motion_raw_max", "motion_pairs", "motion_interval",
        "motion_short_side",
    )  # fmt: skip

    model: Literal["raft_small", "raft_large"] = "raft_small"
    """torchvision architecture."""
    weights: str
    """Folder or file with its weights, or the name of torchvision's weights, such as C_T_SKHT_V2."""
    updates: int = 12
    """Iterative refinements of the flow; 12 is torchvision's default."""
    pairs_per_second: float = 2.0
    """Frame pairs sampled from each second of a clip."""
    max_pairs: int = 16
    """Pairs sampled from a clip at most; they are spread evenly."""
    short_side: int = 256
    """Short side in pixels at which flow is computed."""
    pairs_at_once: int = 8
    """Pairs in one call of the network."""
    calibration: float = 1.0
    """Constant that scores are multiplied by."""

    def identity(self) -> tuple[object, ...]:
        is_published = "/" not in self.weights and self.weights.isupper()  # torchvision never changes weights of a name
        return (*super().identity(), self.weights if is_published else digest(self.weights))

    def load(self) -> Flow:
        return Raft.load(self.model, self.weights, self.updates)

    def process(self, model: Flow, rows: Sequence[Row]) -> list[Row | Exception]:
        return [self._measure(model, row) for row in rows]

    def _measure(self, flow: Flow, row: Row) -> Row | Exception:
        times = self.pair_times(row)
        if not times:
            return self._row(row, np.zeros(0), 0.0)
        try:
            # All pairs in one call: the file is opened once, and frames that pairs share are decoded once.
            frames = read_frames(row["uri"], [time for pair in times for time in pair], short_side=self.short_side)
        except MediaError as error:
            return error
        # An error of the network is not caught: `apply` retries the rows one by one and records it.
        magnitudes = self._magnitudes(flow, frames)
        return self._row(row, magnitudes, float(np.mean([later - earlier for earlier, later in times])))

    def pair_times(self, row: Row) -> list[tuple[float, float]]:
        """Seconds of the two frames of each pair: whole frames apart, as near to 1/12 s as the frame rate allows."""
        if row["kind"] == "image" or not row["fps"]:
            return []
        frame = 1 / row["fps"]
        gap = max(1, round(REFERENCE_SECONDS / frame)) * frame
        usable = row["end"] - row["start"] - frame - gap  # the last frame starts one frame before the end
        if usable < -frame / 2:  # half a frame of tolerance, because containers round times
            return []
        usable = max(usable, 0.0)
        # By time and not by frames, so that a clip of 60 frames per second costs no more than one of 24.
        count = int(np.clip(np.ceil(usable * self.pairs_per_second), 1, self.max_pairs))
        starts = row["start"] + (np.arange(count) + 0.5) * usable / count
        # A quarter of a frame after its start: at the very boundary, rounding would pick the neighbour.
        first = row["start"] + np.round((starts - row["start"]) / frame) * frame + frame / 4
        return [(float(start), float(start + gap)) for start in first]

    def _magnitudes(self, flow: Flow, frames: np.ndarray) -> np.ndarray:
        import torch

        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)  # [2P, H, W, 3] -> [2P, 3, H, W]
        pairs = zip(pixels[0::2].split(self.pairs_at_once), pixels[1::2].split(self.pairs_at_once), strict=True)
        return np.concatenate([mean_magnitudes(flow(first, second)) for first, second in pairs])

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
