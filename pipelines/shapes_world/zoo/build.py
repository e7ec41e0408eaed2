"""Trains models of the zoo from scratch, or resumes their trainings, and writes them with their cards.

    OUTPUT/NAME/            files for the loader of the model's own library, and README.md, the card
    OUTPUT/.training/       states of the trainings, and their curves

Each card says how long the training of its model took, and on which hardware; docs/performance.md compares them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.shapes_world.zoo import NAMES, check
from pipelines.shapes_world.zoo.training import Plan, effort
from pipelines.store.files import replacing_folder

CARD_SEED = 1000
"""Seed of the scenes that a card's scores are measured on; no training draws from it."""
CARD_COUNT = 256


@dataclass(frozen=True)
class Kind:
    """How a model of the zoo is trained, and what its card says."""

    module: str
    """Module of this package with PLAN, SEED and `train`."""
    description: str
    save: str = "save"
    """Function of the module that writes the model."""
    checks: tuple[str, ...] = ()
    """Functions of `check` that score the model."""


VAE = "A causal video VAE of nova_model, for images and videos (stride 8, four frames to a latent)."
KINDS = {
    "vae": Kind("vae", VAE, checks=("vae",)),
    "clip": Kind("clip", "An open_clip model of pictures of the shapes world and captions.", checks=("retrieval",)),
    "aesthetic": Kind("clip", "A linear head for zoo/clip, as LAION's.", save="save_head", checks=("aesthetic",)),
    "raft": Kind("raft", "torchvision's raft_small.", checks=("motion",)),
    "captioner": Kind("captioner", "A small Qwen3-VL, with its processor.", checks=("captions",)),
    "text_encoder": Kind("text_encoder", "A small Phi, with its tokenizer."),
    "dino": Kind("dino", "A small ViT whose class token represents what is shown, as DINO's.", checks=("subject",)),
}
assert tuple(KINDS) == NAMES


def build(name: str, output: Path, *, steps: int | None = None, report: Callable[[str], None] = print) -> Path:
    """Trains one model and returns its folder.

    Args:
        name: one of `NAMES`.
        output: folder for models and for the states of their trainings.
        steps: number of steps, where it is not that of the model's plan.
        report: receives a line of text with the scores.

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
    (target / check.CARD).write_text("", encoding="utf-8")  # checks take folders with a card only
    scores = score(kind.checks, output)
    (target / check.CARD).write_text(card(name, plan, state, target, scores), encoding="utf-8")
    report(f"{name}: {target}" + "".join(f"  {key} {value:.4g}" for key, value in scores.items()))
    return target


def score(checks: Sequence[str], output: Path) -> dict[str, float]:
    """Scores of the models in a folder by some functions of `check`."""
    scores: dict[str, float] = {}
    for name in checks:
        scores |= check.CHECKS[name](check.Models.in_folder(output), CARD_SEED, CARD_COUNT)
    return scores


def card(name: str, plan: Plan, state: Path, folder: Path, scores: dict[str, float]) -> str:
    """The text of a model's card: what the model is, how it was trained, and its scores."""
    kind = KINDS[name]
    module = import_module(f"pipelines.shapes_world.zoo.{kind.module}")
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    further = sorted(state.parent.glob(f"{state.stem}_*{state.suffix}"))  # second trainings, such as the VAE decoder's
    efforts = "; then ".join(effort(path) for path in (state, *further))
    lines = [
        f"# zoo/{name}", "", kind.description, "", f"{size:.1f} MB. It knows the shapes world and nothing else.", "",
        "## Training", "", " ".join((module.__doc__ or "").split("\n\n", 1)[-1].split()), "",
        f"`nova zoo build {name}`{_describe_base(name)}, seed {module.SEED}, learning rate {plan.lr:g}: {efforts}.", "",
    ]  # fmt: skip
    if scores:
        lines += [
            f"## Scores (seed {CARD_SEED}, {CARD_COUNT} scenes that were not trained on)",
            "",
            "| score | value | bar |",
            "|---|---|---|",
        ]
        lines += [f"| {key} | {value:.4g} | {check.BARS.get(key, '')} |" for key, value in scores.items()]
        lines.append("")
    return "\n".join(lines)


def _describe_base(name: str) -> str:
    """Text about the model whose features this one is fitted to; empty where there is none."""
    module = KINDS[name].module
    return "" if module == name else f" fits it after the training of zoo/{module}"
