"""zoo/captioner: a Qwen3-VL of a million parameters that captions the shapes world.

A question asks for one sentence or for detail. The answers are the world's short and long captions without adverbs of
speed.

Qwen-VL models take frames of a video in pairs: each patch covers the same place in two frames, which shows motion.
During training, an auxiliary linear head predicts what the words depend on from the vision features of each cell: the
share that a thing covers, its shape and colour, the position of its centre relative to the cell and to the frame, and
its displacement between the two frames. The head is discarded afterwards.
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
from pipelines.shapes_world.zoo.scenes import draw_scene, generator, maybe_compress, resized
from pipelines.shapes_world.zoo.text_encoder import without_speed
from pipelines.shapes_world.zoo.training import Plan, fit
from pipelines.shapes_world.zoo.vocabulary import END, make_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

SEED = 15
SIDE = 64
FRAMES = 4
"""Frames of a video: two pairs."""
PATCH, MERGE = 8, 2
CELL = PATCH * MERGE
"""Side of the square of pixels that a vision token stands for."""
PIXELS = {"shortest_edge": SIDE * SIDE, "longest_edge": FRAMES * SIDE * 2 * SIDE}
"""Smallest and largest number of pixels of a picture, or of all frames of a video."""
SHORT = "Describe this {kind} in one sentence."
LONG = "Describe this {kind} in detail."
PLAN = Plan(steps=6500, lr=1.5e-3, warmup=100, cool=0.6, weight_decay=0.05, ema=0.99)
BATCH = 16
VIDEO_TURNS = 3
"""Batches of videos before each batch of pictures."""
AUXILIARY_WEIGHT = 0.5
"""Weight of the auxiliary head's loss."""
SCALES = {"place": 4.0, "way": 16.0}
"""Factors of positions and displacements, in short sides of the frame, as targets of the auxiliary head: of order 1."""
MIN_COVERED = 0.3
"""Smallest share of a cell that a thing covers for the cell to have targets of the thing."""


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
    processor.video_processor.cap_pixels_per_frame = False  # which would enlarge small frames
    return model, processor


def frame_times(seconds: float) -> list[float]:
    """Times of the frames of a video, as in the caption stage; a picture has a length of 0."""
    return [(index + 0.5) * seconds / FRAMES for index in range(FRAMES)] if seconds else [0.0]


def train(state: Path, *, plan: Plan = PLAN, seed: int = SEED) -> Any:
    """Returns the trained model; `state` is the file of the training's state."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    model, processor = make()
    helper = nn.Linear(model.config.text_config.hidden_size, 1 + 6 + len(SHAPES) + len(COLOURS))
    trained: Any = nn.ModuleDict({"model": model, "helper": helper})
    vision_features: list[Tensor] = []
    model.model.visual.register_forward_hook(
        lambda module, inputs, output: vision_features.append(output.pooler_output)
    )

    def loss(batch: dict[str, Any], step: int) -> dict[str, Tensor]:
        words = model(**batch["inputs"]).loss
        auxiliary = _auxiliary_losses(helper(vision_features.pop()), batch["cells"])
        return {"loss": words + AUXILIARY_WEIGHT * sum(auxiliary.values()), "words": words, **auxiliary}

    fit(trained, plan, partial(_batch, seed, processor), loss, state)
    return model


def _auxiliary_losses(prediction: Tensor, truth: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses of the auxiliary head's predictions [N, 9 + shapes + colours] for N cells."""
    import torch.nn.functional as F

    on = truth["covered"] >= MIN_COVERED
    covered, middle, place, way, shape, colour = prediction.split([1, 2, 2, 2, len(SHAPES), len(COLOURS)], dim=1)
    return {
        "covered": F.binary_cross_entropy_with_logits(covered[:, 0], truth["covered"]),
        "middle": F.smooth_l1_loss(middle[on], truth["middle"][on]),
        "place": F.smooth_l1_loss(place[on], truth["place"][on], beta=0.1),
        "way": F.smooth_l1_loss(way[on], truth["way"][on], beta=0.1),
        "shape": F.cross_entropy(shape[on], truth["shape"][on]),
        "colour": F.cross_entropy(colour[on], truth["colour"][on]),
    }


