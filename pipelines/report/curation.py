"""Section of the report on curation: funnel, scores, examples of accepted and rejected clips, failures, throughput."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.core.stage import Row
from pipelines.curation import filters
from pipelines.curation.locate import join_copies, locate
from pipelines.curation.summary import Summary
from pipelines.media.errors import MediaError
from pipelines.media.frames import clip_times, read_frames
from pipelines.report import charts
from pipelines.report.page import Charts, Heading, Picture, Pictures, Section, SectionBlock, Table
from pipelines.report.pictures import STRIP_HEIGHT, strip_address
from pipelines.store.tables import Tables

MAX_PICTURES = 12
"""Clips shown of the accepted and of the rejected ones."""
MAX_FAILURES = 30
CLIP_COLUMNS = (
    "clip_id", "asset_id", "uri", "kind", "start", "end", "motion_score", "aesthetic_mean", "accepted", "reason",
    "caption_short", "source_caption",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CurationSection(Section):
    """What the tables hold, and what the last run did."""

    name = "curation"
    title = "Curation"

    funnel: str
    histograms: Sequence[str]
    thresholds: Table
    accepted: Sequence[Picture]
    rejected: Sequence[Picture]
    failures: Table
    buckets: Table
    throughput: Table

    def blocks(self) -> Iterator[SectionBlock]:
        yield Heading("Funnel")
        yield Charts([self.funnel])
        yield Heading("Scores")
        yield Charts(self.histograms)
        if self.thresholds.rows:
            yield self.thresholds
        yield Heading("Accepted")
        yield Pictures(self.accepted)
        if self.rejected:
            yield Heading("Rejected, with the reason")
            yield Pictures(self.rejected)
        tables = {"Failures": self.failures, "Buckets": self.buckets, "Throughput": self.throughput}
        for title, table in tables.items():
            if table.rows:
                yield Heading(title)
                yield table


def curation_section(tables: Tables, summary: Summary) -> CurationSection:
    """Reads the section from curated tables.

    Args:
        tables: curated tables.
        summary: summary of the last run.
    """
    clips = ClipStatistics()
    for batch in tables.scan("clips", columns=CLIP_COLUMNS):
        clips.add(batch.to_pylist())
    assets, failures = tables.count("assets"), tables.count("failures")
    steps = {
        "media read": assets,
        "clips": clips.counts.total(),
        **clips.survivors(),
        "examples": tables.count("examples"),
    }
    thresholds = [(name, f"{value:.4g}") for name, value in summary.thresholds.items()]
    return CurationSection(
        source=f"{tables.root}, examples at version {summary.version}",
        tiles={
            "media read": assets,
            "clips": steps["clips"],
            "accepted": clips.counts["accepted"],
            "failures": failures,
        },
        funnel=charts.funnel(steps),
        histograms=clips.histograms(summary.thresholds),
        thresholds=Table(("threshold in force", "value"), thresholds, frozenset({1})),
        accepted=[_picture(row) for row in join_copies(tables, clips.accepted())],
        rejected=[_picture(row) for row in join_copies(tables, clips.rejected())],
        failures=_failures(tables, failures),
        buckets=_buckets(tables),
        throughput=_throughput(summary),
    )


class ClipStatistics:
    """Counts and scores of all clips, and a few clips of each verdict to look at.

    The examples are the clips with the smallest ids. Ids are hashes, so this is a sample without bias that is the same
    at every run, and it needs no second pass over the table.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._scores: dict[tuple[str, bool], list[float]] = defaultdict(list)
        self._examples: dict[str, list[tuple[str, Row]]] = defaultdict(list)

    def add(self, rows: Iterable[Row]) -> None:
        """Counts clips.

        Args:
            rows: `CLIP_COLUMNS`.
        """
        for row in rows:
            accepted = bool(row["accepted"])
            verdict = "accepted" if accepted else filters.category(row["reason"] or "undecided")
            self.counts[verdict] += 1
            for score in ("motion_score", "aesthetic_mean"):
                # The motion score of images is 0 by definition and would bury that of videos in the histogram.
                if row[score] is not None and not (score == "motion_score" and row["kind"] == "image"):
                    self._scores[score, accepted].append(row[score])
            self._examples[verdict].append((row["clip_id"], row))
        for verdict, candidates in self._examples.items():
            self._examples[verdict] = heapq.nsmallest(MAX_PICTURES, candidates, key=lambda pair: pair[0])

    def survivors(self) -> dict[str, int]:
        """Clips that remain after each reason for rejection, in the order that reasons are tried."""
        remaining = self.counts.total()
        steps = {}
        for reason in filters.REASONS:
            if self.counts[reason]:
                remaining -= self.counts[reason]
                steps[f"… not rejected for {reason}"] = remaining
        return steps | {"accepted": self.counts["accepted"]}

    def histograms(self, thresholds: Mapping[str, float]) -> list[str]:
        """One histogram a score, with the thresholds in force.

        Args:
            thresholds: `Summary.thresholds`, whose names begin with the score's (such as "aesthetic image").
        """
        titles = {"motion_score": "Motion score of videos", "aesthetic_mean": "Aesthetic score"}
        drawings = []
        for score, title in titles.items():
            accepted, rejected = (np.array(self._scores[score, verdict]) for verdict in (True, False))
            limits = [value for name, value in thresholds.items() if score.startswith(name.split()[0])]
            drawings.append(charts.histogram(title, accepted, rejected, limits))
        return drawings

    def accepted(self) -> list[Row]:
        """Accepted clips to show."""
        return [row for _, row in self._examples["accepted"]]

    def rejected(self) -> list[Row]:
        """Rejected clips to show, some for each reason."""
        reasons = [name for name in self._examples if name != "accepted"]
        share = max(2, MAX_PICTURES // max(1, len(reasons)))
        return [row for name in sorted(reasons) for _, row in self._examples[name][:share]]


def _picture(row: Row) -> Picture:
    scores = {"motion": row["motion_score"], "aesthetic": row["aesthetic_mean"]}
    numbers = ", ".join(f"{name} {value:.2f}" for name, value in scores.items() if value is not None)
    span = "" if row["kind"] == "image" else f" {row['start']:.1f}-{row['end']:.1f} s"
    return Picture(
        image=_strip(row),
        text=row["caption_short"] or row["source_caption"] or "",
        detail=f"{_file_name(row['uri'])}{span}; {numbers}",
        verdict="" if row["accepted"] else row["reason"] or "undecided",
        good=bool(row["accepted"]),
    )


def _strip(row: Row) -> str | None:
    """Three frames of a clip as a `data:` address; None where its content cannot be read any more."""
    try:
        frames = read_frames(locate(row), clip_times(row, count=3), short_side=STRIP_HEIGHT)
    except MediaError:
        return None
    return strip_address(frames)


def _file_name(uri: str) -> str:
    """The last component of an address."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _failures(tables: Tables, count: int) -> Table:
    failures = tables.dataset("failures").head(MAX_FAILURES, columns=["stage", "uri", "message"]).to_pylist()
    rows = [(failure["stage"], _file_name(failure["uri"]), failure["message"]) for failure in failures]
    if count > len(rows):
        rows.append(("…", "", f"{count - len(rows)} more in the failures table"))
    return Table(("stage", "item", "what went wrong"), rows)


def _buckets(tables: Tables) -> Table:
    counts: Counter[str] = Counter()
    for file in tables.files("examples"):
        counts[file.partition["bucket"]] += file.rows
    return Table(("bucket (frames x height x width)", "examples"), sorted(counts.items()), frozenset({1}))


def _throughput(summary: Summary) -> Table:
    rows = [
        (name, totals.rows, totals.failed, f"{totals.rows_per_second:.2f}")
        for name, totals in summary.throughput.items()
    ]
    return Table(("stage", "rows", "failed", "rows per busy second of a worker"), rows, frozenset({1, 2, 3}))
