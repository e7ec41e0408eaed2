"""Pass 2 of curation: clips that lack scores of the current models get them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipelines.core.stage import Row, Stage
from pipelines.curation.register import CLIP_FACTS
from pipelines.curation.runner import PassRunner, any_of, output_columns, stale


def score_clips(runner: PassRunner, stages: Sequence[Stage]) -> None:
    """Runs clips without fresh scores through `stages` (motion, aesthetic) and commits their columns to `clips`."""
    # Stored results are read too: a stage whose fingerprint a row already carries skips that row.
    columns = list(dict.fromkeys([*CLIP_FACTS, *output_columns(stages)]))
    # Only the columns of these stages, so that a merge leaves what other passes wrote.
    names = ["clip_id", *output_columns(stages)]

    def commit(rows: list[Row]) -> None:
        runner.tables.upsert("clips", [{name: row[name] for name in names} for row in rows])

    for rows in runner.due(columns, _unscored(stages), stages):
        runner.stream(rows, stages, commit)


def has_unscored(runner: PassRunner, stages: Sequence[Stage]) -> bool:
    """Whether `score_clips` has anything to do."""
    return next(runner.due(["clip_id"], _unscored(stages), stages), None) is not None


def _unscored(stages: Sequence[Stage]) -> pa.dataset.Expression:
    return any_of(stale(stage) for stage in stages)
