"""Stages, the steps of a pipeline, and how one is applied to rows in this process.

A stage is a frozen dataclass: its fields are its settings. It declares the columns it reads and adds, loads its model
once per process (`load`) and computes added columns for a batch of rows (`process`). Rows are plain dictionaries, one
result per row, so that a stage can be tried in a shell without Ray:

    >>> stage = Motion(model=RaftModel.small())
    >>> apply(stage, stage.load(), rows)

A row that a stage fails on carries the error in its `failed_*` columns and passes through all later stages unchanged;
the caller writes it to the `failures` table. Transient trouble is retried, and a row that it outlasts is marked as
`LEFT_DUE`, which is no failure. A row whose `<name>_by` column already holds the stage's fingerprint is
left as it is, so that only new and stale rows are computed. `ray_data.py` runs stages on a cluster.
"""

from __future__ import annotations

import functools
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pipelines.store import schema
from pipelines.store.errors import FatalError, is_fatal, is_transient, until_settled

Row = dict[str, Any]
LEFT_DUE = "left due"
"""In the column `failed_error`: the row did not fail, and is to be tried again in the next run."""
INTERNAL_ERRORS = (AssertionError, LookupError, TypeError, AttributeError, NameError, ArithmeticError)
"""Errors of code rather than of its input; their texts mean little without the place."""
MESSAGE_LENGTH = 500
"""Characters of an error that are stored: some libraries print whole configurations into theirs."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources of one worker of a stage, and the number of workers."""

    cpus: float = 1.0
    """Logical CPUs per worker; also the number of torch threads (at least one)."""
    gpus: float = 0.0
    """GPUs per worker."""
    workers: int | tuple[int, int] | None = None
    """Actors that hold the model: a number, or (minimum, maximum). With None, all stages share the worker processes of
    the machine and each caches its model in them, which suits small models on a laptop."""
    batch_size: int = 16
    """Rows per call of `process`."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; set it to 1 or more")


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One step of a pipeline. Subclasses are frozen dataclasses that set the class variables."""

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    """Columns that `process` uses."""
    adds: ClassVar[tuple[str, ...]]
    """Columns that `process` returns for each row, without the fingerprint column."""
    stamps: ClassVar[bool] = True
    """Whether the stage owns a `<name>_by` column that holds its fingerprint."""
    measured: ClassVar[bool] = True
    """Whether the stage appears in the progress and the throughput of a run."""

    resources: Resources = field(default_factory=Resources)

    def load(self) -> Any:
        """Builds the model that `process` receives, once per worker process. By default there is none."""
        return None

    @abstractmethod
    def process(self, model: Any, rows: Sequence[Row]) -> Sequence[Row | Exception]:
        """Returns, for each row in order, its added columns or the exception it caused.

        Where `process` raises instead, the rows are retried one by one, so that the error is assigned to its row.
        """

    def identity(self) -> tuple[object, ...]:
        """Everything that the results depend on. Stages with a model add a digest of its weights."""
        # Resources decide where and how fast a stage runs, never what it computes.
        settings = {key: value for key, value in asdict(self).items() if key != "resources"}
        return (self.name, *settings.items())

    @functools.cached_property  # digests read files; caching works on a frozen dataclass, as it bypasses __setattr__
    def fingerprint(self) -> str:
        """Identifies the results of the stage: changes when, and only when, they may change."""
        # 48 bits tell apart the few settings of a project; the name in front makes a column readable.
        return f"{self.name}-{schema.derived_id(*self.identity())[:12]}"

    def fresh(self, row: Row) -> bool:
        """Whether the row already holds the results of this stage with these settings."""
        # The row tells, and not a list of finished work: a table that was copied or rolled back stays consistent.
        return self.stamps and row.get(self.by) == self.fingerprint

    @property
    def by(self) -> str:
        """Name of the column that holds the fingerprint."""
        return f"{self.name}_by"

    def output_columns(self) -> tuple[str, ...]:
        """Columns that the stage writes."""
        return (*self.adds, self.by) if self.stamps else self.adds