def _batch(seed: int, processor: Any, step: int) -> dict[str, Any]:
    """Chats with their answers, and the targets of the auxiliary head for every cell."""
    import torch

    rng, video = generator(seed, step), step % (VIDEO_TURNS + 1) < VIDEO_TURNS
    texts, clips, cells, metadata = [], [], [], []
    for _ in range(BATCH):
        seconds = float(rng.uniform(0.8, 2.5)) if video else 0.0
        scene = draw_scene(rng, side=SIDE, seconds=seconds, still=rng.random() < 0.15)
        times = frame_times(seconds)
        size = _size(scene)
        clips.append(maybe_compress(rng, resized(render(scene, times), size)))
        pairs = zip(times[::2], times[1::2] or times, strict=True)  # a picture is paired with itself
        cells += [_cells(scene, pair, size) for pair in pairs]
        metadata.append(video_metadata(len(times), seconds))
        texts.append(_chat(scene, video, detailed=rng.random() < 0.5))
    media: dict[str, Any] = {"images": [Image.fromarray(clip[0]) for clip in clips]}
    if video:
        media = {"videos": clips, "video_metadata": metadata, "do_sample_frames": False}
    inputs = processor(text=texts, return_tensors="pt", padding=True, **media)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    turn, opening = processor.tokenizer.convert_tokens_to_ids(TURN), _opening(processor)
    for row, tokens in enumerate(ids.tolist()):  # only the answers have labels
        labels[row, : len(tokens) - 1 - tokens[::-1].index(turn) + opening] = -100
    columns = {name: torch.from_numpy(np.concatenate([cell[name] for cell in cells])) for name in cells[0]}
    return {"inputs": {**inputs, "labels": labels}, "cells": columns}


def _opening(processor: Any) -> int:
    """Number of tokens of the line that begins an answer."""
    return len(processor.tokenizer(f"{TURN}assistant\n").input_ids)


def _chat(scene: Scene, video: bool, *, detailed: bool) -> str:
    """A question and its answer in the format of the chat template."""
    kind = "video" if video else "image"
    question = (LONG if detailed else SHORT).format(kind=kind)
    caption = long_caption(scene, video=video) if detailed else short_caption(scene)
    placeholder = f"{VISION}{VIDEO if video else IMAGE}{VISION_END}"
    return f"{TURN}user\n{placeholder}{question}{TURN_END}\n{TURN}assistant\n{without_speed(caption)}{TURN_END}"


def _size(scene: Scene) -> tuple[int, int]:
    """Height and width of a scene's frames after the processor: multiples of CELL, with a short side of SIDE."""
    scale = SIDE / scene.short_side / CELL
    return round(scene.height * scale) * CELL, round(scene.width * scale) * CELL


def _cells(scene: Scene, pair: tuple[float, float], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Targets of the auxiliary head for the cells of a pair of frames, row by row.

    They are the share that a thing covers half way between the frames, the position of its centre relative to the
    centres of the cell and of the frame, its displacement from one frame to the other, its shape and its colour.
    """
    rows, columns = size[0] // CELL, size[1] // CELL
    middles = (np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1) + 0.5) * CELL
    scale = (size[1] / scene.width, size[0] / scene.height)
    between, things = sum(pair) / 2, scene.things
    first, now, last = (
        np.array([thing.centre(time, scene.short_side) for thing in things]) * scale
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
        "place": (now[owner] - (size[1] / 2, size[0] / 2)) / SIDE * SCALES["place"],
        "way": (last - first)[owner] / SIDE * SCALES["way"],
    }
    return {
        "covered": shares.max(axis=0).reshape(-1).astype(np.float32),
        **{name: value.reshape(-1, 2).astype(np.float32) for name, value in values.items()},
        "shape": np.array([SHAPES.index(things[number].shape) for number in owner.reshape(-1)]),
        "colour": np.array([list(COLOURS).index(things[number].colour) for number in owner.reshape(-1)]),
    }


def save(model: Any, folder: Path) -> None:
    """Writes model and processor as `AutoModelForImageTextToText` and `AutoProcessor` read them."""
    quiet()
    _, processor = make()
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
