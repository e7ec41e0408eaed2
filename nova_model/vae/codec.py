"""Pixels to latents and back, through either VAE of the releases (spec sections 2 and 6).

diffusers' AutoencoderKL codes each frame on its own. The causal video VAE codes tiles of 17 frames, which become 5
latent frames, and starts one every 16 frames; the first frame of every tile but the first is dropped.

Latents are the mean of the encoder's distribution, so that the same image always gives the same video.

Shapes: B batch, F pixel frames, H x W pixels, C latent channels, T latent frames, h x w latent size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nova_model.vae.video_vae import tiles

FRAMES_AT_ONCE = 8
"""Frames that AutoencoderKL encodes together; it bounds the memory, whatever the length of a video."""


def read_scaling(folder: Path) -> tuple[float, float]:
    """Reads scaling and shift factor of a VAE from its folder: latents = (x - shift) * scaling."""
    config = json.loads((folder / "config.json").read_text())
    return float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0)


class Codec:
    """One interface to both VAEs.

    Args:
        vae: diffusers' AutoencoderKL, or the video VAE.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.is_video = hasattr(vae, "decode_tiles")
        self.stride = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scaling = float(vae.config.scaling_factor)
        self.shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    def latent_frames(self, frames: int) -> int:
        """Number of latent frames of a number of pixel frames.

        Raises:
            ValueError: the frames do not fill the tiles of this VAE.
        """
        return self.vae.latent_frames(frames) if self.is_video else frames

    def frames(self, latents: int) -> int:
        """Number of pixel frames of a number of latent frames.

        Raises:
            ValueError: the latent frames do not fill the tiles of this VAE.
        """
        return self.vae.frames(latents) if self.is_video else latents

    def tiles(self, latents: int) -> list[tuple[int, int]]:
        """Ranges of latent frames that are decoded together; a frame can be decoded once its range is complete."""
        return tiles(latents, self.vae.tile_latents) if self.is_video else [(i, i + 1) for i in range(latents)]

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, F, H, W] in [-1, 1] -> fp32 latents [B, C, T, h, w], scaled as the model takes them."""
        mean, _ = self.moments(pixels).chunk(2, dim=1)
        return (mean - self.shift) * self.scaling

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> Tensor:
        """[B, 3, F, H, W] in [-1, 1] -> means and log-variances of the encoder, fp32 [B, 2C, T, h, w]."""
        with self._without_overflow():
            return self._moments(pixels.to(self.vae.dtype)).float()

    def _moments(self, pixels: Tensor) -> Tensor:
        if self.is_video:
            # One video at a time: the encoder's activations of one tile already fill much of a GPU's memory.
            return torch.cat([self.vae.encode(video[None]).latent_dist.parameters for video in pixels])
        frames = pixels.transpose(1, 2).flatten(0, 1)  # [B, 3, F, H, W] -> [B*F, 3, H, W]
        moments = [self.vae.encode(chunk).latent_dist.parameters for chunk in frames.split(FRAMES_AT_ONCE)]
        return torch.cat(moments).unflatten(0, (len(pixels), -1)).transpose(1, 2)  # [B*F, 2C, h, w] -> [B, 2C, F, h, w]

    @torch.no_grad()
    def decode(self, latents: Tensor, start: int) -> Tensor:
        """Decodes a tile.

        Args:
            latents: the latent frames of one of `tiles`, [B, C, t, h, w].
            start: the latent frame that the tile starts at; the first frame of a later tile repeats the last one of the
                tile before it, and is dropped.

        Returns:
            fp32 [B, 3, f, H, W], about [-1, 1].
        """
        with self._without_overflow():
            return self._decode((latents.float() / self.scaling + self.shift).to(self.vae.dtype), start)

    def _decode(self, z: Tensor, start: int) -> Tensor:
        if not self.is_video:
            frames = self.vae.decode(z.transpose(1, 2).flatten(0, 1), return_dict=False)[0]  # [B*t, 3, H, W]
            return frames.float().unflatten(0, (len(z), -1)).transpose(1, 2)  # [B, 3, t, H, W]
        frames = torch.cat([self.vae.decode(video[None]).sample for video in z]).float()
        return frames if start == 0 else frames[:, :, 1:]

    @contextmanager
    def _without_overflow(self) -> Iterator[None]:
        """Runs the VAE in fp32 where it is in fp16 and overflows in it, as that of SDXL, whose config records it."""
        overflows = self.vae.dtype == torch.float16 and getattr(self.vae.config, "force_upcast", False)
        if overflows:
            self.vae.to(torch.float32)
        try:
            yield
        finally:
            if overflows:
                self.vae.to(torch.float16)


def whole_tiles(latents: int, codec: Codec) -> int:
    """Pixel frames of the longest video that fills whole tiles within `latents` latent frames."""
    for count in range(latents, 1, -1):
        try:
            return codec.frames(count)
        except ValueError:  # not a number that fills tiles
            continue
    return 1
