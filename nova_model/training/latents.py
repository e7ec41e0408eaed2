"""Latents for a training step, drawn from the moments that the VAE's encoder gave."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_latents(moments: Tensor, generator: torch.Generator, scaling: float, shift: float) -> Tensor:
    """Draws latents from stored moments (spec section 4, step 1).

    Drawing anew in every epoch, instead of storing latents, keeps the posterior's noise as augmentation.

    Args:
        moments: [B, 2C, T, H, W], mean and log-variance; the latter is clamped to [-30, 20], as diffusers does.
        generator: generator of the draws, on the moments' device.
        scaling: scaling factor of the VAE.
        shift: shift factor of the VAE.

    Returns:
        [B, C, T, H, W].
    """
    mean, log_variance = moments.chunk(2, dim=1)  # [B, C, T, H, W] each
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    return (mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise - shift) * scaling
