"""Runs the stages of curation over the tables, in four passes.

The tables are the queue between passes: each pass takes the rows that lack its results (or hold results of other
models), streams them through its stages, and commits every few minutes. A run that is killed at any moment continues
from what is committed when it is started again.

    pass       file          stages                   rows              results
    1 register register.py   ingest, shots            changed sources   assets, clips
    2 score    score.py      motion, aesthetic        unscored clips    scores of clips
    3 select   select.py     dedup, decide            all clips         clips.accepted, clips.reason
    4 encode   encode.py     caption, text, latents   accepted clips    captions of clips, examples

Captions come after the decision, because the captioner costs more than all other stages together and most clips of a
real collection are rejected. Passes repeat in rounds of `commits.round_items` sources, so that examples appear while a
large listing is still being read. `stages.py` lists the stages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from pipelines.core import progress
from pipelines.curation import filters
from pipelines.curation.changes import find_changes
from pipelines.curation.encode import encode_clips, has_unencoded
from pipelines.curation.register import register_sources
from pipelines.curation.runner import CommitPolicy, PassRunner
from pipelines.curation.score import has_unscored, score_clips
from pipelines.curation.select import changed_decisions, decide_clips, group_duplicates, has_undecided
from pipelines.curation.stages import Curation
from pipelines.curation.summary import Summary
from pipelines.media.sources import Source
from pipelines.store.tables import Tables


class Curator:
    """Runs the passes over one set of tables.

    Args:
        tables: tables that results are written to; they must exist.
        curation: settings of the stages.
        commits: policy of commits.
        retry_failures: whether rows that failed before are tried again.
        remove_stale: whether examples that cannot be renewed are removed.
    """

    def __init__(
        self,
        tables: Tables,
        curation: Curation,
        commits: CommitPolicy | None = None,
        *,
        retry_failures: bool = False,
        remove_stale: bool = False,
    ) -> None:
        self.tables, self.curation, self.remove_stale = tables, curation, remove_stale
        self.runner = PassRunner(tables, commits or CommitPolicy(), retry_failures=retry_failures)

    def run(self, sources: Iterable[Source], source_name: str) -> Summary:
        """Curates what is new in a listing, and finishes what earlier runs left unfinished.

        Args:
            sources: the listing; consumed a round at a time.
            source_name: written to assets.source.

        Raises:
            ValueError: the listing cannot be read.
        """
        runner, reading = self.runner, self.curation.reading
        # One meter for all passes, for the totals of the summary.
        runner.meter = progress.start_meter()
        changes = find_changes(runner, reading, sources)
        rounds = iter(lambda: list(islice(changes, runner.commits.round_items)), [])  # until a round is empty
        for chunk in rounds:
            # Clips are finished after every round, so that a run of days yields examples from its first hour on.
            register_sources(runner, reading, chunk, source_name)
            self._finish_clips()
        self._finish_clips()  # even where nothing is new: thresholds or models may have changed
        return self._summary()

    def has_work(self, sources: Iterable[Source]) -> bool:
        """Whether a run would find anything new or unfinished. Needs no Ray and loads no model."""
        # A separate runner, because looking for new sources counts them in the summary.
        probe = PassRunner(self.tables, self.runner.commits, retry_failures=self.runner.retry_failures)
        return (
            next(find_changes(probe, self.curation.reading, sources), None) is not None
            or has_unscored(probe, self.curation.scoring)
            or has_undecided(probe)
            or has_unencoded(probe, self.curation.encoding, remove_stale=self.remove_stale)
        )

    def is_settled(self) -> bool:
        """Whether the tables are as a run with these settings would leave them: nothing unfinished, no new decision."""
        return not self.has_work(()) and not any(changed_decisions(self.runner, self.curation.decide))

    def _finish_clips(self) -> None:
        """Passes 2 to 4."""
        runner, curation = self.runner, self.curation
        score_clips(runner, curation.scoring)
        group_duplicates(runner, curation.dedup, curation.aesthetic.fingerprint)
        decide_clips(runner, curation.decide)
        encode_clips(runner, curation.encoding, remove_stale=self.remove_stale)

    def _summary(self) -> Summary:
        import ray  # slow to import, and not needed by commands that only look for work

        summary = self.runner.summary
        counts: Counter[str] = Counter()
        for batch in self.tables.scan("clips", columns=["accepted", "reason"]):
            pairs = zip(batch["accepted"].to_pylist(), batch["reason"].to_pylist(), strict=True)
            counts.update("" if accepted else filters.category(reason or "") for accepted, reason in pairs)
        summary.accepted = counts.pop("", 0)
        summary.rejected = counts
        summary.throughput = ray.get(self.runner.meter.totals.remote())
        summary.version = self.tables.version("examples")
        return summary
