"""Pass 3 of curation: near duplicates are grouped, and every clip is accepted or rejected, on columns alone.

No model and no Ray: both steps run in the driver, a bounded number of clips at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.stage import Row
from pipelines.curation import dedup, filters
from pipelines.curation.runner import PassRunner, differs
from pipelines.store.tables import Tables, text


def group_duplicates(runner: PassRunner, config: dedup.Dedup, embedded_by: str) -> None:
    """Places clips that have an embedding but no group yet (or one of other settings) among near duplicates.

    Args:
        runner: tables and commit policy.
        config: criteria of near duplicates.
        embedded_by: fingerprint of the stage that computes the embeddings; those of other models are not comparable.
    """
    tables, columns = runner.tables, config.columns
    fingerprint = config.fingerprint(embedded_by)
    embedded = pc.field("embedding").is_valid() & (text("aesthetic_by") == embedded_by)
    placed = embedded & (text("dedup_by") == fingerprint)
    unplaced = embedded & differs("dedup_by", fingerprint)
    # Delta reads a snapshot: upserts inside the loop do not change what this scan returns.
    for new in collect(tables.scan("clips", columns=columns, where=unplaced), runner.commits.round_items):
        # Clips of earlier rounds are among the placed ones by now, so each round sees all before it.
        groups = dedup.regroup(config, new, lambda: tables.scan("clips", columns=columns, where=placed))
        members = tables.scan("clips", columns=["clip_id", "duplicate_group"], where=placed)
        changed = dedup.changes(groups, new, members)
        rows = [
            {"clip_id": clip_id, "duplicate_group": group, "dedup_by": fingerprint}
            for clip_id, group in changed.items()
        ]
        tables.upsert("clips", rows)


def collect(batches: Iterable[pa.RecordBatch], min_rows: int) -> Iterator[pa.Table]:
    """Collects batches into tables of at least `min_rows` rows; the last one holds the remainder."""
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        pending.append(batch)
        if sum(batch.num_rows for batch in pending) >= min_rows:
            yield pa.Table.from_batches(pending)
            pending = []
    if pending:
        yield pa.Table.from_batches(pending)


def decide_clips(runner: PassRunner, config: filters.Filters) -> None:
    """Accepts or rejects every clip, and commits the decisions that differ from the stored ones."""
    changed: list[Row] = []
    for rows in changed_decisions(runner, config):
        changed += rows
        if len(changed) >= runner.commits.round_items:
            runner.tables.upsert("clips", changed)
            changed = []
    runner.tables.upsert("clips", changed)


def changed_decisions(runner: PassRunner, config: filters.Filters) -> Iterator[list[Row]]:
    """New decisions of clips whose stored one differs, a batch at a time; notes the thresholds in the summary.

    The table is read three times, because each step needs a result over all clips: shares are turned into thresholds,
    then the best of each group is found among the clips that pass them, then every clip is decided.
    """
    tables = runner.tables
    # All clips at once, as shares need a sorted column; three small columns fit into memory where embeddings would not.
    scores = tables.read("clips", columns=["kind", "motion_score", "aesthetic_mean"]).to_pandas()
    thresholds = filters.resolve(config, scores)
    runner.summary.thresholds = thresholds.in_force()
    passing = (
        clips[filters.reject(config, thresholds, clips).isna()]
        for clips in _clips(tables, pc.field("duplicate_group").is_valid())
    )
    best = filters.best_of_groups(passing)
    for clips in _clips(tables):
        yield filters.changes(clips, filters.decide(config, thresholds, best, clips))


def has_undecided(runner: PassRunner) -> bool:
    """Whether clips are there about which nothing was decided yet."""
    # New thresholds are not looked for: they would need all scores, and `decide_clips` costs little enough to run
    # always.
    return runner.tables.count("clips", pc.field("accepted").is_null()) > 0


def _clips(tables: Tables, where: pa.dataset.Expression | None = None) -> Iterator[pd.DataFrame]:
    for batch in tables.scan("clips", columns=filters.COLUMNS, where=where):
        yield batch.to_pandas()
