"""How samples are generated: the settings that `nova generate` and every benchmark share."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from nova_model.config import SamplingConfig
from pipelines.core.stage import Resources

GUIDANCE_OPTIONS = ("min_guidance_scale", "guidance_trunc", "guidance_renorm", "negative_motion")
"""Fields of `SamplingConfig` that change how guidance works."""


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
    """Samples denoised together on a worker; they come from one batch of `resources.batch_size` files."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """bf16, fp16 or fp32; auto is bf16 on a GPU and fp32 on a CPU."""
    vae: str | None = None
    """Replaces the checkpoint's VAE."""
    text_encoder: str | None = None
    """Replaces the checkpoint's text encoder."""
    resources: Resources = field(default_factory=lambda: Resources(batch_size=4))
    """Resources of a worker that generates."""

    def __post_init__(self) -> None:
        if self.negative_prompt is not None and not self.is_guided:
            raise ValueError("negative_prompt has no effect without guidance; set sampling.guidance_scale above 1")

    @property
    def is_guided(self) -> bool:
        """Whether sampling runs more than the conditional branch."""
        sampling = self.sampling
        by_prompt = max(sampling.guidance_scale, sampling.min_guidance_scale or 0.0) > 1
        return by_prompt or sampling.image_guidance_scale is not None

    def unused_settings(self) -> dict[str, str]:
        unused: dict[str, str] = {}
        if not self.is_guided:
            reason = "without guidance; set sampling.guidance_scale above 1, or leave it out"
            unused = {
                f"sampling.{option.name}": reason
                for option in fields(self.sampling)
                if option.name in GUIDANCE_OPTIONS and getattr(self.sampling, option.name) != option.default
            }
        batch_size = self.resources.batch_size
        if self.samples_at_once > batch_size:
            unused["samples_at_once"] = (
                f"above the {batch_size} files of a batch; lower it, or raise resources.batch_size as well"
            )
        return unused
