"""The parts of NovaPipeline and what diffusers' users do with them: load, save, move, offload, watch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from nova_model.checkpoints import released, saving
from nova_model.model import Nova
from nova_model.sampling.schedule import FlowMatching, Schedule, schedule_from_config
from nova_model.vae.codec import Codec
from nova_model.vae.video_vae import VideoVae

_HUB = {"revision", "cache_dir", "token", "local_files_only", "force_download", "proxies"}
_IGNORED = {"low_cpu_mem_usage", "use_safetensors", "trust_remote_code"}
"""diffusers' options that change nothing here: loading is lean and safe, and no remote code is needed."""


class NovaParts(DiffusionPipeline):
    """A transformer, its scheduler, and what is around them.

    Args:
        transformer: the model.
        scheduler: diffusers' FlowMatchEulerDiscreteScheduler or DDPMScheduler, of which the config is used.
        vae: diffusers' AutoencoderKL or the video VAE; without one latents are given.
        text_encoder: transformers' model with last hidden states; without one features or class labels are taken.
        tokenizer: its own.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    # Sampling reads weights outside of forward calls, where layer by layer offloading would not bring them.
    _exclude_from_cpu_offload = ["transformer"]  # noqa: RUF012 (diffusers' own form)
    _optional_components = list(released.OPTIONAL)  # noqa: RUF012
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]  # noqa: RUF012

    def __init__(
        self,
        transformer: Nova,
        scheduler: Any,
        vae: AutoencoderKL | VideoVae | None = None,
        text_encoder: Any = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer, scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer
        )
        self._origin = saving.Origin()
        self._guidance_scale, self._num_timesteps, self._interrupt = 0.0, 0, False
        stride = None if vae is None else Codec(vae).stride
        if stride not in (None, transformer.config.image_stride):
            raise ValueError(f"the vae has a stride of {stride}, the model wants {transformer.config.image_stride}")

    # Folders.

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        torch_dtype: torch.dtype | dict[str, torch.dtype] | None = None,
        dtype: torch.dtype | dict[str, torch.dtype] | None = None,
        variant: str | None = None,
        **options: Any,
    ) -> Self:
        """Loads a folder as the releases are laid out.

        Args:
            pretrained_model_name_or_path: the folder, or OWNER/REPO on the hub.
            torch_dtype: of weights, fp32 by default; a dictionary names parts and `default`.
            dtype: the same under diffusers' newer name.
            variant: of weights, such as fp16.
            options: parts that take the place of the folder's own (`vae=None` for none); for the hub `revision`,
                `cache_dir`, `token`, `local_files_only`, `force_download`, `proxies`.

        Raises:
            ValueError: no index, a part that is missing or unknown, or a missing or wrong-shaped key.
        """
        unknown = sorted(set(options) - {*released.PARTS, *_HUB, *_IGNORED})
        if unknown:
            raise ValueError(f"from_pretrained does not take {unknown[0]}")
        asked = torch_dtype if dtype is None else dtype
        dtypes = asked if isinstance(asked, dict) else {"default": asked or torch.float32}
        if not all(isinstance(each, torch.dtype) for each in dtypes.values()):
            raise ValueError(f"torch_dtype is {asked!r}; give a torch.dtype, such as torch.bfloat16")
        hub = {name: value for name, value in options.items() if name in _HUB}
        folder = released.find(pretrained_model_name_or_path, variant, **hub)
        index = released.read_index(folder, variant)
        parts = {part: options[part] for part in released.PARTS if part in options}
        for part in ("scheduler", "tokenizer", "transformer", "vae", "text_encoder"):  # what is light first
            pair = index.get(part)
            if part not in parts and pair and pair[1]:
                kind = dtypes.get(part, dtypes.get("default", torch.float32))
                parts[part] = released.load_part(part, pair[1], folder / part, kind, variant)
            if part == "scheduler":
                sampling_schedule(parts[part], None)
        pipeline = cls(**parts)
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        pipeline._origin = saving.origin_of(
            folder, index, {part: component for part, component in parts.items() if part not in options}
        )
        return pipeline

    def save_pretrained(
        self, save_directory: str | Path, safe_serialization: bool = True, variant: str | None = None
    ) -> None:
        """Writes the released layout, which `from_pretrained` and the release read; weights as safetensors.

        Raises:
            ValueError: another form of weights is asked for.
        """
        if not safe_serialization:
            raise ValueError("weights are written as safetensors alone; leave safe_serialization out")
        saving.save(self.components, Path(save_directory), self._origin, variant)

    # Offloading.

    def enable_group_offload(
        self, *args: Any, exclude_modules: str | Sequence[str] | None = None, **settings: Any
    ) -> None:
        """diffusers' offloading in groups, of the text encoder and the VAE; the transformer stays on its device."""
        excluded = [exclude_modules] if isinstance(exclude_modules, str) else list(exclude_modules or [])
        super().enable_group_offload(*args, exclude_modules=[*excluded, "transformer"], **settings)

    # What callbacks look at.

    @property
    def guidance_scale(self) -> float:
        """Of the sets to come; a callback may change `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Set steps of the call, over all frames."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the call shall end; a callback may set `_interrupt`."""
        return self._interrupt


def sampling_schedule(scheduler: Any, shift: float | None) -> Schedule:
    """Our schedule of a diffusers scheduler's config.

    Raises:
        ValueError: a scheduler that NOVA does not take, or a shift where there is none.
    """
    name = type(scheduler).__name__
    config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    schedule = schedule_from_config({**config, "_class_name": name})
    if shift is None:
        return schedule
    if not isinstance(schedule, FlowMatching):
        raise ValueError(f"shift is of flow matching; this pipeline has a {name}")
    return replace(schedule, shift=float(shift))


def bring(module: torch.nn.Module) -> None:
    """Brings an offloaded model to its device, as a forward call would."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None and hasattr(hook, "pre_forward"):
        hook.pre_forward(module)
