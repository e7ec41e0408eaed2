"""VAE moments of clips, at the size and length of the bucket that a clip falls into.

A bucket is frames x height x width in pixels. Its height and width are the entry of `sizes` whose aspect ratio is
nearest to the clip's; the clip is resized to cover them and its centre is cropped. Frames are taken at the target rate
from the middle of the clip: one of an image, and of a video as many as the longest entry of `lengths` that it can fill.
A video that is too short for the shortest becomes one frame.

Moments (mean and log-variance) are stored rather than samples, so that every epoch draws its own latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pipelines.core.devices import device, dtype
from pipelines.core.model_hub import digest, folder, loading
from pipelines.core.stage import Row, Stage
from pipelines.media.errors import MediaError
from pipelines.media.frames import read_frames

if TYPE_CHECKING:
    from torch import Tensor

    from nova_model.vae.codec import Codec

IMAGE_FPS = 12.0
"""Frame rate that images are labelled with: NOVA's default condition."""


def is_video_length(frames: int) -> bool:
    """Whether a causal video VAE encodes this many frames without a remainder: 1+4k up to 17, 1+16k beyond.

    It encodes tiles of 17 frames that start every 16 frames, and every 4 frames after the first become one latent
    (spec section 6).
    """
    return frames > 1 and ((frames - 1) % 4 == 0 if frames <= 17 else (frames - 1) % 16 == 0)


@dataclass(frozen=True)
class Window:
    """The frames of a clip that are encoded, and their size."""

    times: tuple[float, ...]
    """Seconds of the frames."""
    height: int
    width: int
    fps: float

    @property
    def bucket(self) -> str:
        """Name of the bucket, such as 17x64x64."""
        return f"{len(self.times)}x{self.height}x{self.width}"


