"""The zoo: small trained models of the real classes, for the shapes world; the project carries them.

    zoo/vae             nova_model's causal video VAE               vae.py
    zoo/clip            open_clip                                   clip.py
    zoo/aesthetic       a linear head for zoo/clip                  clip.py
    zoo/raft            torchvision raft_small                      raft.py
    zoo/captioner       transformers Qwen3-VL                       captioner.py
    zoo/text_encoder    transformers Phi                            text_encoder.py
    zoo/nova            NOVA                                        nova train --recipe shapes

`models/NAME` is what the project carries: what the class's own loader reads, and a card (README.md). `build.py` trains
each but NOVA again from nothing, `check.py` scores them on scenes that none of them has seen.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.core import model_hub

NAMES = ("vae", "clip", "aesthetic", "raft", "captioner", "text_encoder")
"""What `nova zoo build` makes."""
NOVA = "nova"
"""What the pipeline itself makes of the others: a checkpoint of `nova train`."""
CARRIED = Path(__file__).parent / "models"


def path(name: str) -> Path:
    """The folder of a carried model.

    Raises:
        ValueError: there is no such model, or none is carried yet.
    """
    if name not in (*NAMES, "dino", NOVA):
        raise ValueError(f"model 'zoo/{name}': the zoo has {', '.join((*NAMES, NOVA))}")
    if not (CARRIED / name).is_dir():
        raise ValueError(
            f"model 'zoo/{name}' is not carried yet; train it with nova zoo build {name}, and name its folder"
        )
    return CARRIED / name


model_hub.register(
    model_hub.ModelSource(
        prefix="zoo/",
        find=path,
        note="small models that know drawn shapes and nothing else; choose a recipe with real models for real data.",
    )
)
