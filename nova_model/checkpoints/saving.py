"""Writes the released folder layout, with the released names of classes and keys.

Configs and model_index.json are written as they were read, as long as the components have not changed since.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers

from nova_model.checkpoints.layout import INDEX, PIPELINE
from nova_model.checkpoints.weights import read_json, save_transformer

_MODULES = "diffnext.models"
_RELEASED_CLASSES = {
    "Nova": (f"{_MODULES}.transformers.transformer_nova", "NOVATransformer3DModel"),
    "AutoencoderKL": (f"{_MODULES}.autoencoders.autoencoder_kl", "AutoencoderKL"),
    "VideoVae": (f"{_MODULES}.autoencoders.autoencoder_kl_opensora", "AutoencoderKLOpenSora"),
    "PhiEncoderModel": (f"{_MODULES}.text_encoders.phi", "PhiEncoderModel"),
    "CodeGenTokenizer": ("transformers", "CodeGenTokenizerFast"),  # transformers 5 dropped the ending of the fast one
}
"""Class in this project -> library and class in a released model_index.json."""
_WRITTEN_BY_SAVING = {"architectures", "transformers_version", "dtype", "torch_dtype"}
"""Keys that saving a text encoder adds to its config, so that they say nothing about a change."""
_CONFIG_FILES = {"scheduler": "scheduler_config.json"}
"""Name of a component's config file where it is not config.json."""


@dataclass(frozen=True)
class OriginalConfig:
    """Config file of a component that was read from a folder."""

    component: Any
    fingerprint: str
    """`_fingerprint` of the component when it was read."""
    content: dict[str, Any]


@dataclass(frozen=True)
class OriginalTokenizer:
    """Files of a tokenizer that was read from a folder: transformers would write others."""

    tokenizer: Any
    fingerprint: str
    files: dict[str, bytes]


@dataclass(frozen=True)
class Origin:
    """The files that a pipeline was read from, which `save` writes again where nothing has changed."""

    index: dict[str, Any] = field(default_factory=dict)
    """Content of model_index.json."""
    configs: dict[str, OriginalConfig] = field(default_factory=dict)
    """Configs as they were read, by the name of the component; the tokenizer has none."""
    tokenizer: OriginalTokenizer | None = None


def origin_of(folder: Path, index: dict[str, Any], components: dict[str, Any]) -> Origin:
    """Records the files of a folder.

    Args:
        folder: the folder that a pipeline was read from.
        index: content of its model_index.json.
        components: those that were read from there, by name.
    """
    configs = {}
    for name, component in components.items():
        path = folder / name / _CONFIG_FILES.get(name, "config.json")
        if component is not None and name != "tokenizer" and path.is_file():
            configs[name] = OriginalConfig(component, _fingerprint(component), read_json(path))
    tokenizer = None
    if components.get("tokenizer") is not None and (folder / "tokenizer").is_dir():
        files = {path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir() if path.is_file()}
        tokenizer = OriginalTokenizer(components["tokenizer"], _fingerprint(components["tokenizer"]), files)
    return Origin(index, configs, tokenizer)


def _fingerprint(component: Any) -> str:
    """Configuration of a component as text, to detect changes; without what saving adds, such as versions."""
    if not hasattr(component, "config"):  # a tokenizer
        return json.dumps([len(component), component.init_kwargs], sort_keys=True, default=str)
    config = component.config
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    content = {key: value for key, value in plain.items() if not key.startswith("_") and key not in _WRITTEN_BY_SAVING}
    return json.dumps(content, sort_keys=True, default=str)


