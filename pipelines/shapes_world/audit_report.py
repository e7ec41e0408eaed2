"""The result of an audit: curation compared with the ground truth of a corpus, as text and as metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """A count out of a total."""

    count: int
    total: int

    @property
    def value(self) -> float | None:
        """The quotient; None where the total is 0."""
        return self.count / self.total if self.total else None


@dataclass(frozen=True)
class Match:
    """Detections compared with the ground truth."""

    correct: int
    detected: int
    expected: int
    """By the ground truth."""

    @property
    def precision(self) -> float | None:
        """None where nothing was detected."""
        return Share(self.correct, self.detected).value

    @property
    def recall(self) -> float | None:
        """None where there was nothing to detect."""
        return Share(self.correct, self.expected).value

    @property
    def f1(self) -> float | None:
        """2 correct / (detected + expected); None where both are 0."""
        return Share(2 * self.correct, self.detected + self.expected).value


@dataclass(frozen=True, kw_only=True)
class CurationAudit:
    """Detections of curation compared with the ground truth, and good items that it rejected."""

    ugly: Share
    """Ugly items that were rejected for a low aesthetic score."""
    ugly_rejected: Share
    """Ugly items that were rejected for any reason."""
    exact: Match
    """Pairs of files with the same content."""
    near: Match
    """Pairs of files that look alike."""
    broken: Share
    """Broken items that are among the failures."""
    misnamed: Share
    """Misnamed items that were still read."""
    still: Share
    """Good videos without motion that were rejected for it."""
    cuts: Match
    good: int
    """Number of items that are clean or only misnamed."""
    wrongly_rejected: Mapping[str, int]
    """Good items of which no clip was accepted without a reason in the ground truth, by the reason that curation gave;
    `unread` where an item has no clips. A still video is rightly rejected for motion, a copy in favour of another one
    of its group."""


def rows(audit: CurationAudit) -> list[tuple[str, int, str]]:
    """Rows of a table: a kind of item, their number in the corpus, and how curation treated them."""
    wrong = audit.wrongly_rejected
    reasons = ", ".join(f"{name} {count}" for name, count in wrong.items())
    ugly = (
        f"{_fraction(audit.ugly)} rejected for a low aesthetic score, {_fraction(audit.ugly_rejected)} for any reason"
    )
    rejected = Share(sum(wrong.values()), audit.good)
    return [
        ("ugly", audit.ugly.total, ugly),
        ("exact duplicate pairs", audit.exact.expected, _matched(audit.exact)),
        ("near duplicate pairs", audit.near.expected, _matched(audit.near)),
        ("broken", audit.broken.total, f"{_fraction(audit.broken)} among the failures"),
        ("misnamed", audit.misnamed.total, f"{_fraction(audit.misnamed)} still read"),
        ("still videos", audit.still.total, f"{_fraction(audit.still)} rejected for motion"),
        ("cuts", audit.cuts.expected, f"{_matched(audit.cuts)}, F1 {_number(audit.cuts.f1)}"),
        ("good", audit.good, f"{_fraction(rejected)} wrongly rejected" + (f" ({reasons})" if wrong else "")),
    ]


def lines(audit: CurationAudit) -> list[str]:
    """`rows` as plain text."""
    return [f"{name:<22}{count:>5}   {text}" for name, count, text in rows(audit)]


def metrics(audit: CurationAudit) -> dict[str, float]:
    """The audit as flat numbers for MLflow, without those that are undefined.

    The prefix `planted_` stays as it was when these metrics were introduced, so that old and new runs can be compared.
    """
    values = {
        "ugly_rejected_for_beauty": audit.ugly.value, "ugly_rejected": audit.ugly_rejected.value,
        "broken_failed": audit.broken.value, "misnamed_read": audit.misnamed.value,
        "still_rejected_for_motion": audit.still.value, "cuts_f1": audit.cuts.f1,
        "good_wrongly_rejected": Share(sum(audit.wrongly_rejected.values()), audit.good).value,
    }  # fmt: skip
    for name, match in (("exact", audit.exact), ("near", audit.near), ("cuts", audit.cuts)):
        values |= {f"{name}_precision": match.precision, f"{name}_recall": match.recall}
    values |= {f"good_rejected_for_{name}": count for name, count in audit.wrongly_rejected.items()}
    return {f"planted_{name}": value for name, value in values.items() if value is not None}


def pooled(*matches: Match) -> Match:
    """Several matches as one."""
    return Match(
        sum(match.correct for match in matches),
        sum(match.detected for match in matches),
        sum(match.expected for match in matches),
    )


def _fraction(share: Share) -> str:
    percent = "" if share.value is None else f" ({100 * share.value:.0f} %)"
    return f"{share.count} of {share.total}{percent}"


def _matched(match: Match) -> str:
    scores = f"precision {_number(match.precision)}, recall {_number(match.recall)}"
    return f"{match.correct} found and {match.detected - match.correct} wrongly, {scores}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
