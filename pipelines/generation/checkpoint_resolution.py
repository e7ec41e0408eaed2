"""Finds the parts of a checkpoint: transformer, schedule, VAE and text encoder.

A checkpoint is a training run (RUN), one of its checkpoints (RUN/checkpoints/step-00000100), an exported model
(RUN/model), the one that the project carries (zoo/nova), or a released folder or hub id as diffusers lays it out
(`model_index.json`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pipelines.core import model_hub


@dataclass(frozen=True, kw_only=True)
class Components:
    """Where each part of a checkpoint is."""

    checkpoint: str
    """What the user named."""
    transformer: str
    scheduler: str
    vae: str
    text_encoder: str
    tokenizer: str | None = None
    """The text encoder's own by default."""
    data_version: int | None = None
    """Version of `examples` that it was trained on, where it was trained here."""
    preset: str | None = None


def find(checkpoint: str, *, vae: str | None = None, text_encoder: str | None = None) -> Components:
    """The parts of a checkpoint.

    Args:
        checkpoint: a folder, zoo/nova or a hub id.
        vae: takes the place of the checkpoint's own.
        text_encoder: likewise.

    Raises:
        ValueError: nothing there that can be generated from.
    """
    if not checkpoint:
        raise ValueError("--checkpoint is missing; give a training run, a checkpoint folder or a hub id")
    folder = _folder(checkpoint)
    if (folder / "model_index.json").exists():
        missing = [name for name in ("transformer", "scheduler") if not (folder / name).is_dir()]
        if missing:
            raise ValueError(f"{checkpoint} has a model_index.json but no {missing[0]}/; download it whole")
        return Components(
            checkpoint=checkpoint,
            transformer=str(folder / "transformer"),
            scheduler=str(folder / "scheduler"),
            vae=vae or str(folder / "vae"),
            text_encoder=text_encoder or str(folder / "text_encoder"),
            tokenizer=None if text_encoder else str(folder / "tokenizer"),
        )
    trained = _trained(folder)
    if trained is None:
        raise ValueError(f"{checkpoint} is no checkpoint: it holds neither model_index.json nor a trained model")
    parts = json.loads((trained / "components.json").read_text())
    return Components(
        checkpoint=str(trained),
        transformer=str(trained / "transformer"),
        scheduler=str(trained / "scheduler"),
        vae=vae or parts["vae"],
        text_encoder=text_encoder or parts["text_encoder"],
        data_version=parts["version"],
        preset=parts["preset"],
    )


def _folder(checkpoint: str) -> Path:
    if model_hub.source_of(checkpoint) is not None:
        return model_hub.folder(checkpoint)
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder.absolute()
    if checkpoint.count("/") == 1 and not checkpoint.startswith((".", "/", "~")):
        from nova_model.checkpoints.released import fetch

        return fetch(checkpoint)
    raise ValueError(f"--checkpoint {checkpoint}: no such folder")


def _trained(folder: Path) -> Path | None:
    """The newest trained model in a run folder, or the folder itself where it is one."""
    checkpoints = sorted((folder / "checkpoints").glob("step-*"), reverse=True)
    for candidate in (folder, folder / "model", *checkpoints):
        if (candidate / "components.json").exists() and (candidate / "transformer").is_dir():
            return candidate
    return None
