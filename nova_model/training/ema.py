"""The exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import nn


class Ema:
    """Moving average of a model's state dict, in fp32 whatever the model's own data type.

    The released recipe updates it every 100 steps rather than at each one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.weights = {name: value.detach().float().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """average = decay * average + (1 - decay) * weights."""
        for name, value in model.state_dict().items():
            self.weights[name].lerp_(value.detach().float(), 1 - decay)
