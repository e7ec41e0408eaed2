"""Muon for models of many small matrices: matrices of the same shape are orthogonalised together.

PyTorch's implementation processes one matrix after another. With small matrices that is hundreds of tiny products a
step, whose overhead dominates, on a CPU most of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim._muon import _adjust_lr

from nova_model.training.precision import multiplies_bf16

MAX_BATCH_ELEMENTS = 1 << 22
"""Elements of the matrices that are processed together; batches of larger matrices are not faster."""


class Muon(torch.optim.Muon):
    """torch.optim.Muon with the same state, settings and results, up to the rounding of bf16."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Performs one step; a closure is called first, and its result is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, params, grads, momenta)
            for batch in _batches(params):
                self._step(group, *([tensors[index] for index in batch] for tensors in (params, grads, momenta)))
        return loss

    def _step(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], momenta: list[Tensor]) -> None:
        """Performs the step of matrices of the same shape."""
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, momenta, group["momentum"]) if group["nesterov"] else momenta
        directions = orthogonalised(
            torch.stack(list(updates)), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], params[0].shape)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(directions.to(params[0].dtype).unbind()), alpha=-rate)


def orthogonalised(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float = 1e-7) -> Tensor:
    """Matrices [N, R, C] with singular values near 1, by Newton-Schulz iteration.

    Runs in bf16, which is exact enough; in fp32 on CPUs that emulate bf16, where it would be many times slower.
    """
    a, b, c = coefficients
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16() if multiplies_bf16(matrices.device) else matrices.float()
    x = x.mT if is_tall else x  # the smaller of both Gram matrices has the same singular values
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)  # bounds all singular values by 1: the iteration converges
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _batches(matrices: list[Tensor]) -> Iterator[list[int]]:
    """Yields indices of matrices that are processed together: of the same shape, up to `MAX_BATCH_ELEMENTS`."""
    shapes: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        shapes.setdefault(matrix.shape, []).append(index)
    for shape, indices in shapes.items():
        count = max(1, MAX_BATCH_ELEMENTS // shape.numel())
        yield from (indices[start : start + count] for start in range(0, len(indices), count))
