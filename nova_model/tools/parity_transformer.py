"""What a transformer's reference tensors are compared with (spec section 7); the command is `parity.py`."""

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
from nova_model.model import Draws, Losses, Nova
from nova_model.sampling.schedule import Ddpm, FlowMatching, Schedule, schedule_from_config
from nova_model.sampling.video import generate

PASS_TOLERANCE = 5e-5
GENERATION_TOLERANCE = 3e-4
"""Of generations, and of timesteps, which are numbers up to 1000."""
INPUTS = r"latents|prompt_\d+|labels|motion_flow|fps|train_visible_ids|train_timesteps|train_noise"

_SCHEDULERS = {"flow": "FlowMatchEulerDiscreteScheduler", "ddpm": "DDPMScheduler"}
_PASS = (
    "text_padded", "context", "context_with_motion", "temporal_out", "spatial_out", "denoiser_out", "loss", "loss_t2i",
    "loss_i2i",
)  # fmt: skip
_SAMPLING = {each.name for each in fields(SamplingConfig)}
_ASKED = _SAMPLING | {"latent_frames", "seed", "motion_flow", "fps", "first_frame"}

Job = tuple[str, float, Callable[[], Tensor]]
"""A tensor's name, its tolerance, and what computes it."""


@dataclass(frozen=True)
class Case:
    """A transformer and its reference."""

    model: Nova
    schedule: Schedule
    golden: dict[str, Tensor]
    settings: dict[str, Any]
    """golden.json."""

    def given(self, name: str) -> Tensor:
        """An input."""
        if name not in self.golden:
            raise ValueError(f"golden.safetensors lacks {name}, which its outputs need")
        return self.golden[name]

    @functools.cached_property
    def prompt(self) -> Tensor:
        """Padded text features [B, L, token], or labels [B]."""
        if self.model.text_embed is None:
            return self.given("labels").long()
        names = sorted((name for name in self.golden if name.startswith("prompt_")), key=lambda name: int(name[7:]))
        if not names:
            raise ValueError("golden.safetensors lacks prompt_0, which its outputs need")
        return self.model.pad_text([self.golden[name] for name in names])


def transformer_jobs(
    config: dict[str, Any], weights: dict[str, Tensor], golden: dict[str, Tensor], settings: dict[str, Any]
) -> list[Job]:
    """What checks each output of a transformer's reference.

    Raises:
        ValueError: a config or weights that cannot be built, or an output that has no check.
    """
    model = Nova(config_of(config, weights)).eval()
    check_keys(model, weights)
    model.load_state_dict(weights)
    case = Case(model, scheduler_of(settings), golden, settings)
    asked = settings.get("generations", {})
    lost = [name for name in asked if name not in golden]
    if lost:
        raise ValueError(f"golden.json asks for {lost[0]}, which golden.safetensors lacks")
    inputs = {str(each.get("first_frame")).partition("[")[0] for each in asked.values()}
    passed, jobs = TrainingPass(case), list[Job]()
    for name in sorted(golden):
        table = _TABLE.fullmatch(name)
        if name in _PASS:
            jobs.append((name, PASS_TOLERANCE, functools.partial(getattr, passed, name)))
        elif name in asked:
            jobs.append((name, GENERATION_TOLERANCE, functools.partial(generation, case, name)))
        elif table:
            tolerance = GENERATION_TOLERANCE if table[1] == "timesteps" else PASS_TOLERANCE
            jobs.append((name, tolerance, functools.partial(schedule_table, case, name)))
        elif not re.fullmatch(INPUTS, name) and name not in inputs:
            raise ValueError(f"golden.safetensors holds {name}, which is no known input and has no check")
    return jobs


def scheduler_of(settings: dict[str, Any]) -> Schedule:
    """The schedule that golden.json names: diffusers' keys, and `kind` or `_class_name`."""
    scheduler = dict(settings.get("scheduler") or {})
    kind = scheduler.pop("kind", None)
    if kind is not None and kind not in _SCHEDULERS:
        raise ValueError(f"golden.json has a scheduler of kind {kind!r}; known are {' and '.join(_SCHEDULERS)}")
    return schedule_from_config({"_class_name": _SCHEDULERS.get(kind, ""), **scheduler})


