"""The state of an ablation: its output folder, trainings and tables, which variants share where they can."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.fs

from jobs import settings
from jobs.ablate.config import AblateConfig
from jobs.ablate.variants import VARIANTS, Setup, changed_settings, select_variants
from jobs.curate import CurateConfig, recurate
from jobs.train import job
from jobs.train.config import TrainConfig, TrainingConfig
from pipelines.curation.curator import Curator
from pipelines.store import schema
from pipelines.store.files import replacing_folder, write_json
from pipelines.store.filesystems import open_filesystem
from pipelines.store.folders import check_output_folder, local_folder
from pipelines.store.locks import exclusive
from pipelines.store.tables import Tables, split_version

OUTPUTS = ("ablation.", "ablate.json", "mlflow.json", "plots", "runs", "judged", "tables", "rates", "results")
CHANGEABLE = ("output", "tables", "only", "seeds")
"""Settings that a second call on the same folder may change; the version of `tables` is checked on its own."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """An ablation in an output folder. Tables, trainings and results are computed once, for the first variant of all
    that share them."""

    config: AblateConfig
    output: Path
    root: str
    """Address of the tables."""
    version: int
    names: list[str]
    """Names of the chosen variants, in order."""
    setups: dict[str, Setup]
    """Settings of all variants, chosen or not."""

    def same(self, name: str) -> str:
        """The first variant with the same settings."""
        return next(other for other, setup in self.setups.items() if setup == self.setups[name])

    def same_training(self, name: str) -> str:
        """The first variant with the same training."""
        curate, train = self.setups[name].curate, self.setups[name].train
        return next(other for other, setup in self.setups.items() if (setup.curate, setup.train) == (curate, train))

    def same_tables(self, name: str) -> str:
        """The first variant with the same tables."""
        return next(other for other, setup in self.setups.items() if setup.curate == self.setups[name].curate)

    @property
    def changes(self) -> dict[str, str]:
        """The settings that each chosen variant changes."""
        return {name: changed_settings(self.setups[name], self.setups["full"]) for name in self.names}

    def train(self, name: str, seed: int, parent: str) -> Path:
        """Trains a variant if that was not done before, and returns its run folder.

        Args:
            name: name of the variant.
            seed: seed of the training, added to the recipe's seed.
            parent: id of the MLflow run that the training belongs to.
        """
        name = self.same_training(name)
        folder = self.output / "runs" / f"{name}-{seed}"
        if not (folder / "model").exists():
            job.train(replace(self.training(name, seed, parent), run=str(folder)))
        return folder

    def training(self, name: str, seed: int, parent: str) -> TrainConfig:
        """Config of a variant's training, without its run folder."""
        base = self.setups[name].train
        return settings.extend(
            TrainConfig, base, tables=self.tables(name, parent), seed=base.seed + seed, address=self.config.address,
            parent_run=parent,
        )  # fmt: skip

    def tables(self, name: str, parent: str) -> str:
        """DIR@VERSION of a variant's tables: those of the config, or a copy that is curated with other settings."""
        name = self.same_tables(name)
        if name == "full":
            return f"{self.root}@{self.version}"
        folder, done = self.output / "tables" / name, self.output / "tables" / f"{name}.json"
        if not done.exists():
            copy_tables(self.root, folder)
            config = settings.extend(
                CurateConfig, self.setups[name].curate, tables=str(folder), address=self.config.address
            )
            write_json(done, {"version": recurate(config, parent=parent).version})
        return f"{folder}@{read(done)['version']}"


