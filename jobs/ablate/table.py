"""The results of `nova ablate`, as a table that people read and as one that programs read.

ablation.md         what moved and by how much, each score of each variant, the norms
ablation.parquet    a row for each variant, seed and metric
ablation.json       means, spreads and differences; the norms
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.store.files import write_json, write_parquet

FILES = ("ablation.md", "ablation.parquet", "ablation.json")
LOSSES = ("loss_first_frame", "loss_later_frames")
CORRELATIONS = ("speed",)
"""Scores that are no shares."""
TENTH = 0.1
LEAST = 0.02
"""Of the value of `full`: smaller differences are not told of."""
SECONDS = ("seconds_per_image", "seconds_per_video")
ROUGH = (*SECONDS, "motion")
"""Seconds depend on what else a machine does, and motion differs from video to video."""
LEAST_ROUGH = 0.2
"""The same of these."""


@dataclass(frozen=True)
class Result:
    """A variant, trained with a seed and judged."""

    variant: str
    seed: int
    run: Path
    """Folder of the training, which may be another variant's."""
    metrics: Mapping[str, float]
    samples: Mapping[str, int] = field(default_factory=dict)
    """That a score is over; losses, seconds and motion have none."""


@dataclass(frozen=True)
class Value:
    """A metric of a variant."""

    mean: float
    spread: float | None
    """Standard deviation over the seeds; None for one seed."""
    usual: float | None
    """Mean of `full`; None where that lacks it, or where the two are of different kinds."""
    usual_spread: float | None
    noise: float
    """Two standard errors of the difference, as scores over so many samples have them; 0 for what is no score."""
    least: float
    """Share of the usual mean that a difference must exceed to be told."""

    @property
    def difference(self) -> float | None:
        """To `full`."""
        return None if self.usual is None else self.mean - self.usual

    @property
    def moved(self) -> bool:
        """Whether the difference is more than chance in samples and seeds makes, and worth telling."""
        if self.usual is None:
            return False
        chance = max(self.spread or 0.0, self.usual_spread or 0.0, self.noise)
        return abs(self.mean - self.usual) > max(chance, self.least * abs(self.usual))


Summary = dict[str, dict[str, Value]]


