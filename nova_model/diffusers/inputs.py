"""What a call of the pipeline is asked for: its options, and what follows from them, checked before any heavy work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nova_model.config import NovaConfig, SamplingConfig
from nova_model.diffusers.first_frames import preprocessed, size_of
from nova_model.model import DEFAULT_FPS, DEFAULT_MOTION
from nova_model.sampling.video import check_window
from nova_model.vae.codec import Codec

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
WINDOW = 4
"""Times the trained length that a frame looks back by default."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Options of a call. Where a list is taken, it holds one entry for each prompt.

    Raises:
        ValueError: options that contradict each other.
    """

    prompt: str | Sequence[str] | None = None
    """What to show; may be left out where frames are given to go on from."""
    negative_prompt: str | Sequence[str] | None = None
    """What to move away from; the model's unconditional prompt by default."""
    image: Any = None
    """The first frame: a PIL image (resized), an array [.., H, W, 3] or a tensor [.., 3, H, W] in 0..1, or a list of
    one for each prompt."""
    video: Any = None
    """The first frames: a list of images, an array [.., F, H, W, 3] or a tensor [.., F, 3, H, W], or a list of them."""
    given_latents: Tensor | None = None
    """The first frames as `output_type="latent"` gives them, [B, C, t, h, w]."""
    num_frames: int | None = None
    """Pixel frames, given ones among them; 1 makes an image. As trained by default; more extrapolates."""
    height: int | None = None
    """Pixels; those of given arrays, tensors or latents, else as trained."""
    width: int | None = None
    num_inference_steps: int = 64
    """Set steps: sets of tokens that a frame is made of; 128 for quality."""
    num_diffusion_steps: int | None = None
    """Denoising steps of a token; 25 with flow matching and 100 with DDPM by default."""
    guidance_scale: float = SamplingConfig.guidance_scale
    min_guidance_scale: float | None = None
    guidance_trunc: float = SamplingConfig.guidance_trunc
    guidance_renorm: float = SamplingConfig.guidance_renorm
    image_guidance_scale: float | None = None
    negative_motion: float | None = None
    """Motion score to move away from, such as 5: others are then heard better. Motion is not guided by default."""
    temperature: float = SamplingConfig.temperature
    """Factor of all noise that tokens are made from; below 1, samples are nearer to what is likeliest."""
    corrections: int = 0
    """Rounds behind a frame's last set that make half of its tokens anew; cleaner, and not in the paper."""
    shift: float | None = None
    """Of the flow-matching schedule; the scheduler's own by default."""
    motion_score: float | Sequence[float] = DEFAULT_MOTION
    """How much shall move, where the model knows of it; 1 to 10 is useful."""
    fps: float | Sequence[float] = DEFAULT_FPS
    """Frames per second that the model is told."""
    num_images_per_prompt: int = 1
    """Samples (pictures or videos) of each prompt."""
    generator: torch.Generator | Sequence[torch.Generator] | None = None
    """One for the whole batch, or one for each sample: then each draws its own noise with a batch of one, and a sample
    does not depend on what it was made with. By default seeded from torch's own."""
    prompt_embeds: Tensor | Sequence[Tensor] | None = None
    """Features computed beforehand, [B, tokens, D] or [tokens, D] each; shorter than the model's length is padded."""
    negative_prompt_embeds: Tensor | Sequence[Tensor] | None = None
    class_labels: int | Sequence[int] | Tensor | None = None
    """Classes, where the model takes no text."""
    window: int | None = None
    """Latent frames that a frame looks back at, itself and the first one, which holds the prompt, always among them; at
    least as many as were trained. Four times as many by default: up to there nothing changes, beyond memory does not
    grow."""
    output_type: str = "pil"
    """pil, np [B, F, H, W, 3], pt [B, F, 3, H, W], or latent [B, C, T, h, w]; an image has no F."""
    callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None
    """Called after each set step with pipeline, number of the step, latent frame, and a dictionary of tensors."""
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)

    def __post_init__(self) -> None:
        if self.output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {self.output_type!r}; one of {', '.join(OUTPUT_TYPES)}")
        given = [name for name in ("prompt", "prompt_embeds", "class_labels") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give {given[0]} or {given[1]}, not both")
        if self.negative_prompt is not None and self.negative_prompt_embeds is not None:
            raise ValueError("give negative_prompt or negative_prompt_embeds, not both")
        frames = [name for name in ("image", "video", "given_latents") if getattr(self, name) is not None]
        if len(frames) > 1:
            raise ValueError(f"give {frames[0]} or {frames[1]}, not both")
        if not given and not frames:
            raise ValueError("give a prompt, prompt_embeds or class_labels, or an image or video to go on from")
        for name in ("prompt", "negative_prompt"):
            _check_kind(name, getattr(self, name), str, "text")
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            _check_kind(name, getattr(self, name), Tensor, "a tensor")
        _check_kind("generator", self.generator, torch.Generator, "a torch.Generator")
        if self.num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt is {self.num_images_per_prompt}; at least 1")

    def settings(self, diffusion_steps: int) -> SamplingConfig:
        """How to sample.

        Args:
            diffusion_steps: where the call names none.
        """
        return SamplingConfig(
            set_steps=self.num_inference_steps,
            diffusion_steps=diffusion_steps if self.num_diffusion_steps is None else self.num_diffusion_steps,
            guidance_scale=self.guidance_scale,
            min_guidance_scale=self.min_guidance_scale,
            guidance_trunc=self.guidance_trunc,
            guidance_renorm=self.guidance_renorm,
            image_guidance_scale=self.image_guidance_scale,
            negative_motion=self.negative_motion,
            temperature=self.temperature,
            corrections=self.corrections,
        )


def _check_kind(name: str, value: Any, kind: type, told: str) -> None:
    """Raises ValueError where a value is neither of a kind nor a list of it."""
    if value is None or isinstance(value, kind):
        return
    wrong = [each for each in value if not isinstance(each, kind)] if isinstance(value, (list, tuple)) else [value]
    if wrong:
        raise ValueError(f"{name} holds a {type(wrong[0]).__name__}; give {told}, or a list")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What follows from a call's options."""

    prompts: int
    samples: int
    """Of all prompts."""
    height: int
    width: int
    frames: int
    """Pixel frames; latent frames where there is no VAE."""
    latent_frames: int
    window: int
    pixels: Tensor | None
    """Given frames [1 or prompts, 3, F, H, W] in [-1, 1]."""
    prompt: list[str] | None
    negative_prompt: list[str] | None
    embeds: list[Tensor] | None
    negative_embeds: list[Tensor] | None
    motion: list[float]
    fps: list[float]
    labels: list[int] | None


def whole_tiles(latents: int, codec: Codec) -> int:
    """Frames of the most latents, up to a number, that the VAE codes without a rest."""
    for count in range(latents, 1, -1):
        try:
            return codec.frames(count)
        except ValueError:
            continue
    return 1


def plan(inputs: Inputs, config: NovaConfig, codec: Codec | None) -> Plan:
    """Checks a call against a model.

    Raises:
        ValueError: lists of different lengths, or sizes, frames or features that the model cannot take.
    """
    if codec is None and (inputs.output_type != "latent" or inputs.image is not None or inputs.video is not None):
        raise ValueError("this pipeline has no vae; give given_latents and take output_type='latent'")
    size = size_of(inputs, config)
    pixels = None if codec is None else preprocessed(inputs.image, inputs.video, codec, size)
    trained = config.video_base_size[0]
    latents_given = 0
    if inputs.given_latents is not None:
        shape = tuple(inputs.given_latents.shape)
        if len(shape) != 5 or shape[1] != config.image_dim:
            raise ValueError(
                f"given_latents are {shape}; the model takes [B, {config.image_dim}, frames, rows, columns]"
            )
        latents_given = shape[2]
    elif pixels is not None:
        assert codec is not None
        latents_given = codec.latent_frames(pixels.shape[2])
    frames = inputs.num_frames
    if frames is None:
        frames = config.usual_frames if codec is None else whole_tiles(config.usual_frames, codec)
    if frames < 1:
        raise ValueError(f"num_frames is {frames}; at least 1")
    latent_frames = frames if codec is None else codec.latent_frames(frames)
    if latents_given >= latent_frames:
        raise ValueError(f"num_frames is {frames}, and as many are given; ask for more of them")
    count = _count(inputs, pixels)
    samples = count * inputs.num_images_per_prompt
    if isinstance(inputs.generator, Sequence) and len(inputs.generator) != samples:
        raise ValueError(f"{len(inputs.generator)} generators for {samples} samples; give one, or one a sample")
    _check_conditions(inputs, config)
    check_window(inputs.window, config)
    return Plan(
        prompts=count,
        samples=samples,
        height=size[0],
        width=size[1],
        frames=frames,
        latent_frames=latent_frames,
        window=WINDOW * max(trained, 1) if inputs.window is None else inputs.window,
        pixels=pixels,
        prompt=_each("prompt", inputs.prompt, count),
        negative_prompt=_each("negative_prompt", inputs.negative_prompt, count),
        embeds=_features("prompt_embeds", inputs.prompt_embeds, config, count),
        negative_embeds=_features("negative_prompt_embeds", inputs.negative_prompt_embeds, config, count),
        motion=_each("motion_score", inputs.motion_score, count) or [],
        fps=_each("fps", inputs.fps, count) or [],
        labels=_labels(inputs.class_labels, config, count),
    )


def _check_conditions(inputs: Inputs, config: NovaConfig) -> None:
    texts = [inputs.prompt, inputs.negative_prompt, inputs.prompt_embeds, inputs.negative_prompt_embeds]
    if config.text_token_dim is None and any(each is not None for each in texts):
        raise ValueError("this model takes class_labels, not prompts")
    if config.text_token_dim is not None and inputs.class_labels is not None:
        raise ValueError("this model takes prompts, not class_labels")


def _count(inputs: Inputs, pixels: Tensor | None) -> int:
    """Prompts of a call; given frames count where there is one prompt or none."""
    said = [inputs.prompt, inputs.prompt_embeds, inputs.class_labels]
    found = next((each for each in said if each is not None), None)
    count = 1
    if isinstance(found, Tensor) and inputs.class_labels is None:
        count = len(found) if found.ndim == 3 else 1
    elif isinstance(found, Tensor):
        count = found.numel()
    elif isinstance(found, Sequence) and not isinstance(found, str):
        count = len(found)
    videos = pixels if pixels is not None else inputs.given_latents
    if videos is None or len(videos) == 1 or len(videos) == count:
        return _at_least_one(count)
    if count == 1 and not isinstance(found, list):
        return len(videos)
    raise ValueError(f"{len(videos)} images or videos are given for {count} prompts; give one, or one a prompt")


def _at_least_one(count: int) -> int:
    if count < 1:
        raise ValueError("the list of prompts is empty")
    return count


def _each(name: str, value: Any, count: int) -> list[Any] | None:
    """One entry for each prompt."""
    if value is None:
        return None
    if isinstance(value, (str, int, float)):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise ValueError(f"{len(values)} entries in {name} for {count} prompts; give one, or one a prompt")
    return values


def _features(
    name: str, value: Tensor | Sequence[Tensor] | None, config: NovaConfig, count: int
) -> list[Tensor] | None:
    if value is None:
        return None
    rows = [value] if isinstance(value, Tensor) and value.ndim == 2 else list(value)
    if len(rows) == 1:
        rows = rows * count
    if len(rows) != count:
        raise ValueError(f"{len(rows)} entries in {name} for {count} prompts; give one, or one a prompt")
    for row in rows:
        if row.ndim != 2 or row.shape[1] != config.text_token_dim or row.shape[0] > config.text_token_len:
            wanted = f"[up to {config.text_token_len}, {config.text_token_dim}]"
            raise ValueError(f"{name} has features of shape {tuple(row.shape)}; the model takes {wanted}")
    return rows


def _labels(value: int | Sequence[int] | Tensor | None, config: NovaConfig, count: int) -> list[int] | None:
    found = _each("class_labels", value.flatten().tolist() if isinstance(value, Tensor) else value, count)
    for label in found or []:
        if not 0 <= label <= config.label_classes:
            raise ValueError(f"class label {label}; the model knows 0 to {config.label_classes - 1}")
    return found
