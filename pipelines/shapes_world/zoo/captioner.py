"""zoo/captioner: a Qwen3-VL of a million parameters that says what it sees in the shapes world.

It is asked for one sentence, or for detail, and answers as the world's captions do, but for how fast things go.

Frames of a video come in pairs, as a Qwen-VL takes them: each patch holds its part of two frames, which shows where
things go. While it learns, a helper is asked what the words need, and is thrown away afterwards: it reads what the eye
makes of each cell, that is how much of it a thing covers, which one, where its middle is, seen from the cell and from
the middle of the frame, and how far it goes between the two frames.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipelines.core.model_hub import quiet
from pipelines.curation.caption import video_metadata
from pipelines.shapes_world.draw import coverage, render
from pipelines.shapes_world.scenes import COLOURS, SHAPES, Scene, long_caption, short_caption
from pipelines.shapes_world.zoo.chat import IMAGE, TURN, TURN_END, VIDEO, VISION, VISION_END, make_processor
from pipelines.shapes_world.zoo.scenes import draw_scene, generator, resized, worn
from pipelines.shapes_world.zoo.text_encoder import without_speed
from pipelines.shapes_world.zoo.training import Plan, fit
from pipelines.shapes_world.zoo.vocabulary import END, make_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

SEED = 15
SIDE = 64
FRAMES = 4
"""Of a video: two pairs."""
PATCH, MERGE = 8, 2
CELL = PATCH * MERGE
"""Pixels that a picture token stands for, each way."""
PIXELS = {"shortest_edge": SIDE * SIDE, "longest_edge": FRAMES * SIDE * 2 * SIDE}
"""Least and most pixels of a picture, or of all frames of a video."""
SHORT = "Describe this {kind} in one sentence."
LONG = "Describe this {kind} in detail."
PLAN = Plan(steps=6500, lr=1.5e-3, warmup=100, cool=0.6, weight_decay=0.05, ema=0.99)
BATCH = 16
VIDEO_TURNS = 3
"""Of four batches, those of videos; the fourth one is of pictures."""
HELP = 0.5
"""Weight of the helper's loss."""
REACH = {"place": 4.0, "way": 16.0}
"""What places and ways are multiplied by, in short sides of the frame, for the helper."""
OWNED = 0.3
"""Share of a cell that makes it a thing's."""


def make() -> tuple[Any, Any]:
    """An untrained model and its processor."""
    from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    tokenizer = make_tokenizer(specials=(TURN, TURN_END, VISION, VISION_END, IMAGE, VIDEO), padding_side="left")
    token = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True, "rope_theta": 10000.0,
            },
            "bos_token_id": token(END), "eos_token_id": token(TURN_END), "pad_token_id": token(END),
        },
        vision_config={
            "depth": 3, "hidden_size": 96, "intermediate_size": 192, "num_heads": 4, "out_hidden_size": 128,
            "patch_size": PATCH, "spatial_merge_size": MERGE, "num_position_embeddings": (SIDE // PATCH) ** 2,
            "deepstack_visual_indexes": [],
        },
        tie_word_embeddings=True,
        image_token_id=token(IMAGE), video_token_id=token(VIDEO), vision_start_token_id=token(VISION),
        vision_end_token_id=token(VISION_END),
    )  # fmt: skip
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=token(TURN_END), pad_token_id=tokenizer.pad_token_id
    )
    processor = make_processor(
        tokenizer, Qwen3VLProcessor, Qwen3VLVideoProcessor, patch_size=PATCH, merge_size=MERGE, size=PIXELS
    )
    processor.video_processor.cap_pixels_per_frame = False  # frames are as small as they come
    return model, processor


def frame_times(seconds: float) -> list[float]:
    """When a video is looked at, as the caption stage does it; a picture is one of no length."""
    return [(index + 0.5) * seconds / FRAMES for index in range(FRAMES)] if seconds else [0.0]


def train(state: Path, *, plan: Plan = PLAN, seed: int = SEED) -> Any:
    """A trained model; `state` is where the training is kept."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    model, processor = make()
    helper = nn.Linear(model.config.text_config.hidden_size, 1 + 6 + len(SHAPES) + len(COLOURS))
    both: Any = nn.ModuleDict({"model": model, "helper": helper})
    seen: list[Tensor] = []
    model.model.visual.register_forward_hook(lambda module, given, made: seen.append(made.pooler_output))

    def loss(batch: dict[str, Any], step: int) -> dict[str, Tensor]:
        words = model(**batch["inputs"]).loss
        helped = _help(helper(seen.pop()), batch["cells"])
        return {"loss": words + HELP * sum(helped.values()), "words": words, **helped}

    fit(both, plan, partial(_batch, seed, processor), loss, state)
    return model


def _help(read: Tensor, truth: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses of what the helper reads."""
    import torch.nn.functional as F

    owned = truth["covered"] >= OWNED
    covered, middle, place, way, shape, colour = read.split([1, 2, 2, 2, len(SHAPES), len(COLOURS)], dim=1)
    return {
        "covered": F.binary_cross_entropy_with_logits(covered[:, 0], truth["covered"]),
        "middle": F.smooth_l1_loss(middle[owned], truth["middle"][owned]),
        "place": F.smooth_l1_loss(place[owned], truth["place"][owned], beta=0.1),
        "way": F.smooth_l1_loss(way[owned], truth["way"][owned], beta=0.1),
        "shape": F.cross_entropy(shape[owned], truth["shape"][owned]),
        "colour": F.cross_entropy(colour[owned], truth["colour"][owned]),
    }


