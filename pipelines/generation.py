"""The generation stage: prompts become images and videos, batch by batch.

The result for a prompt and seed depends on neither batching nor the number of workers: every sample draws its own noise
from its own generator.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nova_model.config import SamplingConfig
from pipelines import media
from pipelines.components import Components
from pipelines.stage import Row, Stage

if TYPE_CHECKING:
    from nova_model.model import Nova
    from nova_model.pipeline import NovaPipeline


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

    def load(self) -> NovaPipeline:
        from nova_model.checkpoint import load_transformer
        from nova_model.pipeline import NovaPipeline
        from nova_model.released import load_scheduler, load_vae
        from pipelines.models import device, dtype, folder, loading
        from pipelines.text import TextEncoder

        kind, parts = dtype(self.precision), self.components
        model = load_transformer(parts.transformer, dtype=kind).eval()
        text = TextEncoder.load(parts.text_encoder, kind, model.config.text_token_len, tokenizer=parts.tokenizer)
        with loading(parts.vae):
            vae = load_vae(folder(parts.vae), kind)
        pipeline = NovaPipeline(
            transformer=model,
            scheduler=load_scheduler(parts.scheduler),
            vae=vae,
            text_encoder=text.model,
            tokenizer=text.tokenizer,
        ).to(device())
        pipeline.set_progress_bar_config(disable=True)
        pipeline.check("", **self.options(pipeline))
        return pipeline

    def options(self, pipeline: NovaPipeline) -> dict[str, Any]:
        """What every call is asked for, whatever the prompts."""
        height, width = self.size(pipeline.transformer)
        image = None if self.image is None else media.read_frames(self.image, None, crop=(height, width))
        sampling = asdict(self.sampling)
        return {
            "negative_prompt": self.negative_prompt, "image": image, "num_frames": self.frames, "height": height,
            "width": width, "motion_score": self.motion, "fps": self.video_fps, "output_type": "np",
            "num_inference_steps": sampling.pop("set_steps"), "num_diffusion_steps": sampling.pop("diffusion_steps"),
            **sampling,
        }  # fmt: skip

    def process(self, model: NovaPipeline, rows: Sequence[Row]) -> list[Row | Exception]:
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

    def sample(self, pipeline: NovaPipeline, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Generates one video (or image) a prompt.

        Returns:
            uint8 [B, T, H, W, 3].
        """
        import torch

        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        made = pipeline(list(prompts), generator=generators, return_dict=False, **self.options(pipeline))[0]
        videos = made if self.frames > 1 else made[:, None]
        return (videos * 255).round().astype(np.uint8)

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
