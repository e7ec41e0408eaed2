"""Section of the report on evaluation: scores, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.report.page import Details, Heading, Paragraph, Section, SectionBlock, Table


@dataclass(frozen=True)
class ScoreGroup:
    """Scores of one `nova evaluate`."""

    title: str
    source: str
    table: Table
    provenance: Table


@dataclass(frozen=True, kw_only=True)
class ScoresSection(Section):
    """Groups of scores, each below its title."""

    name = "scores"
    title = "Scores"

    groups: Sequence[ScoreGroup]

    def blocks(self) -> Iterator[SectionBlock]:
        for group in self.groups:
            yield Heading(group.title)
            yield Paragraph(group.source, faint=True)
            yield group.table
            yield Details("Where these scores come from", group.provenance)


def score_group(folder: str | Path, title: str) -> ScoreGroup:
    """Reads the scores of a `nova evaluate`.

    Args:
        folder: its output folder, with summary.json.
        title: title of the group.
    """
    summary = json.loads((Path(folder) / "summary.json").read_text())
    rows = [(name, f"{score['value']:.4f}", score["samples"]) for name, score in summary["scores"].items()]
    return ScoreGroup(
        title=title,
        source=f"{folder}: {summary['samples']} samples, {len(summary['failed'])} could not be scored",
        table=Table(("metric", "mean", "over samples"), rows, frozenset({1, 2})),
        provenance=Table(("", ""), list(summary["provenance"].items())),
    )
