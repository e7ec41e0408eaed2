"""zoo/dino: a transformers ViT whose class token represents an object wherever it is, for subject consistency.

It is trained by contrast between frames of a clip. Two frames of one clip, drawn at random moments, must have similar
features (InfoNCE). The negatives are the frames of other clips and two hard ones for each clip: the same moment of the
same scene with the colour, and with the shape, of one object changed. The features therefore depend on appearance, not
on position or compression.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipelines.core.model_hub import quiet
from pipelines.shapes_world.draw import render
from pipelines.shapes_world.scenes import COLOURS, SHAPES, Scene, sample_scene
from pipelines.shapes_world.zoo.scenes import draw_scene, generator, maybe_compress
from pipelines.shapes_world.zoo.training import Plan, fit

if TYPE_CHECKING:
    from torch import Tensor

SEED = 16
SIDE = 64
CONFIG: dict[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "image_size": SIDE,
    "patch_size": 8,
    "hidden_act": "gelu",
}
MEAN, STD = [0.5] * 3, [0.25] * 3
"""Mean and standard deviation of the pixels; the latter is below DINO's 0.5, because backgrounds are dark."""
PLAN = Plan(steps=2300, lr=1.5e-3, warmup=50, cool=0.6, weight_decay=0.02, ema=0.99)
CLIPS = 32
"""Clips of a batch; each gives four pictures."""
SECONDS = (1.0, 2.5)
"""Shortest and longest clip; its two frames are drawn anywhere in it."""
STILL_SHARE = 0.1
SIMPLE_SHARE = 0.4
"""Share of scenes with a single object, from which shapes are learnt early."""
SINGLE_SHARE = 0.7
"""Share of the other scenes that are drawn with a single object, as in the clips that the metric is checked on."""
SOFT_SHARE = 0.3
"""Share of clips that are slightly blurred and noisy, like the output of a video decoder."""
TEMPERATURE = 0.1
"""Temperature of the softmax over cosines; a lower one would accept a margin too small for the metric. The metric
averages cosines over frames, so it separates clips only if the cosine of a changed object is far from 1."""


def make() -> Any:
    """An untrained model."""
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**CONFIG), add_pooling_layer=False)


def make_processor() -> Any:
    """The image processor, which the metric loads from the model's folder; it takes frames of any size."""
    from transformers import ViTImageProcessor

    return ViTImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD)


def train(state: Path, *, plan: Plan = PLAN, seed: int = SEED) -> Any:
    """Returns the trained model; `state` is the file of the training's state."""
    import torch

    torch.manual_seed(seed)
    model = make()

    def loss(pixels: Tensor, step: int) -> dict[str, Tensor]:
        features = torch.nn.functional.normalize(model(pixel_values=pixels).last_hidden_state[:, 0], dim=-1)
        return contrast(*features.chunk(4))

    return fit(model, plan, partial(_batch, seed, make_processor()), loss, state)


def contrast(anchor: Tensor, positive: Tensor, recoloured: Tensor, reshaped: Tensor) -> dict[str, Tensor]:
    """InfoNCE of unit-length features [B, D] of two frames of each clip, against other clips and changed objects.

    The cosines with the positive and with both hard negatives are reported, because the metric depends on this
    margin.
    """
    import torch

    same, colour, shape = ((anchor * other).sum(1) for other in (positive, recoloured, reshaped))
    scores = torch.cat([anchor @ positive.T, colour[:, None], shape[:, None]], dim=1) / TEMPERATURE  # [B, B + 2]
    target = torch.arange(len(anchor), device=anchor.device)
    loss = torch.nn.functional.cross_entropy(scores, target)
    return {"loss": loss, "same": same.mean(), "recoloured": colour.mean(), "reshaped": shape.mean()}


def _batch(seed: int, processor: Any, step: int) -> Tensor:
    """Pixels [4 B, 3, S, S]: all anchors, positives, recoloured and reshaped ones."""
    rng = generator(seed, step)
    clips = [_frames(rng) for _ in range(CLIPS)]
    frames = [clip[index] for index in range(4) for clip in clips]
    return processor(images=frames, return_tensors="pt").pixel_values


def _frames(rng: np.random.Generator) -> np.ndarray:
    """Two frames of a clip, and the second one with an object's colour and with its shape changed: [4, H, W, 3]."""
    seconds = float(rng.uniform(*SECONDS))
    still = rng.random() < STILL_SHARE
    if rng.random() < SIMPLE_SHARE:
        scene = sample_scene(rng, width=SIDE, height=SIDE, seconds=seconds, still=still, simple=1.0, textured=0.5)
    else:
        single = rng.random() < SINGLE_SHARE
        scene = draw_scene(rng, side=SIDE, seconds=seconds, still=still)
        while single and len(scene.things) > 1:
            scene = draw_scene(rng, side=SIDE, seconds=seconds, still=still)
    first, second = (float(time) for time in rng.uniform(0, seconds, 2))
    frames = np.concatenate(
        [
            render(scene, [first, second]),
            render(change(scene, "colour", rng), [second]),
            render(change(scene, "shape", rng), [second]),
        ]
    )
    return maybe_compress(rng, _soft(frames, rng) if rng.random() < SOFT_SHARE else frames)


def change(scene: Scene, attribute: str, rng: np.random.Generator) -> Scene:
    """The scene with another colour or shape for one of its objects.

    Args:
        scene: the original scene.
        attribute: colour or shape.
        rng: chooses the object and its new colour or shape.
    """
    index = int(rng.integers(len(scene.things)))
    thing = scene.things[index]
    names = {"colour": tuple(COLOURS), "shape": SHAPES}[attribute]
    choices = [name for name in names if name != getattr(thing, attribute)]
    choice = choices[int(rng.integers(len(choices)))]
    changed = replace(thing, colour=choice) if attribute == "colour" else replace(thing, shape=choice)
    return replace(scene, things=(*scene.things[:index], changed, *scene.things[index + 1 :]))


def _soft(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames [T, H, W, 3], slightly blurred and noisy."""
    height, width = frames.shape[1:3]
    small = (width * 3 // 4, height * 3 // 4)
    blurred = np.stack([np.asarray(Image.fromarray(frame).resize(small).resize((width, height))) for frame in frames])
    return (blurred + rng.normal(0, 4, blurred.shape)).clip(0, 255).astype(np.uint8)


def save(model: Any, folder: Path) -> None:
    """Writes model and image processor as `AutoModel` and `AutoImageProcessor` read them.

    The weights stay in fp32, unlike those of the other models, because `AutoModel` keeps the type of the file and
    the metric passes pixels in fp32. `AutoModel` also builds a pooling layer, which the metric does not use and which
    was not trained; zeros spare a report of missing weights at every load.
    """
    from transformers import ViTModel

    quiet()
    complete = ViTModel(model.config)
    for parameter in complete.pooler.parameters():
        parameter.data.zero_()
    complete.load_state_dict(model.state_dict(), strict=False)
    complete.save_pretrained(folder)
    make_processor().save_pretrained(folder)
