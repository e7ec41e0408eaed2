"""The ordered list of stages: from a listing of media to curated tables. This file is the table of contents.

Curation is four passes, and the tables are the queue between them: each pass takes the rows that lack its results (or
hold results of other models), streams them through its stages, and commits every few minutes. Killed at any moment and
started again, it goes on from what is committed.

    1 ingest → shots             new sources        → clips, then assets      assets.py
    2 motion → aesthetic         unscored clips     → clips
    3 dedup, decide              all clips          → clips.accepted, clips.reason
    4 caption → text → latents   accepted clips     → clips (captions), examples   examples.py

Captions come after the decision, because the captioner costs more than all other stages together and most clips of a
real collection are rejected. Passes repeat in rounds of `round_items` sources, so that examples appear while a large
listing is still being read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core import progress
from pipelines.core.stage import Row, Stage
from pipelines.curation import dedup as grouping
from pipelines.curation import encode as examples
from pipelines.curation import filters as deciding
from pipelines.curation import register as assets
from pipelines.curation.aesthetic import Aesthetic
from pipelines.curation.caption import Caption
from pipelines.curation.dedup import Dedup
from pipelines.curation.filters import Decide
from pipelines.curation.ingest import Ingest
from pipelines.curation.latents import Latents
from pipelines.curation.motion import Motion
from pipelines.curation.runner import Commits, Summary, Work, differs, either, output_columns, stale
from pipelines.curation.shots import Shots
from pipelines.curation.text_features import TextFeatures
from pipelines.media.sources import Source
from pipelines.store.tables import Tables, text


@dataclass(frozen=True, kw_only=True)
class Curation:
    """The stages of curation, in order."""

    ingest: Ingest
    shots: Shots
    motion: Motion
    aesthetic: Aesthetic
    dedup: Dedup
    decide: Decide
    caption: Caption
    text: TextFeatures
    latents: Latents

    @property
    def reading(self) -> tuple[Stage, ...]:
        return (self.ingest, self.shots)

    @property
    def scoring(self) -> tuple[Stage, ...]:
        return (self.motion, self.aesthetic)

    @property
    def encoding(self) -> tuple[Stage, ...]:
        return (self.caption, self.text, self.latents)


class Curator:
    """Runs the passes over one set of tables.

    Args:
        tables: where results go; they exist.
        curation: the stages.
        commits: how often to commit.
        retry_failures: try again what failed before.
    """

    def __init__(
        self, tables: Tables, curation: Curation, commits: Commits | None = None, *, retry_failures: bool = False
    ) -> None:
        self.tables, self.curation = tables, curation
        self.work = Work(tables, commits or Commits(), retry_failures=retry_failures)

    def run(self, sources: Iterable[Source], source_name: str) -> Summary:
        """Curates what is new in a listing and finishes what earlier runs left.

        Args:
            sources: the listing; consumed a round at a time.
            source_name: written to assets.source.

        Raises:
            ValueError: the listing cannot be read.
        """
        self.work.meter = progress.start_meter()
        new = assets.unknown(self.work, self.curation.reading, sources)
        rounds = iter(lambda: list(islice(new, self.work.commits.round_items)), [])
        for chunk in rounds:
            assets.read(self.work, self.curation.reading, chunk, source_name)
            self._finish()
        self._finish()  # also where nothing was new: thresholds or models may have changed
        return self._summary()

    def has_work(self, sources: Iterable[Source]) -> bool:
        """Whether a run would find anything new or unfinished; needs no Ray and loads no model."""
        probe = Work(self.tables, self.work.commits, retry_failures=self.work.retry_failures)
        if next(assets.unknown(probe, self.curation.reading, sources), None) is not None:
            return True
        unscored = either(stale(stage) for stage in self.curation.scoring)
        if next(probe.due(["clip_id"], unscored, self.curation.scoring), None) is not None:
            return True
        if self.tables.count("clips", pc.field("accepted").is_null()):
            return True
        return examples.due(probe, self.curation.encoding)

    def settled(self) -> bool:
        """Whether the tables hold what these settings give: nothing is unfinished, nothing would be decided anew."""
        return not self.has_work(()) and not any(self._redecided())

    def _finish(self) -> None:
        self._score()
        self._group()
        self._decide()
        examples.encode(self.work, self.curation.encoding)

    def _summary(self) -> Summary:
        import ray

        summary = self.work.summary
        counts: Counter[str] = Counter()
        for batch in self.tables.scan("clips", columns=["accepted", "reason"]):
            pairs = zip(batch["accepted"].to_pylist(), batch["reason"].to_pylist(), strict=True)
            counts.update("" if accepted else deciding.category(reason or "") for accepted, reason in pairs)
        summary.accepted = counts.pop("", 0)
        summary.rejected = counts
        summary.throughput = ray.get(self.work.meter.totals.remote())
        summary.version = self.tables.version("examples")
        return summary

    # Pass 2: scores.

    def _score(self) -> None:
        stages = self.curation.scoring
        columns = list(dict.fromkeys([*assets.CLIP_FACTS, *output_columns(stages)]))
        for rows in self.work.due(columns, either(stale(stage) for stage in stages), stages):
            self.work.stream(rows, stages, self._commit_scores)

    def _commit_scores(self, rows: list[Row]) -> None:
        names = ["clip_id", *output_columns(self.curation.scoring)]
        self.tables.upsert("clips", [{name: row[name] for name in names} for row in rows])

    # Pass 3: duplicates and decisions, on columns alone.

    def _group(self) -> None:
        config, embedder = self.curation.dedup, self.curation.aesthetic
        fingerprint = config.fingerprint(embedder.fingerprint)
        embedded = pc.field("embedding").is_valid() & (text("aesthetic_by") == embedder.fingerprint)
        placed = embedded & (text("dedup_by") == fingerprint)
        unplaced = embedded & differs("dedup_by", fingerprint)
        columns = config.columns
        for new in _tables(self.tables.scan("clips", columns=columns, where=unplaced), self.work.commits.round_items):
            groups = grouping.regroup(config, new, lambda: self.tables.scan("clips", columns=columns, where=placed))
            members = self.tables.scan("clips", columns=["clip_id", "duplicate_group"], where=placed)
            changed = grouping.changes(groups, new, members)
            rows = [
                {"clip_id": clip, "duplicate_group": group, "dedup_by": fingerprint} for clip, group in changed.items()
            ]
            self.tables.upsert("clips", rows)

    def _decide(self) -> None:
        changed: list[Row] = []
        for rows in self._redecided():
            changed += rows
            if len(changed) >= self.work.commits.round_items:
                self.tables.upsert("clips", changed)
                changed = []
        self.tables.upsert("clips", changed)

    def _redecided(self) -> Iterator[list[Row]]:
        """Clips whose decision is not the stored one, with the new one."""
        config = self.curation.decide
        scores = self.tables.read("clips", columns=["kind", "motion_score", "aesthetic_mean"]).to_pandas()
        thresholds = deciding.resolve(config, scores)
        self.work.summary.thresholds = thresholds.named()
        members = (
            clips[deciding.reject(config, thresholds, clips).isna()]
            for clips in self._clips(pc.field("duplicate_group").is_valid())
        )
        best = deciding.best_of_groups(members)
        for clips in self._clips():
            yield deciding.changes(clips, deciding.decide(config, thresholds, best, clips))

    def _clips(self, where: pa.dataset.Expression | None = None) -> Iterator[pd.DataFrame]:
        for batch in self.tables.scan("clips", columns=deciding.COLUMNS, where=where):
            yield batch.to_pandas()


def _tables(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Collects batches into tables of at least `rows` rows, the last one of what is left."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(each.num_rows for each in held) >= rows:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)
