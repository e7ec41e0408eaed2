"""Trains models of the zoo from nothing, or goes on where a training was stopped, and writes them with their cards.

    OUTPUT/NAME/            what the class's own loader reads, and README.md, the card
    OUTPUT/.training/       the states of trainings, and their curves

Trainings take from a quarter of an hour (the text encoder) over 40 minutes (the captioner) to about five hours (RAFT,
the VAE) of two cores, and minutes of a GPU; each card says how long its model took, and on what.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.shapes_world.zoo import NAMES, check
from pipelines.store.files import replacing_folder

CARD_SEED = 1000
"""Of the scenes that a card's scores are over; no training draws from it."""
CARD_COUNT = 256


@dataclass(frozen=True)
class Kind:
    """How a model of the zoo is made, and what its card says."""

    module: str
    what: str
    save: str = "save"
    checked: tuple[str, ...] = ()
    """Functions of `check` that score it."""


VAE = "A causal video VAE of nova_model, for images and videos (stride 8, four frames to a latent)."
KINDS = {
    "vae": Kind("vae", VAE, checked=("vae",)),
    "clip": Kind("clip", "An open_clip model of pictures of the shapes world and captions.", checked=("retrieval",)),
    "aesthetic": Kind("clip", "A linear head for zoo/clip, as LAION's.", save="save_head", checked=("aesthetic",)),
    "raft": Kind("raft", "torchvision's raft_small.", checked=("motion",)),
    "captioner": Kind("captioner", "A small Qwen3-VL, with its processor.", checked=("captions",)),
    "text_encoder": Kind("text_encoder", "A small Phi, with its tokenizer."),
}
assert tuple(KINDS) == NAMES


def build(name: str, output: Path, *, steps: int | None = None, say: Callable[[str], None] = print) -> Path:
    """Trains one model and returns its folder.

    Args:
        name: of `NAMES`.
        output: where models and the states of their trainings are kept.
        steps: a shorter training than planned.
        say: takes lines of text.

    Raises:
        ValueError: there is no such model.
    """
    if name not in KINDS:
        raise ValueError(f"unknown model {name!r}; the zoo has {', '.join(KINDS)}")
    kind = KINDS[name]
    module: Any = import_module(f"pipelines.shapes_world.zoo.{kind.module}")
    plan = module.PLAN if steps is None else dataclasses.replace(module.PLAN, steps=steps)
    state = output / ".training" / f"{kind.module}.pt"
    model = module.train(state, plan=plan)
    target = output / name
    with replacing_folder(target) as folder:
        getattr(module, kind.save)(model, folder)
    (target / check.CARD).write_text("", encoding="utf-8")  # so that its own checks find it
    scores = scored(kind.checked, output)
    (target / check.CARD).write_text(card(name, plan, state, target, scores), encoding="utf-8")
    say(f"{name}: {target}" + "".join(f"  {key} {value:.4g}" for key, value in scores.items()))
    return target


def scored(checks: Sequence[str], output: Path) -> dict[str, float]:
    """What `check` finds of the models in a folder."""
    found: dict[str, float] = {}
    for name in checks:
        found |= check.CHECKS[name](check.Models.in_folder(output), CARD_SEED, CARD_COUNT)
    return found


def card(name: str, plan: Any, state: Path, folder: Path, scores: dict[str, float]) -> str:
    """What a model is, how it was trained, and what it can do."""
    from pipelines.shapes_world.zoo.training import effort

    kind = KINDS[name]
    module = import_module(f"pipelines.shapes_world.zoo.{kind.module}")
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    further = sorted(state.parent.glob(f"{state.stem}_*{state.suffix}"))  # of trainings that followed
    efforts = "; then ".join(effort(each) for each in (state, *further))
    lines = [
        f"# zoo/{name}", "", kind.what, "", f"{size:.1f} MB. It knows the shapes world and nothing else.", "",
        "## How it was made", "", " ".join((module.__doc__ or "").split("\n\n", 1)[-1].split()), "",
        f"`nova zoo build {name}`{_behind(name)}, seed {module.SEED}, learning rate {plan.lr:g}: {efforts}.", "",
    ]  # fmt: skip
    if scores:
        lines += [
            f"## Scores (seed {CARD_SEED}, {CARD_COUNT} scenes; no training saw them)",
            "",
            "| | | bar |",
            "|---|---|---|",
        ]
        lines += [f"| {key} | {value:.4g} | {check.BARS.get(key, '')} |" for key, value in scores.items()]
        lines.append("")
    return "\n".join(lines)


def _behind(name: str) -> str:
    """What a model that is fitted to another one's features says of the training."""
    module = KINDS[name].module
    return "" if module == name else f" fits it behind the training of zoo/{module}"
