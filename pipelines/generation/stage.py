"""The generation stage: prompts become images and videos, batch by batch.

The result for a prompt and seed depends on neither batching nor the number of workers: every sample draws its own noise
from its own generator.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nova_model.config import SamplingConfig
from pipelines.core.stage import Row, Stage
from pipelines.generation.checkpoint_resolution import Components
from pipelines.media.frames import read_frames
from pipelines.media.write import write_image, write_video

if TYPE_CHECKING:
    from nova_model.diffusers.pipeline import NovaPipeline
    from nova_model.model import Nova


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One picture or video to make."""

    prompt: str
    seed: int
    frames: int
    motion: float
    image: str | None = None


@dataclass(frozen=True, kw_only=True)
class Generate(Stage):
    """Generates the files of a batch of rows and writes them."""

    name = "generate"
    reads = ("prompt", "path", "seeds", "asked_frames", "asked_motion", "first_frame")
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
    full_chroma: bool = False
    """Videos keep colours at full resolution (4:4:4), which not every player shows."""
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
        from nova_model.checkpoints.released import load_scheduler, load_vae
        from nova_model.checkpoints.weights import load_transformer
        from nova_model.diffusers.pipeline import NovaPipeline
        from pipelines.core.devices import device, dtype
        from pipelines.core.model_hub import folder, loading
        from pipelines.core.text_encoder import TextEncoder

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
        usual = Wanted(prompt="", seed=0, frames=self.frames, motion=self.motion, image=self.image)
        pipeline.check([""], **self.options(pipeline, [usual]))
        return pipeline

    def options(self, pipeline: NovaPipeline, wanted: Sequence[Wanted]) -> dict[str, Any]:
        """What a call is asked for besides the prompts.

        Args:
            pipeline: that is called.
            wanted: what it makes, of one length; all of it continues a picture, or nothing does.
        """
        height, width = self.size(pipeline.transformer)
        sampling = asdict(self.sampling)
        return {
            "negative_prompt": self.negative_prompt, "image": _first_frames(wanted, (height, width)),
            "num_frames": wanted[0].frames, "height": height, "width": width,
            "motion_score": [each.motion for each in wanted], "fps": self.video_fps, "output_type": "np",
            "num_inference_steps": sampling.pop("set_steps"), "num_diffusion_steps": sampling.pop("diffusion_steps"),
            **sampling,
        }  # fmt: skip

    def process(self, model: NovaPipeline, rows: Sequence[Row]) -> list[Row | Exception]:
        wanted = [(index, each) for index, row in enumerate(rows) for each in self.wanted(row)]
        videos: dict[int, list[np.ndarray]] = {index: [] for index in range(len(rows))}
        seconds = dict.fromkeys(videos, 0.0)
        for share in _together(wanted, self.samples_at_once):
            began = time.perf_counter()
            made = self.sample(model, [each for _, each in share])
            each = (time.perf_counter() - began) / len(share)
            for (index, _), video in zip(share, made, strict=True):
                videos[index].append(video)
                seconds[index] += each
        return [self._write(row, videos[index], seconds[index]) for index, row in enumerate(rows)]

    def wanted(self, row: Row) -> list[Wanted]:
        """What a row asks for, one a seed; what it leaves open is the stage's own setting."""
        asked = {"frames": row.get("asked_frames"), "motion": row.get("asked_motion"), "image": row.get("first_frame")}
        usual = {"frames": self.frames, "motion": self.motion, "image": self.image}
        settings: dict[str, Any] = {name: usual[name] if own is None else own for name, own in asked.items()}
        return [Wanted(prompt=row["prompt"], seed=int(seed), **settings) for seed in row["seeds"]]

    def sample(self, pipeline: NovaPipeline, wanted: Sequence[Wanted]) -> np.ndarray:
        """Generates what can be made together: videos of one length, or images.

        Returns:
            uint8 [B, T, H, W, 3].
        """
        import torch

        generators = [torch.Generator().manual_seed(each.seed) for each in wanted]
        prompts = [each.prompt for each in wanted]
        made = pipeline(prompts, generator=generators, return_dict=False, **self.options(pipeline, wanted))[0]
        videos = made if wanted[0].frames > 1 else made[:, None]
        return (videos * 255).round().astype(np.uint8)

    def _write(self, row: Row, videos: list[np.ndarray], seconds: float) -> Row:
        frames = videos[0] if len(videos) == 1 else grid(videos)
        path = Path(self.output) / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(frames) == 1:
            write_image(path, frames[0])
        else:
            write_video(path, frames, self.video_fps, full_chroma=self.full_chroma)
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


def _together(wanted: Sequence[tuple[int, Wanted]], most: int) -> Iterator[list[tuple[int, Wanted]]]:
    """Shares of at most so many that are of one length, and all of which continue a picture, or none."""
    kinds: dict[tuple[int, bool], list[tuple[int, Wanted]]] = {}
    for index, each in wanted:
        kinds.setdefault((each.frames, each.image is not None), []).append((index, each))
    for alike in kinds.values():
        for start in range(0, len(alike), most):
            yield alike[start : start + most]


def _first_frames(wanted: Sequence[Wanted], size: tuple[int, int]) -> np.ndarray | None:
    """The pictures that are continued, [1, H, W, 3] where all continue the same one, else one for each."""
    pictures: dict[str | None, np.ndarray] = {
        each.image: read_frames(each.image, None, crop=size) for each in wanted if each.image is not None
    }
    if len(pictures) < 2:
        return next(iter(pictures.values()), None)
    return np.concatenate([pictures[each.image] for each in wanted])


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
