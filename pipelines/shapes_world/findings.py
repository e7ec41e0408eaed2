"""What curation found of what a corpus planted: counts, and how they are told. `planted.py` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    part: int
    whole: int

    @property
    def value(self) -> float | None:
        """None where there is nothing to share."""
        return self.part / self.whole if self.whole else None


@dataclass(frozen=True)
class Match:
    """What was found, against what there is to find."""

    right: int
    found: int
    planted: int

    @property
    def precision(self) -> float | None:
        """None where nothing was found."""
        return Share(self.right, self.found).value

    @property
    def recall(self) -> float | None:
        """None where nothing was planted."""
        return Share(self.right, self.planted).value

    @property
    def f1(self) -> float | None:
        """2 right / (found + planted); None where neither is."""
        return Share(2 * self.right, self.found + self.planted).value


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What curation found of what was planted, and what good it threw away."""

    ugly: Share
    """Of the ugly items, those rejected for beauty."""
    ugly_rejected: Share
    """Of the ugly items, those rejected for any reason."""
    exact: Match
    """Pairs of files with the same content."""
    near: Match
    """Pairs of files that look alike."""
    broken: Share
    """Of the broken items, those among the failures."""
    misnamed: Share
    """Of the misnamed items, those that were read."""
    still: Share
    """Of the good videos in which nothing moves, those rejected for motion."""
    cuts: Match
    good: int
    """Items that are clean or only misnamed."""
    wrongly_rejected: Mapping[str, int]
    """Good items of which no clip is accepted though nothing that was planted explains it, by reason; `unread` where
    there are no clips. A still video is rightly rejected for motion, a copy in favour of another one of its group."""


def rows(findings: Findings) -> list[tuple[str, int, str]]:
    """What was planted, how many of it, and what was found, for people to read."""
    wrong = findings.wrongly_rejected
    reasons = ", ".join(f"{name} {count}" for name, count in wrong.items())
    beauty = f"{_of(findings.ugly)} rejected for beauty, {_of(findings.ugly_rejected)} for any reason"
    return [
        ("ugly", findings.ugly.whole, beauty),
        ("exact duplicate pairs", findings.exact.planted, _matched(findings.exact)),
        ("near duplicate pairs", findings.near.planted, _matched(findings.near)),
        ("broken", findings.broken.whole, f"{_of(findings.broken)} among the failures"),
        ("misnamed", findings.misnamed.whole, f"{_of(findings.misnamed)} read all the same"),
        ("still videos", findings.still.whole, f"{_of(findings.still)} rejected for motion"),
        ("cuts", findings.cuts.planted, f"{_matched(findings.cuts)}, F1 {_number(findings.cuts.f1)}"),
        (
            "good", findings.good,
            f"{_of(Share(sum(wrong.values()), findings.good))} wrongly rejected" + (f" ({reasons})" if wrong else ""),
        ),
    ]  # fmt: skip


def lines(findings: Findings) -> list[str]:
    """`rows` as plain text."""
    return [f"{name:<22}{count:>5}   {text}" for name, count, text in rows(findings)]


def numbers(findings: Findings) -> dict[str, float]:
    """Flat numbers, for logs; what there was nothing of is left out."""
    named = {
        "ugly_rejected_for_beauty": findings.ugly.value, "ugly_rejected": findings.ugly_rejected.value,
        "broken_failed": findings.broken.value, "misnamed_read": findings.misnamed.value,
        "still_rejected_for_motion": findings.still.value, "cuts_f1": findings.cuts.f1,
        "good_wrongly_rejected": Share(sum(findings.wrongly_rejected.values()), findings.good).value,
    }  # fmt: skip
    for name in ("exact", "near", "cuts"):
        match: Match = getattr(findings, name)
        named |= {f"{name}_precision": match.precision, f"{name}_recall": match.recall}
    named |= {f"good_rejected_for_{name}": count for name, count in findings.wrongly_rejected.items()}
    return {f"planted_{name}": value for name, value in named.items() if value is not None}


def both(one: Match, other: Match) -> Match:
    """Two matches as one."""
    return Match(one.right + other.right, one.found + other.found, one.planted + other.planted)


def _of(share: Share) -> str:
    percent = "" if share.value is None else f" ({100 * share.value:.0f} %)"
    return f"{share.part} of {share.whole}{percent}"


def _matched(match: Match) -> str:
    scores = f"precision {_number(match.precision)}, recall {_number(match.recall)}"
    return f"{match.right} found and {match.found - match.right} wrongly, {scores}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
