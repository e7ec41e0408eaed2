"""The `tiny` preset with seeded weights, inputs that fit it, and the form that errors must have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nova_model.model import Nova
from nova_model.presets import PRESETS

OF_CLASSES: dict[str, Any] = {"text_token_dim": None, "text_token_len": None}
"""Keys of a config whose model takes class labels instead of prompts."""


def tiny(seed: int = 0, **changes: Any) -> Nova:
    """The preset `tiny` with some keys changed, in eval mode; leaves torch's own generator as it was.

    Weights and biases are initialised as torch does, and matrices are scaled by 1.5, so that every layer has a visible
    effect on the output.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Nova(replace(PRESETS["tiny"], **changes)).eval()
        for module in model.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                module.reset_parameters()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 1.5
    return model


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@contextmanager
def one_line_error(match: str) -> Iterator[None]:
    """Expects what a user's mistake must raise: a ValueError with a message of one line that matches `match`."""
    with pytest.raises(ValueError, match=match) as error:
        yield
    assert "\n" not in str(error.value)
