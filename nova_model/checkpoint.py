"""Saves and loads a model as the released folders have it: config.json and safetensors, released key names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nova_model.config import NovaConfig
from nova_model.model import Nova
from nova_model.schedule import Schedule, schedule_from_config

WEIGHTS = "diffusion_pytorch_model"
MAX_SHARD = "5GB"


def save_transformer(model: Nova, folder: str | Path) -> None:
    """Writes config.json and the weights, in shards of at most 5 GB."""
    from huggingface_hub import save_torch_state_dict

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), indent=1))
    save_torch_state_dict(
        model.state_dict(), folder, filename_pattern=f"{WEIGHTS}{{suffix}}.safetensors", max_shard_size=MAX_SHARD
    )


def load_config(folder: str | Path) -> NovaConfig:
    """Reads config.json.

    Raises:
        ValueError: no config there, or one that cannot be built.
    """
    return NovaConfig.from_dict(_read_json(Path(folder) / "config.json"))


def load_transformer(
    folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Nova:
    """Builds the model of a folder.

    Raises:
        ValueError: a missing file, or a missing, unexpected or wrong-shaped key (named, with both shapes).
    """
    config = load_config(folder)
    with torch.device("meta"):
        model = Nova(config)
    weights = load_weights(folder)
    check_keys(model, weights)
    model.load_state_dict({name: value.to(dtype) for name, value in weights.items()}, assign=True)
    return model.to(device)


def load_weights(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of a folder: safetensors, sharded or not, else a .bin loaded with weights_only.

    Other variants beside the plain weights (….fp16.safetensors) are left alone.

    Raises:
        ValueError: no weights there, or a damaged file.
    """
    folder = Path(folder)
    plain = folder / f"{WEIGHTS}.safetensors"
    found = [plain] if plain.is_file() else sorted(folder.glob("*.safetensors"))
    tensors: dict[str, Tensor] = {}
    for path in found:
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); download it again") from error
    if found:
        return tensors
    for path in sorted(folder.glob("*.bin")):
        tensors |= torch.load(path, map_location="cpu", weights_only=True)
    if not tensors:
        raise ValueError(f"no weights in {folder}: neither .safetensors nor .bin; download the folder whole")
    return tensors


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
    return schedule_from_config(_read_json(Path(folder) / "scheduler_config.json"))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; the folder is no part of a checkpoint")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); download it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object; download it again")
    return found
