"""The results of `nova ablate` as tables.

ablation.md         significant differences, all scores of all variants, the comparison of norms
ablation.parquet    one row for each variant, seed and metric
ablation.json       means, standard deviations and differences; the comparison of norms
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.store.files import write_json, write_parquet, write_text
from pipelines.store.texts import split_lines

FILES = ("ablation.md", "ablation.parquet", "ablation.json")
LOSSES = ("loss_first_frame", "loss_later_frames")
CORRELATIONS = ("speed",)
"""Scores that are correlations instead of shares."""
# Share of the steps that a loss is averaged over: a single value depends on the draws of its step.
TENTH = 0.1
MIN_DIFFERENCE = 0.02
"""Smallest relative difference to `full` that is reported."""
SECONDS = ("seconds_per_image", "seconds_per_video")
ROUGH = (*SECONDS, "motion")
"""Metrics of low precision: seconds depend on the load of the machine, and motion differs from video to video."""
MIN_ROUGH_DIFFERENCE = 0.2
"""Smallest relative difference of these that is reported."""


@dataclass(frozen=True)
class Result:
    """The metrics of a variant, trained with a seed."""

    variant: str
    seed: int
    run: Path
    """Folder of the training, which variants that differ in sampling share."""
    metrics: Mapping[str, float]
    samples: Mapping[str, int] = field(default_factory=dict)
    """Number of samples of each score; other metrics have none."""


@dataclass(frozen=True)
class Value:
    """A metric of a variant, compared with `full`."""

    mean: float
    spread: float | None
    """Standard deviation over the seeds; None for one seed."""
    usual: float | None
    """Mean of `full`; None where `full` lacks the metric or the two cannot be compared."""
    usual_spread: float | None
    noise: float
    """Two standard errors of the difference for scores over this number of samples; 0 for other metrics."""
    min_difference: float
    """Smallest relative difference that is reported."""

    @property
    def difference(self) -> float | None:
        """Difference to the mean of `full`."""
        return None if self.usual is None else self.mean - self.usual

    @property
    def is_significant(self) -> bool:
        """Whether the difference exceeds the noise of samples and seeds, and is large enough to be reported."""
        if self.usual is None:
            return False
        # One seed gives no spread and two give a poor one: the noise of the samples is a floor that never needs seeds.
        chance = max(self.spread or 0.0, self.usual_spread or 0.0, self.noise)
        return abs(self.mean - self.usual) > max(chance, self.min_difference * abs(self.usual))


Summary = dict[str, dict[str, Value]]


def entries(run: Path) -> list[dict[str, float]]:
    """The entries of a training's log, in order of steps."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in split_lines(path.read_text(encoding="utf-8"))] if path.exists() else []


def losses(run: Path, steps: int) -> dict[str, float]:
    """Both losses at the end of a training: means over the last tenth of the steps, or the last value that was logged.

    Args:
        run: folder of the training.
        steps: number of its steps.
    """
    means = {}
    for name in LOSSES:
        logged = [(entry["step"], entry[name]) for entry in entries(run) if name in entry]
        if logged:
            last = [value for step, value in logged if step > (1 - TENTH) * steps] or [logged[-1][1]]
            means[name] = sum(last) / len(last)
    return means


def summarise(results: Sequence[Result], changes: Mapping[str, str]) -> Summary:
    """Means over seeds and differences to `full`, by variant and metric.

    Args:
        results: results of `full` and of other variants.
        changes: the settings that each variant changes.
    """
    values: dict[str, dict[str, list[float]]] = {}
    samples: dict[tuple[str, str], int] = {}
    for result in results:
        for metric, value in result.metrics.items():
            values.setdefault(result.variant, {}).setdefault(metric, []).append(value)
            key = (result.variant, metric)
            samples[key] = samples.get(key, 0) + result.samples.get(metric, 0)

    def compare(variant: str, metric: str, numbers: Sequence[float]) -> Value:
        mean, spread = statistics.fmean(numbers), _spread(numbers)
        min_difference = MIN_ROUGH_DIFFERENCE if metric in ROUGH else MIN_DIFFERENCE
        reference = values["full"].get(metric, [])
        if not reference or not _comparable(metric, changes[variant]):
            return Value(mean, spread, None, None, 0.0, min_difference)
        usual = statistics.fmean(reference)
        noise = _noise(metric, (mean, samples[variant, metric]), (usual, samples["full", metric]))
        return Value(mean, spread, usual, _spread(reference), noise, min_difference)

    return {
        variant: {metric: compare(variant, metric, numbers) for metric, numbers in metrics.items()}
        for variant, metrics in values.items()
    }


def _noise(metric: str, one: tuple[float, int], other: tuple[float, int]) -> float:
    """Two standard errors of the difference of two scores (shares or correlations) with their numbers of samples."""
    (first, first_count), (second, second_count) = one, other
    if not first_count or not second_count:
        return 0.0
    mean = (first * first_count + second * second_count) / (first_count + second_count)
    # Large-sample variances: of a Pearson correlation (1 - r²)²/n, of a share p(1 - p)/n, pooled under the assumption
    # that both variants have the same score.
    variance = (1 - mean**2) ** 2 if metric in CORRELATIONS else mean * (1 - mean)
    return 2 * math.sqrt(variance * (1 / first_count + 1 / second_count))


