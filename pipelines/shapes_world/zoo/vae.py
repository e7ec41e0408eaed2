"""zoo/vae: a causal video VAE of `nova_model` for images and videos, with stride 8 and four frames to a latent.

The last two levels of its decoder are 2D, which saves two thirds of the work on frames of full size. It is trained to
reconstruct pixels (mean squared error), with a small weight on the divergence of its latents from a normal
distribution. Then the decoder is trained further alone, mostly on small things that move quickly: they cover a
twentieth of the pixels and lose their outlines otherwise. This does not change the latents.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.shapes_world.zoo.scenes import draw_quick_shot, draw_shot, generator, video_pixels
from pipelines.shapes_world.zoo.training import Plan, fit

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# The VAE's modules import torch, so they stay inside the functions: `nova zoo --help` imports this file.

SEED = 11
CHANNELS = 8
CONFIG: dict[str, Any] = {
    "latent_channels": CHANNELS,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "block_out_channels": (16, 32, 64, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 2 + ("DownEncoderBlock3D",) * 2,
    "up_block_types": ("UpDecoderBlock3D",) * 2 + ("UpDecoderBlock2D",) * 2,
}
DIVERGENCE_WEIGHT = 1e-4
"""Weight of the divergence of latents from a normal distribution."""
LOG_VARIANCE = -5.0
"""Initial log variance of the latents."""
SIDE = 64
PLAN = Plan(steps=9000, lr=8e-4, warmup=100, cool=0.5, weight_decay=0.0, ema=0.998)
SIZES = ((1, 64, 12), (5, 64, 3), (17, 32, 4), (17, 64, 2))
"""Frames, side of the crop, and number of clips of each kind of batch."""
TURNS = ((0, 0, 0, 1), (0, 1, 2, 0, 1, 2, 0, 1, 2, 3))
"""Order of the kinds of batches (indices of SIZES), in the first third of the training and later."""
DECODER_PLAN = replace(PLAN, steps=3000, warmup=50, cool=0.7, ema=0.995)
DECODER_SIZES = ((17, 4), (17, 4), (17, 4), (1, 12))
"""Frames and number of clips of the decoder's batches, in turn."""
QUICK_SHARE = 0.6
"""Share of the decoder's videos in which a small thing moves quickly."""
CHANGING_WEIGHT = 5.0
"""Weight of pixels that change over time; constant pixels have a weight of 1."""
MIN_CHANGE = 0.08
"""Smallest deviation of a changing pixel from its mean over time, for pixels in [-1, 1]."""
SHARPNESS = 0.05
"""Weight of the absolute error beside the squared error, which alone blurs uncertain outlines."""


def train(state: Path, *, plan: Plan = PLAN, seed: int = SEED) -> Any:
    """Returns the trained model; `state` is the file of the training's state, and the decoder's is beside it."""
    share = plan.steps / PLAN.steps
    decoder = replace(DECODER_PLAN, steps=max(1, round(share * DECODER_PLAN.steps)))
    beside = state.with_name(f"{state.stem}_decoder{state.suffix}")
    return train_decoder(train_jointly(state, plan, seed), beside, decoder, seed)


def train_jointly(state: Path, plan: Plan, seed: int) -> Any:
    """Trains encoder and decoder from scratch."""
    import torch

    from nova_model.vae.video_vae import VideoVae

    torch.manual_seed(seed)
    model = VideoVae(**CONFIG)
    _initialise(model)

    def loss(frames: Tensor, step: int) -> dict[str, Tensor]:
        posterior = model.encode(frames).latent_dist
        decoded = model.decode(_sample(posterior, seed, step)).sample
        error = (decoded - frames).square().mean()
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        loss = error + DIVERGENCE_WEIGHT * divergence
        return {"loss": loss, "psnr": -10 * (error / 4).log10(), "divergence": divergence}

    return fit(model, plan, partial(_batch, seed, plan.steps), loss, state)


