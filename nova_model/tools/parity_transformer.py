"""Computes the tensors that a transformer's reference is compared with (spec section 7); the command is `parity.py`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from nova_model.checkpoints.weights import check_keys, config_of
from nova_model.config import SamplingConfig
from nova_model.embeddings import class_ids
from nova_model.model import Draws, Losses, Nova
from nova_model.sampling.request import Request
from nova_model.sampling.schedule import Ddpm, FlowMatching, Schedule, schedule_from_config
from nova_model.sampling.video import generate

PASS_TOLERANCE = 5e-5
GENERATION_TOLERANCE = 3e-4
"""Tolerance of generations, and of timesteps, which are numbers up to 1000."""
INPUTS = r"latents|prompt_\d+|labels|motion_flow|fps|train_visible_ids|train_timesteps|train_noise"

_SCHEDULERS = {"flow": "FlowMatchEulerDiscreteScheduler", "ddpm": "DDPMScheduler"}
_PASS = (
    "text_padded", "context", "context_with_motion", "temporal_out", "spatial_out", "denoiser_out", "loss", "loss_t2i",
    "loss_i2i",
)  # fmt: skip
_SAMPLING_KEYS = {field.name for field in fields(SamplingConfig)}
_GENERATION_KEYS = _SAMPLING_KEYS | {"latent_frames", "seed", "motion_flow", "fps", "first_frame"}

Job = tuple[str, float, Callable[[], Tensor]]
"""A tensor's name, its tolerance, and a function that computes it."""


@dataclass(frozen=True)
class ReferenceCase:
    """A transformer and its reference."""

    model: Nova
    schedule: Schedule
    golden: dict[str, Tensor]
    settings: dict[str, Any]
    """Content of golden.json."""

    def tensor(self, name: str) -> Tensor:
        """An input of the reference."""
        if name not in self.golden:
            raise ValueError(f"golden.safetensors lacks {name}, which its outputs need")
        return self.golden[name]

    @functools.cached_property
    def prompt(self) -> Tensor:
        """Padded text features [B, L, token], or labels [B]."""
        if self.model.text_embed is None:
            return class_ids(self.tensor("labels"), self.model.config.label_classes, null=True)
        names = sorted((name for name in self.golden if name.startswith("prompt_")), key=lambda name: int(name[7:]))
        if not names:
            raise ValueError("golden.safetensors lacks prompt_0, which its outputs need")
        return self.model.pad_text([self.golden[name] for name in names])


def transformer_jobs(
    config: dict[str, Any], weights: dict[str, Tensor], golden: dict[str, Tensor], settings: dict[str, Any]
) -> list[Job]:
    """The checks of a transformer's outputs.

    Raises:
        ValueError: config and weights do not fit, or an output has no check.
    """
    model = Nova(config_of(config, weights)).eval()
    check_keys(model, weights)
    model.load_state_dict(weights)
    case = ReferenceCase(model, scheduler_of(settings), golden, settings)
    generations = settings.get("generations", {})
    missing = [name for name in generations if name not in golden]
    if missing:
        raise ValueError(f"golden.json asks for {missing[0]}, which golden.safetensors lacks")
    inputs = {str(options.get("first_frame")).partition("[")[0] for options in generations.values()}
    training_pass, jobs = TrainingPass(case), list[Job]()
    for name in sorted(golden):
        table = _TABLE.fullmatch(name)
        if name in _PASS:
            jobs.append((name, PASS_TOLERANCE, functools.partial(getattr, training_pass, name)))
        elif name in generations:
            jobs.append((name, GENERATION_TOLERANCE, functools.partial(generation, case, name)))
        elif table:
            tolerance = GENERATION_TOLERANCE if table[1] == "timesteps" else PASS_TOLERANCE
            jobs.append((name, tolerance, functools.partial(schedule_table, case, name)))
        elif not re.fullmatch(INPUTS, name) and name not in inputs:
            raise ValueError(f"golden.safetensors holds {name}, which is no known input and has no check")
    return jobs


def scheduler_of(settings: dict[str, Any]) -> Schedule:
    """The schedule of golden.json, which has the keys of diffusers and either `kind` or `_class_name`."""
    scheduler = dict(settings.get("scheduler") or {})
    kind = scheduler.pop("kind", None)
    if kind is not None and kind not in _SCHEDULERS:
        raise ValueError(f"golden.json has a scheduler of kind {kind!r}; known are {' and '.join(_SCHEDULERS)}")
    return schedule_from_config({"_class_name": _SCHEDULERS.get(kind, ""), **scheduler})


