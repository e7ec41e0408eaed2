"""A pass over a table: find the rows that are due, stream them through stages, commit the results.

The tables are the only state. A row is due when it lacks a stage's fingerprint, unless the failures table says that the
same fingerprint has failed on it before.
"""

from __future__ import annotations

import functools
import operator
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.ray_data import stream_rows
from pipelines.core.stage import LEFT_DUE, Row, Stage
from pipelines.curation.summary import Summary
from pipelines.store.errors import TooManyFailuresError
from pipelines.store.id_index import IdIndex
from pipelines.store.tables import Tables, text


@dataclass(frozen=True, kw_only=True)
class CommitPolicy:
    """How often results are committed, and how many rows are in flight at once.

    Every commit merges into a table, which costs more the larger the table is, and everything since the last commit is
    computed again after a crash: the defaults lose at most two minutes of work.
    """

    RENAMED: ClassVar[dict[str, str]] = {"part_rows": "file_rows"}
    """Keys of version 0.1, which --set still takes, with a warning."""

    rows: int = 2000
    """Finished rows that are committed together."""
    seconds: float = 120.0
    """A commit is made after this time even with fewer rows."""
    round_items: int = 20_000
    """Sources per round, and clips handed to the cluster at once; bounds the driver's memory."""
    file_rows: int = 64
    """Examples per Parquet file."""

    max_failed_share: float = 0.3
    """A run ends when more than this share of the rows of a pass have failed: then something else is wrong than single
    files. 1 switches this off."""

    def __post_init__(self) -> None:
        for name in ("rows", "round_items", "file_rows"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"commits.{name}={value}: give at least 1")
        if not 0 < self.max_failed_share <= 1:
            raise ValueError(f"commits.max_failed_share={self.max_failed_share:g}: give a share above 0 and up to 1")


MIN_ROWS = 100
"""Rows of a pass from which on the share of failures is looked at: of a few files, most may well be broken."""


@dataclass
class Tally:
    """Rows of a pass so far, and how many of them failed."""

    rows: int = 0
    failed: int = 0


