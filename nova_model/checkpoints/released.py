"""Reads the released folder layout: model_index.json, and a folder for each component of a pipeline.

The class names in model_index.json are mapped to classes of this project; no code that comes with a folder is
downloaded or run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL

from nova_model.checkpoints.hub import download_released
from nova_model.checkpoints.layout import COMPONENTS, INDEX, OPTIONAL, PIPELINE, VIDEO_VAES
from nova_model.checkpoints.weights import fill, load_transformer, load_weights, read_json
from nova_model.vae.video_vae import VideoVae

_RENAMED_KEYS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Keys of a VAE's attention as older versions of diffusers wrote them, and as they are today."""


def find(name: str | Path, variant: str | None = None, **hub: Any) -> Path:
    """Returns the folder itself, or the local copy of a hub id.

    Args:
        name: a folder, or OWNER/REPO.
        variant: variant of the weights, such as fp16.
        hub: revision, cache_dir, token, local_files_only, force_download or proxies.

    Raises:
        ValueError: the name is neither a folder nor a repository, or there is no released pipeline in it.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
            raise ValueError(f"{name}: no such folder, and not a hub id; write a folder or OWNER/REPO")
        folder = download_released(str(name), variant, **hub)
    if not (folder / INDEX).is_file():
        raise ValueError(
            f"{name} has no {INDEX}; give a folder in the layout of the releases, and download the complete folder"
        )
    return folder


def read_index(folder: Path, variant: str | None = None) -> dict[str, Any]:
    """Reads model_index.json and checks it, before anything large is read.

    Raises:
        ValueError: the index names another pipeline or an unknown class, or a folder or variant is missing.
    """
    index = read_json(folder / INDEX)
    pipeline_class = index.get("_class_name", PIPELINE)
    if pipeline_class not in (PIPELINE, "NovaPipeline"):
        raise ValueError(f"{folder / INDEX} names class {pipeline_class}; only {PIPELINE} can be read")
    for component in COMPONENTS:
        class_name = _class_of(index, component)
        if class_name is None:
            if component not in OPTIONAL:
                raise ValueError(f"{folder / INDEX} names no {component}; download it again")
            continue
        if not (folder / component).is_dir():
            raise ValueError(f"{folder} has a {INDEX} but no {component}/; download the complete folder")
        _loader(component, class_name)
    if variant and not any(folder.glob(f"*/*.{variant}[.-]*")):
        raise ValueError(f"{folder} holds no {variant} weights; leave the variant out or name another")
    return index


def _class_of(index: dict[str, Any], component: str) -> str | None:
    pair = index.get(component) or [None, None]  # [library, class]
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError(f"{INDEX} has {component}: {pair!r}, which names no class; download it again")
    return pair[1]


def load_component(
    component: str, class_name: str, folder: Path, dtype: torch.dtype, variant: str | None = None
) -> Any:
    """Loads one component of a pipeline.

    Args:
        component: its name in model_index.json.
        class_name: its class in model_index.json.
        folder: the folder of the component.
        dtype: data type of the weights.
        variant: variant of the weights; ignored where the component has no such files.

    Raises:
        ValueError: the component cannot be loaded.
    """
    has_variant = variant is not None and any(folder.glob(f"*.{variant}[.-]*"))
    return _loader(component, class_name)(folder, dtype, variant if has_variant else None)


Loader = Callable[[Path, torch.dtype, str | None], Any]
"""Takes a component's folder, a data type and a variant of the weights."""


def _loader(component: str, class_name: str) -> Loader:
    """Returns the function that loads a class of model_index.json.

    Raises:
        ValueError: the class is unknown.
    """
    if component == "scheduler":
        return lambda folder, dtype, variant: load_scheduler(folder, class_name)
    if component == "tokenizer":
        return lambda folder, dtype, variant: load_tokenizer(folder, class_name)
    if component == "text_encoder":
        return lambda folder, dtype, variant: load_text_encoder(folder, dtype, variant, class_name)
    loaders: dict[str, Loader] = (
        {"NOVATransformer3DModel": _load_transformer}
        if component == "transformer"
        else {"AutoencoderKL": load_vae, **dict.fromkeys(VIDEO_VAES, load_vae)}
    )
    if class_name not in loaders:
        raise ValueError(f"{INDEX} names a {class_name} as {component}; {' or '.join(loaders)} can be read")
    return loaders[class_name]


