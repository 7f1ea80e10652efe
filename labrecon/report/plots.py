"""Curves as inline SVG that takes the colour of the page's text: light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labrecon.instrument import Curve
from labrecon.report.svg import Plot

__all__ = ["convergence", "curve", "histogram", "lines", "profile"]

_BLUE = "#3b82f6"
_ORANGE = "#f08a24"
_COLOURS = (_BLUE, _ORANGE, "#10a37f", "#c05ae0", "#e5484d", "#8b8d98")
#: Lines of fewer points have a dot at each.
_DOTTED = 60
#: The normalised residual is shown from −5 to 5.
_EDGES = np.linspace(-5, 5, 82)


def curve(shown: Curve) -> str:
    """A diagnostic curve with its marker."""
    plot = Plot(shown.xlabel, shown.ylabel)
    plot.line(shown.x, shown.y, _BLUE, width=1.5, dots=len(shown.x) < _DOTTED)
    if shown.marker is not None:
        plot.mark(shown.marker, f"{shown.marker:.6g}", _ORANGE)
    return plot.svg()


def convergence(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """The relative change of the iterate and, where it was recorded, the objective."""
    plots = []
    for key, label in (("change", "relative change"), ("objective", "objective")):
        series = {
            title: ([r["iteration"] for r in kept], [r[key] for r in kept])
            for title, history in histories.items()
            if len(kept := [r for r in history if r.get(key, 0) > 0]) > 1
        }
        if series:
            plots.append(lines(series, "iteration", label, log=True))
    return plots


def histogram(residual: np.ndarray[Any, Any]) -> str:
    """The normalised residual against the standard normal density."""
    plot = Plot("normalised residual", "density")
    # What lies outside is counted at the ends: leaving it out would make a bad fit look good.
    counts, edges = np.histogram(np.clip(residual, -5, 5), _EDGES)
    plot.bars(edges, counts / (max(residual.size, 1) * (edges[1] - edges[0])), _BLUE)
    x = np.linspace(-5, 5, 201)
    normal = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    plot.line(x, normal, _ORANGE, width=1.5, label="standard normal")
    return plot.svg()


def profile(lines: Mapping[str, np.ndarray[Any, Any]], xlabel: str, ylabel: str) -> str:
    """One-dimensional data: a line each."""
    # The first line is the one that matters: it lies on top.
    plot = Plot(xlabel, ylabel, first_on_top=True)
    for (title, values), colour in zip(lines.items(), _COLOURS, strict=False):
        plot.line(np.arange(len(values)), values, colour, width=1.1, label=title)
    return plot.svg()


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    *,
    log: bool = False,
    whole: bool = True,
) -> str:
    """A line for each title, through the points ``(x, y)``; ``whole`` has ticks at integers."""
    plot = Plot(xlabel, ylabel, log=log, whole=whole)
    dots = max((len(x) for x, _ in series.values()), default=0) < _DOTTED
    for (title, (x, y)), colour in zip(series.items(), _COLOURS, strict=False):
        plot.line(x, y, colour, label=title, dots=dots)
    return plot.svg()
