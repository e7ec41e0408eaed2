"""`nova curate`: from media to curated tables. The work is `pipelines/curation/curator.py`.

nova curate --recipe debug --input ~/photos --tables work/tables
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rich import table as rich_table
from rich.console import Console

from jobs import settings
from jobs.runtime import tracking
from jobs.runtime.cluster import connect
from pipelines.curation.curator import Curator
from pipelines.curation.runner import CommitPolicy
from pipelines.curation.stages import Curation
from pipelines.curation.summary import Summary
from pipelines.media.sources import Source, list_sources
from pipelines.report.audit import Audit, Auditor
from pipelines.report.curation import curation_section
from pipelines.report.page import write_report
from pipelines.store.errors import LeftDueError
from pipelines.store.locks import exclusive
from pipelines.store.tables import Tables


@dataclass(frozen=True, kw_only=True)
class CurateConfig(Curation):
    """Scores, filters, captions and encodes media into Delta tables; run again, it does only what is new.

    Example: nova curate --recipe debug --input ~/photos --tables work/tables
    """

    input: str = ""
    """A folder, a glob, a file, an object-store address, or a manifest (JSONL, CSV, Parquet) with `uri` and optionally
    `caption`."""
    tables: str = ""
    """Folder or object-store address of the tables; created if missing."""
    address: str | None = None
    """Ray cluster to run on; by default RAY_ADDRESS, else this machine."""
    limit: int | None = None
    """Take at most this many sources."""
    retry_failures: bool = False
    """Retry what failed before."""
    remove_stale: bool = False
    """Remove examples that cannot be renewed, such as those of lost media after a change of the captioner. By default,
    they stay as they are."""
    commits: CommitPolicy = field(default_factory=CommitPolicy)


def run(config: CurateConfig, auditors: Sequence[Auditor] = ()) -> int:
    """Curates and prints the summary; 0 on success."""
    curate(config, auditors=auditors)
    return 0


def curate(config: CurateConfig, *, parent: str | None = None, auditors: Sequence[Auditor] = ()) -> Summary:
    """Curates under an MLflow run.

    Args:
        config: input, tables and the stages.
        parent: MLflow run that this one belongs to.
        auditors: checks of the tables that are added to the printed summary, the metrics and the report.

    Raises:
        ValueError: no input, an unreadable place, a tables folder with other files, or another run that writes to it.
        LeftDueError: trouble of the infrastructure left items undone; all others are done and committed.
        TooManyFailuresError: more items failed than `commits.max_failed_share` allows.
        FatalError: every item would fail, as on a broken device.
    """
    sources, curator = new_curator(config)
    return _curated(config, sources, curator, parent, auditors)


def recurate(config: CurateConfig, *, parent: str | None = None) -> Summary:
    """Applies other settings to tables that exist: filters and encodes again, without listing media.

    Args:
        config: the settings; its input is not read.
        parent: MLflow run that this one belongs to.

    Raises:
        ValueError: there are no tables, or another run writes to them.
    """
    tables = Tables(config.tables)
    tables.version("examples")  # raises where they are missing
    return _curated(config, iter(()), Curator(tables, config, config.commits, remove_stale=config.remove_stale), parent)


def _curated(
    config: CurateConfig,
    sources: Iterator[Source],
    curator: Curator,
    parent: str | None,
    auditors: Sequence[Auditor] = (),
) -> Summary:
    root = curator.tables.root
    with (
        # The lock comes first: a run that is refused must not appear in MLflow.
        exclusive(root),
        tracking.start(
            "curate",
            config=settings.flatten(config),
            beside=tracking.store_folder(root),
            parent=parent,
            resume=tracking.resume_file("curate", root),
            forget=True,
        ) as tracked,
    ):
        # After the lock, as a refused run should not wait for Ray.
        connect(config.address)
        summary = curator.run(sources, config.input)
        tracked.log_metrics(summary.counts())
        tracked.log_dataset(root, summary.version, "curated")
        Console(file=sys.stdout).print(summary_table(summary))
        # With --limit the tables lack media of the input, which an audit would count as missed.
        audits = _audit(config.input, curator.tables, tracked, auditors) if not config.limit else []
        notes = settings.model_notes(config)
        report = _publish(tracked, curator.tables, summary, notes, audits)
        print(f"tables: {root} (examples at version {summary.version})", f"report: {report}", *notes, sep="\n")
        if summary.left_due:
            # After the report, and inside the MLflow run, which is FAILED then and goes on with the next command.
            raise LeftDueError(
                f"{sum(summary.left_due.values())} items are left due, because the infrastructure failed; nothing is "
                "lost: run the same command again"
            )
    return summary


def _audit(place: str, tables: Tables, tracked: tracking.Run, auditors: Sequence[Auditor]) -> list[Audit]:
    """Runs the audits that apply, and prints and tracks their results."""
    audits = [audit for auditor in auditors if (audit := auditor(place, tables)) is not None]
    for audit in audits:
        print(*audit.lines, sep="\n")
        tracked.log_metrics(audit.metrics)
    return audits


def _publish(tracked: tracking.Run, tables: Tables, summary: Summary, notes: list[str], audits: Sequence[Audit]) -> str:
    """Writes the report beside the tables (on disk) and to MLflow; returns where it is."""
    local = tables.folder is not None
    # MLflow logs files from disk, so a report of tables in an object store passes through a temporary one.
    with tempfile.TemporaryDirectory() as folder:
        path = (Path(tables.root) if local else Path(folder)) / "report.html"
        sections = [curation_section(tables, summary), *(audit.section for audit in audits)]
        write_report(path, title="Curation", notes=notes, sections=sections)
        tracked.log_artifact(path)
    return str(path) if local else "in MLflow"


def new_curator(config: CurateConfig) -> tuple[Iterator[Source], Curator]:
    """The sources to curate, and a curator whose tables exist.

    Raises:
        ValueError: no input, an unreadable place, a tables folder with other files.
    """
    if not config.input:
        raise ValueError("--input is missing; give a folder, a glob, a file, an address or a manifest")
    if not config.tables:
        raise ValueError("--tables is missing; give a folder for the tables")
    # Lazy: a listing of millions of files is consumed a round at a time.
    sources = islice(list_sources(config.input), config.limit)  # raises here, before anything is made
    tables = Tables(config.tables)
    tables.create()
    retry, remove = config.retry_failures, config.remove_stale
    curator = Curator(tables, config, config.commits, retry_failures=retry, remove_stale=remove)
    return sources, curator


def summary_table(summary: Summary) -> rich_table.Table:
    """Counts of what came in, what was accepted and why the others were not, with rows per second of each stage."""
    table = rich_table.Table(title="Curation", show_header=False, title_justify="left")
    table.add_row("sources listed", f"{summary.sources} ({summary.unchanged_sources} already done)")
    table.add_row("new assets", f"{summary.new_assets} ({summary.exact_duplicates} more had the same content)")
    table.add_row("new clips", str(summary.new_clips))
    if summary.new_captions:
        table.add_row("captions added or corrected", str(summary.new_captions))
    table.add_row("accepted, in all", str(summary.accepted))
    for reason, count in summary.rejected.most_common():
        table.add_row(f"rejected: {reason}", str(count))
    table.add_row("examples", f"+{summary.new_examples} -{summary.removed_examples}, version {summary.version}")
    if summary.stale_examples:
        table.add_row("stale examples", f"{summary.stale_examples} cannot be renewed; --remove-stale removes them")
    for stage, count in summary.failures.most_common():
        table.add_row(f"failed in {stage}", f"{count} (see the failures table)")
    for stage, count in summary.left_due.most_common():
        table.add_row(f"left due in {stage}", f"{count} (the infrastructure failed; run the same command again)")
    for stage, totals in summary.throughput.items():
        speed = f"{totals.rows} rows, {totals.rows_per_second:.2f} per busy worker-second"
        table.add_row(f"stage {stage}", speed)
    return table