def save(components: dict[str, Any], folder: Path, origin: Origin, variant: str | None = None) -> None:
    """Writes the components and the index of a pipeline.

    Components are written to a folder beside their target and then moved: their weights may be memory-mapped from the
    very files that they replace. Weights of other variants stay where they are.

    Args:
        components: the components by name; None for those that the pipeline does without.
        folder: folder of the pipeline.
        origin: the files that the pipeline was read from.
        variant: variant under which the weights are written, such as fp16.
    """
    # torch.compile wraps modules; what is saved is the module inside.
    components = {name: getattr(component, "_orig_mod", component) for name, component in components.items()}
    partial = folder / ".saving"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, component in components.items():
            if component is not None:
                (partial / name).mkdir(parents=True)
                _save_component(name, component, partial / name, origin, variant)
        for source in partial.iterdir():
            _move(source, folder / source.name, variant)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    (folder / INDEX).write_text(json.dumps(index_of(components, origin), indent=2) + "\n")


def _save_component(name: str, component: Any, folder: Path, origin: Origin, variant: str | None) -> None:
    if name == "tokenizer":
        _save_tokenizer(component, folder, origin.tokenizer)
        return
    if name == "transformer":
        save_transformer(component, folder, variant)
    elif name == "scheduler":
        component.save_pretrained(folder)
    else:
        component.save_pretrained(folder, variant=variant)
    path = folder / _CONFIG_FILES.get(name, "config.json")
    original = origin.configs.get(name)
    if original is None or original.component is not component or original.fingerprint != _fingerprint(component):
        if name == "vae":
            config = {**read_json(path), "_class_name": _released_class(component)[1]}
            path.write_text(json.dumps(config, indent=2) + "\n")
        return
    content = original.content
    if name == "text_encoder":
        precision = str(component.dtype).removeprefix("torch.")
        content = {key: precision if key in ("dtype", "torch_dtype") else value for key, value in content.items()}
    path.write_text(json.dumps(content, indent=2) + "\n")


def _save_tokenizer(tokenizer: Any, folder: Path, original: OriginalTokenizer | None) -> None:
    if original is None or original.tokenizer is not tokenizer or original.fingerprint != _fingerprint(tokenizer):
        tokenizer.save_pretrained(folder)
        return
    for name, content in original.files.items():
        (folder / name).write_bytes(content)


def _move(source: Path, target: Path, variant: str | None) -> None:
    """Moves a component's files to their folder, in which old weights of the same variant are deleted first."""
    target.mkdir(parents=True, exist_ok=True)
    for path in target.iterdir():
        # NAME[.VARIANT][-SHARD].safetensors, or NAME.safetensors.index[.VARIANT].json
        pieces = path.name.split(".")
        is_weights = pieces[-1] in ("safetensors", "bin") or "index" in pieces
        variants = [piece.split("-")[0] for piece in pieces[1:] if piece not in ("safetensors", "bin", "index", "json")]
        if is_weights and variants == ([variant] if variant else []):
            path.unlink()
    for path in source.iterdir():
        path.replace(target / path.name)


def index_of(components: dict[str, Any], origin: Origin) -> dict[str, Any]:
    """Content of model_index.json: as it was read, except for components that were replaced since."""
    originals = {name: original.component for name, original in origin.configs.items()}
    if origin.tokenizer is not None:
        originals["tokenizer"] = origin.tokenizer.tokenizer
    classes = {
        name: origin.index[name]
        if component is not None and originals.get(name) is component
        else _released_class(component)
        for name, component in components.items()
    }
    if not origin.index:
        return {"_class_name": PIPELINE, "_diffusers_version": diffusers.__version__, **classes}
    classes = {name: pair for name, pair in classes.items() if name in origin.index or pair != [None, None]}
    other_keys = {
        key: value for key, value in origin.index.items() if not isinstance(value, list) or value == [None, None]
    }
    return {**other_keys, "_class_name": PIPELINE, **classes}


def _released_class(component: Any) -> list[str | None]:
    """Library and class of a component, under the released names."""
    if component is None:
        return [None, None]
    component_class = type(component)
    module = component_class.__module__.split(".")[0]
    return list(_RELEASED_CLASSES.get(component_class.__name__, (module, component_class.__name__)))