class TrainingPass:
    """What a training pass computes on the way, each when it is first asked for (spec sections 4 and 7)."""

    def __init__(self, case: Case) -> None:
        self.case, self.model = case, case.model

    @property
    def latents(self) -> Tensor:
        latents = self.case.given("latents")
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
        return self.model.indicators(self.context_with_motion, self.latents)

    @functools.cached_property
    def spatial_out(self) -> Tensor:
        return self.model.spatial(self.latents, self.indicators.flatten(0, 1), self.case.given("train_visible_ids"))

    @property
    def repeats(self) -> int:
        """R, noise draws a token."""
        rows, frames = len(self.case.given("train_noise")), len(self.case.given("train_visible_ids"))
        if rows % frames or self.case.settings.get("loss_repeat", rows // frames) != rows // frames:
            stated = self.case.settings.get("loss_repeat")
            raise ValueError(
                f"train_noise has {rows} rows for {frames} frames, and golden.json a loss_repeat of {stated}"
            )
        return rows // frames

    @property
    def denoiser_out(self) -> Tensor:
        x = self.model.frame_tokens(self.latents).repeat(self.repeats, 1, 1)
        noised = self.case.schedule.noised(x, self.case.given("train_noise"), self.case.given("train_timesteps"))
        return self.model.image_decoder(x_t=noised.x_t, t=noised.t, z=self.spatial_out.repeat(self.repeats, 1, 1))

    @functools.cached_property
    def losses(self) -> Losses:
        """As training computes them, not from the outputs above."""
        draws = Draws(
            visible=self.case.given("train_visible_ids"),
            index=self.case.given("train_timesteps"),
            noise=self.case.given("train_noise"),
        )
        assert self.repeats
        return self.model.losses(self.latents, self.indicators, self.case.schedule, draws)

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


def schedule_table(case: Case, name: str) -> Tensor:
    """A schedule's table: of a run of as many steps as the name says, else of all timesteps of training."""
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


_PICK = re.compile(r"(\w+)(?:\[([-\d:, ]*)\])?")


def first_frames(golden: dict[str, Tensor], wanted: str) -> Tensor:
    """Latents that a generation was given, [B, C, t, H, W]: a tensor's name, or a part of it, as `latents[:, :, 0]`."""
    match = _PICK.fullmatch(wanted)
    if match is None or match[1] not in golden:
        raise ValueError(
            f"golden.json gives the first frame {wanted!r}, which is no part of a tensor in golden.safetensors"
        )
    index: list[int | slice] = []
    for part in (match[2] or ":").split(","):
        ends = [int(end) if end.strip() else None for end in part.split(":")]
        index.append(slice(*ends) if ":" in part else int(part))
    found = golden[match[1]][tuple(index)]
    return found if found.ndim == 5 else found.unsqueeze(2)


def generation(case: Case, name: str) -> Tensor:
    """Latents [B, C, T, H, W] of a generation from its seed, as golden.json has it."""
    asked, expected = case.settings["generations"][name], case.golden[name]
    unknown = [key for key, value in asked.items() if key not in _ASKED and value is not None]
    if unknown:
        raise ValueError(f"golden.json has {unknown[0]!r} in {name}, which has no check; known are {sorted(_ASKED)}")
    given = {key: value for key, value in asked.items() if value is not None}
    prompt = case.prompt

    def each(key: str) -> Tensor | None:
        return torch.tensor(given[key], dtype=torch.float32).expand(len(prompt)) if key in given else None

    return generate(
        case.model,
        case.schedule,
        text=prompt,
        frames=given.get("latent_frames", expected.shape[2]),
        latent_size=(expected.shape[3], expected.shape[4]),
        generators=[torch.Generator().manual_seed(given["seed"])],
        settings=SamplingConfig(**{key: given[key] for key in _SAMPLING & set(given)}),
        motion=each("motion_flow"),
        fps=each("fps"),
        first_frames=first_frames(case.golden, given["first_frame"]) if "first_frame" in given else None,
    )
