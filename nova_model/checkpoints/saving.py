"""Writes the released folder layout, with the released names of classes and keys.

Configs and model_index.json are written as they were read, where nothing in them has changed since.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nova_model.checkpoints.released import INDEX, PIPELINE
from nova_model.checkpoints.weights import read_json, save_transformer

_MODULES = "diffnext.models"
_RELEASED = {
    "Nova": (f"{_MODULES}.transformers.transformer_nova", "NOVATransformer3DModel"),
    "AutoencoderKL": (f"{_MODULES}.autoencoders.autoencoder_kl", "AutoencoderKL"),
    "VideoVae": (f"{_MODULES}.autoencoders.autoencoder_kl_opensora", "AutoencoderKLOpenSora"),
    "PhiEncoderModel": (f"{_MODULES}.text_encoders.phi", "PhiEncoderModel"),
    "CodeGenTokenizer": ("transformers", "CodeGenTokenizerFast"),  # the fast one has lost its ending in transformers 5
}
"""Our class -> how the release's model_index.json names it."""
_WRITTEN_ANEW = {"architectures", "transformers_version", "dtype", "torch_dtype"}
_CONFIGS = {"scheduler": "scheduler_config.json"}


@dataclass(frozen=True)
class Origin:
    """Where a pipeline was read from: what `save` needs to write it as it was."""

    index: dict[str, Any] = field(default_factory=dict)
    """model_index.json."""
    configs: dict[str, tuple[Any, str, dict[str, Any]]] = field(default_factory=dict)
    """Part -> the object that was read, what it said of itself then, and the content of its config's file."""
    tokenizer: tuple[Any, str, dict[str, bytes]] | None = None
    """The same of the tokenizer, with its files: transformers would write others."""


def origin_of(folder: Path, index: dict[str, Any], parts: dict[str, Any]) -> Origin:
    """Remembers what was read.

    Args:
        folder: where.
        index: its model_index.json.
        parts: those that were read there.
    """
    configs = {}
    for part, component in parts.items():
        path = folder / part / _CONFIGS.get(part, "config.json")
        if component is not None and part != "tokenizer" and path.is_file():
            configs[part] = (component, _says(component), read_json(path))
    tokenizer = None
    if parts.get("tokenizer") is not None and (folder / "tokenizer").is_dir():
        files = {path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir() if path.is_file()}
        tokenizer = (parts["tokenizer"], _says(parts["tokenizer"]), files)
    return Origin(index, configs, tokenizer)


def _says(component: Any) -> str:
    """What a component says of itself, to see whether it has changed; saving adds versions and class names."""
    if not hasattr(component, "config"):  # a tokenizer
        return json.dumps([len(component), component.init_kwargs], sort_keys=True, default=str)
    config = component.config
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {key: value for key, value in plain.items() if not key.startswith("_") and key not in _WRITTEN_ANEW}
    return json.dumps(kept, sort_keys=True, default=str)


def save(parts: dict[str, Any], folder: Path, origin: Origin, variant: str | None = None) -> None:
    """Writes parts and index; each part is written apart and then moved, as its weights may be what lies there.

    Weights of other variants that are there stay.
    """
    parts = {part: getattr(component, "_orig_mod", component) for part, component in parts.items()}  # not the compiled
    partial = folder / ".saving"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for part, component in parts.items():
            if component is not None:
                (partial / part).mkdir(parents=True)
                _save_part(part, component, partial / part, origin, variant)
        for written in partial.iterdir():
            _move(written, folder / written.name, variant)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    (folder / INDEX).write_text(json.dumps(index_of(parts, origin), indent=2) + "\n")


def _save_part(part: str, component: Any, folder: Path, origin: Origin, variant: str | None) -> None:
    if part == "tokenizer":
        _save_tokenizer(component, folder, origin)
        return
    if part == "transformer":
        save_transformer(component, folder, variant)
    elif part == "scheduler":
        component.save_pretrained(folder)
    else:
        component.save_pretrained(folder, variant=variant)
    path = folder / _CONFIGS.get(part, "config.json")
    same, said, read = origin.configs.get(part, (None, "", {}))
    if same is not component or said != _says(component):
        if part == "vae":
            path.write_text(json.dumps({**read_json(path), "_class_name": _named(component)[1]}, indent=2) + "\n")
        return
    if part == "text_encoder":
        precision = str(component.dtype).removeprefix("torch.")
        read = {key: precision if key in ("dtype", "torch_dtype") else value for key, value in read.items()}
    path.write_text(json.dumps(read, indent=2) + "\n")


def _save_tokenizer(tokenizer: Any, folder: Path, origin: Origin) -> None:
    if origin.tokenizer is None or origin.tokenizer[0] is not tokenizer or origin.tokenizer[1] != _says(tokenizer):
        tokenizer.save_pretrained(folder)
        return
    for name, content in origin.tokenizer[2].items():
        (folder / name).write_bytes(content)


def _move(source: Path, target: Path, variant: str | None) -> None:
    """Puts a written part in its place; weights of the same variant that were there go."""
    target.mkdir(parents=True, exist_ok=True)
    for path in target.iterdir():
        pieces = path.name.split(".")
        weights = pieces[-1] in ("safetensors", "bin") or "index" in pieces
        other = [each.split("-")[0] for each in pieces[1:] if each not in ("safetensors", "bin", "index", "json")]
        if weights and other == ([variant] if variant else []):
            path.unlink()
    for path in source.iterdir():
        path.replace(target / path.name)


def index_of(parts: dict[str, Any], origin: Origin) -> dict[str, Any]:
    """model_index.json of these parts: as it was read, but for parts that were replaced since."""
    import diffusers

    read = origin.index
    known = {part: component for part, (component, _, _) in origin.configs.items()}
    if origin.tokenizer is not None:
        known["tokenizer"] = origin.tokenizer[0]
    named = {
        part: read[part] if component is not None and known.get(part) is component else _named(component)
        for part, component in parts.items()
    }
    if not read:
        return {"_class_name": PIPELINE, "_diffusers_version": diffusers.__version__, **named}
    named = {part: pair for part, pair in named.items() if part in read or pair != [None, None]}
    kept = {key: value for key, value in read.items() if not isinstance(value, list) or value == [None, None]}
    return {**kept, "_class_name": PIPELINE, **named}


def _named(component: Any) -> list[str | None]:
    """How the release names a component's class."""
    if component is None:
        return [None, None]
    kind = type(component)
    return list(_RELEASED.get(kind.__name__, (kind.__module__.split(".")[0], kind.__name__)))
