"""What a stage is, and the only place that hands stages to Ray Data.

A stage is a frozen dataclass: its fields are its settings. It declares the columns it reads and adds, loads its model
once per process (`load`) and computes added columns for a batch of rows (`process`). Rows are plain dictionaries, one
result per row, so that a stage can be tried in a shell without Ray:

    >>> stage = Motion(model=RaftModel.small())
    >>> apply(stage, stage.load(), rows)

Rows that a stage cannot do carry the error in the `failed_*` columns and pass through the stages behind it untouched;
the caller writes them to the `failures` table. Rows whose `<name>_by` column already holds the stage's fingerprint are
left as they are, so that only what is new or stale is computed.
"""

from __future__ import annotations

import functools
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from pipelines.core import model_hub
from pipelines.store import schema

if TYPE_CHECKING:
    import ray.actor
    import ray.data

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker of a stage needs, and how many workers there are."""

    cpus: float = 1.0
    """Logical CPUs per worker; also the number of torch threads (at least one)."""
    gpus: float = 0.0
    """GPUs per worker."""
    workers: int | tuple[int, int] | None = None
    """Actors that hold the model: a number, or (fewest, most). None shares the worker processes of the machine among
    all stages, each of which then keeps its model in them: right for small models on a laptop."""
    batch_size: int = 16
    """Rows handed to `process` at once."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One step of a pipeline. Subclasses are frozen dataclasses that set the class variables."""

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    """Columns that `process` looks at."""
    adds: ClassVar[tuple[str, ...]]
    """Columns that `process` returns for each row, without the fingerprint column."""
    stamps: ClassVar[bool] = True
    """Whether the stage owns a `<name>_by` column that holds its fingerprint."""

    resources: Resources = field(default_factory=Resources)

    def load(self) -> Any:
        """Builds what `process` needs, once per process. The default is nothing."""
        return None

    @abstractmethod
    def process(self, model: Any, rows: Sequence[Row]) -> Sequence[Row | Exception]:
        """Returns the added columns for each row, in order, or the exception that a row met.

        An exception that is raised instead makes the runner try the rows one by one.
        """

    def identity(self) -> tuple[object, ...]:
        """What the result depends on. Models add a digest of their weights."""
        settings = {key: value for key, value in asdict(self).items() if key != "resources"}
        return (self.name, *settings.items())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes when, and only when, the stage's results may change."""
        return f"{self.name}-{schema.derived_id(*self.identity())[:12]}"

    def fresh(self, row: Row) -> bool:
        """Whether the row already holds what this stage would compute."""
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
        model: what `stage.load()` returned.
        rows: rows with every column of `stage.reads`.
    """
    todo = [row for row in rows if _wanted(stage, row)]
    results = iter(_process(stage, model, todo)) if todo else iter(())
    return [_merge(stage, row, next(results)) if _wanted(stage, row) else _untouched(stage, row) for row in rows]


def _wanted(stage: Stage, row: Row) -> bool:
    return row.get("failed_stage") is None and not stage.fresh(row)


def _untouched(stage: Stage, row: Row) -> Row:
    return {**dict.fromkeys((*stage.output_columns(), *schema.FAILED)), **row}


def _process(stage: Stage, model: Any, rows: Sequence[Row]) -> Sequence[Row | Exception]:
    try:
        results = stage.process(model, rows)
    except Exception as error:
        if len(rows) == 1:
            return [error]
        return [_process(stage, model, [row])[0] for row in rows]  # one bad row must not take its batch along
    assert len(results) == len(rows), f"{stage.name}: {len(results)} results for {len(rows)} rows"
    return results


def _merge(stage: Stage, row: Row, result: Row | Exception) -> Row:
    if isinstance(result, Exception):
        message = " ".join(str(result).split())[:500]
        failed = dict(zip(schema.FAILED, (stage.name, type(result).__name__, message), strict=True))
        return {**row, **dict.fromkeys(stage.output_columns()), **failed}
    stamp = {stage.by: stage.fingerprint} if stage.stamps else {}
    assert set(result) == set(stage.adds), f"{stage.name} declares {stage.adds} but returned {tuple(result)}"
    return {**dict.fromkeys(schema.FAILED), **row, **result, **stamp}


def run_stages(
    rows: pa.Table,
    stages: Sequence[Stage],
    *,
    meter: ray.actor.ActorHandle | None = None,
    sink: Callable[[pa.Table], pa.Table] | None = None,
    sink_rows: int = 64,
) -> Iterator[pa.Table]:
    """Streams rows through the stages on the Ray cluster and yields finished blocks, in any order.

    Args:
        rows: the work; small columns only (addresses, times), frames are decoded inside a stage.
        stages: run one after the other, overlapping in time.
        meter: a `pipelines.core.progress.Meter` actor that is told what each batch took.
        sink: applied to finished blocks inside the cluster, for results that must not travel through the driver.
        sink_rows: rows per call of the sink.

    Raises:
        ValueError: what a stage was asked to load cannot be.
    """
    import ray.data
    from ray.exceptions import RayError

    if rows.num_rows == 0:
        return
    smallest = min(stage.resources.batch_size for stage in stages)
    blocks = [rows.slice(start, smallest).combine_chunks() for start in range(0, rows.num_rows, smallest)]
    dataset = ray.data.from_arrow(blocks)
    for stage in stages:
        dataset = _map(dataset, stage, meter)
    if sink is not None:
        dataset = dataset.map_batches(sink, batch_size=sink_rows, batch_format="pyarrow", zero_copy_batch=True)
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    except RayError as error:
        said = _NOT_LOADED.search(str(error))  # the text is all that crosses over of what an actor died of
        if said is None:
            raise
        raise ValueError(said[1]) from error


def _map(dataset: ray.data.Dataset, stage: Stage, meter: ray.actor.ActorHandle | None) -> ray.data.Dataset:
    need = stage.resources
    common: dict[str, Any] = {
        "batch_size": need.batch_size,
        "batch_format": "pyarrow",
        "num_cpus": need.cpus,
        "num_gpus": need.gpus or None,
    }
    sources = model_hub.registered()
    if need.workers is None:
        return dataset.map_batches(functools.partial(_run_batch, stage=stage, meter=meter, sources=sources), **common)
    import ray.data

    fewest, most = need.workers if isinstance(need.workers, tuple) else (need.workers, need.workers)
    pool = ray.data.ActorPoolStrategy(min_size=fewest, max_size=most)
    return dataset.map_batches(_Worker, fn_constructor_args=(stage, meter, sources), compute=pool, **common)


class NotLoadedError(ValueError):
    """A stage was asked to load what cannot be loaded."""


_NOT_LOADED = re.compile(rf"{NotLoadedError.__module__}\.{NotLoadedError.__name__}: (.*)")


class _Worker:
    """An actor of a stage's pool."""

    def __init__(
        self, stage: Stage, meter: ray.actor.ActorHandle | None, sources: Sequence[model_hub.ModelSource]
    ) -> None:
        self.stage, self.meter, self.sources = stage, meter, sources
        model_hub.register(*sources)
        load_once(stage)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _run_batch(batch, self.stage, self.meter, self.sources)


def _run_batch(
    batch: pa.Table,
    stage: Stage,
    meter: ray.actor.ActorHandle | None,
    sources: Sequence[model_hub.ModelSource],
) -> pa.Table:
    model_hub.register(*sources)
    model = load_once(stage)
    began = time.perf_counter()
    rows = apply(stage, model, batch.to_pylist())
    if meter is not None:
        failed = sum(row["failed_stage"] == stage.name for row in rows)
        meter.add.remote(stage.name, len(rows), failed, time.perf_counter() - began)
    added = [name for name in (*stage.output_columns(), *schema.FAILED) if name not in batch.column_names]
    fields = [*batch.schema, *(schema.field(name) for name in added)]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


@functools.lru_cache(maxsize=16)
def load_once(stage: Stage) -> Any:
    """The stage's model, loaded at its first use in this process.

    Raises:
        NotLoadedError: what the stage was asked to load cannot be.
    """
    try:
        model = stage.load()
    except ValueError as error:
        raise NotLoadedError(" ".join(str(error).split())) from error
    if "torch" in sys.modules:  # several workers share a machine: each keeps to the cores it asked for
        sys.modules["torch"].set_num_threads(max(1, int(stage.resources.cpus)))
    return model
