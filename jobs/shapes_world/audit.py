"""Audit of a curated corpus of `nova shapes`: compares the tables with its ground truth for `nova curate`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.shapes_world.corpus import OPTIONS_FILE
from pipelines.report.audit import Audit
from pipelines.report.page import Section, SectionBlock, Table
from pipelines.shapes_world import audit
from pipelines.store.tables import Tables

TRUTH = "truth.jsonl"


@dataclass(frozen=True, kw_only=True)
class AuditSection(Section):
    """Detections compared with the ground truth."""

    name = "audit"
    title = "Audit against the ground truth of the corpus"

    table: Table

    def blocks(self) -> Iterator[SectionBlock]:
        yield self.table


def audit_corpus(place: str, tables: Tables) -> Audit | None:
    """Compares curated tables with the ground truth of a corpus of `nova shapes`; None for other media.

    Args:
        place: input of the curation: the corpus or its manifest.
        tables: the tables that it was curated into.
    """
    # Not `resolve`: a corpus behind a link is compared by the addresses that the tables hold.
    path = Path(os.path.abspath(os.path.expanduser(place)))
    corpus = path if path.is_dir() else path.parent
    # A single file or a glob inside the corpus is not the corpus: the files that were left out would count as missed.
    is_complete = bool(place) and (path.is_dir() or path.name == "manifest.jsonl")
    if not is_complete or not all((corpus / name).is_file() for name in (OPTIONS_FILE, TRUTH)):
        return None
    result = audit.compare(tables, audit.read_truth(corpus / TRUTH), corpus)
    return Audit(
        lines=[f"{AuditSection.title}:", *(f"  {line}" for line in audit.lines(result))],
        metrics=audit.metrics(result),
        section=AuditSection(
            source=str(corpus),
            table=Table(("ground truth", "in all", "found"), audit.rows(result), frozenset({1})),
        ),
    )
