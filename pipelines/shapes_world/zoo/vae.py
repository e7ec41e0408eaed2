"""zoo/vae: a causal video VAE of `nova_model`, for images and videos alike: stride 8, one latent for four frames.

The last two levels of its decoder are 2D, which spares frames of full size two thirds of the work. It learns to give
pixels back (mean squared error), with a little pull of its latents towards a normal distribution. Then the decoder goes
on alone, mostly on small things that move quickly: they are a twentieth of the pixels, and without this lose their
outlines. Latents stay what they were.
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
PULL = 1e-4
"""Weight of the divergence of a latent from a normal distribution."""
LOG_VARIANCE = -5.0
"""Of the latents, at first."""
SIDE = 64
PLAN = Plan(steps=9000, lr=8e-4, warmup=100, cool=0.5, weight_decay=0.0, ema=0.998)
SIZES = ((1, 64, 12), (5, 64, 3), (17, 32, 4), (17, 64, 2))
"""Frames, side of a cut, and number, of the batches that take turns."""
TURNS = ((0, 0, 0, 1), (0, 1, 2, 0, 1, 2, 0, 1, 2, 3))
"""Indices of SIZES, in the first third of the training and later."""
DECODER_PLAN = replace(PLAN, steps=3000, warmup=50, cool=0.7, ema=0.995)
DECODER_SIZES = ((17, 4), (17, 4), (17, 4), (1, 12))
"""Frames and number of the decoder's batches, in turn."""
QUICK_SHARE = 0.6
"""Of the decoder's videos: something small moves quickly."""
STIRRED = 5.0
"""Weight of pixels that change, those that stay having 1."""
CHANGE = 0.08
"""Least departure of such a pixel from its mean over time, of [-1, 1]."""
SHARPNESS = 0.05
"""Weight of the absolute error beside the squared one, which alone blurs what it is unsure of."""


def train(state: Path, *, plan: Plan = PLAN, seed: int = SEED) -> Any:
    """A trained model; `state` is where its training is kept, and beside it that of its decoder."""
    share = plan.steps / PLAN.steps
    decoder = replace(DECODER_PLAN, steps=max(1, round(share * DECODER_PLAN.steps)))
    beside = state.with_name(f"{state.stem}_decoder{state.suffix}")
    return train_decoder(train_whole(state, plan, seed), beside, decoder, seed)


def train_whole(state: Path, plan: Plan, seed: int) -> Any:
    """Encoder and decoder, from nothing."""
    import torch

    from nova_model.vae.video_vae import VideoVae

    torch.manual_seed(seed)
    model = VideoVae(**CONFIG)
    _straighten(model)

    def loss(frames: Tensor, step: int) -> dict[str, Tensor]:
        posterior = model.encode(frames).latent_dist
        made = model.decode(_drawn(posterior, seed, step)).sample
        error = (made - frames).square().mean()
        pull = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return {"loss": error + PULL * pull, "psnr": -10 * (error / 4).log10(), "pull": pull}

    return fit(model, plan, partial(_batch, seed, plan.steps), loss, state)


def train_decoder(model: Any, state: Path, plan: Plan, seed: int) -> Any:
    """The model with a decoder that has gone on; what encodes stays as it is."""
    import torch

    from nova_model.training.precision import multiplies_bf16

    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)

    def loss(frames: Tensor, step: int) -> dict[str, Tensor]:
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=multiplies_bf16(frames.device)):
            with torch.no_grad():
                posterior = model.encode(frames).latent_dist
            made = model.decode(_drawn(posterior, seed, step)).sample.float()
        error = made - frames
        stirred = (frames - frames.mean(2, keepdim=True)).abs().amax(1, keepdim=True) > CHANGE
        weight = torch.where(stirred, STIRRED, 1.0)
        blamed = error.square() + SHARPNESS * error.abs()
        psnr = -10 * (error.square().mean() / 4).log10()
        return {"loss": (weight * blamed).mean() / weight.mean(), "psnr": psnr}

    return fit(model, plan, partial(_decoder_batch, seed), loss, state).requires_grad_(True)


def _drawn(posterior: Any, seed: int, step: int) -> Tensor:
    """Latents from what an encoder says, in fp32; chance is that of the step."""
    import torch

    mean, std = posterior.mean.float(), posterior.std.float()
    chance = torch.Generator(mean.device).manual_seed(seed * 1_000_003 + step)
    return mean + std * torch.randn(mean.shape, generator=chance, device=mean.device)


def _straighten(model: Any) -> None:
    """Begins with a net that passes on what it is given: closed branches, convolutions that keep their channels, and
    latents with little noise; else the first thing that it learns is to trust none of them."""
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
    """Writes the model with the factor that brings its latents to a standard deviation of 1."""
    import torch

    frames = torch.cat([_clip(index) for index in range(32)])
    with torch.no_grad():
        spread = model.encode(frames).latent_dist.sample(torch.Generator().manual_seed(0)).std().item()
    model.register_to_config(scaling_factor=round(1 / spread, 4))
    model.half().save_pretrained(folder)


def _clip(index: int) -> Tensor:
    return video_pixels([draw_shot(generator(SEED, -1 % 2**32, index), frames=5, side=SIDE).frames])
