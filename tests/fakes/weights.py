"""Fixed weights that depend only on a seed and the names of the parameters, not on the version of torch."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn


def fill(model: nn.Module, seed: int, gain: float = 1.0) -> None:
    """Sets every parameter: matrices and kernels normal with variance gain^2 / fan-in, scales 1, biases 0.

    Embedding tables ([entries, width], which are looked up, not multiplied) get variance gain^2. Every parameter has
    its own generator, so the order in which a library registers parameters does not matter.

    Args:
        model: its parameters are overwritten.
        seed: seed of all generators.
        gain: 1 keeps the variance of independent inputs through a linear layer.
    """
    import torch
    from torch import nn

    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            spread = gain if id(parameter) in tables else gain / np.sqrt(parameter[0].numel())
            draws = np.random.default_rng((seed, zlib.crc32(name.encode()))).standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(draws * spread))
