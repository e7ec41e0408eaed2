"""Named architectures: the released models, small ones for tests and experiments, and the ablations of the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nova_model.config import RELEASED_DEFAULTS, NovaConfig

_SD512 = NovaConfig(**RELEASED_DEFAULTS)


def _text_to_image_1024(width: int) -> NovaConfig:
    """The 1024-pixel text-to-image releases, which differ in width alone."""
    return replace(
        _SD512,
        image_size=1024,
        image_base_size=(64, 64),
        video_base_size=(1, 32, 32),
        arch=(f"vit_d16w{width}", f"vit_d32w{width}", f"mlp_d6w{width}"),
    )


_TINY = replace(
    _SD512,
    image_size=64,
    text_token_dim=64,
    text_token_len=16,
    image_base_size=(4, 4),
    video_base_size=(5, 2, 2),
    video_mixer_rank=8,
    arch=("vit_d2w64", "vit_d4w64", "mlp_d2w96"),
)

PRESETS: dict[str, NovaConfig] = {
    # Released models.
    "nova-d48w1024-sd512": _SD512,
    "nova-d48w768-sdxl1024": _text_to_image_1024(768),
    "nova-d48w1024-sdxl1024": _text_to_image_1024(1024),
    "nova-d48w1536-sdxl1024": _text_to_image_1024(1536),
    "nova-d48w1024-osp480": replace(
        _SD512,
        image_size=(480, 768),
        image_base_size=(30, 48),
        video_base_size=(16, 15, 24),
        arch=("vit_d16w1024", "vit_d32w1024", "mlp_d3w1280"),
    ),
    # Small models.
    "tiny": _TINY,
    "bench": replace(
        _SD512,
        image_size=256,
        text_token_dim=256,
        text_token_len=64,
        image_base_size=(16, 16),
        video_base_size=(3, 8, 8),
        video_mixer_rank=16,
        arch=("vit_d8w384h6", "vit_d16w384h6", "mlp_d3w512"),
    ),
    "shapes": replace(
        _TINY,
        image_dim=8,
        text_token_dim=96,
        video_mixer_rank=-1,
        arch=("vit_d4w160h5", "vit_d6w160h5", "mlp_d3w256"),
    ),
}

ABLATIONS: dict[str, dict[str, Any]] = {
    "no_temporal": {"sees_frames": False},
    "no_scaling": {"video_mixer_rank": None},
    "pre_norm": {"norm": "pre"},
    "post_add_norm": {"norm": "post_add"},
    "no_motion": {"sees_motion": False},
}
"""The paper's ablations, and the config keys that each changes."""