def _load_transformer(folder: Path, dtype: torch.dtype, variant: str | None) -> Any:
    return load_transformer(folder, dtype=dtype, variant=variant).eval()


def load_scheduler(folder: str | Path, class_name: str | None = None) -> Any:
    """Loads diffusers' scheduler from a folder.

    Args:
        folder: the folder of scheduler_config.json.
        class_name: class where the config names none for sampling.

    Raises:
        ValueError: there is no config, or it names a scheduler that NOVA does not support.
    """
    config = read_json(Path(folder) / "scheduler_config.json")
    name = config.get("_sample_class_name") or class_name or config.get("_class_name", "")
    scheduler_class = getattr(diffusers, name, None)
    if scheduler_class is None or not hasattr(scheduler_class, "from_config"):
        raise ValueError(f"unknown scheduler {name!r}; NOVA takes FlowMatchEulerDiscreteScheduler or DDPMScheduler")
    return scheduler_class.from_config(config)


def load_vae(folder: str | Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> Any:
    """Loads diffusers' AutoencoderKL or the video VAE, whichever the folder's config.json names.

    Raises:
        ValueError: a file is missing, or a key is missing, unexpected or of the wrong shape.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    class_name = config.get("_class_name", "AutoencoderKL")
    if class_name not in ("AutoencoderKL", *VIDEO_VAES):
        raise ValueError(
            f"{folder / 'config.json'} names class {class_name}; AutoencoderKL or {VIDEO_VAES[0]} can be read"
        )
    with torch.device("meta"):
        vae = (VideoVae if class_name in VIDEO_VAES else AutoencoderKL).from_config(config)
    weights = {_current_key(key): value for key, value in load_weights(folder, variant).items()}
    for key, parameter in vae.state_dict().items():
        # Older versions of diffusers computed this attention with 1x1 convolutions, today's with linear layers.
        if key in weights and weights[key].ndim == 4 and parameter.ndim == 2:
            weights[key] = weights[key].flatten(1)  # [out, in, 1, 1] -> [out, in]
    fill(vae, weights, dtype)
    return vae.eval()


def _current_key(key: str) -> str:
    if ".attentions." not in key:
        return key
    return ".".join(_RENAMED_KEYS.get(name, name) for name in key.split("."))


def load_text_encoder(
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    class_name: str = "PhiEncoderModel",
) -> Any:
    """Loads a model of transformers that returns last hidden states.

    Args:
        folder: a folder as transformers writes it.
        dtype: data type of the weights.
        variant: variant of the weights.
        class_name: PhiEncoderModel for Phi, which keeps its head where there is one; else a class of transformers.

    Raises:
        ValueError: the class is unknown, a file is missing, or a key is missing or of the wrong shape.
    """
    # transformers takes seconds to import, and workers that load a VAE or a scheduler do without it.
    import transformers

    from nova_model.diffusers.text_encoder import PhiEncoderModel

    encoder_class = PhiEncoderModel if class_name == "PhiEncoderModel" else getattr(transformers, class_name, None)
    if encoder_class is None:
        raise ValueError(f"{INDEX} names class {class_name} as text_encoder, which transformers does not have")
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{Path(folder) / 'config.json'} is missing; download the complete folder")
    try:
        model, report = encoder_class.from_pretrained(
            folder, dtype=dtype, variant=variant, output_loading_info=True, ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )  # fmt: skip
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the text encoder in {folder} cannot be loaded: {reason}") from error
    # transformers only warns about such keys and leaves those weights as they were initialised.
    for key, shape, expected_shape in sorted(report["mismatched_keys"]):
        raise ValueError(f"text encoder: {key} has shape {tuple(shape)}; the config asks for {tuple(expected_shape)}")
    missing = sorted(report["missing_keys"])
    if missing and encoder_class is PhiEncoderModel and all(key.startswith("lm_head.") for key in missing):
        return model.model.eval()  # saved without a head
    if missing:
        shape = tuple(model.state_dict()[missing[0]].shape)
        raise ValueError(f"text encoder: weights lack {missing[0]}, which the config asks for with shape {shape}")
    return model.eval()


def load_tokenizer(folder: str | Path, class_name: str = "AutoTokenizer") -> Any:
    """Loads a tokenizer of transformers from a folder.

    Raises:
        ValueError: the tokenizer cannot be loaded.
    """
    import transformers

    tokenizer_class = getattr(transformers, class_name, None) or transformers.AutoTokenizer
    try:
        return tokenizer_class.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the tokenizer in {folder} cannot be loaded: {reason}") from error