def _spread(numbers: Sequence[float]) -> float | None:
    return statistics.stdev(numbers) if len(numbers) > 1 else None


def _comparable(metric: str, change: str) -> bool:
    """False for losses of different noise schedules, which have different regression targets."""
    return not (metric in LOSSES and "train.noise.schedule=" in change)


def write(
    output: Path, results: Sequence[Result], changes: Mapping[str, str], norms: Mapping[str, Any] | None = None
) -> Path:
    """Writes the three files and returns the path of the first.

    Args:
        output: folder of the ablation.
        results: results of `full` and of other variants so far.
        changes: the settings that each variant changes, in the order of the table.
        norms: variance, rates and largest_stable_lr of variants with other norm positions.
    """
    import pyarrow as pa

    summary = summarise(results, changes)
    rows = [
        {
            "variant": result.variant,
            "changes": changes[result.variant],
            "seed": result.seed,
            "metric": name,
            "value": value,
        }
        for result in results
        for name, value in result.metrics.items()
    ]
    write_parquet(output / "ablation.parquet", pa.Table.from_pylist(rows))
    variants = {
        variant: {"changes": changes[variant], "metrics": {name: _plain(value) for name, value in metrics.items()}}
        for variant, metrics in summary.items()
    }
    write_json(output / "ablation.json", {"variants": variants, "norms": dict(norms or {})})
    path = output / "ablation.md"
    write_text(path, markdown(summary, changes, len({result.seed for result in results}), norms or {}))
    return path


def _plain(value: Value) -> dict[str, Any]:
    """A value as in ablation.json, whose keys `least` and `moved` are older than the names in the code."""
    values = asdict(value)
    values["least"] = values.pop("min_difference")
    return {**values, "difference": value.difference, "moved": value.is_significant}


def markdown(summary: Summary, changes: Mapping[str, str], seeds: int, norms: Mapping[str, Any]) -> str:
    """The text of ablation.md.

    Args:
        summary: from `summarise`.
        changes: the settings that each variant changes.
        seeds: number of seeds of each variant.
        norms: as for `write`.
    """
    equal = [name for name in summary if name != "full" and not changes[name]]
    distinct = {name: metrics for name, metrics in summary.items() if name not in equal}
    spread = f"{seeds} seeds; ± is their standard deviation" if seeds > 1 else "One seed; another differs"
    sections = [
        "# Ablation",
        f"{spread}. In brackets, the difference to `full`. Losses are means over the last tenth of the steps, on the "
        "tables that a variant was trained on.",
        "## Significant differences",
        "More than the spread over seeds, more than two standard errors of a score over that many samples, and "
        f"more than {100 * MIN_DIFFERENCE:.0f} % (seconds and motion: {100 * MIN_ROUGH_DIFFERENCE:.0f} %):",
        *_significant(distinct, changes),
        *([f"The same as `full` in this recipe: {', '.join(equal)}."] if equal else []),
        "## All scores",
        _grid(distinct),
        *(["## Norm positions", _norm_grid(norms)] if norms else []),
    ]
    return "\n\n".join(sections) + "\n"


def _significant(summary: Summary, changes: Mapping[str, str]) -> list[str]:
    lines = []
    for variant, metrics in summary.items():
        if variant == "full":
            continue
        significant = {name: value for name, value in metrics.items() if value.is_significant}
        order = sorted(significant, key=lambda name: -_relative(significant[name]))
        differences = "; ".join(_difference(name, significant[name]) for name in order)
        lines.append(f"- **{variant}** ({changes[variant]}): {differences or 'nothing'}")
    return ["\n".join(lines)] if lines else ["Nothing was compared."]


def _relative(value: Value) -> float:
    return abs(value.difference or 0.0) / max(abs(value.usual or 0.0), 1e-9)


def _difference(name: str, value: Value) -> str:
    assert value.usual is not None
    difference = value.mean - value.usual
    percent = f", {100 * difference / value.usual:+.0f} %" if value.usual > 0 else ""
    return f"{name} {value.usual:.3g} → {value.mean:.3g} ({difference:+.3g}{percent})"


def _grid(summary: Summary) -> str:
    metrics = list(dict.fromkeys(name for values in summary.values() for name in values))
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
    for variant, norm in norms.items():
        spans = [norm["variance"][when][encoder] for encoder in ("temporal", "spatial") for when in ("start", "end")]
        lowest = f"{norm['rates'][0]['lr']:g}"
        best = f"below {lowest}" if norm["largest_stable_lr"] is None else f"{norm['largest_stable_lr']:g}"
        if norm["rates"][-1]["stable"]:
            best += " or more"
        rows.append([variant, best, *(f"{span[0]:.3g} → {span[-1]:.3g}" for span in spans)])
    note = "Variance of the outputs of the first and the last block, before the first and after the last step."
    return f"{_table(heads, rows)}\n\n{note}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
