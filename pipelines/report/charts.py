"""Charts of the report, as SVG text in the page's own text colour, so that they follow its light or dark theme."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

INK = "#010203"
"""Placeholder for the page's text colour while matplotlib draws, because matplotlib does not know `currentColor`."""
ACCEPTED, REJECTED, LINES = "#2f9e6e", "#d9663a", ("#3b7dd8", "#d9663a", "#2f9e6e", "#8a63d2")
SETTINGS: Any = {
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "font.family": "sans-serif",
    "font.size": 9, "axes.titlesize": 10, "legend.frameon": False, "svg.hashsalt": "nova",
}  # fmt: skip


def funnel(steps: Mapping[str, int]) -> str:
    """A horizontal bar for each step, labelled with its count."""
    names, counts = list(steps), list(steps.values())

    def draw(axes: Any) -> None:
        bars = axes.barh(names[::-1], counts[::-1], color=LINES[0], height=0.65)
        axes.bar_label(bars, padding=4)
        axes.set_xlim(0, max([*counts, 1]) * 1.1)
        axes.xaxis.set_visible(False)
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.tick_params(left=False)

    return _svg(draw, 6.4, 0.4 * len(steps) + 0.3)


def histogram(
    title: str, accepted: np.ndarray, rejected: np.ndarray, limits: Sequence[float] = (), bins: int = 30
) -> str:
    """Stacked histogram of a score, accepted below rejected, with a dashed line at each threshold."""
    scores = np.concatenate([accepted, rejected])

    def draw(axes: Any) -> None:
        # Edges over both groups, so that their bars stand on the same bins.
        edges = np.histogram_bin_edges(scores, bins=bins) if len(scores) else np.linspace(0, 1, bins)
        axes.hist(
            [accepted, rejected], bins=edges, stacked=True, color=[ACCEPTED, REJECTED], label=["accepted", "rejected"]
        )
        for limit in limits:
            axes.axvline(limit, color=INK, linestyle="--", linewidth=1)
        axes.set_title(title)
        axes.set_ylabel("clips")
        axes.yaxis.get_major_locator().set_params(integer=True)  # there are no half clips
        axes.legend()

    return _svg(draw, 4.6, 2.6)


def curves(title: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, log: bool = False) -> str:
    """Lines over training steps.

    Args:
        title: title of the chart.
        lines: steps and values of each line, by label.
        log: whether values are on a logarithmic scale.
    """

    def draw(axes: Any) -> None:
        for (name, (steps, values)), colour in zip(lines.items(), LINES, strict=False):
            axes.plot(steps, values, label=name, color=colour, linewidth=1.4)
        axes.set_title(title)
        axes.set_xlabel("step")
        if log:
            axes.set_yscale("log")
        if len(lines) > 1:
            axes.legend()

    return _svg(draw, 4.6, 2.6)


def _svg(draw: Callable[[Any], None], width: float, height: float) -> str:
    """Draws a chart of a size in inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no window system, no state shared between threads

    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        # Without a date, and with the fixed hash salt of SETTINGS, the same data give the same text.
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
