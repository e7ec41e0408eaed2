"""The zoo: small trained models of real classes that know the shapes world, with their weights.

    zoo/vae             the causal video VAE of nova_model      vae.py
    zoo/clip            open_clip                               clip.py
    zoo/aesthetic       a linear head for zoo/clip              clip.py
    zoo/raft            torchvision raft_small                  raft.py
    zoo/captioner       transformers Qwen3-VL                   captioner.py
    zoo/text_encoder    transformers Phi                        text_encoder.py
    zoo/dino            transformers ViT                        dino.py
    zoo/nova            NOVA                                    nova train --recipe shapes

`models/NAME` holds the weights, in files for the loader of the model's own library, and a card (README.md). `build.py`
trains any of them but NOVA from scratch; `check.py` scores them on scenes that were not trained on.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.core import model_hub

NAMES = ("vae", "clip", "aesthetic", "raft", "captioner", "text_encoder", "dino")
"""Models that `nova zoo build` trains."""
NOVA = "nova"
"""The checkpoint of `nova train` on top of the others."""
BUNDLED = Path(__file__).parent / "models"
"""Folder of the models that are bundled with the project."""


def path(name: str) -> Path:
    """The folder of a bundled model.

    Raises:
        ValueError: the zoo has no such model, or it is not bundled.
    """
    if name not in (*NAMES, NOVA):
        raise ValueError(f"model 'zoo/{name}': the zoo has {', '.join((*NAMES, NOVA))}")
    if not (BUNDLED / name).is_dir():
        raise ValueError(f"model 'zoo/{name}' is not bundled; train it with nova zoo build {name}, and name its folder")
    return BUNDLED / name


NOTE = "small models that know drawn shapes and nothing else; choose a recipe with real models for real data."
"""Shown with results that these models took part in."""


def register() -> None:
    """Makes `zoo/NAME` a name of a model in this process, wherever models are named."""
    model_hub.register(model_hub.ModelSource(prefix="zoo/", find=path, note=NOTE))
