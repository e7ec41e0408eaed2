"""Saves and loads a model as the released folders have it: config.json and weights, released key names.

Weights are written as safetensors, and read from safetensors or from .bin files without running what is in them; whole,
or in shards that an index names; and in variants, as in diffusion_pytorch_model.fp16.safetensors.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nova_model.config import NovaConfig
from nova_model.model import Nova
from nova_model.sampling.schedule import Schedule, schedule_from_config

WEIGHTS = "diffusion_pytorch_model"
MAX_SHARD = "5GB"


def save_transformer(model: Nova, folder: str | Path, variant: str | None = None) -> None:
    """Writes config.json and the weights, in shards of at most 5 GB."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), indent=1))
    save_weights(model, folder, variant)


def save_weights(model: torch.nn.Module, folder: Path, variant: str | None = None) -> None:
    """Writes weights as diffusers names them."""
    from huggingface_hub import save_torch_state_dict

    stem = WEIGHTS if variant is None else f"{WEIGHTS}.{variant}"
    pattern = f"{stem}{{suffix}}.safetensors"
    save_torch_state_dict(model.state_dict(), folder, filename_pattern=pattern, max_shard_size=MAX_SHARD)
    index = folder / f"{stem}.safetensors.index.json"
    if variant is not None and index.exists():
        index.replace(folder / f"{WEIGHTS}.safetensors.index.{variant}.json")


def load_config(folder: str | Path) -> NovaConfig:
    """Reads config.json.

    Raises:
        ValueError: no config there, or one that cannot be built.
    """
    return NovaConfig.from_dict(read_json(Path(folder) / "config.json"))


def config_of(values: dict[str, Any], weights: dict[str, Tensor]) -> NovaConfig:
    """A config.json's config; what it leaves open about class labels is what the weights say.

    Raises:
        ValueError: one that cannot be built.
    """
    labels = weights.get("label_embed.weight")
    said = {} if labels is None else {"text_token_dim": None, "label_classes": len(labels) - 1}
    return NovaConfig.from_dict({**said, **values})


def load_transformer(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
) -> Nova:
    """Builds the model of a folder.

    Raises:
        ValueError: a missing file, or a missing, unexpected or wrong-shaped key (named, with both shapes).
    """
    values, weights = read_json(Path(folder) / "config.json"), load_weights(folder, variant)
    with torch.device("meta"):
        model = Nova(config_of(values, weights))
    fill(model, weights, dtype)
    return model.to(device)


def fill(model: torch.nn.Module, weights: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Gives weights to a model that may have been built without memory.

    Raises:
        ValueError: a missing, unexpected or wrong-shaped key.
    """
    check_keys(model, weights)
    model.load_state_dict({name: value.to(dtype) for name, value in weights.items()}, assign=True)


def load_weights(folder: str | Path, variant: str | None = None) -> dict[str, Tensor]:
    """All tensors of a folder: safetensors, sharded or not, else a .bin loaded with weights_only.

    Without a variant, other variants beside the plain weights (….fp16.safetensors) are left alone.

    Raises:
        ValueError: no weights there, a missing shard, or a damaged file.
    """
    folder = Path(folder)
    infix = "" if variant is None else f".{variant}"
    for ending in ("safetensors", "bin"):
        whole = folder / f"{WEIGHTS}{infix}.{ending}"
        index = folder / f"{WEIGHTS}.{ending}.index{infix}.json"
        if whole.is_file():
            return _read(whole)
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            return {name: value for shard in shards for name, value in _read(folder / shard).items()}
        other_names = [] if variant else sorted(folder.glob(f"*.{ending}"))
        if other_names:
            return {name: value for path in other_names for name, value in _read(path).items()}
    wanted = "weights" if variant is None else f"{variant} weights"
    raise ValueError(f"no {wanted} in {folder}: neither .safetensors nor .bin; download the folder whole")


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} is missing, which the index names; download the folder whole")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"{path} is damaged or holds more than weights ({reason}); download it again") from error


def check_keys(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Raises ValueError where weights do not fit the model exactly."""
    wanted = model.state_dict()
    for name, value in wanted.items():
        if name not in weights:
            raise ValueError(f"weights lack {name}, which the config asks for with shape {tuple(value.shape)}")
        if weights[name].shape != value.shape:
            raise ValueError(f"{name} has shape {tuple(weights[name].shape)}; the config asks for {tuple(value.shape)}")
    extra = sorted(set(weights) - set(wanted))
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
        ValueError: no such file, or a scheduler that NOVA does not take.
    """
    return schedule_from_config(read_json(Path(folder) / "scheduler_config.json"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        ValueError: there is none.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; the folder is no part of a checkpoint")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); download it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object; download it again")
    return found
