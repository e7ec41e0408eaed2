"""NOVA: the three networks put together, and the training step (paper section 3, spec sections 3 and 4).

Shapes: B batch, T latent frames, C latent channels, H x W latent size, p patch, N spatial tokens of a frame,
M temporal tokens of a frame, L text tokens, D width, R noise draws a token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from nova_model import masking, ops
from nova_model.config import PARTS, MaskRatios, NovaConfig
from nova_model.denoiser import Denoiser
from nova_model.embeddings import LabelEmbed, MaskEmbed, MotionEmbed, TextEmbed, TimeEmbed
from nova_model.layers import take
from nova_model.sampling.schedule import Schedule
from nova_model.spatial import SpatialEncoder
from nova_model.temporal import TemporalEncoder

DEFAULT_MOTION, DEFAULT_FPS = 5.0, 12.0


@dataclass(frozen=True)
class Losses:
    """Losses of a step; scalars."""

    total: Tensor
    """What is minimised: the sum of the parts."""
    first_frame: Tensor
    """T * sum over the first frame's tokens."""
    later_frames: Tensor | None
    """T/(T-1) * sum over the others; None for images."""


@dataclass(frozen=True)
class Draws:
    """Everything random of a training step, so that a step can be repeated."""

    visible: Tensor
    """Ids of the visible tokens [B*T, V]."""
    index: Tensor
    """Timesteps, as the schedule draws them [R*B*T, N]."""
    noise: Tensor
    """[R*B*T, N, p*p*C]."""


