"""fake/dino: an untrained transformers ViT in the form of DINO, with its image processor.

The bias of its last norm centres the features over synthetic images; otherwise all would point in one direction.
"""

from __future__ import annotations

from pathlib import Path

from tests.fakes.clip import synthetic_pictures
from tests.fakes.weights import fill

SEED = 6
SIZE = 64


def build(folder: Path) -> None:
    """Writes the files that `AutoModel` and `AutoImageProcessor` load."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(
        hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192, image_size=SIZE, patch_size=8
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    fill(model, SEED)
    pixels = torch.from_numpy(synthetic_pictures()).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        mean = model(pixel_values=pixels).last_hidden_state[:, 0].mean(dim=0)
        model.layernorm.bias.sub_(mean)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        folder
    )
