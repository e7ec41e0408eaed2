"""NOVA: autoregressive image and video generation without vector quantisation (arXiv 2412.14169).

    from nova_model import NovaPipeline

Names are loaded when first used, so that importing the package stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nova_model.torchvision_ops import install

if TYPE_CHECKING:
    from nova_model.config import NovaConfig, SamplingConfig
    from nova_model.diffusers.pipeline import NovaPipeline
    from nova_model.model import Nova
    from nova_model.presets import PRESETS
    from nova_model.sampling.request import Request
    from nova_model.sampling.video import generate

install()  # keep: makes `import torchvision` safe beside CPU torch, and imports nothing

__all__ = ["PRESETS", "Nova", "NovaConfig", "NovaPipeline", "Request", "SamplingConfig", "generate"]
_MODULES = {
    "PRESETS": "presets",
    "Nova": "model",
    "NovaConfig": "config",
    "NovaPipeline": "diffusers.pipeline",
    "Request": "sampling.request",
    "SamplingConfig": "config",
    "generate": "sampling.video",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
