"""NOVA as the specification describes it, without optimisations: the reference for results and times.

All tokens of a frame go through the denoiser and its loss, whatever the mask then discards; the conditioning and the
modulation of a set are computed again in every diffusion step, for every token; the full grid is embedded and stepped;
attention takes a dense mask; every layer processes every token. The weights are those of a `Nova`; its arithmetic is
written out here.

Letters: B batch, T latent frames, N spatial and M temporal tokens of a frame, n tokens of a set, P values of a token,
D encoder width, L text tokens, L' conditioning tokens, S all tokens of a sequence, h heads of d values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from nova_model import masking, ops
from nova_model.config import SamplingConfig
from nova_model.layers import ADALN_EPS
from nova_model.model import Draws, Losses, Nova
from nova_model.sampling.guidance import guide, ramp
from nova_model.sampling.noise import Noise
from nova_model.sampling.schedule import Schedule

Past = list[tuple[Tensor, Tensor]]


def attention(
    layer: Any, x: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Self-attention [B, S, D] -> [B, S, D], and the keys and values so far."""
    q, k, v = rearrange(layer.qkv(x), "b s (three h d) -> three b h s d", three=3, h=layer.heads)  # [B, h, S, d]
    if past is not None:
        k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return layer.proj(rearrange(out, "b h s d -> b s (h d)")), k, v


def block(layer: Any, x: Tensor, mask: Tensor | None = None, past: tuple[Tensor, Tensor] | None = None) -> Any:
    """A residual block with post-norm; also returns the keys and values so far."""
    out, keys, values = attention(layer.attn, x, mask, past)
    x = x + layer.norm1(out)
    x = x + layer.norm2(layer.mlp.fc2(F.gelu(layer.mlp.fc1(x))))
    return x, (keys, values)


