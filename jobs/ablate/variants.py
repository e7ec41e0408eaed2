"""What `nova ablate` compares: each variant is a function of the recipe, and VARIANTS is the table of contents.

What a variant changes says how much of it has to be done: one that trains as an earlier one does takes its run, and one
that changes nothing at all is that one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from jobs import settings
from nova_model.training.config import NoiseConfig

if TYPE_CHECKING:
    from jobs.generate import GenerateConfig
    from jobs.train.config import TrainingConfig
    from pipelines.curation.stages import Curation


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a variant is made with."""

    curate: Curation
    """Of the tables that it trains on."""
    train: TrainingConfig
    generate: GenerateConfig


def full(base: Setup) -> Setup:
    """The recipe as it is; all others are compared with it."""
    return base


def no_temporal(base: Setup) -> Setup:
    """No frame sees those before it."""
    return _architecture(base, "no_temporal")


def no_scaling(base: Setup) -> Setup:
    """Later frames get the temporal encoder's outputs, without scaling and shift of the anchor."""
    return _architecture(base, "no_scaling")


def pre_norm(base: Setup) -> Setup:
    """Norms on what goes into a branch."""
    return _architecture(post_norm(base), "pre_norm")


def post_norm(base: Setup) -> Setup:
    """Norms on what comes out of a branch, before the addition: as released."""
    others = tuple(name for name in base.train.ablate if name not in ("pre_norm", "post_add_norm"))
    return replace(base, train=replace(base.train, ablate=others))


def post_add_norm(base: Setup) -> Setup:
    """Norms behind the addition, on the residual stream itself."""
    return _architecture(post_norm(base), "post_add_norm")


def no_motion(base: Setup) -> Setup:
    """Neither motion score nor frames per second condition the model."""
    return _architecture(base, "no_motion")


def raw_captions(base: Setup) -> Setup:
    """Trains on the captions that came with the media, where there are any."""
    return replace(base, curate=replace(base.curate, text=replace(base.curate.text, captions="source")))


def no_aesthetic_filter(base: Setup) -> Setup:
    """Trains on clips that were rejected for beauty, too."""
    decide = replace(base.curate.decide, min_aesthetic=None, min_aesthetic_frame=None, keep_aesthetic=None)
    return replace(base, curate=replace(base.curate, decide=decide))


def flow(base: Setup) -> Setup:
    """Flow matching."""
    return _noise(base, "flow")


def ddpm(base: Setup) -> Setup:
    """DDPM, with as many denoising steps as the recipe has."""
    return _noise(base, "ddpm")


def ddpm_more_steps(base: Setup) -> Setup:
    """DDPM with four times the denoising steps, as the releases have it."""
    return diffusion_steps(4.0, ddpm(base))


def set_steps(factor: float, base: Setup) -> Setup:
    """More or fewer sets of tokens a frame."""
    return _sampling(base, "set_steps", factor)


def diffusion_steps(factor: float, base: Setup) -> Setup:
    """More or fewer denoising steps a token."""
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
"""Names that stand for all variants that begin with them."""
NORMS = ("pre_norm", "post_norm", "post_add_norm")
"""Variants whose activations and learning rates are looked at, too."""


def chosen(only: str) -> list[str]:
    """The variants of a comma-separated list, in the order of VARIANTS; `full` is always among them.

    Raises:
        ValueError: an unknown name; the nearest is named.
    """
    asked = [name.strip().replace("-", "_") for name in only.split(",") if name.strip()] or list(VARIANTS)
    for name in asked:
        if name not in (*VARIANTS, *SWEEPS):
            raise ValueError(f"--only {name}: no such variant{settings.nearest(name, [*VARIANTS, *SWEEPS])}")
    return [name for name in VARIANTS if name in ("full", *asked) or name.startswith(_prefixes(asked))]


def changed(setup: Setup, base: Setup) -> str:
    """What a setup changes of another one, as --set takes it."""
    before = settings.flatten(base)
    values = {key: value for key, value in settings.flatten(setup).items() if value != before[key]}
    return ", ".join(f"{key}={','.join(v) if isinstance(v, tuple) else v}" for key, v in values.items())


def _prefixes(asked: list[str]) -> tuple[str, ...]:
    return tuple(f"{name}_" for name in asked if name in SWEEPS)


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
