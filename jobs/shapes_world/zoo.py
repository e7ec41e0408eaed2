"""`nova zoo`: the small trained models that the project carries, trained again and checked.

nova zoo build [NAME ...] --output zoo      from nothing on two cores, going on where it was stopped
nova zoo check --seed 7 --json              every score of the zoo, on scenes drawn from this seed
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jobs import settings
from jobs.shapes_world.corpus import enough
from pipelines.shapes_world.zoo import CARRIED, NAMES

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Build:
    """Trains models of the zoo from nothing; run again, it goes on where it was stopped. Finished ones stay.

    Example: nova zoo build raft --output zoo
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which ones; all by default, aesthetic after clip."""
    output: str = "zoo"
    """Folder for models and for the states of their trainings."""
    steps: int | None = None
    """Train each for so many steps only, to see that it runs."""
    threads: int | None = None
    """Threads of a training; all cores by default."""

    def check(self) -> None:
        """Raises ValueError where the options make no sense: behind the parser, which would draw a box around it."""
        from jobs.settings import nearest

        for name in self.names:
            if name not in NAMES:
                raise ValueError(f"unknown model {name!r}{nearest(name, NAMES)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--steps {self.steps}: at least 1")


@dataclass(frozen=True, kw_only=True)
class Check:
    """Scores the zoo on scenes that none of its models has seen, and on a corpus that it curates.

    Example: nova zoo check --seed 7 --json
    """

    seed: int = 1000
    """Of the scenes and of the corpus."""
    count: int = 256
    """Scenes for each score, and files of the corpus."""
    models: str | None = None
    """Folder of `nova zoo build`; the carried models by default."""
    corpus: bool = True
    """Whether a corpus is written and curated, for cuts and duplicates; takes minutes."""
    json: bool = False
    """Print one JSON object as the last line."""
    address: str | None = None
    """Ray cluster to curate on; without it RAY_ADDRESS, else this machine."""

    def check(self) -> None:
        """Raises ValueError where the options make no sense."""
        enough("--count", self.count)
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: a number from 0 on")


Command = Annotated[Build, tyro.conf.subcommand("build")] | Annotated[Check, tyro.conf.subcommand("check")]


def main(arguments: Sequence[str]) -> int:
    """Reads the command line and runs; 0 on success, 1 where a check misses its bar."""
    import inspect

    config: Build | Check = settings.parse(
        Command,  # type: ignore[arg-type]
        args=list(arguments),
        prog="nova zoo",
        description=inspect.cleandoc(__doc__ or ""),
    )
    config.check()
    return build(config) if isinstance(config, Build) else check(config)


def build(config: Build) -> int:
    """Trains what is not finished yet.

    Raises:
        ValueError: the output is no folder of ours.
    """
    import torch

    from pipelines.core.devices import cores
    from pipelines.shapes_world.zoo import build as building
    from pipelines.shapes_world.zoo.check import CARD

    output = Path(config.output).expanduser().absolute()
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; give a folder")
    torch.set_num_threads(config.threads or cores())
    for name in config.names or NAMES:
        if (output / name / CARD).exists():
            print(f"{name}: finished, in {output / name}")
            continue
        building.build(name, output, steps=config.steps)
    return 0


def check(config: Check) -> int:
    """Prints every score next to its bar; 0 where all that were taken hold, 1 where one misses or is wanting."""
    from rich.console import Console

    from pipelines.shapes_world.zoo import check as checks

    models = checks.Models.in_folder(_folder(config.models))
    console = Console(stderr=config.json)
    found: dict[str, float] = {}
    waiting = [name for name in checks.CHECKS if not models.has(name)]
    for name, score in checks.CHECKS.items():
        if name in waiting:
            continue
        with console.status(f"{name} …"):
            found |= score(models, config.seed, config.count)
    if config.corpus:
        found |= planted(models, config)
    missed = [name for name in checks.BARS if name in found and not checks.holds(name, found[name])]
    console.print(table(found))
    if waiting:
        console.print(f"not checked, for want of a model (nova zoo build): {', '.join(waiting)}")
    if missed:
        console.print(f"below the bar: {', '.join(missed)}")
    if config.json:
        print(json.dumps({name: round(value, 5) for name, value in found.items()}))
    return 1 if missed or waiting else 0


def _folder(models: str | None) -> Path:
    folder = Path(models).expanduser().absolute() if models else CARRIED
    if not any((folder / name).is_dir() for name in NAMES):
        raise ValueError(f"--models {folder} holds no model of the zoo; give the folder of nova zoo build")
    return folder


def planted(models: Any, config: Check) -> dict[str, float]:
    """Cuts and duplicates that `nova curate` finds in a corpus, as it finds them everywhere."""
    from jobs.curate import curate
    from jobs.recipes.registry import config_of
    from jobs.shapes_world.audit import audit_corpus
    from pipelines.shapes_world import audit as planted
    from pipelines.shapes_world import write_corpus
    from pipelines.store.tables import Tables

    recipe = config_of("demo", "curate")
    with tempfile.TemporaryDirectory(prefix="nova-zoo-") as folder:
        corpus, tables = Path(folder) / "corpus", Path(folder) / "tables"
        manifest = write_corpus(corpus, items=config.count, seed=config.seed)
        aesthetic = replace(
            recipe.aesthetic,
            model=models.clip or recipe.aesthetic.model,
            head=models.aesthetic or recipe.aesthetic.head,
        )
        curate(
            replace(
                recipe,
                input=str(manifest),
                tables=str(tables),
                address=config.address,
                motion=replace(recipe.motion, weights=models.raft or recipe.motion.weights),
                aesthetic=aesthetic,
                caption=replace(recipe.caption, model=models.captioner or recipe.caption.model),
                latents=replace(recipe.latents, model=models.vae or recipe.latents.model),
            ),
            auditors=[audit_corpus],
        )
        findings = planted.compare(Tables(tables), planted.read_truth(corpus / "truth.jsonl"))
    pairs = planted.both(findings.exact, findings.near)
    named = {
        "shots_f1": findings.cuts.f1,
        "duplicates_precision": pairs.precision,
        "duplicates_recall": pairs.recall,
        **planted.numbers(findings),
    }
    return {name: value for name, value in named.items() if value is not None}


def table(found: dict[str, float]) -> Table:
    """The scores as they are shown on screen."""
    from rich.table import Table

    from pipelines.shapes_world.zoo import check as checks

    shown = Table(title="the zoo, on scenes it has not seen", title_justify="left")
    for column in ("score", "value", "bar", ""):
        shown.add_column(column, justify="left" if column in ("score", "") else "right")
    for name in sorted(found, key=lambda name: (name not in checks.BARS, name)):
        bar = checks.BARS.get(name)
        verdict = "" if bar is None else "ok" if checks.holds(name, found[name]) else "missed"
        sign = "<" if name in checks.LOWER_IS_BETTER else "≥"
        shown.add_row(name, f"{found[name]:.4f}", "" if bar is None else f"{sign} {bar:g}", verdict)
    return shown
