"""Fixed weights that depend on a seed and the parameters' names alone: not on torch's version or the machine."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn


def fill(model: nn.Module, seed: int, gain: float = 1.0) -> None:
    """Sets every parameter: matrices and kernels normal with variance gain^2 / fan-in, scales 1, biases 0.

    Tables of embeddings ([entries, width], looked up, not multiplied) get variance gain^2. Every parameter draws from
    a generator of its own, so the order in which a library registers them does not matter.

    Args:
        model: its parameters are overwritten.
        seed: of all draws.
        gain: 1 keeps the variance of independent inputs through a linear layer.
    """
    import torch
    from torch import nn

    tables = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            spread = gain if id(parameter) in tables else gain / np.sqrt(parameter[0].numel())
            draws = np.random.default_rng((seed, zlib.crc32(name.encode()))).standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(draws * spread))
