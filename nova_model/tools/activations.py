"""How large activations grow on their way through both encoders, which is what the place of the norms decides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from nova_model.model import Nova

Variances = dict[str, list[float]]


@torch.no_grad()
def variance_by_depth(model: Nova, forward: Callable[[], Any]) -> Variances:
    """Variance of what leaves each block, over batch, tokens and width; the mean of all times that a block runs.

    Args:
        model: whose blocks are watched.
        forward: runs it, once or more.

    Returns:
        Of the encoders `temporal` and `spatial`, a number a block, the first block first.
    """
    blocks = {"temporal": model.video_encoder.blocks, "spatial": model.image_encoder.blocks}
    seen: dict[str, list[list[float]]] = {name: [[] for _ in listed] for name, listed in blocks.items()}

    def watch(into: list[float], block: nn.Module, given: Any, output: Any) -> None:
        x, _ = output
        into.append(x.float().var(correction=0).item())

    handles = [
        block.register_forward_hook(partial(watch, into))
        for name, listed in blocks.items()
        for block, into in zip(listed, seen[name], strict=True)
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: [sum(each) / len(each) for each in listed] for name, listed in seen.items()}
