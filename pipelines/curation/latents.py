"""VAE moments of clips, at the size and length of the bucket that a clip falls into.

A bucket is frames x height x width in pixels. Height and width are those of `sizes` whose aspect ratio is nearest to
the clip's; the clip is resized to cover them and its centre is cut out. Frames are taken at the target rate from the
middle of the clip: one of an image, of a video as many as the longest of `frames` that it can fill. A video too short
for the shortest is kept as one frame.

Moments (mean and log-variance) are kept rather than samples, so that every epoch can draw its own latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from pipelines.core.stage import Row, Stage
from pipelines.media.errors import MediaError
from pipelines.media.frames import read_frames

if TYPE_CHECKING:
    from torch import Tensor

    from nova_model.vae.codec import Codec

IMAGE_FPS = 12.0
"""What an image is labelled with: NOVA's default condition."""


def is_video_length(frames: int) -> bool:
    """Whether a causal video VAE tiles so many frames without a rest: 1+4k up to 17, 1+16k beyond (spec section 6)."""
    return frames > 1 and ((frames - 1) % 4 == 0 if frames <= 17 else (frames - 1) % 16 == 0)


@dataclass(frozen=True)
class Window:
    """What is cut out of a clip."""

    times: tuple[float, ...]
    """Seconds of the frames."""
    height: int
    width: int
    fps: float

    @property
    def bucket(self) -> str:
        return f"{len(self.times)}x{self.height}x{self.width}"


@dataclass(frozen=True, kw_only=True)
class Latents(Stage):
    """Encodes the window of a clip that its bucket holds."""

    name: ClassVar[str] = "latents"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "start", "end", "frames", "fps", "width", "height", "rotation")
    adds: ClassVar[tuple[str, ...]] = (
        "bucket", "bucket_frames", "bucket_height", "bucket_width", "bucket_fps",
        "moments", "moments_shape", "moments_dtype",
    )  # fmt: skip

    model: str
    """The causal video VAE, or diffusers' AutoencoderKL, which codes videos frame by frame: a folder or a hub id."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto is bf16 on a GPU and fp32 on a CPU."""
    sizes: tuple[str, ...] = ("64x64",)
    """Height x width in pixels; a clip goes to the one whose aspect ratio is nearest."""
    lengths: tuple[int, ...] = (5,)
    """Frames of video buckets: 1+4k up to 17, 1+16k beyond. Without any, videos give one frame."""
    fps: float = 12.0
    """Frames per second that videos are sampled at; slower ones keep their own rate."""

    def __post_init__(self) -> None:
        self.shapes()
        wrong = [count for count in self.lengths if not is_video_length(count)]
        if wrong:
            raise ValueError(f"latents.lengths has {wrong[0]}: give 1+4k frames up to 17 (5, 9, 13, 17), 1+16k beyond")
        if not self.sizes:
            raise ValueError("latents.sizes is empty; give height x width, such as 64x64")

    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of each size.

        Raises:
            ValueError: a size that is not written as HEIGHTxWIDTH.
        """
        try:
            pairs = [tuple(map(int, size.split("x"))) for size in self.sizes]
            return [(height, width) for height, width in pairs]
        except ValueError as error:
            raise ValueError(f"latents.sizes={','.join(self.sizes)}: write height x width, such as 64x64") from error

    def identity(self) -> tuple[object, ...]:
        from pipelines.core.model_hub import digest

        return (*super().identity(), digest(self.model))

    def load(self) -> Codec:
        from nova_model.checkpoints.released import load_vae
        from nova_model.vae.codec import Codec
        from pipelines.core.devices import device, dtype
        from pipelines.core.model_hub import folder, loading

        with loading(self.model):
            codec = Codec(load_vae(folder(self.model), dtype(self.precision)).to(device()))
        wrong = [size for size, shape in zip(self.sizes, self.shapes(), strict=True) if _undivided(shape, codec.stride)]
        if wrong:
            raise ValueError(f"latents.sizes has {wrong[0]}, which the VAE's stride of {codec.stride} does not divide")
        for length in self.lengths:
            codec.latent_frames(length)
        return codec

    def window(self, row: Row) -> Window:
        """The window of a clip that is encoded."""
        height, width = self._size(row)
        fps = min(self.fps, row["fps"] or self.fps)
        seconds = row["end"] - row["start"]
        held = math.floor(seconds * fps + 1e-6)
        count = max((length for length in self.lengths if length <= held), default=1)
        if row["kind"] == "image":
            return Window((0.0,), height, width, IMAGE_FPS)
        # The last frame is shown until the clip's end, so a window is as long as its frames are.
        first = row["start"] + (seconds - count / fps) / 2
        tick = 1 / row["fps"] if row["fps"] else 1 / fps
        first = row["start"] + math.floor((first - row["start"]) / tick + 1e-6) * tick + tick / 4  # inside a frame
        return Window(tuple(first + index / fps for index in range(count)), height, width, fps)

    def _size(self, row: Row) -> tuple[int, int]:
        across, down = row["width"], row["height"]
        if (row["rotation"] or 0) % 180:
            across, down = down, across
        wanted = math.log(across / down)
        return min(self.shapes(), key=lambda shape: abs(math.log(shape[1] / shape[0]) - wanted))

    def process(self, model: Codec, rows: Sequence[Row]) -> list[Row | Exception]:
        windows = [self.window(row) for row in rows]
        pixels = [_pixels(row, window) for row, window in zip(rows, windows, strict=True)]
        results: list[Row | Exception] = [each if isinstance(each, Exception) else {} for each in pixels]
        by_bucket: dict[str, list[int]] = {}
        for index, window in enumerate(windows):
            if not isinstance(pixels[index], Exception):
                by_bucket.setdefault(window.bucket, []).append(index)
        for indices in by_bucket.values():  # one shape at a time, so that a GPU gets batches
            moments = model.moments(_stack([pixels[index] for index in indices]).to(model.vae.device) / 127.5 - 1)
            for index, values in zip(indices, moments.cpu(), strict=True):
                results[index] = _row(windows[index], values)
        return results


def _pixels(row: Row, window: Window) -> Tensor | Exception:
    """Frames of a window, uint8 [3, T, H, W]."""
    import torch

    try:
        frames = read_frames(row["uri"], window.times, crop=(window.height, window.width))
    except MediaError as error:
        return error
    return torch.from_numpy(frames).permute(3, 0, 1, 2)


def _stack(pixels: Sequence[Any]) -> Tensor:
    import torch

    return torch.stack(list(pixels))


def _row(window: Window, moments: Tensor) -> Row | Exception:
    values = moments.numpy().astype(np.float16)
    if not np.isfinite(values).all():
        return ValueError("the VAE gave values that are not finite; choose latents.precision=fp32")
    return {
        "bucket": window.bucket,
        "bucket_frames": len(window.times),
        "bucket_height": window.height,
        "bucket_width": window.width,
        "bucket_fps": window.fps,
        "moments": values.tobytes(),
        "moments_shape": list(values.shape),
        "moments_dtype": "float16",
    }


def _undivided(shape: tuple[int, int], stride: int) -> bool:
    return any(side % stride for side in shape)
