"""Growth of activations through the blocks of both encoders, which the position of the norms decides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from nova_model.model import Nova

Variances = dict[str, list[float]]
"""The variance after each block, by encoder (`temporal`, `spatial`)."""


@torch.no_grad()
def variance_by_depth(model: Nova, forward: Callable[[], Any]) -> Variances:
    """Variance of each block's output over batch, tokens and width; the mean over all passes through the block.

    Args:
        model: the model whose blocks are watched.
        forward: runs the model, once or more.

    Returns:
        For each encoder a number per block, the first block first.
    """
    encoders = {"temporal": model.video_encoder.blocks, "spatial": model.image_encoder.blocks}
    variances: dict[str, list[list[float]]] = {name: [[] for _ in blocks] for name, blocks in encoders.items()}

    def record(samples: list[float], block: nn.Module, inputs: Any, output: Any) -> None:
        x, _ = output
        samples.append(x.float().var(correction=0).item())

    handles = [
        block.register_forward_hook(partial(record, samples))
        for name, blocks in encoders.items()
        for block, samples in zip(blocks, variances[name], strict=True)
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: [sum(samples) / len(samples) for samples in rows] for name, rows in variances.items()}
