"""zoo/raft: torchvision's raft_small, trained on moving shapes with the true flow of every pixel.

The frames of a pair are at most half a second apart, and some are blurred and noisy, as after a lossy video encoder.
Pixels of shapes have a larger weight in the loss than the background, which covers nine tenths of a frame.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipelines.shapes_world.draw import render, true_flow
from pipelines.shapes_world.scenes import sample_scene
from pipelines.shapes_world.zoo.scenes import generator
from pipelines.shapes_world.zoo.training import Plan, fit

if TYPE_CHECKING:
    from torch import Tensor

SEED = 14
SIDE = 64
ENLARGED = 128
"""RAFT takes no smaller frames; the motion stage enlarges small frames in the same way."""
MAX_SECONDS = 0.5
"""Longest time between the frames of a pair; the fastest things move 10 pixels in that time."""
UPDATES = 6
DISCOUNT = 0.8
"""Weight of the flow after an update, relative to the flow after the next one, as in RAFT's paper."""
PLAN = Plan(steps=5000, lr=6e-4, warmup=50, cool=0.7, weight_decay=1e-4, ema=0.99)
BATCH = 8


def train(state: Path, *, plan: Plan = PLAN, seed: int = SEED) -> Any:
    """Returns the trained network; `state` is the file of the training's state."""
    import torch
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(seed)
    network = raft_small()

    def loss(batch: tuple[Tensor, Tensor, Tensor, Tensor], step: int) -> dict[str, Tensor]:
        first, second, flow, weight = batch
        guesses = network(first, second, num_flow_updates=UPDATES)
        errors = [((guess - flow).abs().sum(1) * weight).mean() for guess in guesses]
        total = sum(DISCOUNT ** (UPDATES - 1 - index) * error for index, error in enumerate(errors))
        missed = (guesses[-1].detach() - flow).norm(dim=1)
        moving = weight > 1
        epe = missed[moving].mean() / (ENLARGED / SIDE) if moving.any() else missed.new_zeros(())
        return {"loss": total, "epe": epe}

    return fit(network, plan, partial(_batch, seed), loss, state)


def _batch(seed: int, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two frames [B, 3, S, S] in [-1, 1], the flow from one to the other [B, 2, S, S] and the weight of each pixel."""
    import torch
    import torch.nn.functional as F

    rng = generator(seed, step)
    pairs = [draw_pair(rng, float(rng.uniform(1 / 24, MAX_SECONDS))) for _ in range(BATCH)]
    firsts, seconds, flows, owners = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*pairs, strict=True))
    pixels = [_enlarged(frames.permute(0, 3, 1, 2).float() / 127.5 - 1) for frames in (firsts, seconds)]
    flow = F.interpolate(flows.permute(0, 3, 1, 2), size=ENLARGED, mode="nearest") * (ENLARGED / SIDE)
    # Things cover a tenth of a frame: without a larger weight, still backgrounds would dominate the loss.
    weight = 1 + 4 * F.interpolate((owners > 0).float()[:, None], size=ENLARGED, mode="nearest")[:, 0]
    return pixels[0], pixels[1], flow, weight


def draw_pair(rng: np.random.Generator, apart: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two frames of a scene some seconds apart, the true flow, and the thing that each pixel of the first belongs to.

    Returns:
        Both frames [S, S, 3] uint8, the flow [S, S, 2] in pixels right and down, and numbers of things [S, S], counted
        from 1, with 0 for the background.
    """
    scene = sample_scene(rng, width=SIDE, height=SIDE, seconds=1.5, still=rng.random() < 0.1)
    start = float(rng.uniform(0, 1.5 - apart))
    frames = render(scene, [start, start + apart])
    flow, owner = true_flow(scene, start, start + apart)
    if rng.random() < 0.3:
        frames = _blur_and_add_noise(frames, rng)
    return frames[0], frames[1], flow, owner


def _blur_and_add_noise(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames with slight blur and noise, as after a lossy video encoder."""
    small = SIDE * 3 // 4
    soft = np.stack(
        [np.asarray(Image.fromarray(frame).resize((small, small)).resize((SIDE, SIDE))) for frame in frames]
    )
    return (soft + rng.normal(0, 4, soft.shape)).clip(0, 255).astype(np.uint8)


def _enlarged(pixels: Tensor) -> Tensor:
    import torch.nn.functional as F

    return F.interpolate(pixels, size=ENLARGED, mode="bilinear")


def save(network: Any, folder: Path) -> None:
    """Writes the state dict as safetensors."""
    from safetensors.torch import save_file

    state = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "raft.safetensors")