def spatial(model: Nova, latents: Tensor, prefix: Tensor, visible: Tensor) -> Tensor:
    """Features of every token of a frame, [B, N, D], from latents [B, C, H, W]."""
    encoder, count = model.image_encoder, prefix.shape[1]
    rows, columns = (size // model.config.patch_size for size in latents.shape[-2:])
    position = ops.grid_positions(rows, columns, model.config.width, latents.device)
    index = visible[..., None].expand(-1, -1, model.config.width)
    tokens = encoder.patch_embed(latents) + position
    x = torch.cat([prefix, tokens.gather(1, index)], dim=1)  # [B, prefix + visible, D]
    half = len(encoder.blocks) // 2
    for layer in encoder.blocks[:half]:
        x, _ = block(layer, x)
    # Mask tokens everywhere, [B, N, D], with the features of the visible tokens put in their places.
    grid = (model.mask_embed.mask_token + position).expand(len(x), -1, -1).scatter(1, index, x[:, count:])
    x = torch.cat([x[:, :count], grid], dim=1)  # [B, prefix + N, D]
    for layer in encoder.blocks[half:]:
        x, _ = block(layer, x)
    return encoder.norm(x)[:, count:]


def adaln(layer: Any, x: Tensor, condition: Tensor) -> tuple[Tensor, ...]:
    """LN(x) * (1 + scale) + shift, and the gate where there is one."""
    scale, shift, *gate = layer.proj(F.silu(condition)).chunk(layer.stats, dim=-1)
    return F.layer_norm(x, x.shape[-1:], eps=ADALN_EPS) * (1 + scale) + shift, *gate


def denoise(model: Nova, x_t: Tensor, t: Tensor, z: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Output of the denoiser for noisy tokens [B, N, P], or for the chosen ones [B, n], at timesteps [B, n]."""
    net: Any = model.image_decoder
    h = net.patch_embed.embed_tokens(x_t)
    if chosen is not None:
        h = h.gather(1, chosen[..., None].expand(-1, -1, model.config.denoiser.width))  # [B, n, denoiser width]
    embed = net.time_cond_embed
    condition = embed.condition_proj(z) + embed.timestep_proj(ops.cosine_sine(t).to(z))
    for layer in net.blocks:
        normed, gate = adaln(layer.norm1, h, condition)
        h = h + gate * layer.norm2(layer.proj(normed))
    return net.head(adaln(net.norm, h, condition)[0])


def losses(model: Nova, *, latents: Tensor, text: Tensor, schedule: Schedule, draws: Draws) -> Losses:
    """Losses of a training step (spec section 4), for models with absolute positions and text.

    Args:
        model: a model of any size.
        latents: scaled latents [B, C, T, H, W].
        text: padded features [B, L, token].
        schedule: noise schedule.
        draws: the step's random draws.
    """
    batch, _, frames, _, _ = latents.shape
    encoder, context = model.video_encoder, model.context(text, None, None, batch)
    slots = [model.frame_slot(latents[:, :, i - 1] if i else None, i, frames, latents) for i in range(frames)]
    x = torch.cat([context, *slots], dim=1)  # [B, L' + T * M, D]
    mask = ops.block_causal_mask(context.shape[1], frames, slots[0].shape[1], x.device)
    for layer in encoder.blocks:
        x, _ = block(layer, x, mask)
    out = encoder.norm(x)[:, context.shape[1] :].unflatten(1, (frames, -1))  # [B, T, M, D]
    anchor = out[:, :1].expand(-1, frames - 1, -1, -1)  # [B, T - 1, M, D]
    # The first frame is its own indicator; the later ones are modulated by the anchor, [B, T, M, D].
    prefix = torch.cat([out[:, :1], encoder.indicator(anchor, out[:, 1:])], dim=1) if frames > 1 else out
    z = spatial(model, rearrange(latents, "b c t h w -> (b t) c h w"), prefix.flatten(0, 1), draws.visible)
    repeats = len(draws.noise) // len(z)
    tokens = model.frame_tokens(latents)  # [B * T, N, P]
    noised = schedule.noised(tokens.repeat(repeats, 1, 1), draws.noise, draws.index)
    output = denoise(model, noised.x_t, noised.t, z.repeat(repeats, 1, 1))
    error = (output.float() - noised.target).square().mean(-1)  # [repeats * B * T, N]
    weight = masking.mask_of(draws.visible, tokens.shape[1]).repeat(repeats, 1).float()
    # Weighted by the mask of all frames together, then by frame: [repeats * B, T, N]. Without a masked token, the small
    # constant prevents a division by zero.
    error = (error * weight / (weight.sum() + 1e-5)).unflatten(0, (-1, frames))
    first = frames * error[:, 0].sum()
    if frames == 1:
        return Losses(first, first, None)
    later = frames / (frames - 1) * error[:, 1:].sum()
    return Losses(first + later, first, later)


@torch.no_grad()
def generate(
    model: Nova,
    schedule: Schedule,
    *,
    text: Tensor,
    frames: int,
    latent_size: tuple[int, int],
    generators: Sequence[torch.Generator],
    sampling: SamplingConfig,
) -> Tensor:
    """Generates as `sampling.video` does, for absolute positions and guidance by the prompt alone (spec section 5)."""
    batch, (height, width), patch = len(text), latent_size, model.config.patch_size
    noise = Noise(generators, batch, text.device)
    # Conditional, then unconditional samples: [2B, L', D]
    context = torch.cat([model.context(prompt, None, None, batch) for prompt in (text, model.null(batch))])
    latents = text.new_zeros(batch, model.config.image_dim, frames, height, width)
    order = noise.uniform(height // patch * (width // patch), 1).argsort(dim=1).squeeze(-1)  # [B, N]
    past: Past = []
    anchor: Tensor | None = None
    for index in range(frames):
        previous = latents[:, :, index - 1].repeat(2, 1, 1, 1) if index else None
        slot = model.frame_slot(previous, index, frames, latents.repeat(2, 1, 1, 1, 1))
        x, cache = slot if index else torch.cat([context, slot], dim=1), []
        for number, layer in enumerate(model.video_encoder.blocks):
            x, keys_values = block(layer, x, past=past[number] if past else None)
            cache.append(keys_values)
        past = cache
        out = model.video_encoder.norm(x)[:, -slot.shape[1] :]  # [2B, M, D]
        anchor = out if anchor is None else anchor
        prefix = model.video_encoder.indicator(anchor, out) if index else out
        latents[:, :, index] = _frame(model, schedule, sampling, noise, prefix, order, latents[:, :, index])
    return latents


def _frame(
    model: Nova,
    schedule: Schedule,
    sampling: SamplingConfig,
    noise: Noise,
    prefix: Tensor,
    order: Tensor,
    frame: Tensor,
) -> Tensor:
    """Predicts a frame [B, C, H, W] set by set, in the order [B, N]."""
    patch = model.config.patch_size
    tokens, rows, predicted = ops.patchify(frame, patch), frame.shape[-2] // patch, 0
    sizes = masking.set_sizes(sampling.set_steps, order.shape[1])
    timesteps = schedule.timesteps(sampling.diffusion_steps)

    def draw() -> Tensor:
        return ops.patchify(noise.normal(*frame.shape[1:]).to(frame), patch)

    for count, scale in zip(sizes, ramp(sampling.min_guidance_scale, sampling.guidance_scale, len(sizes)), strict=True):
        chosen = order[:, predicted : predicted + count]  # [B, n]
        visible = order[:, :predicted].repeat(2, 1)  # [2B, predicted]
        z = spatial(model, ops.unpatchify(tokens, patch, rows).repeat(2, 1, 1, 1), prefix, visible)
        z = z.gather(1, chosen.repeat(2, 1)[..., None].expand(-1, -1, z.shape[-1]))  # [2B, n, D]
        x, place = draw(), chosen[..., None].expand(-1, -1, tokens.shape[-1])  # [B, N, P], [B, n, P]
        for index, t in enumerate(timesteps):
            # Both branches in one call, [2B, n, P], and each scattered back into the full grid, [B, N, P], which the
            # schedule steps as a whole.
            outputs = denoise(model, x.repeat(2, 1, 1), t.expand(2 * len(x), count), z, chosen.repeat(2, 1))
            conditional, unconditional = (x.scatter(1, place, output) for output in outputs.chunk(2))
            x = schedule.step(guide(unconditional, conditional, scale), index, len(timesteps), x, draw)
        tokens, predicted = tokens.scatter(1, place, x.gather(1, place)), predicted + count
    return ops.unpatchify(tokens, patch, rows)
