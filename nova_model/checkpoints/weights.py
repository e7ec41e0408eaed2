"""Saves and loads a model in the form of the releases: config.json and weights under the released key names.

Weights are written as safetensors, and read from safetensors or from .bin files that contain only tensors. They may
be in one file or in shards that an index lists, and have variants, as in diffusion_pytorch_model.fp16.safetensors.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nova_model.config import NovaConfig
from nova_model.model import Nova
from nova_model.sampling.schedule import Schedule, schedule_from_config

WEIGHTS = "diffusion_pytorch_model"
"""Name of a file of weights without its ending, as diffusers has it."""
MAX_SHARD = "5GB"
"""Size from which on weights are split, as huggingface_hub writes sizes."""


def save_transformer(model: Nova, folder: str | Path, variant: str | None = None) -> None:
    """Writes config.json and the weights, in shards of at most `MAX_SHARD`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), indent=1))
    save_weights(model, folder, variant)


def save_weights(model: torch.nn.Module, folder: Path, variant: str | None = None) -> None:
    """Writes weights under the file names of diffusers."""
    stem = WEIGHTS if variant is None else f"{WEIGHTS}.{variant}"
    pattern = f"{stem}{{suffix}}.safetensors"
    save_torch_state_dict(model.state_dict(), folder, filename_pattern=pattern, max_shard_size=MAX_SHARD)
    index = folder / f"{stem}.safetensors.index.json"
    # diffusers puts the variant after "index" here, and huggingface_hub before the suffix.
    if variant is not None and index.exists():
        index.replace(folder / f"{WEIGHTS}.safetensors.index.{variant}.json")


def load_config(folder: str | Path) -> NovaConfig:
    """Reads config.json.

    Raises:
        ValueError: the file is missing, or no model can be built from it.
    """
    return NovaConfig.from_dict(read_json(Path(folder) / "config.json"))


def config_of(values: dict[str, Any], weights: dict[str, Tensor]) -> NovaConfig:
    """Config of a config.json; where it does not mention class labels, they are inferred from the weights.

    Raises:
        ValueError: no model can be built from the config.
    """
    labels = weights.get("label_embed.weight")  # [classes + 1, D]; the last row is the null class
    if labels is None:
        return NovaConfig.from_dict(values)
    values = {"text_token_dim": None, "label_classes": len(labels) - 1, **values}
    if values["text_token_dim"] is None:
        values["text_token_len"] = None  # version 0.1 wrote a length, which no label has
    return NovaConfig.from_dict(values)


def load_transformer(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
) -> Nova:
    """Loads a model from a folder.

    Raises:
        ValueError: a file is missing, or a key is missing, unexpected or of the wrong shape (both shapes are named).
    """
    values, weights = read_json(Path(folder) / "config.json"), load_weights(folder, variant)
    with torch.device("meta"):  # saves the time and memory of an initialisation that is overwritten at once
        model = Nova(config_of(values, weights))
    fill(model, weights, dtype)
    return model.to(device)


def fill(model: torch.nn.Module, weights: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Assigns weights to a model, which may have been built on the meta device.

    Raises:
        ValueError: a key is missing, unexpected or of the wrong shape.
    """
    check_keys(model, weights)
    model.load_state_dict({name: value.to(dtype) for name, value in weights.items()}, assign=True)


def load_weights(folder: str | Path, variant: str | None = None) -> dict[str, Tensor]:
    """Reads all tensors of a folder from safetensors, sharded or not, else from .bin files.

    Without a variant, the plain weights are read and variants beside them (….fp16.safetensors) are ignored.

    Raises:
        ValueError: there are no weights, a shard is missing, or a file is damaged.
    """
    folder = Path(folder)
    infix = "" if variant is None else f".{variant}"
    for ending in ("safetensors", "bin"):
        single = folder / f"{WEIGHTS}{infix}.{ending}"
        index = folder / f"{WEIGHTS}.{ending}.index{infix}.json"
        if single.is_file():
            return _read(single)
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            return {name: value for shard in shards for name, value in _read(folder / shard).items()}
        other_names = [] if variant else sorted(folder.glob(f"*.{ending}"))
        if other_names:
            return {name: value for path in other_names for name, value in _read(path).items()}
    kind = "weights" if variant is None else f"{variant} weights"
    raise ValueError(f"no {kind} in {folder}: neither .safetensors nor .bin; download the complete folder")


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} is missing, which the index names; download the complete folder")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)  # refuses pickles that would run code
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"{path} is damaged or holds more than weights ({reason}); download it again") from error


def check_keys(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Raises ValueError where weights do not fit the model exactly."""
    state = model.state_dict()
    for key, value in state.items():
        if key not in weights:
            raise ValueError(f"weights lack {key}, which the config asks for with shape {tuple(value.shape)}")
        if weights[key].shape != value.shape:
            raise ValueError(f"{key} has shape {tuple(weights[key].shape)}; the config asks for {tuple(value.shape)}")
    extra = sorted(set(weights) - set(state))
    if extra:
        raise ValueError(f"weights hold {extra[0]} with shape {tuple(weights[extra[0]].shape)}, which the config lacks")


def save_schedule(schedule: Schedule, folder: str | Path) -> None:
    """Writes scheduler_config.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scheduler_config.json").write_text(json.dumps(schedule.to_config(), indent=1))


def load_schedule(folder: str | Path) -> Schedule:
    """Reads scheduler_config.json.

    Raises:
        ValueError: the file is missing, or it names a scheduler that NOVA does not support.
    """
    return schedule_from_config(read_json(Path(folder) / "scheduler_config.json"))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        ValueError: the file is missing or holds no JSON object.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; give a folder of a checkpoint")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; download it again")
    return content
