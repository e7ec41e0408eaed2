"""The components of NovaPipeline, and what users of diffusers do with them: load, save, offload, and watch a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from nova_model.checkpoints import layout, released, saving
from nova_model.model import Nova
from nova_model.sampling.schedule import FlowMatching, Schedule, schedule_from_config
from nova_model.vae.codec import Codec
from nova_model.vae.video_vae import VideoVae

_HUB_OPTIONS = {"revision", "cache_dir", "token", "local_files_only", "force_download", "proxies"}
_IGNORED_OPTIONS = {"low_cpu_mem_usage", "use_safetensors", "trust_remote_code"}
"""Options of diffusers without effect here: loading always saves memory and is safe, and needs no remote code."""
_LOADING_ORDER = ("scheduler", "tokenizer", "transformer", "vae", "text_encoder")
"""Small components first, so that a mistake in them is reported before gigabytes are read."""


class NovaComponents(DiffusionPipeline):
    """A transformer, its scheduler, and the networks around them.

    Args:
        transformer: the model.
        scheduler: diffusers' FlowMatchEulerDiscreteScheduler or DDPMScheduler; only its config is used.
        vae: diffusers' AutoencoderKL or the video VAE; without one, calls take and return latents.
        text_encoder: a model of transformers with last hidden states; without one, calls take features or labels.
        tokenizer: the tokenizer of the text encoder.

    Raises:
        ValueError: the VAE has another stride than the model was trained with.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    # Sampling reads weights outside of forward calls, where layer-by-layer offloading would not move them.
    _exclude_from_cpu_offload = ["transformer"]  # noqa: RUF012 (diffusers' own form)
    _optional_components = list(layout.OPTIONAL)  # noqa: RUF012
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
            raise ValueError(
                f"the vae has a stride of {stride}, the model was trained with {transformer.config.image_stride}"
            )

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
        """Loads a pipeline from a folder in the layout of the releases.

        Args:
            pretrained_model_name_or_path: the folder, or OWNER/REPO on the hub.
            torch_dtype: data type of the weights, fp32 by default; a dictionary has one for each component, and
                `default`.
            dtype: newer name of `torch_dtype` in diffusers.
            variant: variant of the weights, such as fp16.
            options: components that replace those of the folder (`vae=None` for none), and for the hub `revision`,
                `cache_dir`, `token`, `local_files_only`, `force_download`, `proxies`.

        Raises:
            ValueError: there is no index, a component is missing or unknown, or a key is missing or of the wrong shape.
        """
        unknown = sorted(set(options) - {*layout.COMPONENTS, *_HUB_OPTIONS, *_IGNORED_OPTIONS})
        if unknown:
            raise ValueError(f"from_pretrained does not take {unknown[0]}")
        dtypes = _dtypes(torch_dtype if dtype is None else dtype)
        hub_options = {name: value for name, value in options.items() if name in _HUB_OPTIONS}
        folder = released.find(pretrained_model_name_or_path, variant, **hub_options)
        index = released.read_index(folder, variant)
        components = {name: options[name] for name in layout.COMPONENTS if name in options}
        for name in _LOADING_ORDER:
            _, class_name = index.get(name) or (None, None)
            if name not in components and class_name is not None:
                component_dtype = dtypes.get(name, dtypes.get("default", torch.float32))
                components[name] = released.load_component(name, class_name, folder / name, component_dtype, variant)
            if name == "scheduler":
                schedule_of(components[name], None)  # refuses schedulers that NOVA does not support
        pipeline = cls(**components)
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        from_folder = {name: component for name, component in components.items() if name not in options}
        pipeline._origin = saving.origin_of(folder, index, from_folder)
        return pipeline

    def save_pretrained(
        self, save_directory: str | Path, safe_serialization: bool = True, variant: str | None = None
    ) -> None:
        """Writes the layout of the releases, which `from_pretrained` and the released code read.

        Args:
            save_directory: folder of the pipeline; it is created.
            safe_serialization: only True is supported: weights are written as safetensors.
            variant: variant under which the weights are written, such as fp16.

        Raises:
            ValueError: another form of weights is requested.
        """
        if not safe_serialization:
            raise ValueError("weights are written as safetensors alone; leave safe_serialization out")
        saving.save(self.components, Path(save_directory), self._origin, variant)

    # Offloading.

    def enable_group_offload(
        self, *args: Any, exclude_modules: str | Sequence[str] | None = None, **settings: Any
    ) -> None:
        """diffusers' group offloading of the text encoder and the VAE; the transformer stays on its device."""
        excluded = [exclude_modules] if isinstance(exclude_modules, str) else list(exclude_modules or [])
        super().enable_group_offload(*args, exclude_modules=[*excluded, "transformer"], **settings)

    # Read by callbacks.

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the following sets; a callback may set `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Number of set steps of the call, over all frames."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the call is to end early; a callback may set `_interrupt`."""
        return self._interrupt


def _dtypes(dtype: torch.dtype | dict[str, torch.dtype] | None) -> dict[str, torch.dtype]:
    """Data types of components by name, and `default`."""
    dtypes = dtype if isinstance(dtype, dict) else {"default": dtype or torch.float32}
    if not all(isinstance(value, torch.dtype) for value in dtypes.values()):
        raise ValueError(f"torch_dtype is {dtype!r}; give a torch.dtype, such as torch.bfloat16")
    return dtypes


def schedule_of(scheduler: Any, shift: float | None) -> Schedule:
    """The schedule of this project with the config of a scheduler of diffusers.

    Args:
        scheduler: diffusers' scheduler.
        shift: replaces the shift of a flow-matching scheduler.

    Raises:
        ValueError: NOVA does not support the scheduler, or it has no shift.
    """
    name = type(scheduler).__name__
    config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    schedule = schedule_from_config({**config, "_class_name": name})
    if shift is None:
        return schedule
    if not isinstance(schedule, FlowMatching):
        raise ValueError(f"shift has no effect with {name}; leave it out")
    return replace(schedule, shift=float(shift))


def onload(module: torch.nn.Module) -> None:
    """Moves an offloaded model to its device, as a forward call would."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None and hasattr(hook, "pre_forward"):
        hook.pre_forward(module)
