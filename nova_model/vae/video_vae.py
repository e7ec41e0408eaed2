"""The causal video VAE of the text-to-video release (Open-Sora-Plan's; spec section 6), as diffusers has VAEs.

    vae = VideoVae.from_pretrained("checkpoint/vae")
    latents = vae.encode(video).latent_dist.mode() * vae.config.scaling_factor  # [B, 3, 17, H, W] -> [B, 4, 5, h, w]
    video = vae.decode(latents / vae.config.scaling_factor).sample

A video is coded in tiles of 17 frames that start every 16 and share one frame; tiling is part of the result. So is what
it bounds: however long a video is, no more than a tile is worked on at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from nova_model.vae.layers import Downsample, Level, Middle, Norm, Resnet, Upsample, conv

TILE_FRAMES = 17
"""Frames of a tile; the last one is the first of the next tile."""
RELEASED_CLASS = "AutoencoderKLOpenSora"
"""What a released config.json calls this class."""
_DOWN = {"DownEncoderBlock2D": False, "DownEncoderBlock3D": True}
_UP = {"UpDecoderBlock2D": False, "UpDecoderBlock3D": True}


def tiles(latent_frames: int, tile: int) -> list[tuple[int, int]]:
    """Ranges of latent frames that are decoded together; each but the last ends with the next one's first frame."""
    return [(start, min(start + tile, latent_frames)) for start in range(0, max(latent_frames - 1, 1), tile - 1)]