def _batch(seed: int, processor: Any, step: int) -> dict[str, Any]:
    """Chats with their answers, and the truth of every cell."""
    import torch

    rng, video = generator(seed, step), step % (VIDEO_TURNS + 1) < VIDEO_TURNS
    texts, clips, cells, metadata = [], [], [], []
    for _ in range(BATCH):
        seconds = float(rng.uniform(0.8, 2.5)) if video else 0.0
        scene = draw_scene(rng, side=SIDE, seconds=seconds, still=rng.random() < 0.15)
        times = frame_times(seconds)
        size = _size(scene)
        clips.append(worn(rng, resized(render(scene, times), size)))
        pairs = zip(times[::2], times[1::2] or times, strict=True)  # a picture is a pair by itself
        cells += [_cells(scene, pair, size) for pair in pairs]
        metadata.append(video_metadata(len(times), seconds))
        texts.append(_chat(scene, video, detailed=rng.random() < 0.5))
    shown: dict[str, Any] = {"images": [Image.fromarray(clip[0]) for clip in clips]}
    if video:
        shown = {"videos": clips, "video_metadata": metadata, "do_sample_frames": False}
    inputs = processor(text=texts, return_tensors="pt", padding=True, **shown)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    turn, opening = processor.tokenizer.convert_tokens_to_ids(TURN), _opening(processor)
    for row, tokens in enumerate(ids.tolist()):  # only answers are learnt
        labels[row, : len(tokens) - 1 - tokens[::-1].index(turn) + opening] = -100
    columns = {name: torch.from_numpy(np.concatenate([cell[name] for cell in cells])) for name in cells[0]}
    return {"inputs": {**inputs, "labels": labels}, "cells": columns}


def _opening(processor: Any) -> int:
    """Tokens of the line that begins an answer."""
    return len(processor.tokenizer(f"{TURN}assistant\n").input_ids)


def _chat(scene: Scene, video: bool, *, detailed: bool) -> str:
    """A question and its answer, as the chat template writes them."""
    kind = "video" if video else "image"
    question = (LONG if detailed else SHORT).format(kind=kind)
    told = long_caption(scene, video=video) if detailed else short_caption(scene)
    seen = f"{VISION}{VIDEO if video else IMAGE}{VISION_END}"
    return f"{TURN}user\n{seen}{question}{TURN_END}\n{TURN}assistant\n{without_speed(told)}{TURN_END}"


def _size(scene: Scene) -> tuple[int, int]:
    """Height and width that the processor brings a scene's frames to: whole cells, the short side SIDE."""
    scale = SIDE / scene.short_side / CELL
    return round(scene.height * scale) * CELL, round(scene.width * scale) * CELL


def _cells(scene: Scene, pair: tuple[float, float], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Of each cell of two frames, row by row: share covered half way between them, and of its thing the middle seen
    from the cell and from the middle of the frame, the way from one frame to the other, shape and colour."""
    rows, columns = size[0] // CELL, size[1] // CELL
    middles = (np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1) + 0.5) * CELL
    scale = (size[1] / scene.width, size[0] / scene.height)
    between, things = sum(pair) / 2, scene.things
    first, now, last = (
        np.array([each.centre(time, scene.short_side) for each in things]) * scale
        for time in (pair[0], between, pair[1])
    )
    shares = np.zeros((len(things), rows, columns))
    for number, thing in enumerate(things):
        radius = thing.radius(scene.short_side) * SIDE / scene.short_side
        x, y = map(float, now[number])
        covered = coverage(thing.shape, x, y, radius, thing.turn(between), size)
        shares[number] = covered.reshape(rows, CELL, columns, CELL).mean(axis=(1, 3))
    owner = shares.argmax(axis=0)
    values = {
        "middle": (now[owner] - middles) / CELL,
        "place": (now[owner] - (size[1] / 2, size[0] / 2)) / SIDE * REACH["place"],
        "way": (last - first)[owner] / SIDE * REACH["way"],
    }
    return {
        "covered": shares.max(axis=0).reshape(-1).astype(np.float32),
        **{name: each.reshape(-1, 2).astype(np.float32) for name, each in values.items()},
        "shape": np.array([SHAPES.index(things[each].shape) for each in owner.reshape(-1)]),
        "colour": np.array([list(COLOURS).index(things[each].colour) for each in owner.reshape(-1)]),
    }


def save(model: Any, folder: Path) -> None:
    """Writes model and processor as `AutoModelForImageTextToText` and `AutoProcessor` read them."""
    quiet()
    _, processor = make()
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
