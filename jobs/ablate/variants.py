"""The variants of `nova ablate`: each is a function from the recipe's settings to its own, listed in VARIANTS.

Settings decide what has to be computed: variants with equal training settings share one training, and a variant with
the same settings as an earlier one shares its results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from jobs import settings
from nova_model.training.config import NoiseConfig

if TYPE_CHECKING:
    from jobs.train.config import TrainingConfig
    from pipelines.curation.stages import Curation
    from pipelines.generation.config import GenerationConfig


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The settings of a variant."""

    curate: Curation
    """Stages of curation of the tables that it trains on."""
    train: TrainingConfig
    generate: GenerationConfig


def full(base: Setup) -> Setup:
    """The recipe as it is, with which all other variants are compared."""
    return base


def no_temporal(base: Setup) -> Setup:
    """Frames do not depend on the frames before them."""
    return _architecture(base, "no_temporal")


def no_scaling(base: Setup) -> Setup:
    """Later frames take the outputs of the temporal encoder without scaling and shift by the anchor's features."""
    return _architecture(base, "no_scaling")


def pre_norm(base: Setup) -> Setup:
    """Norms on the inputs of residual branches."""
    # Through `post_norm`, as a recipe may have another place of the norms already, and two exclude each other.
    return _architecture(post_norm(base), "pre_norm")


def post_norm(base: Setup) -> Setup:
    """Norms on the outputs of residual branches, before the addition, as in the released models."""
    ablate = tuple(name for name in base.train.ablate if name not in ("pre_norm", "post_add_norm"))
    return replace(base, train=replace(base.train, ablate=ablate))


def post_add_norm(base: Setup) -> Setup:
    """Norms after the addition, on the residual stream itself."""
    return _architecture(post_norm(base), "post_add_norm")


def no_motion(base: Setup) -> Setup:
    """The model is conditioned neither on the motion score nor on frames per second."""
    return _architecture(base, "no_motion")


def raw_captions(base: Setup) -> Setup:
    """Training on the captions that came with the media, where there are any."""
    return replace(base, curate=replace(base.curate, text=replace(base.curate.text, captions="source")))


def no_aesthetic_filter(base: Setup) -> Setup:
    """Training on clips that were rejected for a low aesthetic score as well."""
    # All three aesthetic thresholds: one that stays would still reject by the score.
    decide = replace(base.curate.decide, min_aesthetic=None, min_aesthetic_frame=None, keep_aesthetic=None)
    return replace(base, curate=replace(base.curate, decide=decide))


def flow(base: Setup) -> Setup:
    """Flow matching."""
    return _noise(base, "flow")


def ddpm(base: Setup) -> Setup:
    """DDPM, with the recipe's number of denoising steps."""
    return _noise(base, "ddpm")


def ddpm_more_steps(base: Setup) -> Setup:
    """DDPM with four times the denoising steps, as in the released models."""
    return diffusion_steps(4.0, ddpm(base))


def set_steps(factor: float, base: Setup) -> Setup:
    """More or fewer sets of tokens per frame."""
    return _sampling(base, "set_steps", factor)


def diffusion_steps(factor: float, base: Setup) -> Setup:
    """More or fewer denoising steps per token."""
    return _sampling(base, "diffusion_steps", factor)


VARIANTS: dict[str, Callable[[Setup], Setup]] = {
    "full": full,
    # the architecture
    "no_temporal": no_temporal,
    "no_scaling": no_scaling,
    "pre_norm": pre_norm,
    "post_norm": post_norm,
    "post_add_norm": post_add_norm,
    "no_motion": no_motion,
    # the data
    "raw_captions": raw_captions,
    "no_aesthetic_filter": no_aesthetic_filter,
    # the noise
    "flow": flow,
    "ddpm": ddpm,
    "ddpm_more_steps": ddpm_more_steps,
    # sampling alone
    "set_steps_quarter": partial(set_steps, 0.25),
    "set_steps_half": partial(set_steps, 0.5),
    "set_steps_double": partial(set_steps, 2.0),
    "diffusion_steps_quarter": partial(diffusion_steps, 0.25),
    "diffusion_steps_half": partial(diffusion_steps, 0.5),
    "diffusion_steps_double": partial(diffusion_steps, 2.0),
}
SWEEPS = ("set_steps", "diffusion_steps")
"""Names that stand for all variants with this prefix."""
NORMS = ("pre_norm", "post_norm", "post_add_norm")
"""Variants whose activations and stable learning rates are measured as well."""


def select_variants(only: str) -> list[str]:
    """The variants of a comma-separated list, in the order of VARIANTS; `full` is always among them.

    Raises:
        ValueError: an unknown name; the nearest is named.
    """
    requested = [name.strip().replace("-", "_") for name in only.split(",") if name.strip()] or list(VARIANTS)
    for name in requested:
        if name not in (*VARIANTS, *SWEEPS):
            raise ValueError(f"--only {name}: no such variant{settings.nearest(name, [*VARIANTS, *SWEEPS])}")
    prefixes = tuple(f"{name}_" for name in requested if name in SWEEPS)
    return [name for name in VARIANTS if name in ("full", *requested) or name.startswith(prefixes)]


def changed_settings(setup: Setup, base: Setup) -> str:
    """The settings in which a setup differs from another one, as arguments of --set."""
    before = settings.flatten(base)
    values = {key: value for key, value in settings.flatten(setup).items() if value != before[key]}
    return ", ".join(f"{key}={','.join(v) if isinstance(v, tuple) else v}" for key, v in values.items())


def _architecture(base: Setup, name: str) -> Setup:
    ablate = tuple(dict.fromkeys([*base.train.ablate, name]))
    return replace(base, train=replace(base.train, ablate=ablate))


def _noise(base: Setup, schedule: str) -> Setup:
    shift = base.train.noise.shift if schedule == "flow" else NoiseConfig.shift  # DDPM has no shift
    noise = replace(base.train.noise, schedule=schedule, shift=shift)
    return replace(base, train=replace(base.train, noise=noise))


def _sampling(base: Setup, name: str, factor: float) -> Setup:
    sampling = base.generate.sampling
    count = max(1, round(getattr(sampling, name) * factor))
    return replace(base, generate=replace(base.generate, sampling=replace(sampling, **{name: count})))
