"""One frame, set by set, each token denoised from noise (paper sections 3.3 and 3.4, spec section 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nova_model import masking, ops
from nova_model.config import SamplingConfig
from nova_model.model import Nova
from nova_model.schedule import Schedule, guide, ramp, renorm_factor


@dataclass(frozen=True)
class Noise:
    """Draws in the release's order: one generator for the batch, or one a sample."""

    generators: Sequence[torch.Generator]
    batch: int
    device: torch.device

    def _draw(self, make: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        if len(self.generators) == 1:
            return make(self.batch, *shape, generator=self.generators[0]).to(self.device)
        return torch.cat([make(1, *shape, generator=each) for each in self.generators]).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        return self._draw(torch.rand, shape)

    def normal(self, *shape: int) -> Tensor:
        return self._draw(torch.randn, shape)


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
        self.height, self.width = size
        self.batch = len(order)
        self.timesteps = schedule.timesteps(settings.diffusion_steps).tolist()

    def sample(self, on_set: Callable[[int], None] | None = None) -> Tensor:
        """The frame's latents, [B, C, H, W]."""
        config = self.model.config
        sizes = masking.set_sizes(self.settings.set_steps, self.order.shape[1])
        scales = ramp(self.settings.min_guidance_scale, self.settings.guidance_scale, len(sizes))
        tokens = self.indicator.new_zeros(self.batch, self.order.shape[1], config.token_dim)
        rows = self.height // config.patch_size
        known = 0
        for step, (count, scale) in enumerate(zip(sizes, scales, strict=True)):
            latents = ops.unpatchify(tokens, config.patch_size, rows)
            chosen = self.order[:, known : known + count]
            made = self._denoised(latents, self.order[:, :known], chosen, scale)
            tokens = tokens.scatter(1, _wide(chosen, tokens), made.gather(1, _wide(chosen, made)))
            known += count
            if on_set is not None:
                on_set(step)
        return ops.unpatchify(tokens, config.patch_size, rows)

    def _denoised(self, latents: Tensor, visible: Tensor, chosen: Tensor, scale: float) -> Tensor:
        """The whole grid after denoising; only the chosen tokens mean something, [B, N, p*p*C]."""
        branches = len(self.indicator) // self.batch
        if scale <= 1 and self.settings.image_guidance_scale is None:
            branches = 1
        z = self.model.spatial(
            latents[:, :, None].repeat(branches, 1, 1, 1, 1),
            self.indicator[: branches * self.batch],
            visible.repeat(branches, 1),
        )
        z = z.gather(1, _wide(chosen.repeat(branches, 1), z))
        x = self._noise(latents)
        for index, t in enumerate(self.timesteps):
            output = self._guided(x, t, z, chosen, scale)
            x = self.schedule.step(output, index, len(self.timesteps), x, lambda: self._noise(latents))
        return x

    def _noise(self, latents: Tensor) -> Tensor:
        normal = self.noise.normal(self.model.config.image_dim, self.height, self.width)
        return ops.patchify(normal.to(latents), self.model.config.patch_size)

    def _guided(self, x: Tensor, t: float, z: Tensor, chosen: Tensor, scale: float) -> Tensor:
        """What the schedule's step is given, for the whole grid; tokens outside the set hold x itself (section 5)."""
        branches = len(z) // self.batch
        guided = branches > 1 and t >= self.settings.guidance_trunc
        if not guided:
            branches = 1
        part = x.gather(1, _wide(chosen, x)).repeat(branches, 1, 1)
        times = torch.full(part.shape[:2], t, device=x.device)
        outputs = self.model.image_decoder(x_t=part, t=times, z=z[: branches * self.batch]).chunk(branches)
        grids = [x.scatter(1, _wide(chosen, x), output.to(x.dtype)) for output in outputs]
        if not guided:
            return grids[0]
        if self.settings.image_guidance_scale is None:
            return self._renormed(guide(grids[1], grids[0], scale), grids[0])
        conditional, image_conditional, unconditional = grids
        mixed = self._renormed(unconditional + scale * (conditional - image_conditional), conditional)
        return mixed + self.settings.image_guidance_scale * (image_conditional - unconditional)

    def _renormed(self, guided: Tensor, conditional: Tensor) -> Tensor:
        if self.settings.guidance_renorm >= 1:
            return guided
        return guided * renorm_factor(guided, conditional, self.settings.guidance_renorm)


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, like.shape[-1])