@dataclass(frozen=True, kw_only=True)
class Latents(Stage):
    """Encodes a window of each clip, at the size and length of its bucket."""

    name: ClassVar[str] = "latents"
    reads: ClassVar[tuple[str, ...]] = ("uri", "kind", "start", "end", "frames", "fps", "width", "height", "rotation")
    adds: ClassVar[tuple[str, ...]] = (
        "bucket", "bucket_frames", "bucket_height", "bucket_width", "bucket_fps",
        "moments", "moments_shape", "moments_dtype",
    )  # fmt: skip

    model: str
    """The causal video VAE, or diffusers' AutoencoderKL, which encodes videos frame by frame: a folder or a hub id."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto is bf16 on a GPU and fp32 on a CPU."""
    sizes: tuple[str, ...] = ("64x64",)
    """Sizes of buckets, height x width in pixels; a clip goes to the one whose aspect ratio is nearest."""
    lengths: tuple[int, ...] = (5,)
    """Frames of video buckets: 1+4k up to 17, 1+16k beyond. Without any, a video becomes one frame."""
    fps: float = 12.0
    """Frames per second at which videos are sampled; slower ones keep their own rate."""

    def __post_init__(self) -> None:
        self.shapes()
        invalid = [count for count in self.lengths if not is_video_length(count)]
        if invalid:
            raise ValueError(
                f"latents.lengths has {invalid[0]}: give 1+4k frames up to 17 (5, 9, 13, 17), 1+16k beyond"
            )
        if not self.sizes:
            raise ValueError("latents.sizes is empty; give height x width, such as 64x64")

    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of each size.

        Raises:
            ValueError: a size is not written as HEIGHTxWIDTH.
        """
        try:
            pairs = [tuple(map(int, size.split("x"))) for size in self.sizes]
            return [(height, width) for height, width in pairs]
        except ValueError as error:
            raise ValueError(f"latents.sizes={','.join(self.sizes)}: write height x width, such as 64x64") from error

    def identity(self) -> tuple[object, ...]:
        return (*super().identity(), digest(self.model))

    def load(self) -> Codec:
        """Loads the VAE.

        Raises:
            ValueError: it cannot be loaded, or does not encode one of the sizes or lengths.
        """
        # These import torch and diffusers, which only the workers of this stage need.
        from nova_model.checkpoints.released import load_vae
        from nova_model.vae.codec import Codec

        with loading(self.model):
            # The whole load is guarded, as folders of other models fail in as many ways as libraries have.
            codec = Codec(load_vae(folder(self.model), dtype(self.precision)).to(device()))
        for size, shape in zip(self.sizes, self.shapes(), strict=True):
            if any(side % codec.stride for side in shape):
                raise ValueError(
                    f"latents.sizes has {size}, which the VAE's stride of {codec.stride} does not divide; "
                    f"give multiples of {codec.stride}"
                )
        for length in self.lengths:
            codec.latent_frames(length)  # raises where the VAE does not encode this length
        return codec

    def window(self, row: Row) -> Window:
        """The window of a clip that is encoded."""
        height, width = self._size(row)
        # Never above the video's own rate: repeated frames would teach the model to stutter.
        fps = min(self.fps, row["fps"] or self.fps)
        seconds = row["end"] - row["start"]
        # The tolerance is for frame times that are not exact: 17 frames at 12 per second are not exactly 17/12 s apart.
        available = math.floor(seconds * fps + 1e-6)
        # The longest that fits: a shorter one would waste frames of the clip.
        count = max((length for length in self.lengths if length <= available), default=1)
        if row["kind"] == "image":
            return Window((0.0,), height, width, IMAGE_FPS)
        # The last frame is shown until the clip's end, so a window lasts count / fps seconds, not (count - 1) / fps.
        first = row["start"] + (seconds - count / fps) / 2
        # Move the start back to a frame of the video and a quarter of a frame into it: at the very boundary, rounding
        # of container times would pick the neighbour, and at a clip's start that is a frame of the previous shot.
        tick = 1 / row["fps"] if row["fps"] else 1 / fps
        first = row["start"] + math.floor((first - row["start"]) / tick + 1e-6) * tick + tick / 4
        return Window(tuple(first + index / fps for index in range(count)), height, width, fps)

    def _size(self, row: Row) -> tuple[int, int]:
        """(height, width) of the bucket whose aspect ratio is nearest to the clip's."""
        width, height = row["width"], row["height"]  # before the rotation that decoding applies
        if (row["rotation"] or 0) % 180:
            width, height = height, width
        # On a log scale, 2:1 and 1:2 are equally far from a square.
        aspect = math.log(width / height)
        return min(self.shapes(), key=lambda shape: abs(math.log(shape[1] / shape[0]) - aspect))

    def process(self, model: Codec, rows: Sequence[Row]) -> list[Row | Exception]:
        import torch

        results: dict[int, Row | Exception] = {}
        windows = [self.window(row) for row in rows]
        by_bucket: dict[str, dict[int, Tensor]] = {}
        for index, (row, window) in enumerate(zip(rows, windows, strict=True)):
            pixels = _pixels(row, window)
            if isinstance(pixels, Exception):
                results[index] = pixels
            else:
                by_bucket.setdefault(window.bucket, {})[index] = pixels
        for clips in by_bucket.values():  # clips of one shape are encoded as one batch
            batch = torch.stack(list(clips.values())).to(model.vae.device) / 127.5 - 1  # [B, 3, T, H, W] in -1..1
            # Both mean and log-variance: sampling is left to the training, whose seed it belongs to.
            moments = model.moments(batch).cpu()  # [B, 2C, t, h, w]
            for index, clip_moments in zip(clips, moments, strict=True):
                results[index] = _row(windows[index], clip_moments)
        return [results[index] for index in range(len(rows))]


def _pixels(row: Row, window: Window) -> Tensor | Exception:
    """Frames of a window, uint8 [3, T, H, W]."""
    import torch

    try:
        frames = read_frames(row["uri"], window.times, crop=(window.height, window.width))
    except MediaError as error:
        return error
    return torch.from_numpy(frames).permute(3, 0, 1, 2)


def _row(window: Window, moments: Tensor) -> Row | Exception:
    values = moments.numpy().astype(np.float16)  # values of a VAE are small; half precision halves the table
    # fp16 ends at 65,504, and a VAE in half precision may overflow itself; Delta has no bfloat16 to fall back on.
    if not np.isfinite(values).all():
        return ValueError("the VAE returned values that are not finite; set latents.precision=fp32")
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
