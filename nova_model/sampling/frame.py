"""One frame, set by set, each token denoised from noise (paper sections 3.3 and 3.4, spec section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nova_model import masking, ops
from nova_model.config import SamplingConfig
from nova_model.denoiser import Modulation
from nova_model.layers import take
from nova_model.model import Nova
from nova_model.sampling.schedule import Schedule, guide, ramp, renorm_factor

MODULATION_BYTES = 32 << 20
"""Memory for what conditions diffusion steps, computed for several steps at once."""


@dataclass(frozen=True)
class Noise:
    """Draws in the release's order: one generator for the batch, or one a sample."""

    generators: Sequence[torch.Generator]
    batch: int
    device: torch.device

    def _draw(self, make: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        batch = self.batch if len(self.generators) == 1 else 1
        draws = [make(batch, *shape, generator=each, device=each.device) for each in self.generators]
        return torch.cat(draws).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        return self._draw(torch.rand, shape)

    def normal(self, *shape: int) -> Tensor:
        return self._draw(torch.randn, shape)

    def order(self, tokens: int) -> Tensor:
        """A random order of tokens for each sample, [B, N]."""
        return self.uniform(tokens, 1).argsort(dim=1).squeeze(-1)


@dataclass(frozen=True)
class Change:
    """What a caller changes after a set; None leaves it as it is."""

    latents: Tensor | None = None
    """The frame's latents so far, [B, C, H, W]; later sets are conditioned on what is known of them."""
    guidance_scale: float | None = None
    """Of the sets that follow; guidance that was off from the start stays off."""
    stop: bool = False
    """The frame stays as it is now: tokens that are not predicted yet are zeros."""


OnSet = Callable[[int, Tensor], Change | None]
"""Called with the set step and the frame's latents so far, [B, C, H, W]."""


class FrameSampler:
    """Predicts one frame's sets of tokens, given its indicator features.

    Args:
        model: in eval mode.
        schedule: of the noise.
        settings: how.
        noise: where draws come from.
        indicator: S'_f of every branch [G*B, M, D].
        order: order of prediction [B, N].
        size: H and W of the latents.
    """

    def __init__(
        self, model: Nova, schedule: Schedule, settings: SamplingConfig, noise: Noise, indicator: Tensor, order: Tensor,
        size: tuple[int, int],
    ) -> None:  # fmt: skip
        self.model, self.schedule, self.settings, self.noise = model, schedule, settings, noise
        self.indicator, self.order = indicator, order
        self.dtype = torch.promote_types(
            indicator.dtype, torch.float32
        )  # noise is taken away in fp32, whatever the model
        patch = model.config.patch_size
        self.grid = size[0] // patch, size[1] // patch
        self.batch = len(order)
        self.timesteps = schedule.timesteps(settings.diffusion_steps).tolist()

    def sample(self, on_set: OnSet | None = None) -> Tensor:
        """The frame's latents, [B, C, H, W]; `on_set` hears of corrections' sets, too."""
        patch, guidance, count = self.model.config.patch_size, self.settings.guidance_scale, self.order.shape[1]
        tokens = self.indicator.new_zeros(self.batch, count, self.model.config.token_dim, dtype=self.dtype)
        sets = len(masking.sets(self.settings.set_steps, count))
        for step, (order, known, chosen) in enumerate(self._sets(count)):
            scale = ramp(self.settings.min_guidance_scale, guidance, sets)[min(step, sets - 1)]
            tokens = self._with_set(tokens, order, known, chosen, scale)
            change = None if on_set is None else on_set(step, ops.unpatchify(tokens, patch, self.grid[0]))
            if change is None:
                continue
            if change.latents is not None:
                tokens = ops.patchify(change.latents.to(tokens), patch)
            guidance = guidance if change.guidance_scale is None else change.guidance_scale
            if change.stop:
                break
        return ops.unpatchify(tokens, patch, self.grid[0])

    def _sets(self, count: int) -> Iterator[tuple[Tensor, int, int]]:
        """The order that each set is taken from, tokens known before it, and tokens that it predicts."""
        for number, sets in enumerate(masking.rounds(self.settings, count)):
            order = self.noise.order(count) if number else self.order  # drawn when its round begins
            for known, chosen in sets:
                yield order, known, chosen

    def _with_set(self, tokens: Tensor, order: Tensor, known: int, count: int, scale: float) -> Tensor:
        """The tokens [B, N, p*p*C] with those of one set made, given the ones before it in the order [B, N]."""
        visible, chosen = order[:, :known], order[:, known : known + count]
        made = self._denoised(take(tokens, visible), visible, chosen, scale)
        return tokens.scatter(1, chosen[..., None].expand_as(made), made.to(tokens.dtype))

    def _denoised(self, known: Tensor, visible: Tensor, chosen: Tensor, scale: float) -> Tensor:
        """The chosen tokens [B, n, p*p*C], given the visible ones."""
        branches = len(self.indicator) // self.batch
        if scale <= 1 and self.settings.image_guidance_scale is None:
            branches = 1
        z = self.model.spatial_step(
            known.to(self.indicator).repeat(branches, 1, 1), self.indicator[: branches * self.batch],
            visible.repeat(branches, 1), chosen.repeat(branches, 1), self.grid,
        )  # fmt: skip
        # Tokens outside the set count in norms and quantiles alone (section 5); without those a step is for the set.
        whole = self.settings.guidance_renorm < 1 or self.schedule.steps_whole_grids
        x = self._noise(None if whole else chosen)
        for index, modulation in enumerate(self._modulations(z)):
            output = self._guided(x, self.timesteps[index], modulation, chosen if whole else None, scale)
            x = self.schedule.step(
                output, index, len(self.timesteps), x, lambda: self._noise(None if whole else chosen)
            )
        return take(x, chosen) if whole else x

    def _noise(self, chosen: Tensor | None) -> Tensor:
        """The next draw, made for the whole grid: all of it, or the chosen tokens' part, [B, N or n, p*p*C]."""
        rows, columns = self.grid
        patch = self.model.config.patch_size
        normal = self.noise.normal(self.model.config.image_dim, rows * patch, columns * patch)
        tokens = ops.patchify(normal.to(self.dtype), patch) * self.settings.temperature
        return tokens if chosen is None else take(tokens, chosen)

    def _modulations(self, z: Tensor) -> Iterator[Modulation]:
        """What conditions each diffusion step of a set, [G*B, n, E] each.

        All timesteps are known beforehand, so several steps' are one product of matrices, as many as fit a budget.
        """
        size = self.model.config.denoiser
        step_bytes = z[..., 0].numel() * size.width * (3 * size.depth + 2) * z.element_size()
        at_once = max(1, MODULATION_BYTES // step_bytes)
        for times in torch.tensor(self.timesteps, device=z.device).split(at_once):
            several = self.model.image_decoder.modulation(t=times[:, None, None], z=z)
            for index in range(len(times)):
                yield several.at(index)

    def _guided(self, x: Tensor, t: float, modulation: Modulation, chosen: Tensor | None, scale: float) -> Tensor:
        """What the schedule's step is given; in a whole grid, tokens that are not chosen hold x itself (section 5)."""
        branches = modulation.last[0].shape[0] // self.batch
        guided = branches > 1 and t >= self.settings.guidance_trunc
        if not guided:
            branches, modulation = 1, modulation.first(self.batch)
        part = x if chosen is None else take(x, chosen)
        part = part.to(self.indicator).repeat(branches, 1, 1)
        outputs = self.model.image_decoder.denoised(part, modulation).to(x.dtype).chunk(branches)
        if chosen is not None:
            outputs = tuple(x.scatter(1, chosen[..., None].expand_as(output), output) for output in outputs)
        if not guided:
            return outputs[0]
        if self.settings.image_guidance_scale is None:
            return self._renormed(guide(outputs[1], outputs[0], scale), outputs[0])
        conditional, image_conditional, unconditional = outputs
        mixed = self._renormed(unconditional + scale * (conditional - image_conditional), conditional)
        return mixed + self.settings.image_guidance_scale * (image_conditional - unconditional)

    def _renormed(self, guided: Tensor, conditional: Tensor) -> Tensor:
        if self.settings.guidance_renorm >= 1:
            return guided
        return guided * renorm_factor(guided, conditional, self.settings.guidance_renorm)
