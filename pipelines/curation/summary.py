"""Summary of a curation run: counts of what came in, what was accepted and what was rejected, with the reasons."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

from pipelines.core.progress import StageTotals


@dataclass
class Summary:
    """Counts of one run, filled in by the passes; `accepted` and `rejected` cover the complete table."""

    sources: int = 0
    """Sources that were listed."""
    unchanged_sources: int = 0
    """Sources that earlier runs had read, and that have not changed since."""
    new_assets: int = 0
    exact_duplicates: int = 0
    """Sources with the content of another one."""
    new_clips: int = 0
    new_captions: int = 0
    """Sources whose caption was added or corrected after they had been read."""
    accepted: int = 0
    """Accepted clips of the whole table."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Rejected clips of the whole table, by category of reason."""
    new_examples: int = 0
    removed_examples: int = 0
    stale_examples: int = 0
    """Examples of other models or captions that could not be renewed, and stay as they are."""
    failures: Counter[str] = field(default_factory=Counter)
    """New failures, by stage."""
    left_due: Counter[str] = field(default_factory=Counter)
    """Rows that trouble of the infrastructure kept from being processed, by stage; the next run tries them again."""
    throughput: dict[str, StageTotals] = field(default_factory=dict)
    """Rows and busy seconds, by stage."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Thresholds in force, with shares turned into scores."""
    version: int = 0
    """Version of `examples` after the run."""

    def counts(self) -> dict[str, float]:
        """Flat numbers, for tracking."""
        numbers = {name: value for name, value in asdict(self).items() if isinstance(value, int | float)}
        numbers["known"] = numbers.pop("unchanged_sources")  # the metric keeps its name, so that runs stay comparable
        numbers |= {f"rejected_{reason}": count for reason, count in self.rejected.items()}
        numbers |= {f"failed_{stage}": count for stage, count in self.failures.items()}
        numbers |= {f"left_due_{stage}": count for stage, count in self.left_due.items()}
        numbers |= {f"rows_per_second_{stage}": totals.rows_per_second for stage, totals in self.throughput.items()}
        return numbers
