"""fake/clip: an untrained open_clip ViT, and fake/aesthetic: a linear LAION head for it.

Features of an untrained network are almost collinear, which would make every image a near duplicate of every other. The
visual projection is therefore computed, not random: on seeded synthetic images, the bias of the last layer norm centres
the features before the projection, and the projection whitens them. Similar images then have similar features and
others do not, although the features have no meaning.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.fakes.weights import fill

if TYPE_CHECKING:
    from torch import Tensor

SEED = 5
WIDTH = 64
SIZE = 64
CALIBRATION = 512
SCORE_MEAN, SCORE_STD = 5.5, 1.2
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 128, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


def build(folder: Path) -> None:
    """Writes open_clip_config.json and open_clip_model.safetensors."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    model = open_clip.CLIP(**CONFIG["model_cfg"])
    fill(model, SEED)
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(1 / 0.07)))
        _whiten(model.visual)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1))
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def build_aesthetic(folder: Path) -> None:
    """Writes a linear head whose scores spread like a LAION head's over synthetic pictures."""
    import torch
    from safetensors.torch import save_file

    from pipelines.curation.aesthetic import ClipModel

    features = ClipModel.load("fake/clip").image_features(list(synthetic_pictures()))
    direction = torch.from_numpy(np.random.default_rng(SEED).standard_normal(WIDTH)).float()
    raw = features @ direction
    weight = direction * (SCORE_STD / raw.std())
    bias = SCORE_MEAN - (features @ weight).mean()
    save_file({"weight": weight[None].contiguous(), "bias": bias[None]}, folder / "head.safetensors")


def synthetic_pictures() -> np.ndarray:
    """Seeded smooth colour fields with edges, uint8 [N, 64, 64, 3]."""
    rng = np.random.default_rng(SEED)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    pictures = []
    for _ in range(CALIBRATION):
        picture = np.broadcast_to(rng.uniform(0, 255, 3), (SIZE, SIZE, 3)).copy()
        for _ in range(int(rng.integers(1, 7))):
            angle, place = rng.uniform(0, 2 * np.pi), rng.uniform(0, 1)
            wave = np.sin(
                2 * np.pi * rng.uniform(0.3, 8) * (rows * np.sin(angle) + columns * np.cos(angle)) + place * 6
            )
            if rng.uniform() < 0.5:
                wave = np.sign(wave)
            centre, radius = rng.uniform(0, 1, 2), rng.uniform(0.1, 1)
            inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
            picture[inside] += (wave[..., None] * rng.uniform(-90, 90, 3))[inside]
        pictures.append(picture.clip(0, 255))
    return np.stack(pictures).astype(np.uint8)


def _whiten(visual: Any) -> None:
    """Sets the bias of the last norm and the projection [width, D] so that synthetic features are white."""
    import torch

    pixels = torch.from_numpy(synthetic_pictures()).permute(0, 3, 1, 2) / 255
    projection = visual.proj
    visual.proj = None
    before: Tensor = visual((pixels - 0.5) / 0.25)
    mean = before.mean(dim=0)
    covariance = (before - mean).T @ (before - mean) / len(before)
    values, vectors = torch.linalg.eigh(covariance.double())
    # Strong directions are what pictures differ in; the root of their size keeps weak ones from being noise.
    strongest = vectors[:, -WIDTH:] * values[-WIDTH:].clamp(min=1e-6).pow(-0.25)
    visual.proj = projection
    visual.proj.copy_(strongest.float())
    visual.ln_post.bias.sub_(mean)
