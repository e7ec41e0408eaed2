"""`nova zoo`: trains and checks the bundled small models.

nova zoo build [NAME ...] --output zoo      trains models from scratch, or resumes their trainings
nova zoo check --seed 7 --json              scores all models on scenes that are drawn from this seed
"""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from jobs import settings
from jobs.curate import CurateConfig, curate
from jobs.shapes_world.audit import audit_corpus
from jobs.shapes_world.corpus import check_items
from pipelines.core.devices import cores
from pipelines.shapes_world import audit
from pipelines.shapes_world.corpus import write_corpus
from pipelines.shapes_world.zoo import BUNDLED, NAMES, build, check
from pipelines.store.folders import check_output_folder, local_folder
from pipelines.store.locks import exclusive
from pipelines.store.tables import Tables


@dataclass(frozen=True, kw_only=True)
class Build:
    """Trains models of the zoo from scratch. A second run resumes where the first was stopped; finished models stay.

    Example: nova zoo build raft --output zoo
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Models to train; all by default. The head `aesthetic` needs `clip`."""
    output: str = "zoo"
    """Folder for models and for the states of their trainings."""
    steps: int | None = None
    """Number of steps of each training, such as 1 for a test; the model's own plan by default."""
    threads: int | None = None
    """CPU threads of a training; all cores by default."""

    def check(self) -> None:
        """Raises ValueError for options that make no sense."""
        # Not in __post_init__, where the parser would catch the error and print a box around it.
        for name in self.names:
            if name not in NAMES:
                raise ValueError(f"unknown model {name!r}{settings.nearest(name, NAMES)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--steps {self.steps}: at least 1")


@dataclass(frozen=True, kw_only=True)
class Check:
    """Scores the zoo on scenes that were not trained on, and on a corpus that it curates.

    Example: nova zoo check --seed 7 --json
    """

    seed: int = 1000
    """Seed of the scenes and of the corpus."""
    count: int = 256
    """Number of scenes for each score, and of files in the corpus."""
    models: str | None = None
    """Output folder of `nova zoo build`; the bundled models by default."""
    corpus: bool = True
    """Whether to write and curate a corpus to score cuts and duplicates; takes minutes."""
    json: bool = False
    """Print one JSON object as the last line."""
    address: str | None = None
    """Ray cluster to curate on; RAY_ADDRESS or this machine by default."""

    def check(self) -> None:
        """Raises ValueError for options that make no sense."""
        check_items("--count", self.count)
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: a number from 0 on")


Command = Annotated[Build, tyro.conf.subcommand("build")] | Annotated[Check, tyro.conf.subcommand("check")]


def main(arguments: Sequence[str], *, curation: Callable[[], CurateConfig]) -> int:
    """Runs a command line; returns 0 on success, 1 where a score misses its bar.

    Args:
        arguments: the command line, without `nova zoo`.
        curation: returns the config by which `nova zoo check` curates a corpus, but for the models.
    """
    config: Build | Check = settings.parse(
        Command,  # type: ignore[arg-type]
        args=list(arguments),
        prog="nova zoo",
        description=inspect.cleandoc(__doc__ or ""),
    )
    config.check()
    return build_models(config) if isinstance(config, Build) else check_models(config, curation)


def build_models(config: Build) -> int:
    """Trains the models that are not finished yet.

    Raises:
        ValueError: the output is a file.
    """
    import torch

    output = local_folder(config.output, "--output")
    check_output_folder(output, "--output", contents=["*"])  # other files stay: only folders of models are written
    # A container may use fewer CPUs than the machine has, by which torch counts.
    torch.set_num_threads(config.threads or cores())
    for name in config.names or NAMES:
        # The card comes after the weights, so a model with a card is finished.
        if (output / name / check.CARD).exists():
            print(f"{name}: finished, in {output / name}")
            continue
        with exclusive(output, name, option="--output"):
            build.build(name, output, steps=config.steps)
    return 0


def check_models(config: Check, curation: Callable[[], CurateConfig]) -> int:
    """Prints all scores with their bars; returns 0 where all of them hold, 1 where one misses or has no model."""
    models = check.Models.in_folder(_folder(config.models))
    console = Console(stderr=config.json)
    scores: dict[str, float] = {}
    missing = [name for name in check.CHECKS if not models.has(name)]
    for name, score in check.CHECKS.items():
        if name in missing:
            continue
        with console.status(f"{name} …"):
            scores |= score(models, config.seed, config.count)
    if config.corpus:
        scores |= audit_scores(models, config, curation())
    missed = [name for name in check.BARS if name in scores and not check.holds(name, scores[name])]
    console.print(score_table(scores))
    if missing:
        console.print(f"not checked, since a model is missing (nova zoo build): {', '.join(missing)}")
    if missed:
        console.print(f"below the bar: {', '.join(missed)}")
    if config.json:
        print(json.dumps({name: round(value, 5) for name, value in scores.items()}))
    return 1 if missed or missing else 0


def _folder(models: str | None) -> Path:
    folder = Path(models).expanduser().absolute() if models else BUNDLED
    if not any((folder / name).is_dir() for name in NAMES):
        raise ValueError(f"--models {folder} holds no model of the zoo; give the folder of nova zoo build")
    return folder


def audit_scores(models: check.Models, config: Check, recipe: CurateConfig) -> dict[str, float]:
    """Curates a corpus with these models by `nova curate`, and returns the scores and metrics of its audit."""
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
        result = audit.compare(Tables(tables), audit.read_truth(corpus / "truth.jsonl"))
    pairs = audit.pooled(result.exact, result.near)
    scores = {
        "shots_f1": result.cuts.f1,
        "duplicates_precision": pairs.precision,
        "duplicates_recall": pairs.recall,
        **audit.metrics(result),
    }
    return {name: value for name, value in scores.items() if value is not None}


def score_table(scores: dict[str, float]) -> Table:
    """The scores as a table for the terminal, those with a bar first."""
    table = Table(title="the zoo, on scenes that were not trained on", title_justify="left")
    for column in ("score", "value", "bar", ""):
        table.add_column(column, justify="left" if column in ("score", "") else "right")
    for name in sorted(scores, key=lambda name: (name not in check.BARS, name)):
        bar = check.BARS.get(name)
        verdict = "" if bar is None else "ok" if check.holds(name, scores[name]) else "missed"
        sign = "<" if name in check.LOWER_IS_BETTER else "≥"
        table.add_row(name, f"{scores[name]:.4f}", "" if bar is None else f"{sign} {bar:g}", verdict)
    return table
