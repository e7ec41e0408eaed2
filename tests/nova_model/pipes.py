"""Shared by tests of the pipeline: quick settings, inputs, and a pipeline without progress bars."""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor

from tests.nova_model.models import randn

QUICK: dict[str, Any] = {"num_inference_steps": 4, "num_diffusion_steps": 3}
LATENT: dict[str, Any] = {**QUICK, "output_type": "latent"}
RED = Image.new("RGB", (100, 80), (255, 0, 0))


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def features(count: int = 1) -> list[Tensor]:
    """Features of a number of prompts."""
    return [randn(5, 64, seed=index) for index in range(count)]
