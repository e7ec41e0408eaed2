"""A pass over a table: find the rows that are due, stream them through stages, commit what comes out.

Nothing is kept but the tables themselves. A row is due when it lacks a stage's fingerprint, unless the failures table
says that the same fingerprint has failed on it before.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core import progress
from pipelines.core.ray_data import run_stages
from pipelines.core.stage import Row, Stage
from pipelines.store import schema
from pipelines.store.id_index import IdIndex
from pipelines.store.tables import Tables, text


@dataclass(frozen=True, kw_only=True)
class Commits:
    """How often results become visible, and how much is taken on at once."""

    rows: int = 2000
    """Finished rows that are committed together."""
    seconds: float = 120.0
    """A commit is made after this time even with fewer rows."""
    round_items: int = 20_000
    """Sources per round, and clips handed to the cluster at once; bounds the driver's memory."""
    part_rows: int = 64
    """Examples per Parquet file."""

    def __post_init__(self) -> None:
        for name in ("rows", "round_items", "part_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"commits.{name}={getattr(self, name)}: must be at least 1")


@dataclass
class Summary:
    """What came in, what was kept and why the rest was not."""

    sources: int = 0
    """Sources that were listed."""
    known: int = 0
    """Sources that earlier runs had done, and that have not changed since."""
    new_assets: int = 0
    exact_duplicates: int = 0
    """Sources with the content of another one."""
    new_clips: int = 0
    accepted: int = 0
    """Clips accepted, in the whole table."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Clips rejected, in the whole table, by category of reason."""
    new_examples: int = 0
    removed_examples: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """New failures by stage."""
    throughput: dict[str, progress.StageTotals] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    version: int = 0
    """Version of `examples` afterwards."""

    def counts(self) -> dict[str, float]:
        """Flat numbers, for logs."""
        plain = {key: value for key, value in asdict(self).items() if isinstance(value, int | float)}
        plain |= {f"rejected_{name}": count for name, count in self.rejected.items()}
        plain |= {f"failed_{name}": count for name, count in self.failures.items()}
        plain |= {f"rows_per_second_{name}": totals.rows_per_second for name, totals in self.throughput.items()}
        return plain


class Work:
    """What the passes share: tables, commit policy, the meter and the summary.

    Args:
        tables: where rows come from and go to.
        commits: how often to commit.
        retry_failures: whether rows that failed before are due again.
    """

    def __init__(self, tables: Tables, commits: Commits, *, retry_failures: bool) -> None:
        self.tables, self.commits, self.retry_failures = tables, commits, retry_failures
        self.summary = Summary()
        self.began = datetime.now(UTC)
        self.meter: Any = None

    def due(
        self,
        columns: Sequence[str],
        where: pa.dataset.Expression,
        stages: Sequence[Stage],
        done: IdIndex | None = None,
    ) -> Iterator[list[Row]]:
        """Clips that a pass has to do, a round at a time.

        Args:
            columns: of `clips`, read for each.
            where: which clips lack the pass's results.
            stages: of the pass; clips that failed under their fingerprints are left out.
            done: clips to leave out.
        """
        failed = self.failed(stages)
        chunk: list[Row] = []
        for batch in self.tables.scan("clips", columns=columns, where=where):
            ids = batch["clip_id"].to_pylist()
            skip = failed.look_up(ids)[0] | (done or IdIndex()).look_up(ids)[0]
            chunk += batch.filter(pa.array(~skip)).to_pylist()
            while len(chunk) >= self.commits.round_items:
                yield chunk[: self.commits.round_items]
                chunk = chunk[self.commits.round_items :]
        if chunk:
            yield chunk

    def failed(self, stages: Sequence[Stage]) -> IdIndex:
        """Items that failed under the stages' fingerprints, with the time; none of them when failures are retried."""
        if self.retry_failures:
            return IdIndex()
        where = text("by").isin([stage.fingerprint for stage in stages])
        batches = self.tables.scan("failures", columns=["item", "time"], where=where)
        return IdIndex((batch["item"].to_pylist(), microseconds(batch["time"])) for batch in batches)

    def stream(
        self,
        rows: list[Row],
        stages: Sequence[Stage],
        commit: Callable[[list[Row]], None],
        sink: Callable[[pa.Table], pa.Table] | None = None,
    ) -> None:
        """Runs rows through stages; commits what succeeded with `commit`, and what failed to `failures`."""
        fields = [schema.field(name) for name in rows[0]]
        table = pa.Table.from_pylist(rows, schema=pa.schema(fields))
        fingerprints = {stage.name: stage.fingerprint for stage in stages}
        finished: list[Row] = []
        committed = time.monotonic()
        with progress.show(self.meter, list(fingerprints), len(rows)):
            for block in run_stages(table, stages, meter=self.meter, sink=sink, sink_rows=self.commits.part_rows):
                finished += block.to_pylist()
                if len(finished) >= self.commits.rows or time.monotonic() - committed >= self.commits.seconds:
                    self._commit(finished, fingerprints, commit)
                    finished, committed = [], time.monotonic()
            self._commit(finished, fingerprints, commit)

    def _commit(self, rows: list[Row], fingerprints: dict[str, str], commit: Callable[[list[Row]], None]) -> None:
        failed = [row for row in rows if row["failed_stage"] is not None]
        succeeded = [row for row in rows if row["failed_stage"] is None]
        if failed:
            self._record_failures(failed, fingerprints)
        if succeeded:
            commit(succeeded)

    def _record_failures(self, rows: Sequence[Row], fingerprints: dict[str, str]) -> None:
        items = [row.get("clip_id") or row["uri"] for row in rows]
        earlier = self.tables.read("failures", columns=["item"], where=text("item").isin(items))
        attempts = Counter(earlier["item"].to_pylist())
        failures = [
            {
                "stage": row["failed_stage"],
                "by": fingerprints[row["failed_stage"]],
                "item": item,
                "uri": row["uri"],
                "error": row["failed_error"],
                "message": row["failed_message"],
                "attempt": attempts[item] + 1,
                "time": datetime.now(UTC),
            }
            for item, row in zip(items, rows, strict=True)
        ]
        self.tables.append("failures", failures)
        self.summary.failures.update(row["failed_stage"] for row in rows)


def microseconds(times: pa.Array) -> np.ndarray:
    """Timestamps as whole microseconds since 1970."""
    return np.asarray(times.cast(pa.int64()))


def stale(stage: Stage) -> pa.dataset.Expression:
    """Clips that lack the stage's fingerprint."""
    return differs(stage.by, stage.fingerprint)


def differs(column: str, value: str) -> pa.dataset.Expression:
    """Rows whose column is null or another value."""
    return pc.field(column).is_null() | (text(column) != value)


def either(expressions: Iterable[pa.dataset.Expression]) -> pa.dataset.Expression:
    """Rows for which any of the expressions holds."""
    first, *rest = expressions
    for each in rest:
        first = first | each
    return first


def output_columns(stages: Sequence[Stage]) -> list[str]:
    """Columns that stages write, in order."""
    return [name for stage in stages for name in stage.output_columns()]
