"""Small untrained models of the real classes, built from fixed seeds, so that everything runs with no network.

There is one module per model; its `build(folder)` writes the files that the class's own loader reads. A model is built
when it is first needed, within seconds, and stored in the project's cache.

    fake/clip           open_clip with its JSON configuration     clip.py
    fake/aesthetic      linear head for fake/clip                 clip.py
    fake/raft           torchvision raft_small                    raft.py
    fake/captioner      transformers Qwen2.5-VL                   captioner.py
    fake/vae            diffusers AutoencoderKL                   vae.py
    fake/video_vae      nova_model's causal video VAE             vae.py
    fake/text_encoder   transformers Phi                          text_encoder.py
    fake/dino           transformers ViT                          dino.py
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from pathlib import Path

from filelock import FileLock

from pipelines.core.model_hub import ModelSource, cache_folder, register
from pipelines.store.files import replacing_folder

VERSION = 2
"""Version in the path of the cache; raise it when `weights.py` or the zoo's vocabulary changes the models."""

BUILDERS: dict[str, tuple[str, str]] = {
    "clip": ("tests.fakes.clip", "build"),
    "aesthetic": ("tests.fakes.clip", "build_aesthetic"),
    "raft": ("tests.fakes.raft", "build"),
    "captioner": ("tests.fakes.captioner", "build"),
    "vae": ("tests.fakes.vae", "build"),
    "video_vae": ("tests.fakes.vae", "build_video"),
    "text_encoder": ("tests.fakes.text_encoder", "build"),
    "dino": ("tests.fakes.dino", "build"),
}
"""Name -> module and function `build(folder: Path) -> None`; the folder exists and is empty."""


def path(name: str) -> Path:
    """Returns the folder of a fake model, which is built if the cache does not contain this version of it.

    Raises:
        ValueError: there is no such model, or the cache cannot be written.
    """
    if name not in BUILDERS:
        raise ValueError(f"model 'fake/{name}': there are {', '.join(BUILDERS)}")
    module, function = BUILDERS[name]
    target = cache_folder() / "fake" / str(VERSION) / f"{name}-{_recipe(module)}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                with replacing_folder(target) as folder:
                    getattr(importlib.import_module(module), function)(folder)
    except OSError as error:
        raise ValueError(
            f"cannot write {target.parent} ({error.strerror}); set NOVA_CACHE to another folder"
        ) from error
    return target


def _recipe(module: str) -> str:
    """Identifies the source of the module that builds a model: a changed module builds a new one."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:8]


def register_fakes() -> None:
    """Registers the model names fake/NAME in this process."""
    register(ModelSource(prefix="fake/", find=path))
