"""Memory of a training step, counted on tensors that have shapes and no values (torch's fake tensors).

The step itself is run, so that the number follows the code; nothing is allocated, whatever the size of the model.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nova_model.config import NovaConfig
from nova_model.model import Draws, Nova
from nova_model.sampling.schedule import FlowMatching


class Allocations(TorchDispatchMode):
    """Counts the bytes of tensors that operations create inside the context: each storage once, until it is freed.

    Args:
        existing: tensors that do not count.
    """

    def __init__(self, existing: Collection[Tensor] = ()) -> None:
        super().__init__()
        self.storages: weakref.WeakSet[Any] = weakref.WeakSet(tensor.untyped_storage() for tensor in existing)
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return output

    def _count(self, storage: Any) -> None:
        if storage in self.storages:
            return
        self.storages.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.now -= size


@contextmanager
def _gpu_norms(enabled: bool) -> Iterator[None]:
    """Computes LayerNorm in fp32: autocast does so on a GPU, but not on a CPU, which stands in for it here."""
    original = F.layer_norm

    def in_fp32(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return original(x.float(), *args, **kwargs)

    F.layer_norm = in_fp32 if enabled else original  # type: ignore[assignment]
    try:
        yield
    finally:
        F.layer_norm = original


@dataclass(frozen=True)
class Step:
    """Sizes of a training step."""

    batch: int
    frames: int
    latent_size: tuple[int, int]
    """H and W."""
    visible: int
    """Tokens of a frame that are not masked."""
    loss_repeat: int
    precision: str
    """bf16 (autocast, weights in fp32, as on a GPU) or fp32."""


def activation_bytes(config: NovaConfig, step: Step, checkpointing: Collection[str] = ()) -> int:
    """Peak of the bytes that forward and backward pass hold beside weights and their gradients.

    Args:
        config: config of the architecture.
        step: sizes of the step.
        checkpointing: networks that recompute their activations.
    """
    with FakeTensorMode():
        model = Nova(config, checkpointing).train()
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        return step_bytes(model, step)


def step_bytes(model: Nova, step: Step) -> int:
    """`activation_bytes` of a model whose parameters have gradients."""
    config, (height, width) = model.config, step.latent_size
    tokens, rows = height // config.patch_size * (width // config.patch_size), step.batch * step.frames
    weights = list(model.parameters())
    existing = [*weights, *model.buffers(), *(weight.grad for weight in weights if weight.grad is not None)]
    bf16 = step.precision == "bf16"
    with Allocations(existing) as counted, _gpu_norms(enabled=bf16):
        latents = torch.randn(step.batch, config.image_dim, step.frames, height, width)
        draws = Draws(
            visible=torch.arange(step.visible).expand(rows, step.visible),
            index=torch.zeros(step.loss_repeat * rows, tokens, dtype=torch.long),
            noise=torch.randn(step.loss_repeat * rows, tokens, config.token_dim),
        )
        prompt = model.null(step.batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            context = model.context(prompt, None, None, step.batch)
            indicators = model.indicators(model.temporal(context, latents))
            z = model.spatial(latents, indicators.flatten(0, 1), draws.visible, draws.hidden)
            total = model.diffusion_loss(latents, z, FlowMatching(), draws).total
        total.backward()
    return counted.peak
