"""Fits the options of a call to a model: sizes are derived, and single values are repeated for every prompt.

All errors of a call are raised here, before any network runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nova_model.config import NovaConfig
from nova_model.diffusers.first_frames import array_size, check_size, preprocess
from nova_model.diffusers.inputs import Inputs
from nova_model.embeddings import class_ids
from nova_model.sampling.request import check_window
from nova_model.vae.codec import Codec, whole_tiles

WINDOW = 4
"""Default window, in multiples of the trained length."""


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Sizes of a call's videos, and their first frames in that size."""

    prompts: int
    height: int
    width: int
    frames: int
    """Pixel frames; latent frames where there is no VAE."""
    latent_frames: int
    window: int
    """Latent frames that a frame attends to."""
    first_frames: Tensor | None
    """Pixels of the first frames [1 or prompts, 3, F, H, W] in [-1, 1]."""


def prepare(inputs: Inputs, config: NovaConfig, codec: Codec | None) -> tuple[Inputs, Dimensions]:
    """Checks a call against a model.

    Args:
        inputs: options of the call.
        config: config of the model.
        codec: the VAE, where the pipeline has one.

    Returns:
        The inputs with one entry for each prompt, and the sizes.

    Raises:
        ValueError: lists differ in length, or the model does not support a size, a number of frames or features.
    """
    if codec is None and (inputs.output_type != "latent" or inputs.image is not None or inputs.video is not None):
        raise ValueError("this pipeline has no vae; give given_latents and take output_type='latent'")
    inputs = replace(inputs, class_labels=_labels(inputs.class_labels, config))
    height, width = _size(inputs, config)
    first_frames = None if codec is None else preprocess(inputs.image, inputs.video, codec, (height, width))
    frames, latent_frames = _frame_counts(inputs, first_frames, config, codec)
    prompts = _prompt_count(inputs, first_frames)
    samples = prompts * inputs.num_images_per_prompt
    if isinstance(inputs.generator, Sequence) and len(inputs.generator) != samples:
        raise ValueError(f"{len(inputs.generator)} generators for {samples} samples; give one, or one per sample")
    check_window(inputs.window, config)
    dimensions = Dimensions(
        prompts=prompts,
        height=height,
        width=width,
        frames=frames,
        latent_frames=latent_frames,
        window=WINDOW * config.video_base_size[0] if inputs.window is None else inputs.window,
        first_frames=first_frames,
    )
    return _repeated(inputs, config, prompts), dimensions


def _size(inputs: Inputs, config: NovaConfig) -> tuple[int, int]:
    """Height and width in pixels: as requested, else of the first frames, else as trained."""
    size = array_size(inputs.image if inputs.video is None else inputs.video) or config.pixel_size
    if inputs.given_latents is not None:
        rows, columns = inputs.given_latents.shape[-2:]
        size = rows * config.image_stride, columns * config.image_stride
    height, width = inputs.height or size[0], inputs.width or size[1]
    check_size(height, width, config)
    return height, width


def _frame_counts(
    inputs: Inputs, first_frames: Tensor | None, config: NovaConfig, codec: Codec | None
) -> tuple[int, int]:
    """Pixel and latent frames of a video, first frames included."""
    frames = inputs.num_frames
    if frames is None:
        frames = config.default_frames if codec is None else whole_tiles(config.default_frames, codec)
    first_latent_frames = _first_latent_frames(inputs, first_frames, config, codec)
    if frames < 1:
        raise ValueError(f"num_frames is {frames}; at least 1")
    latent_frames = frames if codec is None else codec.latent_frames(frames)
    if first_latent_frames >= latent_frames:
        raise ValueError(f"num_frames is {frames}, but the first frames already fill it; give more")
    return frames, latent_frames


def _first_latent_frames(inputs: Inputs, first_frames: Tensor | None, config: NovaConfig, codec: Codec | None) -> int:
    """Number of latent frames that a video continues from."""
    if inputs.given_latents is not None:
        shape = tuple(inputs.given_latents.shape)
        if len(shape) != 5 or shape[1] != config.image_dim:
            raise ValueError(
                f"given_latents are {shape}; the model takes [B, {config.image_dim}, frames, rows, columns]"
            )
        return shape[2]
    if first_frames is None or codec is None:
        return 0
    return codec.latent_frames(first_frames.shape[2])


