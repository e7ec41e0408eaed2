"""What evaluations write and print: scores.parquet, entries for failed samples, and a table of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import table as rich_table

from pipelines.core.stage import Row
from pipelines.evaluation.metrics import Score
from pipelines.store import schema
from pipelines.store.files import write_parquet


def write_scores(output: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Writes OUTPUT/scores.parquet, one row per sample."""
    table = [{name: row[name] for name in columns} for row in rows]
    fields = [schema.field(name) for name in columns]
    write_parquet(output / "scores.parquet", schema.arrow_table(table, fields))


def failure_entry(row: Row) -> Row:
    """A row that failed in a stage as an entry of summary.json."""
    return {"uri": row["uri"], "stage": row["failed_stage"], "message": row["failed_message"]}


def score_table(scores: Mapping[str, Score], *, samples: int, failed: int) -> rich_table.Table:
    """The scores as a table for a terminal."""
    table = rich_table.Table(title=f"{samples} samples scored, {failed} could not be", title_justify="left")
    table.add_column("metric")
    table.add_column("mean", justify="right")
    table.add_column("over", justify="right")
    for name, score in scores.items():
        table.add_row(name, f"{score.value:.4f}", str(score.samples))
    return table
