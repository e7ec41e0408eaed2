"""fake/vae and fake/video_vae (stride 8, 4 latent channels, one latent for 4 frames), without training.

Their weights are set by hand. They encode the mean colour of every cell of 8x8 pixels and how much brighter the right
half of the cell is, and decode both as a soft mosaic: enough to see what a generated latent shows, but far less than a
trained VAE encodes. The video VAE encodes every fourth frame, and its decoder fades from one to the next. All residual
and attention branches end in zeros, which leaves the straight path through the convolutions. The one obstacle on it is
the last group norm with its SiLU, before the last convolution of encoder and decoder. There, each value x is carried by
a group (x, +K, -K, -x, 0...), which the norm hardly changes for large K, and then silu(x) - silu(-x) = x.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.model_hub import quiet
from tests.fakes.weights import fill

if TYPE_CHECKING:
    from torch import nn

SEED = 2
GROUPS = 4
K = 64.0
LUMA = (0.299, 0.587, 0.114)
DETAIL_GAIN = 4.0
"""The difference between the halves of a cell is small; this scales it to the range of the colours."""
SHARPEN = 0.25
"""Share of the left-right difference that the decoder adds."""
SOFTEN = (0.0, 0.125, 0.125)
"""Weight of each neighbour after each doubling; more would let the zero padding darken the borders."""
LATE = 0.75
"""Weight of the previous step in the first temporal upsampling of the video VAE: a latent encodes the last of its four
frames, and would appear too early otherwise. This value comes closest to linear fades between latents."""
LOG_VARIANCE = -12.0
SCALING = 2.0
"""Latents of photos and of drawn shapes have a standard deviation of about 0.5."""


def build(folder: Path) -> None:
    """Writes the files that `AutoencoderKL.from_pretrained` loads."""
    from diffusers import AutoencoderKL

    quiet()
    _set(
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(16, 16, 32, 32), latent_channels=4, norm_num_groups=GROUPS, sample_size=64,
            scaling_factor=SCALING,
        ),
        folder,
    )  # fmt: skip


def build_video(folder: Path) -> None:
    """Writes the files that `VideoVae.from_pretrained` loads."""
    from nova_model.vae.video_vae import VideoVae

    quiet()
    widths = (16, 16, 32, 32)
    _set(
        VideoVae(layers_per_block=1, norm_num_groups=GROUPS, block_out_channels=widths, scaling_factor=SCALING),
        folder,
    )


def _set(vae: Any, folder: Path) -> None:
    import torch

    fill(vae, SEED)
    with torch.no_grad():
        _straighten(vae)
        _set_encoder(vae.encoder)
        _set_decoder(vae.decoder)
    vae.save_pretrained(folder)


def _plane(conv: Any) -> Any:
    """A kernel's weights [out, in, height, width]; of a causal kernel, those for the current frame."""
    return conv.weight[:, :, -1] if conv.weight.ndim == 5 else conv.weight


def _straighten(vae: nn.Module) -> None:
    """Closes residual and attention branches, and makes all other convolutions pass every channel on."""
    for name, module in vae.named_modules():
        last = name.rpartition(".")[2]
        if last == "conv2" or name.endswith("to_out.0"):
            _clear(module)
        elif last in ("conv_in", "conv", "conv_shortcut", "quant_conv", "post_quant_conv"):
            _clear(module)
            for channel in range(min(module.weight.shape[:2])):
                _connect(module, channel, channel, 1.0)


def _set_encoder(encoder: Any) -> None:
    """Averages 2x2 pixels three times: red, green, blue, and the right-left difference of brightness."""
    first, second, third = (block.downsamplers[0].conv for block in encoder.down_blocks[:3])
    for conv in (first, second, third):
        _clear(conv)
        for channel in range(3):
            _plane(conv)[channel, channel, :2, :2] = 1 / 4
    for channel, share in enumerate(LUMA):
        _plane(third)[3, channel, :2, 0] = -share / 2 * DETAIL_GAIN
        _plane(third)[3, channel, :2, 1] = share / 2 * DETAIL_GAIN
    _pass_norm(encoder, 4, third, encoder.mid_block.resnets[-1].conv2)
    encoder.conv_out.bias[4:] = LOG_VARIANCE


def _set_decoder(decoder: Any) -> None:
    """Each upsampling repeats pixels and softens them; the first one also adds the right-left difference."""
    import torch

    first, second, third = (block.upsamplers[0].conv for block in decoder.up_blocks[:3])
    for conv, side in zip((first, second, third), SOFTEN, strict=True):
        _clear(conv)
        profile = torch.tensor([side, 1 - 2 * side, side])
        for channel in range(3):
            _plane(conv)[channel, channel] = torch.outer(profile, profile)
    _plane(first)[:3, 3, 1, 0] = SHARPEN / DETAIL_GAIN
    _plane(first)[:3, 3, 1, 2] = -SHARPEN / DETAIL_GAIN
    if first.weight.ndim == 5:
        first.weight[:, :, 1] = LATE * first.weight[:, :, 2]
        first.weight[:, :, 2] *= 1 - LATE
    _pass_norm(decoder, 3, third, decoder.up_blocks[3].resnets[-1].conv2)


def _pass_norm(network: Any, count: int, before: Any, constants: Any) -> None:
    """Carries values through the last norm and SiLU: channel 0 of group g minus its channel 3 is output g.

    Args:
        network: encoder or decoder.
        count: number of values to carry: the first outputs of `before`, each of which gets its own group.
        before: the last convolution on the path.
        constants: a later convolution, whose biases become the constants of the groups.
    """
    norm, last = network.conv_norm_out, network.conv_out
    size = norm.num_channels // GROUPS
    norm.weight.fill_(K * (2 / size) ** 0.5)  # the group's standard deviation, which the norm divides by
    kernels = _plane(before)[:count].clone()
    _clear(before)
    _clear(last)
    for group, kernel in enumerate(kernels):
        start = group * size
        _plane(before)[start] = kernel
        _plane(before)[start + 3] = -kernel
        constants.bias[start + 1] = K
        constants.bias[start + 2] = -K
        _connect(last, group, start, 1.0)
        _connect(last, group, start + 3, -1.0)


def _clear(layer: Any) -> None:
    layer.weight.zero_()
    if layer.bias is not None:
        layer.bias.zero_()


def _connect(conv: Any, target: int, source: int, weight: float) -> None:
    """Sets the middle of a kernel."""
    middle = conv.weight.shape[-1] // 2
    _plane(conv)[target, source, middle, middle] = weight
