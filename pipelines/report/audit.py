"""Audits: checks of curated tables that other packages add to `nova curate` and its report.

Where ground truth exists (a generated corpus, labels of a customer), an `Auditor` compares the tables with it; the
caller passes it to `jobs.curate.curate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.report.page import Section
from pipelines.store.tables import Tables


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Result of an audit, ready for screen, tracking and report."""

    lines: Sequence[str]
    """Printed below the summary of the run."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Logged with the run's own metrics."""
    section: Section
    """Added to the report."""


Auditor = Callable[[str, Tables], Audit | None]
"""Audits tables that were curated from an input (first argument, as given by --input); None where it does not apply."""
