"""Pixels to latents and back, through either VAE of the releases (spec sections 2 and 6).

diffusers' AutoencoderKL codes each frame alone. The causal video VAE codes tiles of 17 frames, which are 5 latents,
that start every 16 frames, or 4 latents; the first frame of every tile but the first is dropped.

Latents are taken at the mean of what the encoder says, so that the same picture always gives the same video. Videos of
a batch are coded one after another: a tile of the release's size, 17 x 480 x 768, takes about 14 GiB in bf16 as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FRAMES_AT_ONCE = 8
"""Frames that AutoencoderKL encodes together."""


def read_scaling(folder: Path) -> tuple[float, float]:
    """Reads scaling and shift factor of a VAE from its folder: latents = (x - shift) * scaling."""
    config = json.loads((folder / "config.json").read_text())
    return float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0)


class Codec:
    """What generation needs of a VAE.

    Args:
        vae: diffusers' AutoencoderKL, or the video VAE.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.video = hasattr(vae, "decode_tiles")
        self.stride = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scaling = float(vae.config.scaling_factor)
        self.shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    def latent_frames(self, frames: int) -> int:
        """Latent frames of so many pixel frames.

        Raises:
            ValueError: a number that this VAE does not code without a rest.
        """
        return self.vae.latent_frames(frames) if self.video else frames

    def frames(self, latents: int) -> int:
        """Pixel frames of so many latent frames.

        Raises:
            ValueError: a number that this VAE does not code without a rest.
        """
        return self.vae.frames(latents) if self.video else latents

    def tiles(self, latents: int) -> list[tuple[int, int]]:
        """Ranges of latent frames that are decoded together; a frame can be shown once its range is whole."""
        if not self.video:
            return [(index, index + 1) for index in range(latents)]
        from nova_model.vae.video_vae import tiles

        return tiles(latents, self.vae.tile_latents)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, F, H, W] in [-1, 1] -> fp32 latents [B, C, T, h, w], as the model takes them."""
        mean, _ = self.moments(pixels).chunk(2, dim=1)
        return (mean - self.shift) * self.scaling

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> Tensor:
        """[B, 3, F, H, W] in [-1, 1] -> what the encoder says: fp32 means and log-variances [B, 2C, T, h, w]."""
        with self._precise():
            return self._moments(pixels.to(self.vae.dtype)).float()

    def _moments(self, pixels: Tensor) -> Tensor:
        if self.video:
            return torch.cat([self.vae.encode(video[None]).latent_dist.parameters for video in pixels])
        frames = pixels.transpose(1, 2).flatten(0, 1)
        parts = [self.vae.encode(part).latent_dist.parameters for part in frames.split(FRAMES_AT_ONCE)]
        return torch.cat(parts).unflatten(0, (len(pixels), -1)).transpose(1, 2)

    @torch.no_grad()
    def decode(self, latents: Tensor, start: int) -> Tensor:
        """The frames of a tile.

        Args:
            latents: of one of `tiles`, [B, C, t, h, w].
            start: where the tile starts; the first frame of later ones is the last of the tile before.

        Returns:
            fp32 [B, 3, f, H, W], about [-1, 1].
        """
        with self._precise():
            return self._decode((latents.float() / self.scaling + self.shift).to(self.vae.dtype), start)

    def _decode(self, z: Tensor, start: int) -> Tensor:
        if not self.video:
            frames = self.vae.decode(z.transpose(1, 2).flatten(0, 1), return_dict=False)[0]
            return frames.float().unflatten(0, (len(z), -1)).transpose(1, 2)
        frames = torch.cat([self.vae.decode(video[None]).sample for video in z]).float()
        return frames if start == 0 else frames[:, :, 1:]

    @contextmanager
    def _precise(self) -> Iterator[None]:
        """Some VAEs, such as SDXL's, overflow in fp16 and say so; they then run in fp32."""
        overflows = self.vae.dtype == torch.float16 and getattr(self.vae.config, "force_upcast", False)
        if overflows:
            self.vae.to(torch.float32)
        try:
            yield
        finally:
            if overflows:
                self.vae.to(torch.float16)
