"""Runs stages on Ray: the only file that hands work to Ray Data.

A stage without a number of workers runs in Ray's shared worker processes, where `load_once` caches its model; a stage
with one runs in a pool of actors that load the model when they start.
"""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.core import model_hub, progress
from pipelines.core.stage import LEFT_DUE, Row, Stage, apply
from pipelines.store import schema
from pipelines.store.errors import FatalError
from pipelines.store.texts import one_line

if TYPE_CHECKING:
    import ray.actor
    import ray.data


@contextmanager
def stream_rows(
    rows: Sequence[Row],
    stages: Sequence[Stage],
    *,
    columns: Sequence[str] | None = None,
    meter: ray.actor.ActorHandle | None = None,
    sink: Callable[[pa.Table], pa.Table] | None = None,
    sink_rows: int = 64,
) -> Iterator[Iterator[list[Row]]]:
    """Runs rows through stages on the Ray cluster and shows the progress of each stage.

    Yields an iterator over the finished rows, a block at a time and in any order:

        with stream_rows(rows, stages) as blocks:
            for finished in blocks:
                ...

    It is a context, so that the progress bars end at once when the block raises an error.

    Args:
        rows: input of the first stage; at least one, all with the same columns.
        stages: run one after the other, overlapping in time.
        columns: columns of the rows to pass to the stages; all of them by default.
        meter: collects the totals of several calls; by default each call has its own.
        sink: sink, see `run_stages`.
        sink_rows: rows per call of the sink, see `run_stages`.
    """
    names = list(rows[0]) if columns is None else columns
    # With types from the schema: Arrow would infer `null` for a column without values, and blocks of different types do
    # not combine.
    table = schema.arrow_table(rows, [schema.field(name) for name in names])
    meter = progress.start_meter() if meter is None else meter
    with progress.show(meter, [stage.name for stage in stages if stage.measured], len(rows)):
        blocks = run_stages(table, stages, meter=meter, sink=sink, sink_rows=sink_rows)
        # Blocks and not single rows, as the consumer commits many at once.
        yield (block.to_pylist() for block in blocks)


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
        rows: input of the first stage; small columns only (addresses, times), frames are decoded inside a stage.
        stages: run one after the other, overlapping in time.
        meter: a `pipelines.core.progress.Meter` actor that receives rows, failures and seconds of each batch.
        sink: applied to finished blocks inside the cluster, for results that must not travel through the driver.
        sink_rows: rows per call of the sink.

    Raises:
        ValueError: a stage cannot load its model.
        FatalError: something fails every row alike, such as a broken device.
    """
    import ray.data
    from ray.exceptions import RayError

    if rows.num_rows == 0:
        return
    # Ray hands out whole blocks: larger ones would leave workers without work, smaller ones are only overhead.
    block_rows = min(stage.resources.batch_size for stage in stages)
    blocks = [rows.slice(start, block_rows).combine_chunks() for start in range(0, rows.num_rows, block_rows)]
    dataset = ray.data.from_arrow(blocks)
    for stage in stages:
        dataset = _map(dataset, stage, meter if stage.measured else None)
    if sink is not None:  # without copies: rows of examples are large, and a sink only reads them
        dataset = dataset.map_batches(sink, batch_size=sink_rows, batch_format="pyarrow", zero_copy_batch=True)
    try:
        # Whole blocks, in the order in which they finish. Only one is fetched ahead, or a slow consumer would let
        # results pile up in the driver.
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    except RayError as error:
        # Ray forwards only the text of an exception that ended an actor.
        for kind, pattern in _ENDS.items():
            if match := pattern.search(str(error)):
                raise kind(match[1]) from error
        raise


def _map(dataset: ray.data.Dataset, stage: Stage, meter: ray.actor.ActorHandle | None) -> ray.data.Dataset:
    resources = stage.resources
    common: dict[str, Any] = {
        "batch_size": resources.batch_size,
        "batch_format": "pyarrow",
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus or None,
    }
    # Taken on the driver and sent along, since workers start as fresh processes.
    sources = model_hub.registered()
    if resources.workers is None:
        return dataset.map_batches(functools.partial(_run_batch, stage=stage, meter=meter, sources=sources), **common)
    import ray.data

    workers = resources.workers
    min_size, max_size = workers if isinstance(workers, tuple) else (workers, workers)
    # `concurrency=` of map_batches, which did the same, is deprecated.
    pool = ray.data.ActorPoolStrategy(min_size=min_size, max_size=max_size)
    return dataset.map_batches(_Worker, fn_constructor_args=(stage, meter, sources), compute=pool, **common)


class NotLoadedError(ValueError):
    """A stage cannot load its model."""


_ENDS: dict[type[Exception], re.Pattern[str]] = {
    kind: re.compile(rf"{cause.__module__}\.{cause.__name__}: (.*)")
    for kind, cause in {ValueError: NotLoadedError, FatalError: FatalError}.items()
}
"""What ends a run in a worker, by the class of the error that the driver raises."""


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
    model_hub.register(*sources)  # a worker process starts without the sources that the driver registered
    model = load_once(stage)
    # After the model is loaded, so that throughput is that of the work alone.
    began = time.perf_counter()
    rows = apply(stage, model, batch.to_pylist())
    if meter is not None:
        failed = sum(row["failed_stage"] == stage.name and row["failed_error"] != LEFT_DUE for row in rows)
        meter.add.remote(stage.name, len(rows), failed, time.perf_counter() - began)
    added = [name for name in (*stage.output_columns(), *schema.FAILED) if name not in batch.column_names]
    # The schema is stated: a batch of nothing but failures has only nulls, from which Arrow infers other types than
    # from the next batch.
    fields = [*batch.schema, *(schema.field(name) for name in added)]
    return schema.arrow_table(rows, fields)


# More entries than a pipeline has stages: stages that take turns in a process must not evict each other's models.
@functools.lru_cache(maxsize=16)
def load_once(stage: Stage) -> Any:
    """Returns the stage's model, which is loaded at the first call in this process.

    Raises:
        NotLoadedError: the stage cannot load its model.
    """
    try:
        model = stage.load()
    except ValueError as error:
        # A class of its own, as any ValueError of a stage looks alike in the text that Ray passes on.
        raise NotLoadedError(one_line(error)) from error
    if "torch" in sys.modules:  # several workers share a machine: each limits itself to the CPUs that it reserved
        sys.modules["torch"].set_num_threads(max(1, int(stage.resources.cpus)))
    return model