def entries(run: Path) -> list[dict[str, float]]:
    """What a training has logged, step by step."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(run: Path, steps: int) -> dict[str, float]:
    """Both losses at the end of a training: means over the last tenth of the steps, or the last one that was logged.

    Args:
        run: its folder.
        steps: of it.
    """
    found = {}
    for name in LOSSES:
        logged = [(each["step"], each[name]) for each in entries(run) if name in each]
        if logged:
            last = [value for step, value in logged if step > (1 - TENTH) * steps] or [logged[-1][1]]
            found[name] = sum(last) / len(last)
    return found


def summarise(results: Sequence[Result], changes: Mapping[str, str]) -> Summary:
    """Means over seeds and what differs from `full`, by variant and metric.

    Args:
        results: of `full` and others.
        changes: what each variant changes.
    """
    values: dict[str, dict[str, list[float]]] = {}
    samples: dict[tuple[str, str], int] = {}
    for each in results:
        for metric, value in each.metrics.items():
            values.setdefault(each.variant, {}).setdefault(metric, []).append(value)
            key = (each.variant, metric)
            samples[key] = samples.get(key, 0) + each.samples.get(metric, 0)

    def compared(variant: str, metric: str, numbers: Sequence[float]) -> Value:
        mean, spread = statistics.fmean(numbers), _spread(numbers)
        least = LEAST_ROUGH if metric in ROUGH else LEAST
        others = values["full"].get(metric, [])
        if not others or not _alike(metric, changes[variant]):
            return Value(mean, spread, None, None, 0.0, least)
        usual = statistics.fmean(others)
        noise = _noise(metric, (mean, samples[variant, metric]), (usual, samples["full", metric]))
        return Value(mean, spread, usual, _spread(others), noise, least)

    return {
        variant: {metric: compared(variant, metric, numbers) for metric, numbers in metrics.items()}
        for variant, metrics in values.items()
    }


def _noise(metric: str, one: tuple[float, int], other: tuple[float, int]) -> float:
    """Two standard errors of the difference of two scores, given with their samples: shares, or correlations."""
    (first, count), (second, others) = one, other
    if not count or not others:
        return 0.0
    mean = (first * count + second * others) / (count + others)
    variance = (1 - mean**2) ** 2 if metric in CORRELATIONS else mean * (1 - mean)
    return 2 * math.sqrt(variance * (1 / count + 1 / others))


def _spread(numbers: Sequence[float]) -> float | None:
    return statistics.stdev(numbers) if len(numbers) > 1 else None


def _alike(metric: str, change: str) -> bool:
    """Losses of two noise schedules are errors of different targets."""
    return not (metric in LOSSES and "train.schedule=" in change)


def write(
    output: Path, results: Sequence[Result], changes: Mapping[str, str], norms: Mapping[str, Any] | None = None
) -> Path:
    """Writes the three files and returns the path of the first.

    Args:
        output: folder.
        results: of `full` and others, so far.
        changes: what each variant changes, in the order of the table.
        norms: of variants that put the norms elsewhere: variance, rates, largest_stable_lr.
    """
    import pyarrow as pa

    summary = summarise(results, changes)
    rows = [
        {"variant": each.variant, "changes": changes[each.variant], "seed": each.seed, "metric": name, "value": value}
        for each in results
        for name, value in each.metrics.items()
    ]
    write_parquet(output / "ablation.parquet", pa.Table.from_pylist(rows))
    whole = {
        variant: {"changes": changes[variant], "metrics": {name: _plain(value) for name, value in metrics.items()}}
        for variant, metrics in summary.items()
    }
    write_json(output / "ablation.json", {"variants": whole, "norms": dict(norms or {})})
    path = output / "ablation.md"
    path.write_text(markdown(summary, changes, len({each.seed for each in results}), norms or {}))
    return path


def _plain(value: Value) -> dict[str, Any]:
    return {**asdict(value), "difference": value.difference, "moved": value.moved}


def markdown(summary: Summary, changes: Mapping[str, str], seeds: int, norms: Mapping[str, Any]) -> str:
    """What people read.

    Args:
        summary: from `summarise`.
        changes: what each variant changes.
        seeds: of each variant.
        norms: as for `write`.
    """
    equal = [name for name in summary if name != "full" and not changes[name]]
    shown = {name: metrics for name, metrics in summary.items() if name not in equal}
    told = f"{seeds} seeds; ± is their standard deviation" if seeds > 1 else "One seed; another differs"
    parts = [
        "# Ablation",
        f"{told}. In brackets, the difference to `full`. Losses are means over the last tenth of the steps, on the "
        "tables that a variant was trained on.",
        "## What moved",
        "By more than the spread over seeds, by more than two standard errors of a score over so many samples, and by "
        f"more than {100 * LEAST:.0f} % (seconds and motion: {100 * LEAST_ROUGH:.0f} %):",
        *_moved(shown, changes),
        *([f"The same as `full` in this recipe: {', '.join(equal)}."] if equal else []),
        "## Every score",
        _grid(shown),
        *(["## The place of the norms", _norm_grid(norms)] if norms else []),
    ]
    return "\n\n".join(parts) + "\n"


def _moved(summary: Summary, changes: Mapping[str, str]) -> list[str]:
    lines = []
    for variant, metrics in summary.items():
        if variant == "full":
            continue
        moved = {name: value for name, value in metrics.items() if value.moved}
        order = sorted(moved, key=lambda name: -_relative(moved[name]))
        said = "; ".join(_told(name, moved[name]) for name in order)
        lines.append(f"- **{variant}** ({changes[variant]}): {said or 'nothing'}")
    return ["\n".join(lines)] if lines else ["Nothing was compared."]


def _relative(value: Value) -> float:
    return abs(value.difference or 0.0) / max(abs(value.usual or 0.0), 1e-9)


def _told(name: str, value: Value) -> str:
    assert value.usual is not None
    difference = value.mean - value.usual
    percent = f", {100 * difference / value.usual:+.0f} %" if value.usual > 0 else ""
    return f"{name} {value.usual:.3g} → {value.mean:.3g} ({difference:+.3g}{percent})"


def _grid(summary: Summary) -> str:
    metrics = list(dict.fromkeys(name for each in summary.values() for name in each))
    rows = [[variant, *(_cell(values.get(name)) for name in metrics)] for variant, values in summary.items()]
    return _table(["variant", *metrics], rows)


def _cell(value: Value | None) -> str:
    if value is None:
        return ""
    spread = "" if value.spread is None else f" ± {value.spread:.2g}"
    difference = f" ({value.difference:+.3g})" if value.difference else ""
    return f"{value.mean:.3g}{spread}{difference}"


def _norm_grid(norms: Mapping[str, Any]) -> str:
    heads = ["variant", "largest stable learning rate", "temporal, before", "after", "spatial, before", "after"]
    rows = []
    for variant, found in norms.items():
        spans = [found["variance"][when][part] for part in ("temporal", "spatial") for when in ("start", "end")]
        tried = f"{found['rates'][0]['lr']:g}"
        best = f"below {tried}" if found["largest_stable_lr"] is None else f"{found['largest_stable_lr']:g}"
        if found["rates"][-1]["stable"]:
            best += " or more"
        rows.append([variant, best, *(f"{span[0]:.3g} → {span[-1]:.3g}" for span in spans)])
    note = "Variance of what leaves the first and the last block, before the first and after the last step."
    return f"{_table(heads, rows)}\n\n{note}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
