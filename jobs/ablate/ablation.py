"""What the variants of `nova ablate` share: the output folder, its trainings and its tables."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import settings
from jobs.ablate.variants import VARIANTS, Setup, changed, chosen
from jobs.train.config import TrainConfig, TrainingConfig
from pipelines.store.files import replacing_folder, write_json
from pipelines.store.folders import check_output_folder

if TYPE_CHECKING:
    from jobs.ablate.config import AblateConfig
    from pipelines.store.tables import Tables

OURS = ("ablation.", "ablate.json", "mlflow.json", "plots", "runs", "judged", "tables", "rates", "results")
CHANGEABLE = ("output", "tables", "only", "seeds")
"""Settings that another call on the same folder may change; `tables` is held by its version."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """An ablation, and what it has done so far. Each part is done once, by the first variant that needs it."""

    config: AblateConfig
    output: Path
    root: str
    """Address of the tables."""
    version: int
    names: list[str]
    """Variants, in order."""
    setups: dict[str, Setup]
    """Of all variants there are."""

    def same(self, name: str) -> str:
        """The first variant that is this one in everything."""
        return next(each for each, setup in self.setups.items() if setup == self.setups[name])

    def same_training(self, name: str) -> str:
        """The first variant that is trained as this one is."""
        curate, train = self.setups[name].curate, self.setups[name].train
        return next(each for each, setup in self.setups.items() if (setup.curate, setup.train) == (curate, train))

    def same_tables(self, name: str) -> str:
        """The first variant whose tables are this one's."""
        return next(each for each, setup in self.setups.items() if setup.curate == self.setups[name].curate)

    @property
    def changes(self) -> dict[str, str]:
        """What each of the variants changes."""
        return {name: changed(self.setups[name], self.setups["full"]) for name in self.names}

    def trained(self, name: str, seed: int, parent: str) -> Path:
        """The run folder of a variant, trained.

        Args:
            name: of the variant.
            seed: counted from the recipe's own.
            parent: MLflow run that the training belongs to.
        """
        from jobs.train.job import train

        name = self.same_training(name)
        folder = self.output / "runs" / f"{name}-{seed}"
        if not (folder / "model").exists():
            train(replace(self.training(name, seed, parent), run=str(folder)))
        return folder

    def training(self, name: str, seed: int, parent: str) -> TrainConfig:
        """How a variant is trained; `run` is left open."""
        base = self.setups[name].train
        return settings.extend(
            TrainConfig, base, tables=self.tables(name, parent), seed=base.seed + seed, address=self.config.address,
            parent_run=parent,
        )  # fmt: skip

    def tables(self, name: str, parent: str) -> str:
        """DIR@VERSION that a variant trains on: the given tables, or a copy of them that was curated otherwise."""
        from jobs.curate import CurateConfig, recurate

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


def claim(config: AblateConfig) -> Work:
    """Checks what can be checked at once, makes the output folder ours and remembers what it is for.

    Raises:
        ValueError: an unknown variant, no tables, tables of another recipe, an output folder that is not ours or of
            other settings.
    """
    from jobs.train.job import check
    from pipelines.store.tables import Tables, split_version

    names = chosen(config.only)
    if not config.tables:
        raise ValueError("--tables is missing; give the folder that `nova curate` wrote")
    output = _output(config)
    address, version = split_version(config.tables)
    tables = Tables(address)
    newest = tables.version("examples")
    started = read(output / "ablate.json")
    if version is None:
        version = started["version"] if started.get("root") == tables.root else newest
    work = Work(
        config=config,
        output=output,
        root=tables.root,
        version=version,
        names=names,
        setups={name: change(config.base) for name, change in VARIANTS.items()},
    )
    check(config.base.train, work.root, version)
    if any(work.same_tables(name) != "full" for name in work.names):
        _check_recipe(config, tables, newest, version)
    _remember(work, started)
    return work


def _output(config: AblateConfig) -> Path:
    if not config.output:
        raise ValueError("--output is missing; give a folder for trainings, tables and the report")
    output = Path(config.output).expanduser().absolute()
    check_output_folder(output, "--output", markers=("ablate.json",), contents=[f"{name}*" for name in OURS])
    return output


def _check_recipe(config: AblateConfig, tables: Tables, newest: int, version: int) -> None:
    """Tables that are curated otherwise must differ from the given ones in that alone."""
    from pipelines.curation.curator import Curator

    if version != newest:
        raise ValueError(
            f"--tables {tables.root}@{version} is not the newest ({newest}), which raw_captions and "
            "no_aesthetic_filter build on; leave out the version or, with --only, these variants"
        )
    if not Curator(tables, config.curate).is_settled():
        raise ValueError(
            f"{tables.root} was curated by other settings, or not to the end; give its --recipe, or curate it again"
        )


def _remember(work: Work, started: dict[str, Any]) -> None:
    flat = json.loads(json.dumps(settings.flatten(work.config), default=str))  # as the file has them
    renamed = {f"train.{key}": f"train.{value}" for key, value in TrainingConfig.RENAMED.items()}
    renamed |= {f"evaluate.{key}": key for key in flat if key.startswith(("generate.", "shapes."))}
    started = settings.current_keys(started, renamed)
    wanted = {"root": work.root, "version": work.version}
    wanted |= {
        key: value
        for key, value in flat.items()
        if key not in CHANGEABLE and not key.endswith("address") and ".resources." not in key
    }
    for key, value in wanted.items():
        if started.get(key, value) != value:
            raise ValueError(
                f"--output {work.output} was started with {key}={started[key]}, not {value}; give another --output"
            )
    write_json(work.output / "ablate.json", started | wanted)


def copy_tables(root: str, folder: Path) -> None:
    """Copies tables to a folder in one move, while nobody writes to them; does nothing where it is there.

    Raises:
        BusyError: another run is at work on them.
    """
    import pyarrow.fs

    from pipelines.store import schema
    from pipelines.store.filesystems import open_filesystem
    from pipelines.store.locks import exclusive

    if folder.exists():
        return
    with exclusive(root), replacing_folder(folder) as copy:
        for name in schema.TABLES:
            filesystem, path = open_filesystem(f"{root}/{name}")
            (copy / name).mkdir()
            pyarrow.fs.copy_files(path, str(copy / name), filesystem, pyarrow.fs.LocalFileSystem())


def read(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}
