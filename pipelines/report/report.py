"""The HTML report: one file, no network. Each part is read from what a command has written, so it can be made again.

>>> write_report("report.html", title="Curation", curation=curation_part(tables, summary))
"""

from __future__ import annotations

import base64
import heapq
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.curation import filters as decide
from pipelines.curation.runner import Summary
from pipelines.media import files as media
from pipelines.report import charts
from pipelines.report.contact_sheet import strip
from pipelines.shapes_world import audit as planted

if TYPE_CHECKING:
    from pipelines.core.stage import Row
    from pipelines.store.tables import Tables

PICTURES = 12
"""Clips shown of the accepted and of the rejected ones."""
FAILURES = 30
STRIP_HEIGHT = 90
CLIP_COLUMNS = (
    "clip_id", "uri", "kind", "start", "end", "motion_score", "aesthetic_mean", "accepted", "reason", "caption_short",
    "source_caption",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of the report; `numbers` are the columns set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A picture or a strip of frames with what is said of it."""

    image: str | None
    """data: address."""
    text: str
    detail: str = ""
    verdict: str = ""
    good: bool = True


@dataclass(frozen=True)
class CurationPart:
    """What curation did."""

    where: str
    tiles: Mapping[str, object]
    funnel: Any
    planted: Table | None
    """What there was to find, where that is known."""
    histograms: Sequence[Any]
    thresholds: Table
    accepted: Sequence[Picture]
    rejected: Sequence[Picture]
    failures: Table
    buckets: Table
    throughput: Table


@dataclass(frozen=True)
class TrainingPart:
    """What training did."""

    where: str
    tiles: Mapping[str, object]
    charts: Sequence[Any]
    last: Table


@dataclass(frozen=True)
class SamplesPart:
    """Samples of one `nova generate`."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class ScoresPart:
    """What evaluation found."""

    title: str
    where: str
    table: Table
    provenance: Table


def write_report(
    path: str | Path,
    *,
    title: str,
    notes: Sequence[str] = (),
    curation: CurationPart | None = None,
    training: TrainingPart | None = None,
    samples: Sequence[SamplesPart] = (),
    scores: Sequence[ScoresPart] = (),
) -> Path:
    """Writes the report in one move and returns its path.

    Args:
        path: of the HTML file.
        title: of the page.
        notes: what a reader must know, on top.
        curation: where there was one, and so on.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    template = Environment(
        loader=PackageLoader("pipelines.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("report.html.j2")
    parts = [part for part in (curation, training) if part is not None]
    page = template.render(
        title=title,
        subtitle=f"written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        notes=notes,
        tiles={name: value for part in parts for name, value in part.tiles.items()},
        sections=[("curation", curation), ("training", training), ("samples", samples), ("scores", scores)],
        curation=curation,
        training=training,
        samples=samples,
        scores=scores,
    )
    target = Path(path)
    partial = target.with_name(f".{target.name}")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


def curation_part(tables: Tables, summary: Summary) -> CurationPart:
    """What the tables hold, and what the last run did.

    Args:
        tables: curated.
        summary: of the run.
    """
    clips = _Clips()
    for batch in tables.scan("clips", columns=CLIP_COLUMNS):
        clips.add(batch.to_pylist())
    examples = tables.count("examples")
    assets = tables.count("assets")
    failed = tables.count("failures")
    steps = {
        "media read": assets,
        "clips": sum(clips.counts.values()),
        **clips.survivors(),
        "examples": examples,
    }
    tiles = {"media read": assets, "clips": steps["clips"], "accepted": clips.counts["accepted"], "failures": failed}
    return CurationPart(
        where=f"{tables.root}, examples at version {summary.version}",
        tiles=tiles,
        funnel=_markup(charts.funnel(steps)),
        planted=_planted(summary.findings),
        histograms=clips.histograms(summary.thresholds),
        thresholds=Table(
            ("threshold in force", "value"), [(k, f"{v:.4g}") for k, v in summary.thresholds.items()], frozenset({1})
        ),
        accepted=[_clip_picture(row) for row in clips.accepted()],
        rejected=[_clip_picture(row) for row in clips.rejected()],
        failures=_failures(tables, failed),
        buckets=_buckets(tables),
        throughput=_throughput(summary),
    )


class _Clips:
    """Scores of all clips and a few of them to look at: those with the smallest ids, which are hashes."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._scores: dict[tuple[str, bool], list[float]] = defaultdict(list)
        self._shown: dict[str, list[tuple[str, Row]]] = defaultdict(list)

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            accepted = bool(row["accepted"])
            verdict = "accepted" if accepted else decide.category(row["reason"] or "undecided")
            self.counts[verdict] += 1
            for score in ("motion_score", "aesthetic_mean"):
                if row[score] is not None and not (score == "motion_score" and row["kind"] == "image"):
                    self._scores[score, accepted].append(row[score])
            self._shown[verdict].append((row["clip_id"], row))
        for verdict, held in self._shown.items():
            self._shown[verdict] = heapq.nsmallest(PICTURES, held, key=lambda pair: pair[0])

    def survivors(self) -> dict[str, int]:
        """Clips left behind each reason, in the order that reasons are tried."""
        left = sum(self.counts.values())
        steps = {}
        for reason in decide.REASONS:
            if self.counts[reason]:
                left -= self.counts[reason]
                steps[f"… not rejected for {reason}"] = left
        return steps | {"accepted": self.counts["accepted"]}

    def histograms(self, thresholds: Mapping[str, float]) -> list[Any]:
        titles = {"motion_score": "Motion score of videos", "aesthetic_mean": "Aesthetic score"}
        drawn = []
        for score, title in titles.items():
            accepted, rejected = (np.array(self._scores[score, verdict]) for verdict in (True, False))
            limits = [value for name, value in thresholds.items() if score.startswith(name.split()[0])]
            drawn.append(_markup(charts.histogram(title, accepted, rejected, limits)))
        return drawn

    def accepted(self) -> list[Row]:
        return [row for _, row in self._shown["accepted"]]

    def rejected(self) -> list[Row]:
        """Some of each reason in turn."""
        reasons = [name for name in self._shown if name != "accepted"]
        share = max(2, PICTURES // max(1, len(reasons)))
        return [row for name in sorted(reasons) for _, row in self._shown[name][:share]]


def _clip_picture(row: Row) -> Picture:
    scores = {"motion": row["motion_score"], "aesthetic": row["aesthetic_mean"]}
    shown = ", ".join(f"{name} {value:.2f}" for name, value in scores.items() if value is not None)
    span = "" if row["kind"] == "image" else f" {row['start']:.1f}-{row['end']:.1f} s"
    text = row["caption_short"] or row["source_caption"] or ""
    return Picture(
        image=_strip(row),
        text=text,
        detail=f"{_name(row['uri'])}{span}; {shown}",
        verdict="" if row["accepted"] else row["reason"] or "undecided",
        good=bool(row["accepted"]),
    )


def _name(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _strip(row: Row) -> str | None:
    """Three frames of a clip as a data: address; None where it cannot be read any more."""
    try:
        times = media.clip_times(row, count=3)
        frames = media.read_frames(row["uri"], times, short_side=STRIP_HEIGHT)
    except media.MediaError:
        return None
    return _data(frames)


def _data(frames: np.ndarray) -> str:
    file = io.BytesIO()
    strip(frames, height=STRIP_HEIGHT).save(file, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _planted(findings: planted.Findings | None) -> Table | None:
    if findings is None:
        return None
    return Table(("planted", "in all", "found"), planted.rows(findings), frozenset({1}))


def _failures(tables: Tables, count: int) -> Table:
    rows = tables.dataset("failures").head(FAILURES, columns=["stage", "uri", "message"]).to_pylist()
    listed = [(row["stage"], _name(row["uri"]), row["message"]) for row in rows]
    if count > len(listed):
        listed.append(("…", "", f"{count - len(listed)} more in the failures table"))
    return Table(("stage", "item", "what went wrong"), listed)


def _buckets(tables: Tables) -> Table:
    counts: Counter[str] = Counter()
    for part in tables.parts("examples"):
        counts[part.partition["bucket"]] += part.rows
    return Table(("bucket (frames x height x width)", "examples"), sorted(counts.items()), frozenset({1}))


def _throughput(summary: Summary) -> Table:
    rows = [
        (name, totals.rows, totals.failed, f"{totals.rows_per_second:.2f}")
        for name, totals in summary.throughput.items()
    ]
    return Table(("stage", "rows", "failed", "rows per busy second of a worker"), rows, frozenset({1, 2, 3}))


def training_part(run: str | Path) -> TrainingPart | None:
    """Curves of a training run; None where it has logged nothing yet.

    Args:
        run: its folder.
    """
    path = Path(run) / "metrics.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not entries:
        return None
    names = {"loss_first_frame": "first frame", "loss_later_frames": "later frames", "loss": "total"}
    losses = {label: _line(entries, name) for name, label in names.items() if any(name in each for each in entries)}
    others = {"Gradient norm": "grad_norm", "Learning rate": "lr", "Samples per second": "samples_per_second"}
    last = entries[-1]
    return TrainingPart(
        where=str(run),
        tiles={"steps": last["step"], "last loss": f"{last['loss']:.3f}"},
        charts=[
            _markup(charts.curves("Loss", losses)),
            *(_markup(charts.curves(title, {title: _line(entries, name)})) for title, name in others.items()),
        ],
        last=Table(
            ("at the last entry", "value"),
            [(name, f"{value:.4g}") for name, value in last.items()],
            frozenset({1}),
        ),
    )


def _line(entries: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    held = [(each["step"], each[name]) for each in entries if name in each]
    return [step for step, _ in held], [value for _, value in held]


def samples_part(folder: str | Path, title: str, most: int = PICTURES) -> SamplesPart:
    """The first samples of a `nova generate`.

    Args:
        folder: its output, with manifest.parquet.
        title: above them.
        most: samples shown.
    """
    rows = pq.read_table(Path(folder) / "manifest.parquet").slice(0, most).to_pylist()
    return SamplesPart(title, [_sample_picture(row) for row in rows])


def _sample_picture(row: Row) -> Picture:
    clip = {**row, "start": 0.0, "end": row["frames"] / row["fps"] if row["fps"] else 0.0}
    seeds = ", ".join(map(str, row["seeds"]))
    detail = f"seed {seeds}; {row['frames']} x {row['height']} x {row['width']}; {row['seconds']:.2f} s"
    try:
        frames = media.read_frames(row["uri"], media.clip_times(clip, count=5))
    except media.MediaError:
        return Picture(None, row["prompt"], detail, verdict="the file is gone", good=False)
    return Picture(_data(frames), row["prompt"], detail)


def scores_part(folder: str | Path, title: str) -> ScoresPart:
    """The scores of a `nova evaluate`.

    Args:
        folder: its output, with summary.json.
        title: above them.
    """
    found = json.loads((Path(folder) / "summary.json").read_text())
    rows = [(name, f"{score['value']:.4f}", score["samples"]) for name, score in found["scores"].items()]
    return ScoresPart(
        title=title,
        where=f"{folder}: {found['samples']} samples, {len(found['failed'])} could not be scored",
        table=Table(("metric", "mean", "over samples"), rows, frozenset({1, 2})),
        provenance=Table(("", ""), list(found["provenance"].items())),
    )


def _markup(svg: str) -> Any:
    from markupsafe import Markup

    return Markup(svg)  # our own charts; everything else is escaped