class PassRunner:
    """Finds due rows, runs them through stages and commits results; holds what the passes share.

    Args:
        tables: tables that rows are read from and written to.
        commits: policy of commits.
        retry_failures: whether rows that failed before are due again.
    """

    def __init__(self, tables: Tables, commits: CommitPolicy, *, retry_failures: bool) -> None:
        self.tables, self.commits, self.retry_failures = tables, commits, retry_failures
        self.summary = Summary()
        self.started = datetime.now(UTC)
        self.meter: Any = None  # a Ray actor, which `Curator.run` starts: runners that only look for work need no Ray

    def due(
        self,
        columns: Sequence[str],
        where: pa.dataset.Expression,
        stages: Sequence[Stage],
        done: IdIndex | None = None,
    ) -> Iterator[list[Row]]:
        """Clips that a pass has to process, a round at a time.

        Args:
            columns: columns of `clips` to read.
            where: condition for clips that lack the pass's results.
            stages: stages of the pass; clips that failed under their fingerprints are left out, unless their content
                was found at another address since.
            done: further clips to leave out.
        """
        # Failures and finished clips are looked up in memory, at 16 bytes an item: Delta tables have no index.
        failed = self.failed_items(stages)
        chunk: list[Row] = []
        for batch in self.tables.scan("clips", columns=[*columns, "last_seen"], where=where):
            ids = batch["clip_id"].to_pylist()
            has_failed, failed_at = failed.look_up(ids)
            skip = (has_failed & (failed_at >= microseconds(batch["last_seen"]))) | (done or IdIndex()).look_up(ids)[0]
            rows = batch.select(list(columns)).filter(pa.array(~skip)).to_pylist()
            # By id: tables of version 0.1 may hold a clip twice, and what is committed must not.
            chunk = list({row["clip_id"]: row for row in (*chunk, *rows)}.values())
            # A batch of the scan may hold more rows than a round.
            while len(chunk) >= self.commits.round_items:
                yield chunk[: self.commits.round_items]
                chunk = chunk[self.commits.round_items :]
        if chunk:
            yield chunk

    def failed_items(self, stages: Sequence[Stage]) -> IdIndex:
        """Items that failed under the stages' fingerprints, with the time; empty where failures are retried."""
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
        """Runs rows through stages; commits what succeeded with `commit`, and what failed to `failures`.

        Args:
            rows: rows with the columns that the stages read; all have the same columns.
            stages: stages, in order.
            commit: writes finished rows to the tables.
            sink: runs in the workers on blocks of `commits.file_rows` finished rows, and returns the small columns that
                `commit` needs.
        """
        # By stage: what failed in one model is tried again when that model changes, and not when another one does.
        fingerprints = {stage.name: stage.fingerprint for stage in stages}
        finished: list[Row] = []
        committed, tally = time.monotonic(), Tally()
        with stream_rows(rows, stages, meter=self.meter, sink=sink, sink_rows=self.commits.file_rows) as blocks:
            for block in blocks:
                finished += block
                # Checked when a block arrives, so a stage that takes minutes a block commits that much later.
                if len(finished) >= self.commits.rows or time.monotonic() - committed >= self.commits.seconds:
                    self._commit(finished, fingerprints, commit, tally)
                    finished, committed = [], time.monotonic()
            self._commit(finished, fingerprints, commit, tally)

    def _commit(
        self, rows: list[Row], fingerprints: dict[str, str], commit: Callable[[list[Row]], None], tally: Tally
    ) -> None:
        succeeded = [row for row in rows if row["failed_stage"] is None]
        left_due = [row for row in rows if row["failed_error"] == LEFT_DUE]
        failed = [row for row in rows if row["failed_stage"] is not None and row["failed_error"] != LEFT_DUE]
        # Rows that trouble of the infrastructure left due are recorded nowhere: they lack a result, so that the next
        # run tries them again.
        self.summary.left_due.update(row["failed_stage"] for row in left_due)
        tally.rows, tally.failed = tally.rows + len(rows), tally.failed + len(failed)
        self._check_share(tally, failed)
        # Failures first: a crash between the two commits repeats rows that succeed, while the other order would repeat
        # those that fail, which may be slow ones. A commit for nothing would still add a version to the table.
        if failed:
            self._record_failures(failed, fingerprints)
        if succeeded:
            commit(succeeded)

    def _check_share(self, tally: Tally, failed: Sequence[Row]) -> None:
        """Raises TooManyFailuresError before the rows are recorded, so that they stay due."""
        if tally.rows >= MIN_ROWS and tally.failed > self.commits.max_failed_share * tally.rows:
            reasons = Counter(f"{row['failed_stage']}: {row['failed_message']}" for row in failed)
            example = reasons.most_common(1)[0][0] if reasons else "see the failures table"
            raise TooManyFailuresError(
                f"{tally.failed} of {tally.rows} items failed, more than commits.max_failed_share="
                f"{self.commits.max_failed_share:g} ({example}); nothing is lost: mend the cause and run the same "
                "command again, or raise the share"
            )

    def _record_failures(self, rows: Sequence[Row], fingerprints: dict[str, str]) -> None:
        # A file that could not be read has no clip, and is known by its address.
        items = [row.get("clip_id") or row["uri"] for row in rows]
        # Attempts are counted from the table, so that the number survives restarts.
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
                "modified": row.get("modified"),
            }
            for item, row in zip(items, rows, strict=True)
        ]
        self.tables.append("failures", failures)
        self.summary.failures.update(row["failed_stage"] for row in rows)


def microseconds(times: pa.Array) -> np.ndarray:
    """Timestamps as whole microseconds since 1970, 0 for null."""
    # As integers: numpy has no time zones, and converts such columns to objects.
    return np.asarray(times.cast(pa.int64()).fill_null(0))


def stale(stage: Stage) -> pa.dataset.Expression:
    """Rows that lack the stage's fingerprint."""
    return differs(stage.by, stage.fingerprint)


def differs(column: str, value: str) -> pa.dataset.Expression:
    """Rows whose column is null or holds another value (null compares as null, which a filter drops)."""
    return pc.field(column).is_null() | (text(column) != value)


def any_of(expressions: Iterable[pa.dataset.Expression]) -> pa.dataset.Expression:
    """Rows for which at least one of the expressions holds."""
    return functools.reduce(operator.or_, expressions)


def output_columns(stages: Sequence[Stage]) -> list[str]:
    """Columns that stages write, in order."""
    return [name for stage in stages for name in stage.output_columns()]
