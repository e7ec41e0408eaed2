"""Options of a call, and the checks that need no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from nova_model.config import SamplingConfig
from nova_model.model import DEFAULT_FPS, DEFAULT_MOTION

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
_DIFFUSERS_NAMES = {"set_steps": "num_inference_steps", "diffusion_steps": "num_diffusion_steps"}
"""Fields of `SamplingConfig` that have another name among a call's options, as in all pipelines of diffusers."""
SAMPLING_OPTIONS = {_DIFFUSERS_NAMES.get(option.name, option.name): option.name for option in fields(SamplingConfig)}
"""Options of a call that set one field of `SamplingConfig`, and that field."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Options of a call. Where a list is allowed, it has one entry for each prompt.

    Raises:
        ValueError: options contradict each other.
    """

    prompt: str | Sequence[str] | None = None
    """What the samples show; optional where they continue an image or a video."""
    negative_prompt: str | Sequence[str] | None = None
    """Prompt that guidance leads away from; the model's unconditional prompt by default."""
    image: Any = None
    """First frame: a PIL image (resized), an array [.., H, W, 3] or a tensor [.., 3, H, W] in 0..1, or a list of one
    for each prompt."""
    video: Any = None
    """First frames: a list of images, an array [.., F, H, W, 3] or a tensor [.., F, 3, H, W], or a list of them."""
    given_latents: Tensor | None = None
    """First frames as latents [B, C, t, h, w], as `output_type="latent"` returns them."""
    num_frames: int | None = None
    """Pixel frames, first frames included; 1 generates an image. The trained length by default; more extrapolates."""
    height: int | None = None
    """Height in pixels; by default that of first frames that are arrays, tensors or latents, else as trained."""
    width: int | None = None
    """Width in pixels, with the same default."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Set steps, diffusion steps, guidance and noise."""
    shift: float | None = None
    """Shift of the flow-matching schedule; that of the scheduler by default."""
    motion_score: float | Sequence[float] = DEFAULT_MOTION
    """Amount of motion, for models that are conditioned on it; 1 to 10 is useful."""
    fps: float | Sequence[float] = DEFAULT_FPS
    """Frames per second that condition the model."""
    num_images_per_prompt: int = 1
    """Number of samples (images or videos) for each prompt."""
    generator: torch.Generator | Sequence[torch.Generator] | None = None
    """One for the whole batch, or one per sample: then each draws its own noise with a batch of one, and a sample
    does not depend on the rest of its batch. By default seeded from torch's global generator."""
    prompt_embeds: Tensor | Sequence[Tensor] | None = None
    """Precomputed features, [B, tokens, D] or [tokens, D] each; they are padded to the length of the model."""
    negative_prompt_embeds: Tensor | Sequence[Tensor] | None = None
    """Precomputed features of the negative prompt."""
    class_labels: int | Sequence[int] | Tensor | None = None
    """Classes 0 to N-1, for models of N classes that take no text; N means no class."""
    window: int | None = None
    """Latent frames that a frame attends to, itself and the first one, which holds the prompt, included; at least as
    many as the model was trained on. Four times as many by default: videos of up to that length are not affected, and
    the memory of longer ones does not grow."""
    output_type: str = "pil"
    """pil, np [B, F, H, W, 3], pt [B, F, 3, H, W], or latent [B, C, T, h, w]; images have no F."""
    callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None
    """Called after each set with the pipeline, the number of the step, the latent frame and a dictionary of tensors."""
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)
    """Names of the tensors in that dictionary."""

    def __post_init__(self) -> None:
        if self.output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {self.output_type!r}; one of {', '.join(OUTPUT_TYPES)}")
        prompts = self._exclusive("prompt", "prompt_embeds", "class_labels")
        self._exclusive("negative_prompt", "negative_prompt_embeds")
        first_frames = self._exclusive("image", "video", "given_latents")
        if prompts is None and first_frames is None:
            raise ValueError("give a prompt, prompt_embeds or class_labels, or an image or video to continue")
        for name in ("prompt", "negative_prompt"):
            _check_type(name, getattr(self, name), str, "text")
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            _check_type(name, getattr(self, name), Tensor, "a tensor")
        _check_type("generator", self.generator, torch.Generator, "a torch.Generator")
        if self.num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt is {self.num_images_per_prompt}; at least 1")

    @classmethod
    def from_options(cls, options: Mapping[str, Any], diffusion_steps: int) -> Inputs:
        """Collects the options of a call, in which each field of `SamplingConfig` is a separate option.

        Args:
            options: fields of this class, and `SAMPLING_OPTIONS`, for which None selects the default.
            diffusion_steps: default of the diffusion steps, which depends on the scheduler.

        Raises:
            TypeError: an option is unknown.
            ValueError: options contradict each other, or a value is out of range.
        """
        flat = {name: value for name, value in options.items() if name in SAMPLING_OPTIONS and value is not None}
        remaining = {name: value for name, value in options.items() if name not in SAMPLING_OPTIONS}
        sampling = remaining.pop("sampling", None)
        if sampling is None:
            values = {SAMPLING_OPTIONS[name]: value for name, value in flat.items()}
            sampling = SamplingConfig(**{"diffusion_steps": diffusion_steps, **values})
        elif flat:
            raise ValueError(f"give sampling or {next(iter(flat))}, not both: sampling has all of these settings")
        return cls(**remaining, sampling=sampling)

    def _exclusive(self, *names: str) -> str | None:
        """The option that was given; raises ValueError where there are two."""
        present = [name for name in names if getattr(self, name) is not None]
        if len(present) > 1:
            raise ValueError(f"give {present[0]} or {present[1]}, not both")
        return present[0] if present else None


def _check_type(name: str, value: Any, expected: type, description: str) -> None:
    """Raises ValueError for a value that is neither of the expected type nor a list of it."""
    if value is None or isinstance(value, expected):
        return
    entries = value if isinstance(value, (list, tuple)) else [value]
    wrong = [entry for entry in entries if not isinstance(entry, expected)]
    if wrong:
        raise ValueError(f"{name} holds a {type(wrong[0]).__name__}; give {description}, or a list")