def apply(stage: Stage, model: Any, rows: Sequence[Row]) -> list[Row]:
    """Runs a stage over rows in this process and returns the rows with the added columns.

    Args:
        stage: the stage.
        model: the result of `stage.load()`.
        rows: rows with every column of `stage.reads`.

    Raises:
        FatalError: every other row would fail alike.
    """
    due = [row for row in rows if _is_due(stage, row)]
    # Not even an empty call where nothing is due: models need not take empty batches.
    results = iter(_process_patiently(stage, model, due)) if due else iter(())
    return [_merge(stage, row, next(results)) if _is_due(stage, row) else _unchanged(stage, row) for row in rows]


def _is_due(stage: Stage, row: Row) -> bool:
    return row.get("failed_stage") is None and not stage.fresh(row)


def _unchanged(stage: Stage, row: Row) -> Row:
    # All rows of a batch have the same columns, which Arrow needs.
    return {**dict.fromkeys((*stage.output_columns(), *schema.FAILED)), **row}


def _process_patiently(stage: Stage, model: Any, rows: Sequence[Row]) -> list[Row | Exception]:
    """As `_process`, with another attempt for rows that transient trouble disturbed."""
    results: list[Row | Exception] = []

    def attempt() -> list[Row | Exception]:
        if not results:
            results.extend(_process(stage, model, rows))
            return results
        disturbed = [index for index, result in enumerate(results) if _is_disturbed(result)]
        for index, result in zip(disturbed, _process(stage, model, [rows[i] for i in disturbed]), strict=True):
            results[index] = result
        return results

    return until_settled(attempt, lambda results: any(map(_is_disturbed, results)))


def _is_disturbed(result: Row | Exception) -> bool:
    return isinstance(result, Exception) and is_transient(result)


def _process(stage: Stage, model: Any, rows: Sequence[Row]) -> Sequence[Row | Exception]:
    try:
        results = stage.process(model, rows)
    # Whatever a decoder or a model raises belongs to the row: Ray would drop the whole block, or end the run, for one
    # broken file.
    except Exception as error:
        if is_fatal(error):
            raise FatalError(f"stage {stage.name}: {_message(error)}") from error
        if len(rows) == 1:
            return [error]
        return [_process(stage, model, [row])[0] for row in rows]  # one bad row must not fail its whole batch
    for result in results:
        if isinstance(result, Exception) and is_fatal(result):
            raise FatalError(f"stage {stage.name}: {_message(result)}") from result
    assert len(results) == len(rows), f"{stage.name}: {len(results)} results for {len(rows)} rows"
    return results


def _merge(stage: Stage, row: Row, result: Row | Exception) -> Row:
    if isinstance(result, Exception):
        error = LEFT_DUE if is_transient(result) else type(result).__name__
        failed = dict(zip(schema.FAILED, (stage.name, error, _message(result)), strict=True))
        # What the stage reads stays, as an address that the failures table names.
        added = [name for name in stage.output_columns() if name not in stage.reads]
        return {**row, **dict.fromkeys(added), **failed}
    stamp = {stage.by: stage.fingerprint} if stage.stamps else {}
    # A misspelt column would otherwise be dropped silently when the batch is converted to Arrow.
    assert set(result) == set(stage.adds), f"{stage.name} declares {stage.adds} but returned {tuple(result)}"
    return {**dict.fromkeys(schema.FAILED), **row, **result, **stamp}


def _message(error: Exception) -> str:
    """One line that describes an error; of an internal one, which says little or nothing, with its class and place."""
    text = " ".join(str(error).split())[:MESSAGE_LENGTH]
    if text and not isinstance(error, INTERNAL_ERRORS):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"internal error: {type(error).__name__}{place}{f': {text}' if text else ''}"