def train_decoder(model: Any, state: Path, plan: Plan, seed: int) -> Any:
    """Trains the decoder further; the encoder stays as it is."""
    import torch

    from nova_model.training.precision import multiplies_bf16

    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)

    def loss(frames: Tensor, step: int) -> dict[str, Tensor]:
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=multiplies_bf16(frames.device)):
            with torch.no_grad():
                posterior = model.encode(frames).latent_dist
            decoded = model.decode(_sample(posterior, seed, step)).sample.float()
        error = decoded - frames
        changing = (frames - frames.mean(2, keepdim=True)).abs().amax(1, keepdim=True) > MIN_CHANGE
        weight = torch.where(changing, CHANGING_WEIGHT, 1.0)
        penalty = error.square() + SHARPNESS * error.abs()
        psnr = -10 * (error.square().mean() / 4).log10()
        return {"loss": (weight * penalty).mean() / weight.mean(), "psnr": psnr}

    return fit(model, plan, partial(_decoder_batch, seed), loss, state).requires_grad_(True)


def _sample(posterior: Any, seed: int, step: int) -> Tensor:
    """Latents from a posterior, in fp32, with the noise of a step."""
    import torch

    mean, std = posterior.mean.float(), posterior.std.float()
    noise = torch.Generator(mean.device).manual_seed(seed * 1_000_003 + step)
    return mean + std * torch.randn(mean.shape, generator=noise, device=mean.device)


def _initialise(model: Any) -> None:
    """Starts with a network that passes its input on: closed residual branches, convolutions near the identity, and
    latents with little noise. Otherwise the decoder first learns to ignore the noisy latents."""
    import torch

    with torch.no_grad():
        model.quant_conv.weight[CHANNELS:] = 0.0
        model.quant_conv.bias[CHANNELS:] = LOG_VARIANCE
        for name, module in model.named_modules():
            last = name.rpartition(".")[2]
            if last == "conv2" or name.endswith("to_out.0"):
                module.weight.zero_()
            elif last in ("conv_in", "conv_out", "conv", "conv_shortcut"):
                middle = (slice(None), slice(None), *(size // 2 for size in module.kernel_size[-2:]))
                module.weight.mul_(0.5)
                plane = module.weight[:, :, -1] if module.weight.ndim == 5 else module.weight
                plane[middle] += torch.eye(*plane.shape[:2])


def _batch(seed: int, steps: int, step: int) -> Tensor:
    """Frames [B, 3, T, S, S] in [-1, 1]."""
    turns = TURNS[0] if step < steps // 3 else TURNS[1]
    frames, side, count = SIZES[turns[step % len(turns)]]
    rng = generator(seed, step)
    clips = []
    for _ in range(count):
        clip = draw_shot(rng, frames=frames, side=SIDE).frames
        top, left = (int(rng.integers((SIDE - side) // 8 + 1)) * 8 for _ in range(2))
        clips.append(clip[:, top : top + side, left : left + side])
    return video_pixels(clips)


def _decoder_batch(seed: int, step: int) -> Tensor:
    """Frames [B, 3, T, S, S] in [-1, 1]."""
    frames, count = DECODER_SIZES[step % len(DECODER_SIZES)]
    rng = generator(seed, 1, step)

    def draw() -> np.ndarray:
        quick = frames > 1 and rng.random() < QUICK_SHARE
        return (draw_quick_shot if quick else draw_shot)(rng, frames=frames, side=SIDE).frames

    return video_pixels([draw() for _ in range(count)])


def save(model: Any, folder: Path) -> None:
    """Writes the model with the scaling factor that gives its latents a standard deviation of 1."""
    import torch

    frames = torch.cat([_clip(index) for index in range(32)])
    with torch.no_grad():
        spread = model.encode(frames).latent_dist.sample(torch.Generator().manual_seed(0)).std().item()
    model.register_to_config(scaling_factor=round(1 / spread, 4))
    model.half().save_pretrained(folder)


def _clip(index: int) -> Tensor:
    return video_pixels([draw_shot(generator(SEED, -1 % 2**32, index), frames=5, side=SIDE).frames])
