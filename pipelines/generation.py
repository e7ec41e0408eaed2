"""The generation stage: prompts become images and videos, batch by batch.

The result for a prompt and seed depends on neither batching nor the number of workers: every sample draws its own noise
from its own generator.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nova_model.config import SamplingConfig
from pipelines import media
from pipelines.components import Components
from pipelines.stage import Row, Stage

if TYPE_CHECKING:
    import torch

    from nova_model.model import Nova
    from pipelines.latents import VaeCodec
    from pipelines.text import TextEncoder


@dataclass
class Generator:
    """The loaded parts of a checkpoint."""

    model: Nova
    schedule: Any
    codec: VaeCodec
    text: TextEncoder
    first_frame: torch.Tensor | None
    """[1, C, 1, H, W] latents to continue from."""


@dataclass(frozen=True, kw_only=True)
class Generate(Stage):
    """Generates the files of a batch of rows and writes them."""

    name = "generate"
    reads = ("prompt", "path", "seeds")
    adds = ("uri", "kind", "frames", "height", "width", "fps", "seconds", "device_seconds")
    stamps = False

    components: Components
    output: str
    """Folder that `path` is relative to."""
    frames: int = 1
    """Pixel frames; 1 makes images."""
    height: int | None = None
    """Pixels; the size the model was trained at by default."""
    width: int | None = None
    video_fps: float = 12.0
    """Frames per second that are asked for and written."""
    motion: float = 5.0
    """Motion score that is asked for; 1 to 10 is useful."""
    negative_prompt: str | None = None
    """Prompt to move away from; the unconditional one by default."""
    image: str | None = None
    """First frame to continue from (image-to-video)."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    samples_at_once: int = 1
    """Pictures or videos denoised together."""
    precision: str = "auto"
    """bf16 or fp32; auto is bf16 on a GPU and fp32 on a CPU."""

    def size(self, model: Nova) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = model.config.pixel_size
        return self.height or height, self.width or width

    def load(self) -> Generator:
        import torch

        from nova_model.checkpoint import load_schedule, load_transformer
        from pipelines.latents import VaeCodec
        from pipelines.models import device, dtype
        from pipelines.text import TextEncoder

        kind = dtype(self.precision)
        parts = self.components
        model = load_transformer(parts.transformer, device=device(), dtype=kind).eval()
        limit = model.config.text_token_len
        made = Generator(
            model=model,
            schedule=load_schedule(parts.scheduler),
            codec=VaeCodec.load(parts.vae, kind),
            text=TextEncoder.load(parts.text_encoder, kind, limit, tokenizer=parts.tokenizer),
            first_frame=None,
        )
        if self.image is not None:
            frame = media.read_frames(self.image, None, crop=self.size(model))
            pixels = torch.from_numpy(frame).permute(3, 0, 1, 2)[None]
            made.first_frame = made.codec.latents(pixels)
        return made

    def process(self, model: Generator, rows: Sequence[Row]) -> list[Row | Exception]:
        wanted = [(index, int(seed)) for index, row in enumerate(rows) for seed in row["seeds"]]
        videos: dict[int, list[np.ndarray]] = {index: [] for index in range(len(rows))}
        seconds = dict.fromkeys(videos, 0.0)
        for start in range(0, len(wanted), self.samples_at_once):
            share = wanted[start : start + self.samples_at_once]
            began = time.perf_counter()
            made = self.sample(model, [rows[index]["prompt"] for index, _ in share], [seed for _, seed in share])
            each = (time.perf_counter() - began) / len(share)
            for (index, _), video in zip(share, made, strict=True):
                videos[index].append(video)
                seconds[index] += each
        return [self._write(row, videos[index], seconds[index]) for index, row in enumerate(rows)]

    def sample(self, parts: Generator, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Generates one video (or image) a prompt.

        Returns:
            uint8 [B, T, H, W, 3].
        """
        import torch

        from nova_model.sampling import generate

        model, codec = parts.model, parts.codec
        where = next(model.parameters()).device
        negative = None
        if self.negative_prompt is not None:
            negative = model.pad_text(parts.text.encode([self.negative_prompt] * len(prompts)))
        height, width = self.size(model)
        with torch.inference_mode():
            latents = generate(
                model,
                parts.schedule,
                text=model.pad_text(parts.text.encode(list(prompts))),
                negative_text=negative,
                frames=codec.latent_frames(self.frames),
                latent_size=(height // codec.stride, width // codec.stride),
                motion=torch.full((len(prompts),), self.motion, device=where),
                fps=torch.full((len(prompts),), self.video_fps, device=where),
                settings=self.sampling,
                generators=[torch.Generator().manual_seed(seed) for seed in seeds],
                first_frames=None if parts.first_frame is None else parts.first_frame.repeat(len(prompts), 1, 1, 1, 1),
            )
            return codec.decode(latents)

    def _write(self, row: Row, videos: list[np.ndarray], seconds: float) -> Row:
        frames = videos[0] if len(videos) == 1 else grid(videos)
        path = Path(self.output) / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(frames) == 1:
            media.write_image(path, frames[0])
        else:
            media.write_video(path, frames, self.video_fps)
        return {
            "uri": str(path),
            "kind": "image" if len(frames) == 1 else "video",
            "frames": len(frames),
            "height": frames.shape[1],
            "width": frames.shape[2],
            "fps": self.video_fps if len(frames) > 1 else None,
            "seconds": seconds,
            "device_seconds": seconds * max(1.0, self.resources.gpus),
        }


def grid(videos: Sequence[np.ndarray]) -> np.ndarray:
    """Puts pictures side by side, two columns for four (the layout of DPG-Bench), with black where none is left.

    Args:
        videos: [T, H, W, 3] each.

    Returns:
        [T, rows * H, columns * W, 3].
    """
    columns = int(np.ceil(np.sqrt(len(videos))))
    rows = -(-len(videos) // columns)
    frames, height, width, _ = videos[0].shape
    sheet = np.zeros((frames, rows * height, columns * width, 3), np.uint8)
    for index, video in enumerate(videos):
        top, left = index // columns * height, index % columns * width
        sheet[:, top : top + height, left : left + width] = video
    return sheet
