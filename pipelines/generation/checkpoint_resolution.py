"""Resolves a checkpoint to the folders of its networks: transformer, scheduler, VAE and text encoder.

A checkpoint is a training run (RUN), one of its checkpoints (RUN/checkpoints/step-00000100), an exported model
(RUN/model), the bundled one (zoo/nova), or a released folder or hub id in the layout of diffusers
(`model_index.json`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nova_model.checkpoints.hub import download_released
from pipelines.core import model_hub


@dataclass(frozen=True, kw_only=True)
class ResolvedCheckpoint:
    """Folders or model names of everything that generation loads from a checkpoint."""

    checkpoint: str
    """The name that the user gave, or the folder of the trained model."""
    transformer: str
    scheduler: str
    vae: str
    text_encoder: str
    tokenizer: str | None = None
    """None where the tokenizer lies in the text encoder's folder."""
    data_version: int | None = None
    """Version of `examples` that the model was trained on; None for released checkpoints, which do not record it."""
    preset: str | None = None


def resolve_checkpoint(
    checkpoint: str, *, vae: str | None = None, text_encoder: str | None = None
) -> ResolvedCheckpoint:
    """Resolves a checkpoint to the networks that generation loads.

    Args:
        checkpoint: a folder, zoo/nova or a hub id.
        vae: replaces the checkpoint's VAE.
        text_encoder: replaces the checkpoint's text encoder and its tokenizer.

    Raises:
        ValueError: the checkpoint does not exist, lacks a file that generation needs, or takes class labels.
    """
    if not checkpoint:
        raise ValueError("--checkpoint is missing; give a training run, a checkpoint folder or a hub id")
    folder = _checkpoint_folder(checkpoint)
    if (folder / "model_index.json").exists():
        missing = [name for name in ("transformer", "scheduler") if not (folder / name).is_dir()]
        if missing:
            raise ValueError(f"{checkpoint} has a model_index.json but no {missing[0]}/; download all of its folders")
        _check_prompts(checkpoint, folder / "transformer")
        return ResolvedCheckpoint(
            checkpoint=checkpoint,
            transformer=str(folder / "transformer"),
            scheduler=str(folder / "scheduler"),
            vae=vae or str(folder / "vae"),
            text_encoder=text_encoder or str(folder / "text_encoder"),
            # Another text encoder does not share the vocabulary of the released tokenizer.
            tokenizer=None if text_encoder else str(folder / "tokenizer"),
        )
    trained = _trained_model(folder)
    if trained is None:
        raise ValueError(
            f"{checkpoint} is not a checkpoint: it holds neither model_index.json nor a trained model; give a training "
            "run, one of its checkpoints or a released folder"
        )
    _check_prompts(checkpoint, trained / "transformer")
    components = json.loads((trained / "components.json").read_text())
    return ResolvedCheckpoint(
        checkpoint=str(trained),
        transformer=str(trained / "transformer"),
        scheduler=str(trained / "scheduler"),
        vae=vae or components["vae"],
        text_encoder=text_encoder or components["text_encoder"],
        data_version=components["version"],
        preset=components["preset"],
    )


def labels_error(checkpoint: str) -> ValueError:
    """The error of commands, all of which generate from prompts, for a model of class labels."""
    return ValueError(
        f"{checkpoint} takes class labels, not prompts; give a checkpoint that takes prompts, or generate in Python "
        "with nova_model.NovaPipeline and class_labels"
    )


def _check_prompts(checkpoint: str, transformer: Path) -> None:
    """Raises ValueError where the config of a model names class labels."""
    try:
        config = json.loads((transformer / "config.json").read_text())
    except (OSError, ValueError):
        return  # the worker that loads the model reports a missing or damaged file
    if isinstance(config, dict) and config.get("text_token_dim", ...) is None:
        raise labels_error(checkpoint)


def _checkpoint_folder(checkpoint: str) -> Path:
    if model_hub.source_of(checkpoint) is not None:
        return model_hub.folder(checkpoint)
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder.absolute()
    # A hub id has exactly one slash; anything else is a path that does not exist, and no reason to go online.
    if checkpoint.count("/") == 1 and not checkpoint.startswith((".", "/", "~")):
        return download_released(checkpoint)
    raise ValueError(f"--checkpoint {checkpoint}: no such folder; give a training run, a checkpoint folder or a hub id")


def _trained_model(folder: Path) -> Path | None:
    """The folder itself where it holds a trained model, else the run's exported model or its newest checkpoint."""
    # Names have leading zeros, so the order of text is that of steps.
    checkpoints = sorted((folder / "checkpoints").glob("step-*"), reverse=True)
    for candidate in (folder, folder / "model", *checkpoints):
        # A training that is killed while it writes leaves a checkpoint with one of the two only; it is passed over.
        if (candidate / "components.json").exists() and (candidate / "transformer").is_dir():
            return candidate
    return None
