"""The report's charts, as SVG text whose ink follows the page's colours (light or dark)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's text colour while matplotlib draws."""
ACCEPTED, REJECTED, LINES = "#2f9e6e", "#d9663a", ("#3b7dd8", "#d9663a", "#2f9e6e", "#8a63d2")
SETTINGS: Any = {
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "font.family": "sans-serif",
    "font.size": 9, "axes.titlesize": 10, "legend.frameon": False, "svg.hashsalt": "nova",
}  # fmt: skip


def funnel(steps: Mapping[str, int]) -> str:
    """Horizontal bars, one a step, with their counts."""
    names, counts = list(steps), list(steps.values())

    def draw(axes: Any) -> None:
        bars = axes.barh(names[::-1], counts[::-1], color=LINES[0], height=0.65)
        axes.bar_label(bars, padding=4)
        axes.set_xlim(0, max([*counts, 1]) * 1.1)
        axes.xaxis.set_visible(False)
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.tick_params(left=False)

    return _drawn(draw, 6.4, 0.4 * len(steps) + 0.3)


def histogram(
    title: str, accepted: np.ndarray, rejected: np.ndarray, limits: Sequence[float] = (), bins: int = 30
) -> str:
    """Stacked histogram of a score, accepted below rejected, with a dashed line at each threshold."""
    both = np.concatenate([accepted, rejected])

    def draw(axes: Any) -> None:
        edges = np.histogram_bin_edges(both, bins=bins) if len(both) else np.linspace(0, 1, bins)
        axes.hist(
            [accepted, rejected], bins=edges, stacked=True, color=[ACCEPTED, REJECTED], label=["accepted", "rejected"]
        )
        for limit in limits:
            axes.axvline(limit, color=INK, linestyle="--", linewidth=1)
        axes.set_title(title)
        axes.set_ylabel("clips")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.legend()

    return _drawn(draw, 4.6, 2.6)


def curves(title: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, log: bool = False) -> str:
    """Lines over training steps, each with its own (steps, values)."""

    def draw(axes: Any) -> None:
        for (name, (steps, values)), colour in zip(lines.items(), LINES, strict=False):
            axes.plot(steps, values, label=name, color=colour, linewidth=1.4)
        axes.set_title(title)
        axes.set_xlabel("step")
        if log:
            axes.set_yscale("log")
        if len(lines) > 1:
            axes.legend()

    return _drawn(draw, 4.6, 2.6)


def _drawn(draw: Any, width: float, height: float) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no window system, no state shared between threads

    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        return _svg(figure)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :].replace(INK, "currentColor")