def plan(config: AblateConfig) -> Ablation:
    """Checks a config before anything is computed or written.

    Raises:
        ValueError: an unknown variant, missing tables, tables of another recipe, or an output folder that holds other
            files or an ablation with other settings.
    """
    # Cheap checks first, in the order in which a user can act on them.
    names = select_variants(config.only)
    config.shapes.check()
    if not config.tables:
        raise ValueError("--tables is missing; give the folder that `nova curate` wrote")
    output = _output(config)
    address, version = split_version(config.tables)
    tables = Tables(address)
    newest = tables.version("examples")
    started = read(output / "ablate.json")
    # A second call stays with the version of the first: otherwise variants of one ablation would be trained on
    # different data as soon as the tables grow.
    if version is None:
        version = started["version"] if started.get("root") == tables.root else newest
    ablation = Ablation(
        config=config,
        output=output,
        root=tables.root,
        version=version,
        names=names,
        # Of all variants, chosen or not: which variant owns a shared training must not depend on --only, or a second
        # call with other variants would not find it.
        setups={name: change(config.base) for name, change in VARIANTS.items()},
    )
    job.check(config.base.train, ablation.root, version)
    if any(ablation.same_tables(name) != "full" for name in ablation.names):
        Tables(output / "tables")  # raises where Delta cannot store tables below the output
        _check_recipe(config, tables, newest, version)
    return ablation


def _output(config: AblateConfig) -> Path:
    if not config.output:
        raise ValueError("--output is missing; give a folder for trainings, tables and the report")
    output = local_folder(config.output, "--output")
    check_output_folder(output, "--output", markers=("ablate.json",), contents=[f"{name}*" for name in OUTPUTS])
    return output


def _check_recipe(config: AblateConfig, tables: Tables, newest: int, version: int) -> None:
    """Raises ValueError unless the tables are complete by the config's settings, so that copies that are curated with a
    variant's settings differ in these alone."""
    if version != newest:
        raise ValueError(
            f"--tables {tables.root}@{version} is not the newest ({newest}), which raw_captions and "
            "no_aesthetic_filter build on; leave out the version or, with --only, these variants"
        )
    if not Curator(tables, config.curate).is_settled():
        raise ValueError(
            f"{tables.root} was curated by other settings, or not to the end; give its --recipe, or curate it again"
        )


def claim(ablation: Ablation) -> None:
    """Stores the settings in OUTPUT/ablate.json.

    Raises:
        ValueError: the folder was started with other settings.
    """
    started = read(ablation.output / "ablate.json")
    flat = json.loads(json.dumps(settings.flatten(ablation.config), default=str))  # values as JSON stores them
    # Folders that version 0.1 started keep working: their keys are translated before they are compared.
    renamed = {f"train.{key}": f"train.{value}" for key, value in TrainingConfig.RENAMED.items()}
    renamed |= {f"evaluate.{key}": key for key in flat if key.startswith(("generate.", "shapes."))}
    started = settings.current_keys(started, renamed)
    current = {"root": ablation.root, "version": ablation.version}
    current |= {
        key: value
        for key, value in flat.items()
        if key not in CHANGEABLE and not key.endswith(("address", "samples_at_once")) and ".resources." not in key
    }
    for key, value in current.items():
        if started.get(key, value) != value:
            raise ValueError(
                f"--output {ablation.output} was started with {key}={started[key]}, not {value}; give another --output"
            )
    # Earlier entries stay, with keys of settings that this call does not have.
    write_json(ablation.output / "ablate.json", started | current)


def copy_tables(root: str, folder: Path) -> None:
    """Copies tables to a folder, under their lock; does nothing if the folder exists.

    Raises:
        BusyError: another process is writing to the tables.
    """
    # A folder under its final name is complete, as `replacing_folder` renames it last.
    if folder.exists():
        return
    # Under the lock, as the log and the data files are copied one after the other: after a commit in between, the log
    # could name files that the copy lacks. Copied as files, so that versions and the order of rows are those of the
    # original.
    with exclusive(root), replacing_folder(folder) as copy:
        for name in schema.TABLES:
            filesystem, path = open_filesystem(f"{root}/{name}")
            (copy / name).mkdir()
            pyarrow.fs.copy_files(path, str(copy / name), filesystem, pyarrow.fs.LocalFileSystem())


def read(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is no file."""
    return json.loads(path.read_text()) if path.exists() else {}
