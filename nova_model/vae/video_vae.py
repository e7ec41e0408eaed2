"""The causal video VAE of the text-to-video release (Open-Sora-Plan's; spec section 6), as a model of diffusers.

    vae = VideoVae.from_pretrained("checkpoint/vae")
    latents = vae.encode(video).latent_dist.mode() * vae.config.scaling_factor  # [B, 3, 17, H, W] -> [B, 4, 5, h, w]
    video = vae.decode(latents / vae.config.scaling_factor).sample

A video is encoded and decoded in tiles of 17 frames that start every 16 frames and share one. The release does so too,
and results depend on it. It also bounds the memory: no more than a tile is processed at a time.

Shapes: B batch, T frames, H x W pixels, C latent channels, t latent frames, h x w latent size.
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
"""Name of this class in a released config.json."""
_DOWN_BLOCKS = {"DownEncoderBlock2D": False, "DownEncoderBlock3D": True}
_UP_BLOCKS = {"UpDecoderBlock2D": False, "UpDecoderBlock3D": True}
"""Types of blocks, and whether they are 3D."""


def tiles(frames: int, tile: int) -> list[tuple[int, int]]:
    """Ranges of frames that are coded together; each but the last ends with the first frame of the next."""
    return [(start, min(start + tile, frames)) for start in range(0, max(frames - 1, 1), tile - 1)]


class Encoder(nn.Module):
    """Frames [B, 3, T, H, W] to features [B, 2C, t, h, w]; the names of attributes are the released keys.

    Args:
        in_channels: channels of the frames.
        out_channels: channels of the features.
        widths: channels of each level, at decreasing resolution.
        three_d: whether each level is 3D.
        depth: resnets of a level.
        groups: groups of the norms.
    """

    def __init__(
        self, in_channels: int, out_channels: int, widths: list[int], three_d: list[bool], depth: int, groups: int
    ) -> None:
        super().__init__()
        deepest_3d = three_d[-1]
        self.conv_in = conv(in_channels, widths[0], three_d=three_d[0])
        self.down_blocks = nn.ModuleList()
        for index, (width, level_3d) in enumerate(zip(widths, three_d, strict=True)):
            previous = widths[max(index - 1, 0)]
            resnets = [Resnet(width if i else previous, width, groups, three_d=level_3d) for i in range(depth)]
            # A level's downsampling belongs to the next level, and is 3D where that is.
            down = None if index == len(widths) - 1 else Downsample(width, three_d=three_d[index + 1])
            self.down_blocks.append(Level(resnets, down, None))
        self.mid_block = Middle(widths[-1], groups, three_d=deepest_3d)
        self.conv_norm_out = Norm(groups, widths[-1], three_d=deepest_3d)
        self.conv_out = conv(widths[-1], out_channels, three_d=deepest_3d)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents [B, C, t, h, w] to frames [B, 3, T, H, W].

    Args:
        in_channels: channels of the latents.
        out_channels: channels of the frames.
        widths: channels of each level of the encoder, at decreasing resolution.
        three_d: whether each level of the decoder is 3D, at increasing resolution.
        depth: resnets of an encoder's level; a decoder's has one more.
        groups: groups of the norms.
        deepest_3d: whether the layers of the lowest resolution are 3D.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: list[int],
        three_d: list[bool],
        depth: int,
        groups: int,
        *,
        deepest_3d: bool,
    ) -> None:
        super().__init__()
        widths = widths[::-1]
        self.conv_in = conv(in_channels, widths[0], three_d=deepest_3d)
        self.mid_block = Middle(widths[0], groups, three_d=deepest_3d)
        self.up_blocks = nn.ModuleList()
        for index, (width, level_3d) in enumerate(zip(widths, three_d, strict=True)):
            previous = widths[max(index - 1, 0)]
            resnets = [Resnet(width if i else previous, width, groups, three_d=level_3d) for i in range(depth + 1)]
            self.up_blocks.append(Level(resnets, None, _upsample(index, width, three_d)))
        self.conv_norm_out = Norm(groups, widths[-1], three_d=deepest_3d)
        self.conv_out = conv(widths[-1], out_channels, three_d=deepest_3d)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def _upsample(index: int, width: int, three_d: list[bool]) -> Upsample | None:
    """The upsampling after a level of the decoder; the last level has none, and the one before it none in time."""
    last = len(three_d) - 1
    if index == last:
        return None
    if not three_d[index]:
        return Upsample(width, "frame")
    return Upsample(width, "spatial" if index == last - 1 else "temporal")


class VideoVae(ModelMixin, ConfigMixin):
    """Encodes and decodes images [B, 3, H, W] and videos [B, 3, T, H, W] with values in [-1, 1].

    Videos have 1+4k frames up to 17 and 1+16k beyond; 17 frames become 5 latent frames. Height and width must be
    multiples of the stride.

    Raises:
        ValueError: no VAE can be built from the config.
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
        down, up = _are_3d(down_block_types, _DOWN_BLOCKS, widths), _are_3d(up_block_types, _UP_BLOCKS, widths)
        for width in widths:
            if width % norm_num_groups:
                raise ValueError(f"block_out_channels has {width}, which norm_num_groups={norm_num_groups} must divide")
        if layers_per_block < 1 or latent_channels < 1:
            raise ValueError("layers_per_block and latent_channels must be at least 1")
        deepest_3d = down[-1]
        if not deepest_3d and any(up):
            raise ValueError("a decoder is 3D only where the last encoder block is; choose blocks of one kind")
        self.stride = 2 ** (len(widths) - 1)
        self.temporal_stride = 2 ** sum(down[1:])
        decoded_frames = 2 ** sum(up[:-2])  # the last two levels do not upsample in time, see `_upsample`
        if self.temporal_stride != decoded_frames:
            raise ValueError(
                f"the encoder maps {self.temporal_stride} frames to one latent frame, "
                f"the decoder maps it to {decoded_frames}; choose block types that agree"
            )
        if (TILE_FRAMES - 1) % self.temporal_stride:
            raise ValueError(f"{self.temporal_stride} frames per latent frame do not divide a tile; at most 16 do")
        self.encoder = Encoder(in_channels, 2 * latent_channels, widths, down, layers_per_block, norm_num_groups)
        self.decoder = Decoder(
            latent_channels, out_channels, widths, up, layers_per_block, norm_num_groups, deepest_3d=deepest_3d
        )
        self.quant_conv = self.post_quant_conv = None
        if use_quant_conv:
            self.quant_conv = conv(2 * latent_channels, 2 * latent_channels, 1, three_d=deepest_3d)
        if use_post_quant_conv:
            self.post_quant_conv = conv(latent_channels, latent_channels, 1, three_d=deepest_3d)

    @property
    def tile_latents(self) -> int:
        """Latent frames of a full tile."""
        return 1 + (TILE_FRAMES - 1) // self.temporal_stride

    def latent_frames(self, frames: int) -> int:
        """Number of latent frames of a number of frames.

        Raises:
            ValueError: the frames do not fill tiles.
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
        """Number of frames of a number of latent frames.

        Raises:
            ValueError: the latent frames do not fill tiles.
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
        """Encodes frames to a distribution of latents.

        Args:
            x: videos [B, 3, T, H, W], or images [B, 3, H, W].
            return_dict: whether to return an output object and not a tuple, as in all models of diffusers.

        Returns:
            An object with `latent_dist`, whose moments are [B, 2C, t, h, w], or [B, 2C, h, w] for images.

        Raises:
            ValueError: the frames do not fill tiles, or their size is not a multiple of the stride.
        """
        moments = self._moments(x[:, :, None])[:, :, 0] if x.ndim == 4 else self._moments(x)
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def _moments(self, x: Tensor) -> Tensor:
        _check("frames", x, self.config.in_channels)
        self.latent_frames(x.shape[2])
        if x.shape[-2] % self.stride or x.shape[-1] % self.stride:
            raise ValueError(f"frames of {x.shape[-2]}x{x.shape[-1]} do not divide by the video VAE's {self.stride}")
        moments = []
        for start, stop in tiles(x.shape[2], TILE_FRAMES):
            features = self.encoder(x[:, :, start:stop])
            tile = features if self.quant_conv is None else self.quant_conv(features)
            moments.append(tile[:, :, 1:] if start else tile)  # the tile before has the shared frame
        return torch.cat(moments, dim=2)

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """Decodes latents to frames.

        Args:
            z: latents of videos [B, C, t, h, w], or of images [B, C, h, w].
            return_dict: whether to return an output object and not a tuple, as in all models of diffusers.

        Returns:
            An object with `sample`, [B, 3, T, H, W], or [B, 3, H, W] for images.

        Raises:
            ValueError: the latent frames do not fill tiles, or have another number of channels.
        """
        videos = z[:, :, None] if z.ndim == 4 else z
        sample = torch.cat(list(self.decode_tiles(videos)), dim=2)
        sample = sample[:, :, 0] if z.ndim == 4 else sample
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def decode_tiles(self, z: Tensor) -> Iterator[Tensor]:
        """Yields the frames of `decode` tile by tile, [B, 3, up to 17, H, W] each; only one is in memory at a time."""
        _check("latents", z, self.config.latent_channels)
        self.frames(z.shape[2])
        for start, stop in tiles(z.shape[2], self.tile_latents):
            tile = z[:, :, start:stop]
            frames = self.decoder(tile if self.post_quant_conv is None else self.post_quant_conv(tile))
            yield frames[:, :, 1:] if start else frames

    def to_json_string(self) -> str:
        """Content of config.json, with the released name of this class."""
        config = {**json.loads(super().to_json_string()), "_class_name": RELEASED_CLASS}
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of frames, [B, 3, T, H, W] each, from the mean of their latents."""
        return self.decode(self.encode(x).latent_dist.mode()).sample


def _check(name: str, x: Tensor, channels: int) -> None:
    if x.ndim != 5:
        raise ValueError(f"{name} of shape {tuple(x.shape)}: the video VAE takes a batch of videos or of images")
    if x.shape[1] != channels:
        raise ValueError(f"{name} have {x.shape[1]} channels; the video VAE takes {channels}")


def _are_3d(names: tuple[str, ...], block_types: dict[str, bool], widths: list[int]) -> list[bool]:
    """Whether the block of each level is 3D."""
    if len(names) != len(widths) or not widths:
        raise ValueError(f"{len(names)} block types for {len(widths)} block_out_channels; give one each")
    for name in names:
        if name not in block_types:
            raise ValueError(f"unknown block type {name!r}; the video VAE takes {' or '.join(block_types)}")
    return [block_types[name] for name in names]
