"""NOVA: the three networks put together, and the training step (section 3 of the paper, figure 2).

Shapes: B batch, T latent frames, C latent channels, H x W latent size, p patch size, N spatial tokens of a frame,
M temporal tokens of a frame, V visible and n hidden (masked) tokens of a frame, P = p*p*C values of a token, L text
tokens, L' conditioning tokens, D width, R noise draws per token, d head size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from nova_model import masking, ops
from nova_model.config import NETWORKS, MaskRatios, NovaConfig
from nova_model.denoiser import Denoiser
from nova_model.embeddings import LabelEmbed, MaskEmbed, MotionEmbed, TextEmbed, TimeEmbed, class_ids
from nova_model.layers import gather_tokens
from nova_model.sampling.schedule import Schedule
from nova_model.spatial import SpatialEncoder
from nova_model.temporal import TemporalEncoder

DEFAULT_MOTION, DEFAULT_FPS = 5.0, 12.0


@dataclass(frozen=True)
class Losses:
    """Losses of a training step; scalars."""

    total: Tensor
    """The loss to minimise: the sum of the others."""
    first_frame: Tensor
    """T * sum over the first frame's tokens."""
    later_frames: Tensor | None
    """T/(T-1) * sum over the tokens of later frames; None for images."""


@dataclass(frozen=True)
class Draws:
    """Everything random of a training step except the dropout of prompts, so that a step can be repeated."""

    visible: Tensor
    """Ids of the visible tokens [B*T, V]."""
    index: Tensor
    """Timesteps as indices into the schedule's table [R*B*T, N]."""
    noise: Tensor
    """[R*B*T, N, P]."""
    hidden: Tensor = field(init=False)
    """Ids of the hidden (masked) tokens [B*T, n], ascending; they follow from `visible`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", masking.hidden_ids(self.visible, self.noise.shape[1]))


def _initialize(module: nn.Module) -> None:
    """Initial weights: Glorot uniform, and no biases.

    A norm follows every branch, so the scale of a branch's weights decides how fast training turns them. With torch's
    own initial biases, or with weights small enough to be turned within the first steps, features shared by all inputs
    soon outweigh what differs between prompts, and the model stops following its prompt.
    """
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight.flatten(1))  # a view: [out, in, p, p] -> [out, in*p*p]
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Nova(nn.Module):
    """A NOVA model; parameters are named as in the released state dict.

    Args:
        config: the architecture.
        checkpointing: networks, of NETWORKS, whose blocks do not store their activations in training but recompute
            them in the backward pass: the same losses and gradients in less memory and more time.

    Raises:
        ValueError: an unknown network.
    """

    def __init__(self, config: NovaConfig, checkpointing: Collection[str] = ()) -> None:
        super().__init__()
        self.config = config
        if not set(checkpointing) <= set(NETWORKS):
            raise ValueError(f"checkpointing {', '.join(checkpointing)}: choose from {', '.join(NETWORKS)}")
        width, patch, channels = config.width, config.patch_size, config.image_dim
        self.video_encoder = TemporalEncoder(
            channels=channels, width=width, depth=config.temporal.depth, heads=config.temporal.heads, patch=2 * patch,
            mixer_rank=config.video_mixer_rank, norm=config.norm, checkpointing="temporal" in checkpointing,
        )  # fmt: skip
        self.image_encoder = SpatialEncoder(
            channels=channels, width=width, depth=config.spatial.depth, heads=config.spatial.heads, patch=patch,
            norm=config.norm, checkpointing="spatial" in checkpointing,
        )  # fmt: skip
        self.image_decoder = Denoiser(
            channels=channels, patch=patch, condition=width, width=config.denoiser.width, depth=config.denoiser.depth,
            checkpointing="denoiser" in checkpointing,
        )  # fmt: skip
        self.mask_embed = MaskEmbed(width)
        self.video_pos_embed = None if config.rotary_pos_embed else TimeEmbed(config.video_base_size[0], width)
        self.motion_embed = MotionEmbed(width) if config.has_motion else None
        self.text_embed = self.label_embed = None
        if config.text_shape is None:
            self.label_embed = LabelEmbed(config.label_classes, width)
        else:
            length, token_dim = config.text_shape
            self.text_embed = TextEmbed(token_dim, width, length)
        self.apply(_initialize)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.mask_embed.mask_token.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
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
        """One training step. A function of its arguments and the generator alone.

        Under DistributedDataParallel set find_unused_parameters: images do not use the mixer.

        Args:
            latents: scaled [B, C, T, H, W].
            text: padded features [B, L, token], from `pad_text`.
            labels: classes [B], for a model of class labels.
            motion: motion scores [B]; 5 by default.
            fps: frames per second [B]; 12 by default.
            schedule: noise schedule.
            generator: source of all random draws, on the device of the latents.
            loss_repeat: R, noise draws per token.
            text_dropout: probability that a prompt is replaced by the unconditional one.
            ratios: distribution of the share of a frame's tokens that is masked.

        Raises:
            ValueError: latents of a size that the patches do not divide.
        """
        self.check_size(latents)
        prompt = self.drop(text, labels, text_dropout, generator)
        draws = self.draw(latents, schedule, generator, loss_repeat, ratios)

        context = self.context(prompt, motion, fps, len(latents))  # [B, L', D]
        frame_features = self.temporal(context, latents)  # [B, T, M, D], section 3.2
        indicators = self.indicators(frame_features)  # [B, T, M, D], scaling and shift of section 3.3
        z = self.spatial(latents, indicators.flatten(0, 1), draws.visible, draws.hidden)  # [B*T, n, D], section 3.3
        return self.diffusion_loss(latents, z, schedule, draws)  # section 3.4, equation 4

    def diffusion_loss(self, latents: Tensor, z: Tensor, schedule: Schedule, draws: Draws) -> Losses:
        """Denoising error of the hidden tokens, for the first frame and for later frames.

        Args:
            latents: [B, C, T, H, W].
            z: features of the hidden tokens, in the order of their ids [B*T, n, D].
            schedule: noise schedule.
            draws: the random draws of the step.
        """
        frames, rows = latents.shape[2], len(z)  # rows: B*T
        repeats = len(draws.noise) // rows  # R
        repeated_ids = draws.hidden.repeat(repeats, 1)  # [R*B*T, n]
        x = gather_tokens(self.frame_tokens(latents), draws.hidden)  # [B*T, n, P]
        noise = gather_tokens(draws.noise, repeated_ids).unflatten(0, (repeats, rows))  # [R, B*T, n, P]
        index = draws.index.gather(1, repeated_ids).unflatten(0, (repeats, rows))  # [R, B*T, n]

        noised = schedule.noised(x.expand(noise.shape), noise, index)
        table = schedule.train_timesteps().to(x.device)
        if index.numel() > len(table):  # embedding each timestep of the table once is cheaper
            output = self.image_decoder(x_t=noised.x_t, t=table, z=z, index=index)
        else:
            output = self.image_decoder(x_t=noised.x_t, t=noised.t, z=z)

        error = (output.float() - noised.target.float()).square().mean(-1)  # [R, B*T, n]
        # The released model divides by the sum of the mask + 1e-5; here every token is a masked one.
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
        """Draws everything random of a step except the dropout of prompts."""
        batch, _, frames, _, _ = latents.shape
        tokens = self.grid(latents)[0] * self.grid(latents)[1]
        # One ratio for the whole batch: every frame then has the same number of visible tokens, and no padding.
        visible_count = masking.visible_count(masking.draw_mask_ratio(generator, ratios), tokens)
        rows = loss_repeat * batch * frames
        device = latents.device
        return Draws(
            visible=masking.draw_visible(batch * frames, tokens, visible_count, generator).to(device),
            index=schedule.draw_timesteps((rows, tokens), generator).to(device),
            noise=torch.randn(
                rows, tokens, self.config.token_dim, generator=generator, device=generator.device, dtype=torch.float32
            ).to(latents),
        )

    # Conditioning.

    def pad_text(self, prompts: Sequence[Tensor | None]) -> Tensor:
        """Features [tokens, dim] of each prompt (None: unconditional) -> [B, L, dim].

        Raises:
            ValueError: a prompt of another size, or the model takes class labels.
        """
        if self.text_embed is None:
            raise ValueError("this model takes class labels; give labels [B] instead of text features")
        return self.text_embed.pad(prompts)

    def check_prompt(self, prompt: Tensor) -> None:
        """Raises ValueError where the model cannot take padded features [B, L, dim], or labels [B] in their place."""
        if self.text_embed is None:
            class_ids(prompt, self.config.label_classes, null=True)
        elif prompt.ndim != 3 or prompt.shape[-1] != self.config.text_token_dim:
            expected = f"[B, {self.config.text_token_len}, {self.config.text_token_dim}]"
            raise ValueError(f"text features have shape {tuple(prompt.shape)}; the model takes {expected}")

    def null(self, batch: int) -> Tensor:
        """The unconditional prompt (or class) of a batch."""
        if self.text_embed is not None:
            return self.text_embed.pad([None] * batch)
        assert self.label_embed is not None
        device = self.label_embed.weight.device
        return torch.full((batch,), self.label_embed.classes, dtype=torch.long, device=device)

    def drop(self, text: Tensor | None, labels: Tensor | None, chance: float, generator: torch.Generator) -> Tensor:
        """Replaces some prompts (or classes) by the unconditional one, as classifier-free guidance requires."""
        prompt, unused = (labels, text) if self.text_embed is None else (text, labels)
        if prompt is None or unused is not None:
            count = "no prompt" if prompt is None else "two kinds of prompts"
            raise ValueError(f"{count}: give text features, or labels where text_token_dim is null")
        if self.text_embed is None:
            # Without the null class: of labels that count from 1, the last would be learnt as the absence of a class.
            prompt = class_ids(prompt, self.config.label_classes, null=False)
        dropped = torch.rand(len(prompt), generator=generator, device=generator.device).to(prompt.device) < chance
        dropped = dropped.reshape(-1, *[1] * (prompt.ndim - 1))  # [B] -> [B, 1, 1] for text
        return torch.where(dropped, self.null(len(prompt)).to(prompt), prompt)

    def context(self, prompt: Tensor, motion: Tensor | None, fps: Tensor | None, batch: int) -> Tensor:
        """Conditioning tokens [B, L', D]: text (or class), then motion and fps where the model has them."""
        embed = self.text_embed if self.text_embed is not None else self.label_embed
        assert embed is not None
        tokens = [embed(prompt)]  # [B, L, D]
        if self.motion_embed is not None:
            device = prompt.device
            motion = torch.full((batch,), DEFAULT_MOTION, device=device) if motion is None else motion
            fps = torch.full((batch,), DEFAULT_FPS, device=device) if fps is None else fps
            tokens.append(self.motion_embed(motion, fps))  # [B, 2, D]
        return torch.cat(tokens, dim=1)

    # Temporal encoding.

    def temporal(self, context: Tensor, latents: Tensor) -> Tensor:
        """Outputs of the temporal encoder for every frame, teacher-forced, [B, T, M, D]."""
        frames = latents.shape[2]
        rows, columns = self.temporal_grid(latents)
        if not self.config.sees_frames:
            outputs = [self._temporal_alone(context, index, frames, latents) for index in range(frames)]
            return torch.cat(outputs, dim=1)
        slots = [
            self.frame_slot(latents[:, :, index - 1] if index else None, index, frames, latents)
            for index in range(frames)
        ]
        angles = self.temporal_angles(context.shape[1], 0, frames, rows, columns, latents.device)
        return self.video_encoder(context=context, frames=torch.stack(slots, dim=1), angles=angles)

    def indicators(self, frame_features: Tensor) -> Tensor:
        """Indicator features S'_f of every frame [B, T, M, D], from the outputs of the temporal encoder."""
        if frame_features.shape[1] == 1:
            return frame_features
        anchor, later = frame_features[:, :1], frame_features[:, 1:]  # [B, 1, M, D], [B, T-1, M, D]
        return torch.cat([anchor, self.video_encoder.indicator(anchor, later)], dim=1)

    def _temporal_alone(self, context: Tensor, index: int, frames: int, like: Tensor) -> Tensor:
        """The ablation without temporal modelling: output of a frame that sees the conditioning only, [B, 1, M, D]."""
        rows, columns = self.temporal_grid(like)
        angles = self.temporal_angles(context.shape[1], index, index + 1, rows, columns, like.device)
        slot = self.frame_slot(None, index, frames, like)  # [B, M, D]
        return self.video_encoder(context=context, frames=slot[:, None], angles=angles)

    def frame_slot(self, before: Tensor | None, index: int, frames: int, like: Tensor) -> Tensor:
        """Input of the temporal encoder for one frame, [B, M, D].

        Args:
            before: the preceding frame [B, C, H, W]; None gives begin-of-video tokens.
            index: number of the frame.
            frames: T, of the complete video.
            like: latents of the batch, for their sizes and device.
        """
        slot = self.begin_of_video(like) if before is None else self.video_encoder.patch_embed(before)
        if self.video_pos_embed is None:
            return slot
        rows, columns = self.temporal_grid(like)
        position = ops.grid_positions(rows, columns, self.config.width, like.device)  # [M, D]
        time = self.video_pos_embed(index, index + 1, frames)  # [1, D]
        return slot + (position + time).to(slot.dtype)

    def begin_of_video(self, like: Tensor) -> Tensor:
        """Begin-of-video tokens without place and time, [B, M, D], for latents of the size and batch of `like`."""
        rows, columns = self.temporal_grid(like)
        return repeat(self.mask_embed.bos_token, "one d -> b (one m) d", b=len(like), m=rows * columns)

    def temporal_angles(
        self, prefix: int, start: int, stop: int, rows: int, columns: int, device: torch.device
    ) -> Tensor | None:
        """Rotary angles of a prefix and frames start..stop-1, [1, prefix + (stop-start)*M, d/2]; None without."""
        if not self.config.rotary_pos_embed:
            return None
        t, h, w = torch.meshgrid(
            torch.arange(start, stop, device=device), torch.arange(rows, device=device),
            torch.arange(columns, device=device), indexing="ij",
        )  # fmt: skip
        head_dim = self.config.width // self.config.temporal.heads
        angles = ops.rotary_angles(t.flatten(), h.flatten(), w.flatten(), head_dim)  # [(stop-start)*M, d/2]
        return torch.cat([angles.new_zeros(prefix, angles.shape[1]), angles])[None]  # the prefix is at position 0

    # Spatial encoding.

    def spatial(self, latents: Tensor, prefix: Tensor, visible: Tensor, targets: Tensor | None = None) -> Tensor:
        """Features z of tokens of every frame, [B*T, n, D].

        Args:
            latents: [B, C, T, H, W]; only the visible tokens are read.
            prefix: indicator features [B*T, M, D].
            visible: ids of the visible tokens [B*T, V].
            targets: ids of the tokens to compute features of [B*T, n]; all N by default.
        """
        visible_tokens = gather_tokens(self.frame_tokens(latents), visible)  # [B*T, V, P]
        return self.spatial_step(visible_tokens, prefix, visible, targets, self.grid(latents))

    def spatial_step(
        self, visible_tokens: Tensor, prefix: Tensor, visible: Tensor, targets: Tensor | None, grid: tuple[int, int]
    ) -> Tensor:
        """`spatial` from the visible tokens alone, [B*T, V, P], and the rows and columns of the grid."""
        rows, columns = grid
        tokens = self.image_encoder.patch_embed.embed_tokens(visible_tokens)  # [B*T, V, D]
        mask_tokens = self.mask_embed.mask_token[None].expand(1, rows * columns, -1)  # [1, N, D]
        angles = None
        if self.config.rotary_pos_embed:
            angles = self.spatial_angles(rows, columns, visible_tokens.device)
        else:
            position = ops.grid_positions(rows, columns, self.config.width, visible_tokens.device).to(tokens.dtype)
            tokens, mask_tokens = tokens + position[visible], mask_tokens + position  # position[visible]: [B*T, V, D]
        return self.image_encoder(
            prefix=prefix, tokens=tokens, mask_tokens=mask_tokens, visible=visible, angles=angles, targets=targets
        )

    def spatial_angles(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Rotary angles of a frame's tokens [N, d/2]; their time is 0."""
        h, w = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
        head_dim = self.config.width // self.config.spatial.heads
        return ops.rotary_angles(torch.zeros_like(h).flatten(), h.flatten(), w.flatten(), head_dim)

    # Sizes.

    def frame_tokens(self, latents: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B*T, N, P]."""
        return ops.patchify(rearrange(latents, "b c t h w -> (b t) c h w"), self.config.patch_size)

    def grid(self, latents: Tensor) -> tuple[int, int]:
        """Rows and columns of a frame's spatial tokens."""
        return latents.shape[-2] // self.config.patch_size, latents.shape[-1] // self.config.patch_size

    def temporal_grid(self, latents: Tensor) -> tuple[int, int]:
        """Rows and columns of a frame's temporal tokens, whose patches are twice as large."""
        rows, columns = self.grid(latents)
        return rows // 2, columns // 2

    def check_size(self, latents: Tensor) -> None:
        """Raises ValueError where the model cannot process latents of this shape."""
        channels, height, width = latents.shape[1], *latents.shape[-2:]
        if channels != self.config.image_dim:
            raise ValueError(f"latents have {channels} channels; the model takes {self.config.image_dim}")
        if height % (2 * self.config.patch_size) or width % (2 * self.config.patch_size):
            raise ValueError(
                f"latents of {height}x{width} do not divide by the temporal patch {2 * self.config.patch_size}"
            )