class TrainingPass:
    """Intermediate results of a training pass, each computed when it is first read (spec sections 4 and 7)."""

    def __init__(self, case: ReferenceCase) -> None:
        self.case, self.model = case, case.model

    @property
    def latents(self) -> Tensor:
        latents = self.case.tensor("latents")
        self.model.check_size(latents)
        return latents

    @property
    def text_padded(self) -> Tensor:
        return self.case.prompt

    @property
    def context(self) -> Tensor:
        """Text or class tokens."""
        embed = self.model.text_embed or self.model.label_embed
        assert embed is not None
        return embed(self.case.prompt)

    @functools.cached_property
    def context_with_motion(self) -> Tensor:
        prompt, golden = self.case.prompt, self.case.golden
        return self.model.context(prompt, golden.get("motion_flow"), golden.get("fps"), len(prompt))

    @functools.cached_property
    def temporal_out(self) -> Tensor:
        return self.model.temporal(self.context_with_motion, self.latents)

    @functools.cached_property
    def indicators(self) -> Tensor:
        return self.model.indicators(self.temporal_out)

    @functools.cached_property
    def spatial_out(self) -> Tensor:
        return self.model.spatial(self.latents, self.indicators.flatten(0, 1), self.case.tensor("train_visible_ids"))

    @property
    def repeats(self) -> int:
        """R, the number of noise draws per token."""
        rows, frames = len(self.case.tensor("train_noise")), len(self.case.tensor("train_visible_ids"))
        if rows % frames or self.case.settings.get("loss_repeat", rows // frames) != rows // frames:
            stated = self.case.settings.get("loss_repeat")
            raise ValueError(
                f"train_noise has {rows} rows for {frames} frames, and golden.json a loss_repeat of {stated}"
            )
        return rows // frames

    @property
    def denoiser_out(self) -> Tensor:
        x = self.model.frame_tokens(self.latents).repeat(self.repeats, 1, 1)
        noised = self.case.schedule.noised(x, self.case.tensor("train_noise"), self.case.tensor("train_timesteps"))
        return self.model.image_decoder(x_t=noised.x_t, t=noised.t, z=self.spatial_out.repeat(self.repeats, 1, 1))

    @functools.cached_property
    def losses(self) -> Losses:
        """Losses as training computes them, independent of the outputs above."""
        draws = Draws(
            visible=self.case.tensor("train_visible_ids"),
            index=self.case.tensor("train_timesteps"),
            noise=self.case.tensor("train_noise"),
        )
        assert self.repeats
        z = self.model.spatial(self.latents, self.indicators.flatten(0, 1), draws.visible, draws.hidden)
        return self.model.diffusion_loss(self.latents, z, self.case.schedule, draws)

    @property
    def loss(self) -> Tensor:
        return self.losses.total

    @property
    def loss_t2i(self) -> Tensor:
        return self.losses.first_frame

    @property
    def loss_i2i(self) -> Tensor:
        if self.losses.later_frames is None:
            raise ValueError("golden.safetensors holds loss_i2i, but its latents are images")
        return self.losses.later_frames


_TABLE = re.compile(r"sched_(timesteps|sigmas|alphas_cumprod|betas)(?:_(\d+))?")


def schedule_table(case: ReferenceCase, name: str) -> Tensor:
    """A table of the schedule: of a sampling run whose number of steps ends the name, else of training."""
    kind, steps = _TABLE.fullmatch(name).groups()  # type: ignore[union-attr]
    schedule, count = case.schedule, int(steps) if steps else None
    if isinstance(schedule, FlowMatching) and kind == "sigmas":
        return schedule.sigmas(count) if count else schedule.table()
    if kind == "timesteps" and count:
        return schedule.timesteps(count)
    if isinstance(schedule, FlowMatching) and kind == "timesteps":
        return schedule.train_timesteps()
    if isinstance(schedule, Ddpm) and kind != "sigmas":
        return getattr(schedule.scheduler(), kind)
    raise ValueError(f"golden.safetensors holds {name}, which the scheduler of golden.json does not have")


_INDEXED = re.compile(r"(\w+)(?:\[([-\d:, ]*)\])?")


def first_frames(golden: dict[str, Tensor], expression: str) -> Tensor:
    """Latents [B, C, t, H, W] that a generation continues: a tensor's name, or for instance `latents[:, :, 0]`."""
    match = _INDEXED.fullmatch(expression)
    if match is None or match[1] not in golden:
        raise ValueError(
            f"golden.json gives the first frame {expression!r}, "
            "which is not an index into a tensor of golden.safetensors"
        )
    index: list[int | slice] = []
    for axis in (match[2] or ":").split(","):
        ends = [int(end) if end.strip() else None for end in axis.split(":")]
        index.append(slice(*ends) if ":" in axis else int(axis))
    frames = golden[match[1]][tuple(index)]
    return frames if frames.ndim == 5 else frames.unsqueeze(2)


def generation(case: ReferenceCase, name: str) -> Tensor:
    """Latents [B, C, T, H, W] of a generation with the seed and the settings of golden.json."""
    expected, prompt = case.golden[name], case.prompt
    options = {key: value for key, value in case.settings["generations"][name].items() if value is not None}
    unknown = [key for key in options if key not in _GENERATION_KEYS]
    if unknown:
        raise ValueError(
            f"golden.json has {unknown[0]!r} in {name}, which has no check; known are {sorted(_GENERATION_KEYS)}"
        )

    def per_prompt(key: str) -> Tensor | None:
        return torch.tensor(options[key], dtype=torch.float32).expand(len(prompt)) if key in options else None

    request = Request(
        text=prompt,
        frames=options.get("latent_frames", expected.shape[2]),
        latent_size=(expected.shape[3], expected.shape[4]),
        generators=[torch.Generator().manual_seed(options["seed"])],
        sampling=SamplingConfig(**{key: options[key] for key in _SAMPLING_KEYS & set(options)}),
        motion=per_prompt("motion_flow"),
        fps=per_prompt("fps"),
        first_frames=first_frames(case.golden, options["first_frame"]) if "first_frame" in options else None,
    )
    return generate(case.model, case.schedule, request)
