"""The plots of `nova ablate`, as PNG files in OUTPUT/plots.

losses.png      both losses of each training
scores.png      all scores of all variants, compared with `full`
sampling.png    scores against the seconds of sampling
norms.png       variance by depth, and losses by learning rate, by norm position
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.ablate.table import LOSSES, ROUGH, SECONDS, Result, Summary, Value, entries, summarise
from jobs.ablate.variants import SWEEPS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#3b7dd8", "#d9663a", "#2f9e6e", "#8a63d2", "#b8912b", "#c2477f", "#4aa3a8", "#7a7f87")
UNBOUNDED = (*LOSSES, *ROUGH)
"""Metrics outside of the range of 0 to 1."""
SMOOTHING = 0.1
"""Window of the running mean of a curve, as a share of the curve."""
SIZES = ("quarter", "half", "full", "double")
"""Sizes of a sweep's variants, in rising order."""
SETTINGS: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "axes.titlesize": 10, "legend.frameon": False,
}  # fmt: skip


def draw(output: Path, results: Sequence[Result], changes: Mapping[str, str], norms: Mapping[str, Any]) -> Path:
    """Draws all plots that there are results for, without variants that equal `full`; returns the folder.

    Args:
        output: folder of the ablation.
        results: results of `full` and of other variants.
        changes: the settings that each variant changes.
        norms: as for `table.write`.
    """
    import matplotlib as mpl

    results = [result for result in results if result.variant == "full" or changes[result.variant]]
    summary = summarise(results, changes)
    folder = output / "plots"
    folder.mkdir(exist_ok=True)
    with mpl.rc_context(SETTINGS):
        figures = {"losses": _losses(results), "scores": _scores(summary)}
        figures |= {"sampling": _sampling(summary)} if _swept(summary) else {}
        figures |= {"norms": _norms(norms)} if norms else {}
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=130)
    return folder


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    """A figure and its axes, row by row, made without pyplot, which keeps figures in global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _losses(results: Sequence[Result]) -> Figure:
    """One line for each training of the first seed."""
    # Variants that differ in sampling alone share a training: one line a training, or lines would cover each other.
    runs: dict[Path, str] = {}  # labelled with the first variant of the training
    for result in results:
        if result.seed == 0:
            runs.setdefault(result.run, result.variant)
    figure, axes = _figure(1, len(LOSSES), 4.8, 3.4)
    for place, loss in zip(axes, LOSSES, strict=True):
        for number, (run, variant) in enumerate(runs.items()):
            logged = [(entry["step"], entry[loss]) for entry in entries(run) if loss in entry]
            steps, values = [step for step, _ in logged], _smooth([value for _, value in logged])
            style, mark = "-" if number < len(COLOURS) else "--", "." if len(steps) < 2 else None
            colour = COLOURS[number % len(COLOURS)]
            place.plot(steps, values, style, marker=mark, color=colour, linewidth=1.3, label=variant)
        place.set_title(loss.replace("_", " "))
        place.set_xlabel("step")
    axes[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _smooth(values: Sequence[float]) -> list[float]:
    length = max(1, round(SMOOTHING * len(values)))
    windows = (values[max(0, index - length + 1) : index + 1] for index in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _scores(summary: Summary) -> Figure:
    """A chart for each metric with a dot for each variant, its spread, and a line at `full`."""
    metrics = list(dict.fromkeys(name for values in summary.values() for name in values))
    columns = min(4, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure, axes = _figure(rows, columns, 3.2, 0.22 * len(summary) + 0.8)
    for index, place in enumerate(axes):
        if index >= len(metrics):
            place.set_visible(False)
            continue
        values = {variant: row[metrics[index]] for variant, row in summary.items() if metrics[index] in row}
        comparable = {variant: value for variant, value in values.items() if value.usual is not None}
        _dots(place, comparable, list(summary), names=index % columns == 0)
        place.set_title(metrics[index].replace("_", " "))
        if metrics[index] not in UNBOUNDED:
            place.set_xlim(-0.04, 1.04)
    return figure


def _dots(axes: Any, values: Mapping[str, Value], variants: Sequence[str], *, names: bool) -> None:
    for row, name in enumerate(variants):
        axes.axhline(row, color="#dddddd", linewidth=0.6, zorder=0)
        if name in values:
            axes.errorbar(values[name].mean, row, xerr=values[name].spread, fmt="o", color=COLOURS[0], markersize=5)
    axes.set_yticks(range(len(variants)), variants if names else [""] * len(variants))
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    if "full" in values:
        axes.axvline(values["full"].mean, color=COLOURS[1], linewidth=1, linestyle="--", zorder=0)


def _swept(summary: Summary) -> dict[str, list[str]]:
    """The variants of each sweep in order of size, with `full` among them; without sweeps that were not run."""
    variants = {
        sweep: [name for name in ("full", *(f"{sweep}_{size}" for size in SIZES)) if name in summary]
        for sweep in SWEEPS
    }
    return {sweep: sorted(names, key=_size) for sweep, names in variants.items() if len(names) > 1}


def _size(name: str) -> int:
    return SIZES.index(name.rpartition("_")[2])


def _sampling(summary: Summary) -> Figure:
    """Mean of all scores against seconds of sampling, with a panel for each sweep."""
    swept = _swept(summary)
    figure, axes = _figure(1, len(swept), 4.8, 3.4)
    for place, (sweep, names) in zip(axes, swept.items(), strict=True):
        points = [(_seconds(summary[name]), _quality(summary[name]), name) for name in names]
        place.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", color=COLOURS[0])
        for x, y, name in points:
            short = name.removeprefix(f"{sweep}_")
            place.annotate(short, (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8)
        place.margins(x=0.15, y=0.15)
        place.set_title(sweep.replace("_", " "))
        place.set_xlabel("seconds a picture or video, mean")
        place.set_ylabel("mean of all scores")
    return figure


def _seconds(values: Mapping[str, Value]) -> float:
    means = [values[name].mean for name in SECONDS if name in values]
    return sum(means) / max(1, len(means))


def _quality(values: Mapping[str, Value]) -> float:
    means = [value.mean for name, value in values.items() if name not in UNBOUNDED]
    return sum(means) / max(1, len(means))


def _norms(norms: Mapping[str, Any]) -> Figure:
    """Variance by depth, before (dotted) and after the training, and the loss at each learning rate."""
    figure, axes = _figure(1, 3, 4.2, 3.4)
    for number, (variant, norm) in enumerate(norms.items()):
        colour = COLOURS[number % len(COLOURS)]
        for place, encoder in zip(axes, ("temporal", "spatial"), strict=False):
            for when, style in (("start", ":"), ("end", "-")):
                values = norm["variance"][when][encoder]
                label = variant if when == "end" else None
                place.plot(range(1, len(values) + 1), values, style, marker=".", color=colour, label=label)
        points = [(trial["lr"], trial["end"]) for trial in norm["rates"] if trial["end"] is not None]
        axes[2].plot([lr for lr, _ in points], [loss for _, loss in points], "o-", color=colour, label=variant)
        if not norm["rates"][-1]["stable"]:
            axes[2].axvline(norm["rates"][-1]["lr"] * (1 + 0.06 * number), color=colour, linestyle=":")
    for place, encoder in zip(axes, ("temporal encoder", "spatial encoder"), strict=False):
        place.set(title=f"variance after each block, {encoder}", xlabel="block", yscale="log")
        place.xaxis.get_major_locator().set_params(integer=True)
    axes[2].set(title="loss at the end of a short training", xlabel="learning rate (dotted: not stable)", xscale="log")
    axes[0].legend(fontsize=8)
    return figure
