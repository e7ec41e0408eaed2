"""What a training step keeps in memory, counted on tensors that have shapes and no values (torch's fake tensors).

The step itself is run, so the number follows the code; nothing is allocated, whatever the size of the model.
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
    """Bytes of the tensors that operations make while this is on, each storage once, until it is freed."""

    def __init__(self, known: Collection[Tensor] = ()) -> None:
        """Tensors that are known are not counted."""
        super().__init__()
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet(each.untyped_storage() for each in known)
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self._count(each.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        if storage in self.seen:
            return
        self.seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.now -= size


@contextmanager
def _gpu_norms(wanted: bool) -> Iterator[None]:
    """A GPU's autocast computes LayerNorm in fp32; a CPU's, which stands in for it here, does not."""
    usual = F.layer_norm

    def in_fp32(x: Tensor, *given: Any, **named: Any) -> Tensor:
        return usual(x.float(), *given, **named)

    F.layer_norm = in_fp32 if wanted else usual  # type: ignore[assignment]
    try:
        yield
    finally:
        F.layer_norm = usual


@dataclass(frozen=True)
class Step:
    """What a training step works on."""

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
    """Most bytes that forward and backward pass hold at a time beside weights and their gradients.

    Args:
        config: of the architecture.
        step: what it works on.
        checkpointing: parts that compute their activations again.
    """
    with FakeTensorMode():
        model = Nova(config, checkpointing).train()
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        return step_bytes(model, step)


def step_bytes(model: Nova, step: Step) -> int:
    """`activation_bytes` of a model that is there, whose parameters have gradients."""
    config, (height, width) = model.config, step.latent_size
    tokens, rows = height // config.patch_size * (width // config.patch_size), step.batch * step.frames
    weights = list(model.parameters())
    known = [*weights, *model.buffers(), *(each.grad for each in weights if each.grad is not None)]
    bf16 = step.precision == "bf16"
    with Allocations(known) as counted, _gpu_norms(wanted=bf16):
        latents = torch.randn(step.batch, config.image_dim, step.frames, height, width)
        draws = Draws(
            visible=torch.arange(step.visible).expand(rows, step.visible),
            index=torch.zeros(step.loss_repeat * rows, tokens, dtype=torch.long),
            noise=torch.randn(step.loss_repeat * rows, tokens, config.token_dim),
        )
        prompt = model.null(step.batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            indicators = model.indicators(model.context(prompt, None, None, step.batch), latents)
            total = model.losses(latents, indicators, FlowMatching(), draws).total
        total.backward()
    return counted.peak