def _prompt_count(inputs: Inputs, first_frames: Tensor | None) -> int:
    """Number of prompts; with one prompt or none, the number of first frames counts."""
    prompts = next(
        (value for value in (inputs.prompt, inputs.prompt_embeds, inputs.class_labels) if value is not None), None
    )
    count = 1
    if isinstance(prompts, Tensor):
        count = len(prompts) if prompts.ndim == 3 else 1  # [B, tokens, D] or [tokens, D]
    elif isinstance(prompts, Sequence) and not isinstance(prompts, str):
        count = len(prompts)
    videos = inputs.given_latents if first_frames is None else first_frames
    if videos is not None and len(videos) not in (1, count):
        if count != 1 or isinstance(prompts, list):
            raise ValueError(
                f"{len(videos)} images or videos are given for {count} prompts; give one, or one per prompt"
            )
        return len(videos)
    if count < 1:
        raise ValueError("the list of prompts is empty")
    return count


def _repeated(inputs: Inputs, config: NovaConfig, prompts: int) -> Inputs:
    """The inputs with one entry for each prompt in everything that may differ between prompts."""
    texts = [inputs.prompt, inputs.negative_prompt, inputs.prompt_embeds, inputs.negative_prompt_embeds]
    if config.takes_labels and any(text is not None for text in texts):
        raise ValueError("this model takes class_labels, not prompts")
    return replace(
        inputs,
        prompt=_per_prompt("prompt", inputs.prompt, prompts),
        negative_prompt=_per_prompt("negative_prompt", inputs.negative_prompt, prompts),
        prompt_embeds=_features("prompt_embeds", inputs.prompt_embeds, config, prompts),
        negative_prompt_embeds=_features("negative_prompt_embeds", inputs.negative_prompt_embeds, config, prompts),
        motion_score=_per_prompt("motion_score", inputs.motion_score, prompts),
        fps=_per_prompt("fps", inputs.fps, prompts),
        class_labels=_per_prompt("class_labels", inputs.class_labels, prompts),
    )


def _per_prompt(name: str, value: Any, prompts: int) -> Any:
    """A list with one entry for each prompt; None stays None."""
    if value is None:
        return None
    if isinstance(value, (str, int, float)):
        return [value] * prompts
    values = list(value)
    if len(values) != prompts:
        raise ValueError(f"{len(values)} entries in {name} for {prompts} prompts; give one, or one per prompt")
    return values


def _features(
    name: str, value: Tensor | Sequence[Tensor] | None, config: NovaConfig, prompts: int
) -> list[Tensor] | None:
    """Features [tokens, D] of each prompt."""
    if value is None:
        return None
    rows = [value] if isinstance(value, Tensor) and value.ndim == 2 else list(value)
    if len(rows) == 1:
        rows = rows * prompts
    if len(rows) != prompts:
        raise ValueError(f"{len(rows)} entries in {name} for {prompts} prompts; give one, or one per prompt")
    for row in rows:
        too_long = config.text_token_len is not None and row.shape[0] > config.text_token_len
        if row.ndim != 2 or row.shape[1] != config.text_token_dim or too_long:
            expected = f"[up to {config.text_token_len}, {config.text_token_dim}]"
            raise ValueError(f"{name} has features of shape {tuple(row.shape)}; the model takes {expected}")
    return rows


def _labels(value: Any, config: NovaConfig) -> int | list[int] | None:
    """Class labels as whole numbers, a single one as it is."""
    if value is None:
        return None
    if not config.takes_labels:
        raise ValueError("this model takes prompts, not class_labels")
    try:
        labels = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"class_labels is {value!r}; give the number of a class, or a list with one for each prompt"
        ) from error
    if not labels.numel():
        return []
    # The id after the last class is that of the null class, which is the unconditional prompt.
    ids = class_ids(labels.flatten(), config.label_classes, null=True).tolist()
    return ids if labels.ndim else ids[0]
