"""Section of the report on a training run: its curves and last numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.report import charts
from pipelines.report.page import Charts, Section, SectionBlock, Table
from pipelines.store.texts import split_lines

LOSSES = {"loss_first_frame": "first frame", "loss_later_frames": "later frames", "loss": "total"}
"""Metrics drawn in the chart of the loss, with their labels."""
CURVES = {"Gradient norm": "grad_norm", "Learning rate": "lr", "Samples per second": "samples_per_second"}
"""Titles of the other charts, with their metrics."""


@dataclass(frozen=True, kw_only=True)
class TrainingSection(Section):
    """Progress of a training run."""

    name = "training"
    title = "Training"

    curves: Sequence[str]
    last_entry: Table

    def blocks(self) -> Iterator[SectionBlock]:
        yield Charts(self.curves)
        yield self.last_entry


def training_section(run: str | Path) -> TrainingSection | None:
    """Reads the section from a training run; None where the run has logged nothing yet.

    Args:
        run: folder of the run, with metrics.jsonl.
    """
    path = Path(run) / "metrics.jsonl"
    entries = [json.loads(line) for line in split_lines(path.read_text(encoding="utf-8"))] if path.exists() else []
    if not entries:
        return None
    # A run on images alone has no loss of later frames.
    losses = {label: _line(entries, name) for name, label in LOSSES.items() if any(name in entry for entry in entries)}
    last = entries[-1]
    return TrainingSection(
        source=str(run),
        tiles={"steps": last["step"], "last loss": f"{last['loss']:.3f}"},
        curves=[
            charts.curves("Loss", losses),
            *(charts.curves(title, {title: _line(entries, name)}) for title, name in CURVES.items()),
        ],
        last_entry=Table(
            ("at the last entry", "value"),
            [(name, f"{value:.4g}") for name, value in last.items()],
            frozenset({1}),
        ),
    )


def _line(entries: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric, at the entries that have it."""
    points = [(entry["step"], entry[name]) for entry in entries if name in entry]
    return [step for step, _ in points], [value for _, value in points]
