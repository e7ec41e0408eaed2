"""What a preset costs: parameters, FLOPs of a training step and of a generation, training memory; one JSON object.

    python -m nova_model.tools.describe nova-d48w1024-sd512 | python -m json.tool

Nothing is allocated, however large the model is. How it is counted:

- FLOPs: a multiply-add is two; products of matrices, attention and patch embeddings, as the code computes them
  (`flops.py`), the mask ratio at its expected value (0.867) and `loss_repeat` noise draws for each masked token. A
  backward pass is two forward ones; with activation checkpointing a part's forward pass runs once more. A generation
  runs all guidance branches in every step.
- Memory, bytes: weights, gradients, AdamW's two moments and the average of the weights, all fp32 as `nova train` keeps
  them; activations are the most that a step holds beside those (`memory.py`), without and with checkpointing. Buckets
  of data-parallel training, other libraries and fragmentation come on top.
- Batch is per device, 1 by default; frames, size and steps default to what the release was trained and sampled with.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nova_model.config import PARTS, PRESETS, NovaConfig, SamplingConfig

DDPM_PRESETS = ("nova-d48w1024-sd512", "nova-d48w1024-osp480")
"""Released with DDPM, whose runs take 100 diffusion steps; flow matching takes 25."""


def describe(
    name: str,
    *,
    batch: int = 1,
    frames: int | None = None,
    set_steps: int = 64,
    diffusion_steps: int | None = None,
    guidance_scale: float = 5.0,
    loss_repeat: int = 4,
    precision: str = "bf16",
    checkpointing: Sequence[str] = PARTS,
) -> dict[str, Any]:
    """The JSON object.

    Args:
        name: of a preset.
        batch: samples at once, in training and in generation.
        frames: T, latent frames; as trained by default.
        set_steps: K.
        diffusion_steps: by default as released, 100 for DDPM and 25 for flow matching.
        guidance_scale: 1 switches guidance off.
        loss_repeat: noise draws a token.
        precision: of training, bf16 (autocast) or fp32.
        checkpointing: parts that compute their activations again, where it says with checkpointing.

    Raises:
        ValueError: no such preset (the nearest is named), or sizes that cannot be.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)
        raise ValueError(f"unknown preset {name!r}; did you mean {close[0]}?")
    config = PRESETS[name]
    frames = config.usual_frames if frames is None else frames
    wrong = [
        each for each, value in {"batch": batch, "frames": frames, "loss_repeat": loss_repeat}.items() if value < 1
    ]
    if wrong:
        raise ValueError(f"{wrong[0]} must be at least 1")
    settings = SamplingConfig(
        set_steps=set_steps,
        diffusion_steps=diffusion_steps or (100 if name in DDPM_PRESETS else 25),
        guidance_scale=guidance_scale,
    )
    height, width = (pixels // config.image_stride for pixels in config.pixel_size)
    return {
        "preset": name,
        "parameters": parameter_counts(config)["total"],
        "parameters_by_part": parameter_counts(config),
        "latents": {"channels": config.image_dim, "frames": frames, "height": height, "width": width},
        **_costs(config, (height, width), settings, batch, frames, loss_repeat, precision, tuple(checkpointing)),
    }


def parameter_counts(config: NovaConfig) -> dict[str, int]:
    """Parameters of the parts; embeddings are what neither of them has."""
    import torch

    from nova_model.model import Nova

    with torch.device("meta"):
        model = Nova(config)

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    found = {
        "temporal": count(model.video_encoder), "spatial": count(model.image_encoder),
        "denoiser": count(model.image_decoder),
    }  # fmt: skip
    return {**found, "embeddings": count(model) - sum(found.values()), "total": count(model)}


def _costs(
    config: NovaConfig,
    latent_size: tuple[int, int],
    settings: SamplingConfig,
    batch: int,
    frames: int,
    loss_repeat: int,
    precision: str,
    checkpointing: tuple[str, ...],
) -> dict[str, Any]:
    from nova_model import masking
    from nova_model.tools import flops, memory

    sizes = flops.Sizes.of(config, *latent_size)
    ratio = masking.mean_mask_ratio()
    visible = masking.visible_count(ratio, sizes.spatial)
    forward = flops.training_forward(
        config, sizes, batch=batch, frames=frames, visible=visible, loss_repeat=loss_repeat
    )  # fmt: skip
    again = flops.Flops(**{part: getattr(forward, part) for part in checkpointing})
    step = memory.Step(batch, frames, latent_size, visible, loss_repeat, precision)
    weights = 4 * parameter_counts(config)["total"]
    held = {"parameters": weights, "gradients": weights, "adamw": 2 * weights, "ema": weights}
    plain, checkpointed = (memory.activation_bytes(config, step, parts) for parts in ((), checkpointing))
    return {
        "training_step": {
            "batch": batch,
            "tokens": batch * frames * sizes.spatial,
            "mask_ratio": round(ratio, 4),
            "visible_tokens_per_frame": visible,
            "loss_repeat": loss_repeat,
            "flops": _parts(forward * 3),
            "flops_forward": _parts(forward),
            "flops_with_checkpointing": _parts(forward * 3 + again),
        },
        "generation": {
            "batch": batch,
            **{key: value for key, value in asdict(settings).items() if value is not None},
            "flops": _parts(flops.generation(config, sizes, settings, batch=batch, frames=frames)),
        },
        "training_memory_bytes": {
            "batch": batch,
            "precision": precision,
            "checkpointing": list(checkpointing),
            **held,
            "activations": plain,
            "activations_with_checkpointing": checkpointed,
            "total": sum(held.values()) + plain,
            "total_with_checkpointing": sum(held.values()) + checkpointed,
        },
    }


def _parts(cost: Any) -> dict[str, int]:
    return {**asdict(cost), "total": cost.total}


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nova_model.tools.describe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("preset", metavar="PRESET", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--batch", type=int, default=1, help="samples at once on a device; 1")
    parser.add_argument("--frames", type=int, help="latent frames; as trained")
    parser.add_argument("--set-steps", type=int, default=64, help="sets a frame is made of; 64")
    parser.add_argument("--diffusion-steps", type=int, help="denoising steps; 100 for releases with DDPM, else 25")
    parser.add_argument("--guidance-scale", type=float, default=5.0, help="1 switches guidance off; 5")
    parser.add_argument("--loss-repeat", type=int, default=4, help="noise draws a token in training; 4")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of training; bf16")
    parser.add_argument("--checkpointing", nargs="*", choices=PARTS, default=PARTS, help="parts; all")
    given = vars(parser.parse_args(arguments))
    try:
        print(json.dumps(describe(given.pop("preset"), **given)))
    except ValueError as error:
        print(f"describe: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
