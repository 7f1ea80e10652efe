"""Curves as inline SVG that takes the colour of the page's text: light and dark."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labrecon.instrument import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["convergence", "curve", "histogram", "lines", "profile"]

#: Stands for "the colour of the text"; it is replaced in the SVG.
_INK = "#0a0b0c"
_BLUE = "#3b82f6"
_ORANGE = "#f08a24"


def curve(shown: Curve) -> str:
    """A diagnostic curve with its marker."""
    figure, axes = _figure(shown.xlabel, shown.ylabel)
    axes.plot(shown.x, shown.y, color=_BLUE, marker="." if len(shown.x) < 60 else "")
    if shown.marker is not None:
        axes.axvline(shown.marker, color=_ORANGE, linewidth=1.2)
        axes.annotate(
            f"{shown.marker:.6g}",
            (shown.marker, 1.0),
            (4, -4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=_ORANGE,
            verticalalignment="top",
        )
    return _svg(figure)


def convergence(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """The relative change of the iterate and, where it was recorded, the objective."""
    plots = []
    for key, label in (("change", "relative change"), ("objective", "objective")):
        lines = {
            title: [(r["iteration"], r[key]) for r in history if r.get(key, 0) > 0]
            for title, history in histories.items()
        }
        if not any(len(points) > 1 for points in lines.values()):
            continue
        figure, axes = _figure("iteration", label)
        for (title, points), colour in zip(lines.items(), _colours(), strict=False):
            if len(points) > 1:
                x, y = zip(*points, strict=True)
                axes.semilogy(x, y, color=colour, marker=".", label=title)
        if len(lines) > 1:
            axes.legend(frameon=False, labelcolor=_INK)
        plots.append(_svg(figure))
    return plots


def histogram(residual: np.ndarray[Any, Any]) -> str:
    """The normalised residual against the standard normal density."""
    figure, axes = _figure("normalised residual", "density")
    # What lies outside is counted at the ends: leaving it out would make a bad fit look good.
    shown = np.clip(residual, -5, 5)
    axes.hist(shown, bins=81, range=(-5, 5), density=True, color=_BLUE, alpha=0.65)
    x = np.linspace(-5, 5, 201)
    normal = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    axes.plot(x, normal, color=_ORANGE, label="standard normal")
    axes.legend(frameon=False, labelcolor=_INK)
    return _svg(figure)


def profile(lines: Mapping[str, np.ndarray[Any, Any]], xlabel: str, ylabel: str) -> str:
    """One-dimensional data: a line each."""
    figure, axes = _figure(xlabel, ylabel)
    # The first line is the one that matters: it lies on top.
    for i, ((title, values), colour) in enumerate(zip(lines.items(), _colours(), strict=False)):
        axes.plot(values, color=colour, linewidth=1.1, label=title, zorder=9 - i)
    if len(lines) > 1:
        axes.legend(frameon=False, labelcolor=_INK)
    return _svg(figure)


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    *,
    log: bool = False,
    whole: bool = True,
) -> str:
    """A line for each title, through the points ``(x, y)``; ``whole`` has ticks at integers."""
    figure, axes = _figure(xlabel, ylabel)
    for i, ((title, (x, y)), colour) in enumerate(zip(series.items(), _colours(), strict=False)):
        marker = "." if len(x) < 60 else ""
        axes.plot(x, y, color=colour, marker=marker, linewidth=1.2, label=title, zorder=3 + i)
    if log:
        axes.set_yscale("log")
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=_INK)
    if whole:
        axes.locator_params("x", integer=True)
    return _svg(figure)


def _colours() -> list[str]:
    return [_BLUE, _ORANGE, "#10a37f", "#c05ae0", "#e5484d", "#8b8d98"]


def _figure(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    # The object interface: pyplot keeps figures and a backend in global state.
    figure = Figure(figsize=(6.4, 3.4), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.set_xlabel(textwrap.fill(xlabel, 70), color=_INK)
    axes.set_ylabel(textwrap.fill(ylabel, 32), color=_INK)
    axes.tick_params(which="both", colors=_INK)
    axes.grid(color=_INK, alpha=0.12, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    return figure, axes


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Inline SVG in HTML needs no namespaces, and a fixed size would not fit a narrow page.
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'<svg ([^>]*?)(?:width|height)="[^"]*pt"', r"<svg \1", text)
    text = re.sub(r'<svg ([^>]*?)(?:width|height)="[^"]*pt"', r"<svg \1", text)
    return text.replace(_INK, "currentColor")