def _draw_weights(module: nn.Module) -> None:
    """First weights: Glorot's, and no biases.

    A norm sits on every branch's output. With torch's own first biases, and weights so small that the first steps turn
    them, what all inputs share soon drowns what a prompt changes, and the prompt is not heard any more.
    """
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Nova(nn.Module):
    """A NOVA model; parameters are named as in the released state dict.

    Args:
        config: of the architecture.
        checkpointing: parts, of PARTS, whose blocks keep no activations in training and compute them again in the
            backward pass; the same losses and gradients in less memory and more time.

    Raises:
        ValueError: an unknown part.
    """

    def __init__(self, config: NovaConfig, checkpointing: Collection[str] = ()) -> None:
        super().__init__()
        self.config = config
        again = {part: part in checkpointing for part in PARTS}
        if not set(checkpointing) <= set(PARTS):
            raise ValueError(f"checkpointing {', '.join(checkpointing)}: choose from {', '.join(PARTS)}")
        width, patch, channels = config.width, config.patch_size, config.image_dim
        self.video_encoder = TemporalEncoder(
            channels=channels, width=width, depth=config.temporal.depth, heads=config.temporal.heads, patch=2 * patch,
            mixer_rank=config.video_mixer_rank, norm=config.norm, checkpointing=again["temporal"],
        )  # fmt: skip
        self.image_encoder = SpatialEncoder(
            channels=channels, width=width, depth=config.spatial.depth, heads=config.spatial.heads, patch=patch,
            norm=config.norm, checkpointing=again["spatial"],
        )  # fmt: skip
        self.image_decoder = Denoiser(
            channels=channels, patch=patch, condition=width, width=config.denoiser.width, depth=config.denoiser.depth,
            checkpointing=again["denoiser"],
        )  # fmt: skip
        self.mask_embed = MaskEmbed(width)
        self.video_pos_embed = None if config.rotary_pos_embed else TimeEmbed(config.video_base_size[0], width)
        self.motion_embed = MotionEmbed(width) if config.has_motion else None
        self.text_embed = self.label_embed = None
        if config.text_token_dim is not None:
            self.text_embed = TextEmbed(config.text_token_dim, width, config.text_token_len)
        else:
            self.label_embed = LabelEmbed(config.label_classes, width)
        self.apply(_draw_weights)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mask_embed.mask_token.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.mask_embed.mask_token.dtype

    def forward(
        self,
        *,
        latents: Tensor,
        text: Tensor | None = None,
        labels: Tensor | None = None,
        motion: Tensor | None = None,
        fps: Tensor | None = None,
        schedule: Schedule,
        generator: torch.Generator,
        loss_repeat: int = 4,
        text_dropout: float = 0.1,
        ratios: MaskRatios = masking.PUBLISHED,
    ) -> Losses:
        """One training step (spec section 4). A function of its arguments and the generator alone.

        Under DistributedDataParallel set find_unused_parameters: images use no mixer.

        Args:
            latents: scaled [B, C, T, H, W].
            text: padded features [B, L, token], from `pad_text`.
            labels: classes [B], where the model takes labels.
            motion: motion scores [B]; 5 by default.
            fps: frames per second [B]; 12 by default.
            schedule: of the noise.
            generator: of all draws, on the latents' device.
            loss_repeat: R, noise draws a token.
            text_dropout: chance that a prompt is replaced by the unconditional one.
            ratios: share of a frame's tokens that is masked.

        Raises:
            ValueError: latents of a size that the patches do not divide.
        """
        self.check_size(latents)
        context = self.context(self.drop(text, labels, text_dropout, generator), motion, fps, len(latents))
        draws = self.draw(latents, schedule, generator, loss_repeat, ratios)
        return self.losses(latents, self.indicators(context, latents), schedule, draws)

    def losses(self, latents: Tensor, indicators: Tensor, schedule: Schedule, draws: Draws) -> Losses:
        """Spatial pass and diffusion loss.

        Args:
            latents: [B, C, T, H, W].
            indicators: [B, T, M, D].
            schedule: of the noise.
            draws: what was drawn.
        """
        hidden = masking.hidden_ids(draws.visible, draws.noise.shape[1])
        z = self.spatial(latents, indicators.flatten(0, 1), draws.visible, hidden)
        return self.diffusion_loss(latents, z, schedule, draws)

    def diffusion_loss(self, latents: Tensor, z: Tensor, schedule: Schedule, draws: Draws) -> Losses:
        """The masked tokens' error, first frame and later frames apart (spec section 4, steps 4 and 5).

        Args:
            latents: [B, C, T, H, W].
            z: the masked tokens' features, in the order of their ids [B*T, n, D].
            schedule: of the noise.
            draws: what was drawn.
        """
        hidden, frames = masking.hidden_ids(draws.visible, draws.noise.shape[1]), latents.shape[2]
        ids = hidden.repeat(len(draws.noise) // len(z), 1)
        x, noise = take(self.frame_tokens(latents), hidden), take(draws.noise, ids)
        noise, index = (each.unflatten(0, (-1, len(z))) for each in (noise, draws.index.gather(1, ids)))  # [R, B*T, n]
        noised = schedule.noised(x.expand(noise.shape), noise, index)
        table = schedule.train_timesteps().to(x.device)
        if index.numel() > len(table):
            output = self.image_decoder(x_t=noised.x_t, t=table, z=z, index=index)
        else:
            output = self.image_decoder(x_t=noised.x_t, t=noised.t, z=z)
        error = (output.float() - noised.target.float()).square().mean(-1)
        weighted = rearrange(error / (error.numel() + 1e-5), "r (b t) n -> r b t n", t=frames)
        first = frames * weighted[:, :, 0].sum()
        if frames == 1:
            return Losses(first, first, None)
        later = frames / (frames - 1) * weighted[:, :, 1:].sum()
        return Losses(first + later, first, later)

    def draw(
        self,
        latents: Tensor,
        schedule: Schedule,
        generator: torch.Generator,
        loss_repeat: int,
        ratios: MaskRatios = masking.PUBLISHED,
    ) -> Draws:
        """Everything random of a step but the prompts' dropout."""
        batch, _, frames, _, _ = latents.shape
        tokens = self.grid(latents)[0] * self.grid(latents)[1]
        count = masking.visible_count(masking.draw_mask_ratio(generator, ratios), tokens)
        rows = loss_repeat * batch * frames
        device = latents.device
        return Draws(
            visible=masking.draw_visible(batch * frames, tokens, count, generator).to(device),
            index=schedule.draw_timesteps((rows, tokens), generator).to(device),
            noise=torch.randn(
                rows, tokens, self.config.token_dim, generator=generator, device=generator.device, dtype=torch.float32
            ).to(latents),
        )

    # Conditioning.

    def pad_text(self, prompts: Sequence[Tensor | None]) -> Tensor:
        """Features [tokens, dim] of each prompt (None: unconditional) -> [B, L, dim]."""
        assert self.text_embed is not None, "this model takes class labels"
        return self.text_embed.pad(prompts)

    def null(self, batch: int) -> Tensor:
        """The unconditional prompt (or class) of a batch."""
        if self.text_embed is not None:
            return self.text_embed.pad([None] * batch)
        assert self.label_embed is not None
        device = self.label_embed.weight.device
        return torch.full((batch,), self.label_embed.classes, dtype=torch.long, device=device)

    def drop(self, text: Tensor | None, labels: Tensor | None, chance: float, generator: torch.Generator) -> Tensor:
        """Replaces some prompts (or classes) by the unconditional one."""
        prompt = text if self.text_embed is not None else labels
        if prompt is None:
            raise ValueError("give text features, or labels where text_token_dim is null")
        dropped = torch.rand(len(prompt), generator=generator, device=generator.device).to(prompt.device) < chance
        return torch.where(dropped.reshape(-1, *[1] * (prompt.ndim - 1)), self.null(len(prompt)).to(prompt), prompt)

    def context(self, prompt: Tensor, motion: Tensor | None, fps: Tensor | None, batch: int) -> Tensor:
        """Conditioning tokens [B, L', D]: text (or class), then motion and fps where the model has them."""
        embed = self.text_embed if self.text_embed is not None else self.label_embed
        assert embed is not None
        parts = [embed(prompt)]
        if self.motion_embed is not None:
            device = prompt.device
            motion = torch.full((batch,), DEFAULT_MOTION, device=device) if motion is None else motion
            fps = torch.full((batch,), DEFAULT_FPS, device=device) if fps is None else fps
            parts.append(self.motion_embed(motion, fps))
        return torch.cat(parts, dim=1)

    # Temporal.

    def indicators(self, context: Tensor, latents: Tensor) -> Tensor:
        """Indicator features S'_f of every frame, teacher-forced, [B, T, M, D]."""
        out = self.temporal(context, latents)
        if out.shape[1] == 1:
            return out
        anchor = out[:, :1]
        return torch.cat([anchor, self.video_encoder.indicator(anchor, out[:, 1:])], dim=1)

    def temporal(self, context: Tensor, latents: Tensor) -> Tensor:
        """Outputs of the temporal encoder before scaling and shift, [B, T, M, D]."""
        frames = latents.shape[2]
        rows, columns = (size // 2 for size in self.grid(latents))
        if not self.config.sees_frames:
            return torch.cat([self._alone(context, index, frames, latents) for index in range(frames)], dim=1)
        earlier = [
            self.frame_slot(latents[:, :, index - 1] if index else None, index, frames, latents)
            for index in range(frames)
        ]
        angles = self.temporal_angles(context.shape[1], 0, frames, rows, columns, latents.device)
        return self.video_encoder(context=context, frames=torch.stack(earlier, dim=1), angles=angles)

    def _alone(self, context: Tensor, index: int, frames: int, like: Tensor) -> Tensor:
        """The ablation without temporal part: output of a frame that sees the conditioning alone, [B, 1, M, D]."""
        rows, columns = (size // 2 for size in self.grid(like))
        angles = self.temporal_angles(context.shape[1], index, index + 1, rows, columns, like.device)
        slot = self.frame_slot(None, index, frames, like)
        return self.video_encoder(context=context, frames=slot[:, None], angles=angles)

    def frame_slot(self, before: Tensor | None, index: int, frames: int, like: Tensor) -> Tensor:
        """Input of the temporal encoder for one frame, [B, M, D].

        Args:
            before: the frame before it [B, C, H, W]; None gives begin-of-video tokens.
            index: of the frame.
            frames: T, of the whole video.
            like: latents of the batch, for sizes.
        """
        rows, columns = (size // 2 for size in self.grid(like))
        if before is None:
            slot = repeat(self.mask_embed.bos_token, "one d -> b (one m) d", b=len(like), m=rows * columns)
        else:
            slot = self.video_encoder.patch_embed(before)
        if self.video_pos_embed is None:
            return slot
        position = ops.grid_positions(rows, columns, self.config.width, like.device)
        time = self.video_pos_embed(index, index + 1, frames)
        return slot + (position + time).to(slot.dtype)

    def temporal_angles(
        self, prefix: int, start: int, stop: int, rows: int, columns: int, device: torch.device
    ) -> Tensor | None:
        """Rotary angles of a prefix and frames start..stop-1, [1, prefix + frames*M, head_dim/2]."""
        if not self.config.rotary_pos_embed:
            return None
        t, h, w = torch.meshgrid(
            torch.arange(start, stop, device=device), torch.arange(rows, device=device),
            torch.arange(columns, device=device), indexing="ij",
        )  # fmt: skip
        head_dim = self.config.width // self.config.temporal.heads
        angles = ops.rotary_angles(t.flatten(), h.flatten(), w.flatten(), head_dim)
        return torch.cat([angles.new_zeros(prefix, angles.shape[1]), angles])[None]

    # Spatial.

    def spatial(self, latents: Tensor, prefix: Tensor, visible: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Features z of tokens of every frame, [B*T, n, D].

        Args:
            latents: [B, C, T, H, W]; only visible tokens are looked at.
            prefix: indicator features [B*T, M, D].
            visible: ids of visible tokens [B*T, V].
            wanted: ids of the tokens whose features are wanted [B*T, n]; all N by default.
        """
        return self.spatial_step(take(self.frame_tokens(latents), visible), prefix, visible, wanted, self.grid(latents))

    def spatial_step(
        self, known: Tensor, prefix: Tensor, visible: Tensor, wanted: Tensor | None, grid: tuple[int, int]
    ) -> Tensor:
        """`spatial`, given the visible tokens alone, [B*T, V, p*p*C], and the grid's rows and columns."""
        rows, columns = grid
        tokens = self.image_encoder.patch_embed.tokens(known)
        masked = self.mask_embed.mask_token[None].expand(1, rows * columns, -1)
        angles = None
        if self.config.rotary_pos_embed:
            angles = self.spatial_angles(rows, columns, known.device)
        else:
            position = ops.grid_positions(rows, columns, self.config.width, known.device).to(tokens.dtype)
            tokens, masked = tokens + position[visible], masked + position
        return self.image_encoder(
            prefix=prefix, known=tokens, masked=masked, visible=visible, angles=angles, wanted=wanted
        )

    def spatial_angles(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Rotary angles of a frame's tokens, time 0, [N, head_dim/2]."""
        h, w = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
        head_dim = self.config.width // self.config.spatial.heads
        return ops.rotary_angles(torch.zeros_like(h).flatten(), h.flatten(), w.flatten(), head_dim)

    # Sizes.

    def frame_tokens(self, latents: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B*T, N, p*p*C]."""
        return ops.patchify(rearrange(latents, "b c t h w -> (b t) c h w"), self.config.patch_size)

    def grid(self, latents: Tensor) -> tuple[int, int]:
        """Rows and columns of a frame's spatial tokens."""
        return latents.shape[-2] // self.config.patch_size, latents.shape[-1] // self.config.patch_size

    def check_size(self, latents: Tensor) -> None:
        """Raises ValueError where the model cannot take latents of this shape."""
        channels, height, width = latents.shape[1], *latents.shape[-2:]
        if channels != self.config.image_dim:
            raise ValueError(f"latents have {channels} channels; the model takes {self.config.image_dim}")
        if height % (2 * self.config.patch_size) or width % (2 * self.config.patch_size):
            raise ValueError(
                f"latents of {height}x{width} do not divide by the temporal patch {2 * self.config.patch_size}"
            )
