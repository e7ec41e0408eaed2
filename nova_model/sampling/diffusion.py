"""Per-token diffusion: the tokens of one set, denoised from noise (section 3.4 of the paper).

Shapes: B batch, G branches of guidance, N tokens of a frame, n tokens of the set, P = p*p*C values of a token, D width,
E width of the denoiser, K diffusion steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nova_model import ops
from nova_model.config import SamplingConfig
from nova_model.denoiser import Modulation
from nova_model.layers import gather_tokens
from nova_model.model import Nova
from nova_model.sampling.guidance import combine
from nova_model.sampling.noise import Noise
from nova_model.sampling.schedule import Schedule

MODULATION_BYTES = 32 << 20
"""Memory for the modulation of several diffusion steps, which is computed at once."""


class TokenDenoiser:
    """Denoises sets of tokens, given their features from the spatial encoder.

    Args:
        model: model in eval mode.
        schedule: noise schedule, whose solver is used.
        sampling: diffusion steps, guidance and temperature.
        noise: source of random draws.
        grid: rows and columns of a frame's spatial tokens.
    """

    def __init__(
        self, model: Nova, schedule: Schedule, sampling: SamplingConfig, noise: Noise, grid: tuple[int, int]
    ) -> None:
        self.model, self.schedule, self.sampling, self.noise, self.grid = model, schedule, sampling, noise, grid
        self.timesteps = schedule.timesteps(sampling.diffusion_steps).tolist()
        # Rounding accumulates over the steps, so tokens are denoised in fp32 at least, whatever the model's dtype.
        self.dtype = torch.promote_types(model.dtype, torch.float32)
        # In the released model, tokens outside the set hold the noisy input. They count in the norms of renormalisation
        # and in the quantiles of DDPM's thresholding, and nowhere else: without those, only the set is stepped.
        self.full_grid = sampling.guidance_renorm < 1 or schedule.needs_full_grid

    def denoise(self, z: Tensor, chosen: Tensor, scale: float) -> Tensor:
        """Denoises the tokens of a set.

        Args:
            z: features of the tokens, of every branch that runs [G*B, n, D].
            chosen: ids of the tokens [B, n].
            scale: guidance scale of this set step.

        Returns:
            [B, n, P].
        """

        def draw() -> Tensor:
            return self._draw(None if self.full_grid else chosen)

        steps = len(self.timesteps)
        x = draw()  # [B, n, P], or [B, N, P] with the full grid
        for index, modulation in enumerate(self._modulations(z)):
            prediction = self._predict(x, self.timesteps[index], modulation, chosen, scale)
            x = self.schedule.step(prediction, index, steps, x, draw)  # Euler or DDPM
        return gather_tokens(x, chosen) if self.full_grid else x

    def _draw(self, chosen: Tensor | None) -> Tensor:
        """Normal noise for the chosen tokens [B, n, P], or for all [B, N, P].

        It is always drawn for the full grid, as the release does, so that one seed gives the same sample.
        """
        (rows, columns), patch = self.grid, self.model.config.patch_size
        normal = self.noise.normal(self.model.config.image_dim, rows * patch, columns * patch)  # [B, C, H, W]
        tokens = ops.patchify(normal.to(self.dtype), patch) * self.sampling.temperature  # [B, N, P]
        return tokens if chosen is None else gather_tokens(tokens, chosen)

    def _modulations(self, z: Tensor) -> Iterator[Modulation]:
        """The denoiser's modulation at each diffusion step, [G*B, n, E] each.

        All timesteps are known beforehand, so several steps share one product of matrices, as many as fit a budget.
        """
        size = self.model.config.denoiser
        step_bytes = z[..., 0].numel() * size.width * (3 * size.depth + 2) * z.element_size()
        steps_at_once = max(1, MODULATION_BYTES // step_bytes)
        for times in torch.tensor(self.timesteps, device=z.device).split(steps_at_once):
            modulation = self.model.image_decoder.modulation(t=times[:, None, None], z=z)  # [steps, G*B, n, E] each
            for index in range(len(times)):
                yield modulation.at_step(index)

    def _predict(self, x: Tensor, t: float, modulation: Modulation, chosen: Tensor, scale: float) -> Tensor:
        """The guided prediction (noise, velocity or clean tokens) for x [B, n or N, P]."""
        batch = self.noise.batch
        branches = len(modulation.head[0]) // batch
        if t < self.sampling.guidance_trunc:  # the conditional branch alone
            branches, modulation = 1, modulation.first_rows(batch)
        tokens = gather_tokens(x, chosen) if self.full_grid else x  # [B, n, P]
        tokens = tokens.to(self.model.dtype).repeat(branches, 1, 1)  # [G*B, n, P]
        predictions = self.model.image_decoder.predict(tokens, modulation).to(x.dtype).chunk(branches)
        if self.full_grid:
            index = chosen[..., None].expand_as(predictions[0])  # [B, n, P]
            predictions = tuple(x.scatter(1, index, prediction) for prediction in predictions)  # [B, N, P]
        return combine(predictions, scale, self.sampling)
