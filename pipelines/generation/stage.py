"""The generation stage: requests become images and videos, batch by batch.

The result for a prompt and seed depends on neither batching nor the number of workers: every sample draws its own noise
from its own generator.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nova_model.config import SamplingConfig
from pipelines.core.devices import device, dtype
from pipelines.core.model_hub import folder, loading
from pipelines.core.stage import Row, Stage
from pipelines.core.text_encoder import TextEncoder
from pipelines.generation.checkpoint_resolution import ResolvedCheckpoint, labels_error
from pipelines.generation.config import GenerationConfig
from pipelines.generation.requests import SampleRequest
from pipelines.media.frames import read_frames
from pipelines.media.write import write_image, write_video
from pipelines.store.texts import repair

if TYPE_CHECKING:
    from nova_model.diffusers.pipeline import NovaPipeline
    from nova_model.model import Nova


@dataclass(frozen=True, kw_only=True)
class Generate(Stage):
    """Generates the files of a batch of requests and writes them."""

    name = "generate"
    reads = ("prompt", "path", "seeds", "asked_frames", "asked_motion", "first_frame")
    adds = ("uri", "kind", "frames", "height", "width", "fps", "seconds", "device_seconds")
    # The manifest skips samples that exist, by ids that cover these settings and the weights.
    stamps = False

    checkpoint: ResolvedCheckpoint
    output: str
    """Folder that the paths of requests are relative to."""
    frames: int = 1
    """Pixel frames of requests that name none; 1 makes images."""
    height: int | None = None
    """Height in pixels; the size of training by default."""
    width: int | None = None
    video_fps: float = 12.0
    """Frames per second that condition the model and that videos are written with."""
    full_chroma: bool = False
    """Videos keep colours at full resolution (4:4:4), which some players cannot show."""
    motion: float = 5.0
    """Motion score of requests that name none; 1 to 10 is useful."""
    negative_prompt: str | None = None
    """Prompt that guidance leads away from; the unconditional embedding by default."""
    image: str | None = None
    """First frame that requests continue from (image-to-video)."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    samples_at_once: int = 1
    """Images or videos denoised together."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """bf16, fp16 or fp32; auto is bf16 on a GPU and fp32 on a CPU."""

    @classmethod
    def from_config(
        cls,
        config: GenerationConfig,
        checkpoint: ResolvedCheckpoint,
        output: Path,
        *,
        frames: int = 1,
        image: str | None = None,
    ) -> Generate:
        """The stage that generates from a checkpoint by a config.

        Args:
            config: settings of the samples.
            checkpoint: checkpoint to generate from.
            output: absolute folder for the files.
            frames: pixel frames of requests that name none.
            image: first frame of requests that name none.
        """
        return cls(
            checkpoint=checkpoint,
            output=str(output),
            frames=frames,
            height=config.height,
            width=config.width,
            video_fps=config.fps,
            full_chroma=bool(config.full_chroma),
            motion=config.motion,
            negative_prompt=config.negative_prompt and repair(config.negative_prompt),
            image=image,
            sampling=config.sampling,
            samples_at_once=config.samples_at_once,
            precision=config.precision,
            resources=config.resources,
        )

    def size(self, model: Nova) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = model.config.pixel_size
        return self.height or height, self.width or width

    def load(self) -> NovaPipeline:
        # These modules import torch, which the driver, who only builds the stage, does without.
        from nova_model.checkpoints.released import load_scheduler, load_vae
        from nova_model.checkpoints.weights import load_transformer
        from nova_model.diffusers.pipeline import NovaPipeline

        precision, checkpoint = dtype(self.precision), self.checkpoint
        model = load_transformer(checkpoint.transformer, dtype=precision).eval()
        max_tokens = model.config.text_token_len
        if max_tokens is None:  # the weights have class labels, which the config may leave out
            raise labels_error(checkpoint.checkpoint)
        text = TextEncoder.load(checkpoint.text_encoder, precision, max_tokens, tokenizer=checkpoint.tokenizer)
        with loading(checkpoint.vae):
            vae = load_vae(folder(checkpoint.vae), precision)
        pipeline = NovaPipeline(
            transformer=model,
            scheduler=load_scheduler(checkpoint.scheduler),
            vae=vae,
            text_encoder=text.model,
            tokenizer=text.tokenizer,
        ).to(device())
        pipeline.set_progress_bar_config(disable=True)
        # Settings that the model cannot take end the run here, rather than failing every request.
        typical = self.with_defaults(SampleRequest(prompt="", path="", seeds=(0,)))
        pipeline.check([""], **self.options(pipeline, [typical]))
        return pipeline

    def with_defaults(self, request: SampleRequest) -> SampleRequest:
        """The request with the stage's settings where it leaves them open."""
        return replace(
            request,
            frames=self.frames if request.frames is None else request.frames,
            motion=self.motion if request.motion is None else request.motion,
            image=self.image if request.image is None else request.image,
        )

    def options(self, pipeline: NovaPipeline, requests: Sequence[SampleRequest]) -> dict[str, Any]:
        """Arguments of a pipeline call besides prompts and generators.

        Args:
            pipeline: the pipeline to call.
            requests: complete requests of the same length; either all continue an image or none does.
        """
        height, width = self.size(pipeline.transformer)
        return {
            "negative_prompt": self.negative_prompt, "image": _first_frames(requests, (height, width)),
            "num_frames": requests[0].frames, "height": height, "width": width,
            "motion_score": [request.motion for request in requests], "fps": self.video_fps, "output_type": "np",
            "sampling": self.sampling,
        }  # fmt: skip

    def process(self, model: NovaPipeline, rows: Sequence[Row]) -> list[Row | Exception]:
        requests = [self.with_defaults(SampleRequest.from_row(row)) for row in rows]
        # Requests with several seeds are taken apart, so that batches are full and a picture of a grid is the one that
        # its seed gives alone.
        queue = [(index, sample) for index, request in enumerate(requests) for sample in request.one_per_seed()]
        videos: dict[int, list[np.ndarray]] = {index: [] for index in range(len(rows))}
        seconds = dict.fromkeys(videos, 0.0)
        for batch in _batches(queue, self.samples_at_once):
            start = time.perf_counter()
            samples = self.sample(model, [request for _, request in batch])
            # An even share: samples of a batch have the same length and size.
            seconds_per_sample = (time.perf_counter() - start) / len(batch)
            for (index, _), video in zip(batch, samples, strict=True):
                videos[index].append(video)
                seconds[index] += seconds_per_sample
        return [self._write(request, videos[index], seconds[index]) for index, request in enumerate(requests)]

    def sample(self, pipeline: NovaPipeline, requests: Sequence[SampleRequest]) -> np.ndarray:
        """Generates what one pipeline call can: videos of the same length, or images.

        Args:
            pipeline: result of `load`.
            requests: complete ones with one seed each.

        Returns:
            uint8 [B, T, H, W, 3].
        """
        import torch

        # On the CPU, where a seed gives the same noise on every machine; a generator on a GPU depends on its model.
        generators = [torch.Generator().manual_seed(request.seeds[0]) for request in requests]
        prompts = [request.prompt for request in requests]
        options = self.options(pipeline, requests)
        pixels = pipeline(prompts, generator=generators, return_dict=False, **options)[0]
        videos = pixels if options["num_frames"] > 1 else pixels[:, None]  # images come without a frame axis
        # Rounded, as astype cuts off: samples would be darker by half a level.
        return (videos * 255).round().astype(np.uint8)

    def _write(self, request: SampleRequest, videos: list[np.ndarray], seconds: float) -> Row:
        frames = videos[0] if len(videos) == 1 else grid(videos)
        path = Path(self.output) / request.path
        # Layouts of benchmarks have subfolders; several workers may create one at the same time.
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


def _batches(queue: Sequence[tuple[int, SampleRequest]], size: int) -> Iterator[list[tuple[int, SampleRequest]]]:
    """Batches of at most `size` requests of the same length, of which all continue an image or none does.

    A pipeline call has one number of frames, and first frames for all of its prompts or for none.
    """
    groups: dict[tuple[int | None, bool], list[tuple[int, SampleRequest]]] = {}
    for index, request in queue:
        groups.setdefault((request.frames, request.image is not None), []).append((index, request))
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _first_frames(requests: Sequence[SampleRequest], size: tuple[int, int]) -> np.ndarray | None:
    """First frames, [1, H, W, 3] where all requests continue the same image, else [B, H, W, 3]."""
    images: dict[str | None, np.ndarray] = {
        request.image: read_frames(request.image, None, crop=size) for request in requests if request.image is not None
    }
    if len(images) < 2:
        return next(iter(images.values()), None)
    return np.concatenate([images[request.image] for request in requests])


def grid(videos: Sequence[np.ndarray]) -> np.ndarray:
    """Puts images side by side, two columns for four (the layout of DPG-Bench), with black in the unused cells.

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
