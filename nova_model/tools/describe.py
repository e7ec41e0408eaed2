"""Costs of a preset: parameters, FLOPs of a training step and of a generation, training memory; one JSON object.

    python -m nova_model.tools.describe nova-d48w1024-sd512 | python -m json.tool

No weights are allocated, however large the model is. The numbers are counted as follows:

- FLOPs: a multiply-add counts as two; matrix products, attention and patch embeddings as the code computes them
  (`flops.py`), with the mask ratio at its expected value (0.867) and `loss_repeat` noise draws for each masked token. A
  backward pass costs two forward passes; with activation checkpointing the forward pass of a network runs once more. A
  generation runs all branches of guidance in every step.
- Memory in bytes: weights, gradients, AdamW's two moments and the moving average of the weights, all in fp32 as in
  `nova train`; activations are the peak of a step beside those (`memory.py`), without and with checkpointing. Buckets
  of data-parallel training, other libraries and fragmentation come on top.
- The batch is that of one device, 1 by default; frames, size and steps default to those of the release.
"""

from __future__ import annotations

import difflib
import json
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from nova_model.config import NETWORKS, NovaConfig, SamplingConfig
from nova_model.presets import PRESETS
from nova_model.tools.arguments import ArgumentParser

if TYPE_CHECKING:
    from nova_model.tools.flops import Flops

DDPM_PRESETS = ("nova-d48w1024-sd512", "nova-d48w1024-osp480")
"""Presets that were released with DDPM, which is sampled in 100 diffusion steps; flow matching takes 25."""
SAMPLING_OPTIONS = ("set_steps", "diffusion_steps", "guidance_scale")
"""Options of the command that are fields of `SamplingConfig`."""


def describe(
    name: str,
    *,
    batch: int = 1,
    frames: int | None = None,
    sampling: SamplingConfig | None = None,
    loss_repeat: int = 4,
    precision: str = "bf16",
    checkpointing: Sequence[str] = NETWORKS,
) -> dict[str, Any]:
    """Computes the JSON object.

    Args:
        name: name of a preset.
        batch: samples at once, in training and in generation.
        frames: T, latent frames; as trained by default.
        sampling: steps and guidance of the generation; by default `released_sampling`.
        loss_repeat: noise draws for each token.
        precision: precision of training, bf16 (autocast) or fp32.
        checkpointing: networks that recompute their activations, in the numbers with checkpointing.

    Raises:
        ValueError: there is no such preset (the nearest is named), or a size is below 1.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)
        raise ValueError(f"unknown preset {name!r}; did you mean {close[0]}?")
    config = PRESETS[name]
    frames = config.default_frames if frames is None else frames
    for option, value in {"batch": batch, "frames": frames, "loss_repeat": loss_repeat}.items():
        if value < 1:
            raise ValueError(f"{option} must be at least 1")
    sampling = released_sampling(name) if sampling is None else sampling
    height, width = (pixels // config.image_stride for pixels in config.pixel_size)
    return {
        "preset": name,
        "parameters": parameter_counts(config)["total"],
        "parameters_by_network": parameter_counts(config),
        "latents": {"channels": config.image_dim, "frames": frames, "height": height, "width": width},
        **_costs(config, (height, width), sampling, batch, frames, loss_repeat, precision, tuple(checkpointing)),
    }


def released_sampling(name: str) -> SamplingConfig:
    """The released options of sampling with a preset; those with DDPM take more diffusion steps."""
    return SamplingConfig(diffusion_steps=100 if name in DDPM_PRESETS else SamplingConfig.diffusion_steps)


def parameter_counts(config: NovaConfig) -> dict[str, int]:
    """Number of parameters of each network, and of the embeddings around them."""
    # torch is imported where it is needed: wrong options are reported without waiting for it.
    import torch

    from nova_model.model import Nova

    with torch.device("meta"):
        model = Nova(config)

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    networks = {
        "temporal": count(model.video_encoder), "spatial": count(model.image_encoder),
        "denoiser": count(model.image_decoder),
    }  # fmt: skip
    return {**networks, "embeddings": count(model) - sum(networks.values()), "total": count(model)}


def _costs(
    config: NovaConfig,
    latent_size: tuple[int, int],
    sampling: SamplingConfig,
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
    recomputed = flops.Flops(**{network: getattr(forward, network) for network in checkpointing})
    step = memory.Step(batch, frames, latent_size, visible, loss_repeat, precision)
    weights = 4 * parameter_counts(config)["total"]
    state = {"parameters": weights, "gradients": weights, "adamw": 2 * weights, "ema": weights}
    plain, checkpointed = (memory.activation_bytes(config, step, networks) for networks in ((), checkpointing))
    return {
        "training_step": {
            "batch": batch,
            "tokens": batch * frames * sizes.spatial,
            "mask_ratio": round(ratio, 4),
            "visible_tokens_per_frame": visible,
            "loss_repeat": loss_repeat,
            "flops": _by_network(forward * 3),
            "flops_forward": _by_network(forward),
            "flops_with_checkpointing": _by_network(forward * 3 + recomputed),
        },
        "generation": {
            "batch": batch,
            **{key: value for key, value in asdict(sampling).items() if value is not None},
            "flops": _by_network(flops.generation(config, sizes, sampling, batch=batch, frames=frames)),
        },
        "training_memory_bytes": {
            "batch": batch,
            "precision": precision,
            "checkpointing": list(checkpointing),
            **state,
            "activations": plain,
            "activations_with_checkpointing": checkpointed,
            "total": sum(state.values()) + plain,
            "total_with_checkpointing": sum(state.values()) + checkpointed,
        },
    }


def _by_network(cost: Flops) -> dict[str, int]:
    return {**asdict(cost), "total": cost.total}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = ArgumentParser(
        prog="python -m nova_model.tools.describe", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", metavar="PRESET", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--batch", type=int, default=1, help="samples at once on a device; default 1")
    parser.add_argument("--frames", type=int, help="latent frames; by default as trained")
    parser.add_argument("--set-steps", type=int, help="sets of a frame; default 64")
    parser.add_argument(
        "--diffusion-steps", type=int, help="denoising steps; by default 100 for releases with DDPM, else 25"
    )
    parser.add_argument("--guidance-scale", type=float, help="1 switches guidance off; default 5")
    parser.add_argument("--loss-repeat", type=int, default=4, help="noise draws for each token in training; default 4")
    parser.add_argument(
        "--precision", choices=("bf16", "fp32"), default="bf16", help="precision of training; default bf16"
    )
    parser.add_argument(
        "--checkpointing", nargs="*", choices=NETWORKS, default=NETWORKS, help="networks; by default all"
    )
    options = vars(parser.parse_args(arguments))
    name = options.pop("preset")
    steps = {key: value for key in SAMPLING_OPTIONS if (value := options.pop(key)) is not None}
    try:
        print(json.dumps(describe(name, sampling=replace(released_sampling(name), **steps), **options)))
    except ValueError as error:
        print(f"describe: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
