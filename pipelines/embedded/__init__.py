"""Small untrained models of the real classes, built from fixed seeds, so that everything runs with no network.

One module a model; its `build(folder)` writes what the class's own loader reads. They are built when first needed,
in seconds, and kept in the project's cache.

    embedded/clip           open_clip, its own JSON configuration     clip.py
    embedded/aesthetic      linear head for embedded/clip             clip.py
    embedded/raft           torchvision raft_small                    raft.py
    embedded/captioner      transformers Qwen2.5-VL                   captioner.py
    embedded/vae            diffusers AutoencoderKL                   vae.py
    embedded/video_vae      nova_model's causal video VAE             vae.py
    embedded/text_encoder   transformers Phi                          text_encoder.py
    embedded/dino           transformers ViT                          dino.py
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import shutil
from pathlib import Path

from filelock import FileLock

from pipelines.models import cache_folder

VERSION = 2
"""Part of the cache's name; raise it when `weights.py` or `vocabulary.py` changes what is built."""

BUILDERS: dict[str, tuple[str, str]] = {
    "clip": ("pipelines.embedded.clip", "build"),
    "aesthetic": ("pipelines.embedded.clip", "build_aesthetic"),
    "raft": ("pipelines.embedded.raft", "build"),
    "captioner": ("pipelines.embedded.captioner", "build"),
    "vae": ("pipelines.embedded.vae", "build"),
    "video_vae": ("pipelines.embedded.vae", "build_video"),
    "text_encoder": ("pipelines.embedded.text_encoder", "build"),
    "dino": ("pipelines.embedded.dino", "build"),
}
"""Name -> module and function `build(folder: Path) -> None`; the folder exists and is empty."""


def path(name: str) -> Path:
    """The folder of an embedded model; it is built where this version of it is not in the cache yet.

    Raises:
        ValueError: there is no such model, or the cache cannot be written.
    """
    if name not in BUILDERS:
        raise ValueError(f"model 'embedded/{name}': embedded are {', '.join(BUILDERS)}")
    module, function = BUILDERS[name]
    target = cache_folder() / "embedded" / str(VERSION) / f"{name}-{_recipe(module)}"
    if target.is_dir():
        return target
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
                partial.mkdir()
                getattr(importlib.import_module(module), function)(partial)
                partial.rename(target)
    except OSError as error:
        raise ValueError(
            f"cannot write {target.parent} ({error.strerror}); set NOVA_CACHE to another folder"
        ) from error
    return target


def _recipe(module: str) -> str:
    """Changes when the module that builds the model does."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:8]