class Encoder(nn.Module):
    """Frames [B, 3, T, H, W] to features [B, 2C, t, h, w]; attributes are named as the released keys."""

    def __init__(self, given: int, made: int, widths: list[int], kinds: list[bool], depth: int, groups: int) -> None:
        super().__init__()
        deep = kinds[-1]
        self.conv_in = conv(given, widths[0], three_d=kinds[0])
        self.down_blocks = nn.ModuleList()
        for index, (width, three_d) in enumerate(zip(widths, kinds, strict=True)):
            before = widths[max(index - 1, 0)]
            resnets = [Resnet(width if i else before, width, groups, three_d=three_d) for i in range(depth)]
            down = None if index == len(widths) - 1 else Downsample(width, three_d=kinds[index + 1])
            self.down_blocks.append(Level(resnets, down, None))
        self.mid_block = Middle(widths[-1], groups, three_d=deep)
        self.conv_norm_out = Norm(groups, widths[-1], three_d=deep)
        self.conv_out = conv(widths[-1], made, three_d=deep)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents [B, C, t, h, w] to frames [B, 3, T, H, W]."""

    def __init__(
        self, given: int, made: int, widths: list[int], kinds: list[bool], depth: int, groups: int, *, deep: bool
    ) -> None:
        super().__init__()
        widths = widths[::-1]
        self.conv_in = conv(given, widths[0], three_d=deep)
        self.mid_block = Middle(widths[0], groups, three_d=deep)
        self.up_blocks = nn.ModuleList()
        for index, (width, three_d) in enumerate(zip(widths, kinds, strict=True)):
            before = widths[max(index - 1, 0)]
            resnets = [Resnet(width if i else before, width, groups, three_d=three_d) for i in range(depth + 1)]
            self.up_blocks.append(Level(resnets, None, _upsample(index, width, kinds)))
        self.conv_norm_out = Norm(groups, widths[-1], three_d=deep)
        self.conv_out = conv(widths[-1], made, three_d=deep)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def _upsample(index: int, width: int, kinds: list[bool]) -> Upsample | None:
    last = len(kinds) - 1
    if index == last:
        return None
    if not kinds[index]:
        return Upsample(width, "frame")
    return Upsample(width, "spatial" if index == last - 1 else "temporal")


class VideoVae(ModelMixin, ConfigMixin):
    """Encodes and decodes images [B, 3, H, W] and videos [B, 3, T, H, W] with values in [-1, 1].

    Videos have 1+4k frames up to 17 and 1+16k beyond; 17 frames are 5 latents. Height and width divide by the stride.

    Raises:
        ValueError: a config that cannot be built.
    """

    config_name = "config.json"
    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 4,
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        scaling_factor: float = 0.18215,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
        down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 2 + ("DownEncoderBlock3D",) * 2,
        up_block_types: tuple[str, ...] = ("UpDecoderBlock3D",) * 4,
        shift_factor: float | None = None,
    ) -> None:
        super().__init__()
        widths = list(block_out_channels)
        down, up = _kinds(down_block_types, _DOWN, widths), _kinds(up_block_types, _UP, widths)
        for width in widths:
            if width % norm_num_groups:
                raise ValueError(f"block_out_channels has {width}, which norm_num_groups={norm_num_groups} must divide")
        if layers_per_block < 1 or latent_channels < 1:
            raise ValueError("layers_per_block and latent_channels must be at least 1")
        deep = down[-1]
        if not deep and any(up):
            raise ValueError("a decoder is 3D only where the last encoder block is; choose blocks of one kind")
        self.stride = 2 ** (len(widths) - 1)
        self.temporal_stride = 2 ** sum(down[1:])
        restored = 2 ** sum(up[:-2])
        if self.temporal_stride != restored:
            raise ValueError(
                f"the encoder takes {self.temporal_stride} frames to a latent and the decoder gives {restored}; "
                "choose block types that agree"
            )
        if (TILE_FRAMES - 1) % self.temporal_stride:
            raise ValueError(f"{self.temporal_stride} frames to a latent do not tile; at most 16 do")
        self.encoder = Encoder(in_channels, 2 * latent_channels, widths, down, layers_per_block, norm_num_groups)
        self.decoder = Decoder(latent_channels, out_channels, widths, up, layers_per_block, norm_num_groups, deep=deep)
        self.quant_conv = self.post_quant_conv = None
        if use_quant_conv:
            self.quant_conv = conv(2 * latent_channels, 2 * latent_channels, 1, three_d=deep)
        if use_post_quant_conv:
            self.post_quant_conv = conv(latent_channels, latent_channels, 1, three_d=deep)

    @property
    def tile_latents(self) -> int:
        """Latent frames of a whole tile."""
        return 1 + (TILE_FRAMES - 1) // self.temporal_stride

    def latent_frames(self, frames: int) -> int:
        """Latent frames of so many frames.

        Raises:
            ValueError: a number that is not coded without a rest.
        """
        step = self.temporal_stride if frames <= TILE_FRAMES else TILE_FRAMES - 1
        if frames < 1 or (frames - 1) % step:
            near = 1 + max(0, round((frames - 1) / step)) * step
            raise ValueError(
                f"{frames} frames: the video VAE takes 1+{self.temporal_stride}k up to {TILE_FRAMES} and "
                f"1+{TILE_FRAMES - 1}k beyond, such as {near}"
            )
        return 1 + (frames - 1) // self.temporal_stride

    def frames(self, latent_frames: int) -> int:
        """Frames of so many latent frames.

        Raises:
            ValueError: a number that does not fill tiles.
        """
        if latent_frames < 1 or (latent_frames > self.tile_latents and (latent_frames - 1) % (self.tile_latents - 1)):
            step = self.tile_latents - 1
            near = 1 + max(1, round((latent_frames - 1) / step)) * step
            raise ValueError(
                f"{latent_frames} latent frames: the video VAE takes up to {self.tile_latents} and 1+{step}k beyond, "
                f"such as {near}"
            )
        return 1 + (latent_frames - 1) * self.temporal_stride

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Frames to a distribution of latents.

        Args:
            x: [B, 3, T, H, W], or images [B, 3, H, W].
            return_dict: as diffusers has it.

        Returns:
            An object with `latent_dist`, whose moments are [B, 2C, t, h, w], or [B, 2C, h, w] of images.

        Raises:
            ValueError: a number of frames, or a size, that is not coded without a rest.
        """
        moments = self._moments(x[:, :, None])[:, :, 0] if x.ndim == 4 else self._moments(x)
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def _moments(self, x: Tensor) -> Tensor:
        _check("frames", x, self.config.in_channels)
        self.latent_frames(x.shape[2])
        if x.shape[-2] % self.stride or x.shape[-1] % self.stride:
            raise ValueError(f"frames of {x.shape[-2]}x{x.shape[-1]} do not divide by the video VAE's {self.stride}")
        parts = []
        for start, stop in tiles(x.shape[2], TILE_FRAMES):
            features = self.encoder(x[:, :, start:stop])
            made = features if self.quant_conv is None else self.quant_conv(features)
            parts.append(made[:, :, 1:] if start else made)
        return torch.cat(parts, dim=2)

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """Latents to frames.

        Args:
            z: [B, C, t, h, w], or [B, C, h, w] of images.
            return_dict: as diffusers has it.

        Returns:
            An object with `sample`, [B, 3, T, H, W], or [B, 3, H, W].

        Raises:
            ValueError: a number of latent frames that does not fill tiles, or another number of channels.
        """
        videos = z[:, :, None] if z.ndim == 4 else z
        sample = torch.cat(list(self.decode_tiles(videos)), dim=2)
        sample = sample[:, :, 0] if z.ndim == 4 else sample
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def decode_tiles(self, z: Tensor) -> Iterator[Tensor]:
        """The frames of `decode`, tile by tile, [B, 3, up to 17, H, W] each; only one tile is held at a time."""
        _check("latents", z, self.config.latent_channels)
        self.frames(z.shape[2])
        for start, stop in tiles(z.shape[2], self.tile_latents):
            tile = z[:, :, start:stop]
            frames = self.decoder(tile if self.post_quant_conv is None else self.post_quant_conv(tile))
            yield frames[:, :, 1:] if start else frames

    def to_json_string(self) -> str:
        """The config.json, under the released name of this class."""
        named = {**json.loads(super().to_json_string()), "_class_name": RELEASED_CLASS}
        return json.dumps(named, indent=2, sort_keys=True) + "\n"

    def forward(self, x: Tensor) -> Tensor:
        """What is left of frames, [B, 3, T, H, W], after coding them at the mean."""
        return self.decode(self.encode(x).latent_dist.mode()).sample


def _check(name: str, x: Tensor, channels: int) -> None:
    if x.ndim != 5:
        raise ValueError(f"{name} of shape {tuple(x.shape)}: the video VAE takes a batch of videos or of images")
    if x.shape[1] != channels:
        raise ValueError(f"{name} have {x.shape[1]} channels; the video VAE takes {channels}")


def _kinds(names: tuple[str, ...], known: dict[str, bool], widths: list[int]) -> list[bool]:
    """Which blocks are 3D."""
    if len(names) != len(widths) or not widths:
        raise ValueError(f"{len(names)} block types for {len(widths)} block_out_channels; give one each")
    for name in names:
        if name not in known:
            raise ValueError(f"unknown block type {name!r}; the video VAE takes {' or '.join(known)}")
    return [known[name] for name in names]
