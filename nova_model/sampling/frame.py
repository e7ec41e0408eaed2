"""One frame, set by set (section 3.3 of the paper): the spatial encoder sees the tokens predicted so far, the denoiser
predicts the next set.

Shapes: B batch, G branches of guidance, C latent channels, T latent frames, H x W latent size, M temporal tokens of a
frame, N spatial tokens of a frame, n tokens of a set, P = p*p*C values of a token, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from nova_model import masking, ops
from nova_model.config import SamplingConfig
from nova_model.layers import gather_tokens
from nova_model.model import Nova
from nova_model.sampling.diffusion import TokenDenoiser
from nova_model.sampling.guidance import ramp
from nova_model.sampling.noise import Noise
from nova_model.sampling.schedule import Schedule


@dataclass(frozen=True)
class SetStep:
    """Progress of a generation after a set."""

    frame: int
    """Number of the latent frame."""
    step: int
    """Number of the set within the frame; sets of corrections follow those of the prediction."""
    latents: Tensor
    """The video so far [B, C, T, H, W]; tokens that are not predicted yet are zeros."""


@dataclass(frozen=True)
class Change:
    """Changes that a callback makes after a set; None leaves a value unchanged."""

    latents: Tensor | None = None
    """The video so far [B, C, T, H, W], which later sets and frames are conditioned on."""
    guidance_scale: float | None = None
    """Guidance scale of the following sets; guidance that was off at the start stays off."""
    stop: bool = False
    """Ends the generation; tokens of this frame that are not predicted yet stay zeros."""


OnStep = Callable[[SetStep], Change | None]
"""Called after every set."""


@dataclass
class VideoState:
    """The state of the loop over frames and sets, which callbacks may change."""

    latents: Tensor
    """The video so far [B, C, T, H, W], in the model's data type."""
    guidance_scale: float
    stopped: bool = False

    def apply(self, change: Change) -> None:
        """Takes over a callback's changes."""
        if change.latents is not None:
            # A copy: the caller's tensor must not change with the sets that follow.
            self.latents = change.latents.to(self.latents, copy=True)
        if change.guidance_scale is not None:
            self.guidance_scale = change.guidance_scale
        self.stopped = change.stop


class FrameSampler:
    """Predicts the sets of tokens of a video's frames.

    Args:
        model: model in eval mode.
        schedule: noise schedule.
        sampling: set steps, diffusion steps and guidance.
        noise: source of random draws.
        grid: rows and columns of a frame's spatial tokens.
    """

    def __init__(
        self, model: Nova, schedule: Schedule, sampling: SamplingConfig, noise: Noise, grid: tuple[int, int]
    ) -> None:
        self.model, self.sampling, self.noise, self.grid = model, sampling, noise, grid
        self.denoiser = TokenDenoiser(model, schedule, sampling, noise, grid)

    def sample(
        self, video: VideoState, frame: int, indicator: Tensor, order: Tensor, on_step: OnStep | None = None
    ) -> None:
        """Predicts a frame and writes it into the video.

        Args:
            video: state of the generation.
            frame: number of the frame.
            indicator: indicator features S'_f of every branch [G*B, M, D].
            order: order of prediction [B, N].
            on_step: called after every set.
        """
        batch, count = order.shape
        patch, rows = self.model.config.patch_size, self.grid[0]
        tokens = indicator.new_zeros(batch, count, self.model.config.token_dim, dtype=self.denoiser.dtype)  # [B, N, P]
        prediction_sets = len(masking.sets(self.sampling.set_steps, count))
        for step, (set_order, visible, size) in enumerate(self._sets(order)):
            scales = ramp(self.sampling.min_guidance_scale, video.guidance_scale, prediction_sets)
            scale = scales[min(step, prediction_sets - 1)]  # corrections are guided as the last set
            tokens = self._predict_set(tokens, indicator, set_order, visible, size, scale)
            video.latents[:, :, frame] = ops.unpatchify(tokens, patch, rows)  # [B, C, H, W]
            change = None if on_step is None else on_step(SetStep(frame, step, video.latents))
            if change is None:
                continue
            video.apply(change)
            if change.latents is not None:
                tokens = ops.patchify(video.latents[:, :, frame].to(tokens), patch)  # [B, N, P]
            if video.stopped:
                return

    def _sets(self, order: Tensor) -> Iterator[tuple[Tensor, int, int]]:
        """Yields for each set its order [B, N], the number of visible tokens and its size."""
        count = order.shape[1]
        for number, sets in enumerate(masking.rounds(self.sampling, count)):
            # A correction has its own order, which is drawn when its round begins.
            round_order = self.noise.order(count) if number else order
            for visible, size in sets:
                yield round_order, visible, size

    def _predict_set(
        self, tokens: Tensor, indicator: Tensor, order: Tensor, visible_count: int, size: int, scale: float
    ) -> Tensor:
        """The tokens [B, N, P] with one set predicted, given the ones before it in the order [B, N]."""
        visible, chosen = order[:, :visible_count], order[:, visible_count : visible_count + size]
        branches = len(indicator) // len(order)
        if scale <= 1 and self.sampling.image_guidance_scale is None:
            branches = 1  # the conditional branch alone, which comes first
        z = self.model.spatial_step(  # [G*B, n, D]
            gather_tokens(tokens, visible).to(indicator).repeat(branches, 1, 1),
            indicator[: branches * len(order)],
            visible.repeat(branches, 1),
            chosen.repeat(branches, 1),
            self.grid,
        )
        prediction = self.denoiser.denoise(z, chosen, scale)  # [B, n, P]
        return tokens.scatter(1, chosen[..., None].expand_as(prediction), prediction.to(tokens.dtype))
