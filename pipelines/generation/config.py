"""How samples are generated: the settings that `nova generate` and every benchmark share."""

from __future__ import annotations

from dataclasses import dataclass, field

from nova_model.config import SamplingConfig
from pipelines.core.stage import Resources


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How samples are generated, independent of prompts and output."""

    height: int | None = None
    """Height in pixels; the size of training by default."""
    width: int | None = None
    """Width in pixels; the size of training by default."""
    fps: float = 12.0
    """Frames per second that condition the model and that videos are written with."""
    full_chroma: bool | None = None
    """Videos keep colours at full resolution (4:4:4), which some players cannot show. Off by default, unless a
    benchmark judges pixels."""
    motion: float = 5.0
    """Motion score that conditions the model; 1 to 10 is useful."""
    negative_prompt: str | None = None
    """Prompt that guidance leads away from."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    samples_at_once: int = 1
    """Samples denoised together on a worker."""
    precision: str = "auto"
    """bf16 or fp32; auto is bf16 on a GPU and fp32 on a CPU."""
    vae: str | None = None
    """Replaces the checkpoint's VAE."""
    text_encoder: str | None = None
    """Replaces the checkpoint's text encoder."""
    resources: Resources = field(default_factory=lambda: Resources(batch_size=4))
    """Resources of a worker that generates."""

    def __post_init__(self) -> None:
        sampling = self.sampling
        guided = max(sampling.guidance_scale, sampling.min_guidance_scale or 0.0) > 1
        if self.negative_prompt is not None and not guided and sampling.image_guidance_scale is None:
            raise ValueError("negative_prompt has no effect without guidance; set sampling.guidance_scale above 1")
