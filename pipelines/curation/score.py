"""Pass 2 of curation: clips that lack scores of the current models get them."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.core.stage import Row, Stage
from pipelines.curation.locate import Locate, adopt_addresses, join_copies
from pipelines.curation.register import CLIP_FACTS
from pipelines.curation.runner import PassRunner, any_of, output_columns, stale


def score_clips(runner: PassRunner, stages: Sequence[Stage]) -> None:
    """Runs clips without fresh scores through `stages` (motion, aesthetic) and commits their columns to `clips`."""
    is_due = any_of(stale(stage) for stage in stages)
    # Stored results are read too: a stage whose fingerprint a row already carries skips that row.
    columns = list(dict.fromkeys([*CLIP_FACTS, *output_columns(stages)]))
    # Only the columns of these stages, so that a merge leaves what other passes wrote.
    names = ["clip_id", "uri", *output_columns(stages)]
    stages = (Locate.before(stages), *stages)

    def commit(rows: list[Row]) -> None:
        adopt_addresses(runner.tables, rows)
        runner.tables.upsert("clips", [{name: row[name] for name in names} for row in rows])

    for rows in runner.due(columns, is_due, stages):
        runner.stream(join_copies(runner.tables, rows), stages, commit)


def has_unscored(runner: PassRunner, stages: Sequence[Stage]) -> bool:
    """Whether `score_clips` has anything to do."""
    is_due = any_of(stale(stage) for stage in stages)
    return next(runner.due(["clip_id"], is_due, (Locate.before(stages), *stages)), None) is not None
