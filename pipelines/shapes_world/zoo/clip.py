"""zoo/clip: an open_clip model of pictures of the shapes world and their captions; zoo/aesthetic: a head for it.

The model learns three things. A picture is close to its caption and far from other captions. A picture is close to a
copy that is slightly brighter, smaller or cropped, and far from pictures of the same things in other places, which
distinguishes near duplicates from pictures with the same caption. And captions of spoilt pictures say so, which
separates ugly from clean pictures in feature space; the head is a linear function of the features.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipelines.shapes_world.corpus import UGLY, alike, spoil
from pipelines.shapes_world.scenes import long_caption, short_caption
from pipelines.shapes_world.zoo.scenes import draw_shot, generator
from pipelines.shapes_world.zoo.training import Plan, fit
from pipelines.shapes_world.zoo.vocabulary import make_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

SEED = 12
SIDE = 64
CONTEXT = 32
WIDTH = 128
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
PLAN = Plan(steps=360, lr=1e-3, warmup=60, cool=0.6, weight_decay=0.05, ema=0.99)
BATCH = 160
COPIES = 48
"""Pictures of a batch that get a near duplicate."""
UGLY_SHARE = 0.2
SHORT_SHARE = 0.25
SPOILT = {"blur": "blurry", "noise": "noisy", "low_contrast": "pale", "overlay": "covered by a watermark"}
"""Words that captions of spoilt pictures end with."""
HEAD_PICTURES = 3000
CLEAN_SCORE, UGLY_SCORE = 6.5, 3.5
"""Scores that the head is fitted to, on LAION's scale of 1 to 10."""


def config(vocabulary: int) -> dict[str, Any]:
    """The content of open_clip_config.json."""
    return {
        "model_cfg": {
            "embed_dim": WIDTH,
            "vision_cfg": {"image_size": SIDE, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
            "text_cfg": {
                "context_length": CONTEXT, "vocab_size": vocabulary, "width": 128, "heads": 4, "layers": 2,
                "hf_tokenizer_name": "here",
            },
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD},
    }  # fmt: skip


def train(state: Path, *, plan: Plan = PLAN, seed: int = SEED) -> Any:
    """Returns the trained model; `state` is the file of the training's state."""
    import open_clip
    import torch

    torch.manual_seed(seed)
    tokenizer = make_tokenizer(lowercase=True, model_max_length=CONTEXT)
    model = open_clip.CLIP(**config(len(tokenizer))["model_cfg"])

    def loss(batch: dict[str, Any], step: int) -> dict[str, Tensor]:
        pictures = model.encode_image(batch["pixels"], normalize=True)
        texts = model.encode_text(batch["tokens"], normalize=True)
        scale = model.logit_scale.exp().clamp(max=100)
        scores = scale * pictures[:BATCH] @ texts.T
        order = torch.arange(BATCH, device=scores.device)
        copies = scale * pictures[BATCH:] @ pictures[:BATCH].T
        language = (_cross_entropy(scores, batch["same"]) + _cross_entropy(scores.T, batch["same"])) / 2
        likeness = torch.nn.functional.cross_entropy(copies, order[:COPIES])
        first = (scores.detach().argmax(1) == order).float().mean()
        return {"loss": language + likeness, "language": language, "likeness": likeness, "first": first}

    return fit(model, plan, partial(_batch, seed, tokenizer), loss, state)


def _cross_entropy(scores: Tensor, same: Tensor) -> Tensor:
    """Cross entropy with equal weights on all captions of the same text."""
    target = same / same.sum(1, keepdim=True)
    return -(target * scores.log_softmax(1)).sum(1).mean()


def _batch(seed: int, tokenizer: Any, step: int) -> dict[str, Any]:
    import torch

    rng = generator(seed, step)
    pictures, captions, copies = [], [], []
    for index in range(BATCH):
        shot = draw_shot(rng, frames=1, side=SIDE)
        frames, note = shot.frames, ""
        if rng.random() < UGLY_SHARE:
            how = UGLY[int(rng.integers(len(UGLY)))]
            frames, note = spoil(frames, how, rng), f", {SPOILT[how]}"
        short = rng.random() < SHORT_SHARE
        caption = short_caption(shot.scene) if short else long_caption(shot.scene, video=False).rstrip(".")
        captions.append(caption + note)
        pictures.append(frames[0])
        if index < COPIES:
            copies.append(_copy(frames, rng))
    tokens = tokenizer(captions, return_tensors="pt", padding="max_length", max_length=CONTEXT, truncation=True)
    names = np.array(captions)
    return {
        "pixels": normalised(pictures + copies),
        "tokens": tokens.input_ids,
        "same": torch.from_numpy((names[:, None] == names[None]).astype(np.float32)),
    }


def _copy(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A near duplicate at the model's size: brighter and smaller, or of another brightness and slightly cropped."""
    changed = alike(frames)[0] if rng.random() < 0.7 else _cut(frames[0], rng)
    resized = Image.fromarray(changed).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def _cut(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    top, left, bottom, right = (int(margin) for margin in rng.integers(0, 3, 4))
    height, width, _ = frame.shape
    shifted = frame[top : height - bottom, left : width - right].astype(np.int16) + int(rng.integers(-8, 9))
    return shifted.clip(0, 255).astype(np.uint8)


def normalised(pictures: list[np.ndarray]) -> Tensor:
    """Pictures [S, S, 3] uint8 -> inputs of the model [B, 3, S, S]."""
    import torch

    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return (pixels - 0.5) / 0.25


def save(model: Any, folder: Path) -> None:
    """Writes open_clip_config.json, open_clip_model.safetensors and the tokenizer."""
    from safetensors.torch import save_file

    tokenizer = make_tokenizer(lowercase=True, model_max_length=CONTEXT)
    tokenizer.save_pretrained(folder)
    (folder / "open_clip_config.json").write_text(json.dumps(config(len(tokenizer)), indent=1) + "\n")
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def save_head(model: Any, folder: Path, seed: int = SEED) -> None:
    """Fits the head to clean and spoilt pictures by least squares, and writes it in the format of LAION's heads."""
    import torch
    from safetensors.torch import save_file

    rng = generator(seed, 0, 1)
    pictures, scores = [], []
    for index in range(HEAD_PICTURES):
        frames = draw_shot(rng, frames=1, side=SIDE).frames
        ugly = index % 2 == 1
        pictures.append(spoil(frames, UGLY[index // 2 % len(UGLY)], rng)[0] if ugly else frames[0])
        scores.append(UGLY_SCORE if ugly else CLEAN_SCORE)
    with torch.inference_mode():
        batches = [
            model.encode_image(normalised(pictures[i : i + 100]), normalize=True) for i in range(0, len(pictures), 100)
        ]
    features = torch.cat(batches).double()
    inputs = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
    ridge = 1e-3 * torch.eye(inputs.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ torch.tensor(scores, dtype=torch.float64))
    save_file(
        {"weight": solved[None, :-1].float().contiguous(), "bias": solved[-1:].float().contiguous()},
        folder / "head.safetensors",
    )
