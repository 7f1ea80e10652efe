"""A plot written directly as inline SVG: a page in milliseconds, its text in the page's colour."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labrecon.report.marks import (
    HEIGHT,
    ROW,
    Bars,
    Box,
    Line,
    axes_path,
    bar_path,
    emptiest,
    line_path,
    mark_path,
)
from labrecon.report.scale import linear_scale, log_scale

__all__ = ["Plot"]

_WIDTH = 461.0
_FONT = 10.0
#: Mean width of a character: close enough for margins, as the font is the reader's.
_CHARACTER = 5.9
#: Consecutive points of which the lowest and the highest are kept.
_COLUMNS = 900
_LARGEST = 1e300
Array = NDArray[np.floating[Any]]


@dataclass
class Plot:
    """Lines and bars over one pair of axes.

    Attributes:
        xlabel: below.
        ylabel: at the left.
        log: the vertical axis is logarithmic; values that are not positive are left out.
        whole: ticks of the horizontal axis at integers.
        first_on_top: draw the first line last.
    """

    xlabel: str
    ylabel: str
    log: bool = False
    whole: bool = False
    first_on_top: bool = False
    _lines: list[Line] = field(default_factory=list)
    _bars: list[Bars] = field(default_factory=list)
    _marks: list[tuple[float, str, str]] = field(default_factory=list)

    def line(
        self,
        x: ArrayLike,
        y: ArrayLike,
        colour: str,
        *,
        width: float = 1.2,
        label: str = "",
        dots: bool = False,
    ) -> None:
        """A line through points; it is broken at values that are not finite."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        # At the ends of what floats hold, differences and ratios are none.
        there = np.abs(y) < _LARGEST
        if self.log:
            there &= y > 1 / _LARGEST
        x, y = _thinned(x, np.where(there, y, np.nan))
        self._lines.append(Line(x, y, colour, width, label, dots))

    def bars(self, edges: Array, heights: Array, colour: str) -> None:
        """A bar of each height between neighbouring edges."""
        self._bars.append((edges, heights, colour))

    def mark(self, x: float, text: str, colour: str) -> None:
        """A vertical line with a text."""
        self._marks.append((x, text, colour))

    def svg(self) -> str:
        """The plot, to stand inside HTML."""
        box = self._box()
        drawn = [axes_path(box, *self._wrapped())]
        drawn += [bar_path(box, *bars) for bars in self._bars]
        lines = [line for line in self._lines if line.x.size]
        drawn += [line_path(box, line) for line in (lines[::-1] if self.first_on_top else lines)]
        drawn += [mark_path(box, *mark) for mark in self._marks]
        drawn.append(self._legend(box))
        title = f"{self.ylabel} over {self.xlabel}"
        if labels := [line.label for line in lines if line.label]:
            title += ": " + ", ".join(labels)
        return (
            f'<svg viewBox="0 0 {_WIDTH:g} {HEIGHT:g}" role="img" font-size="{_FONT:g}" '
            f'fill="currentColor"><title>{html.escape(title)}</title>{"".join(drawn)}</svg>'
        )

    def _wrapped(self) -> tuple[list[str], list[str]]:
        return textwrap.wrap(self.xlabel, 70), textwrap.wrap(self.ylabel, 32)

    def _box(self) -> Box:
        xs = [line.x[np.isfinite(line.y)] for line in self._lines]
        ys = [line.y for line in self._lines]
        xs += [edges for edges, _, _ in self._bars] + [np.array([x]) for x, _, _ in self._marks]
        ys += [heights for _, heights, _ in self._bars] + [np.zeros(1) for _ in self._bars]
        low, high = _range(ys)
        if self.log:
            vertical = log_scale(*((low, high) if low > 0 else (1.0, 1.0)), 8)
        else:
            vertical = linear_scale(low, high, 8, base=0.0 if self._bars else None)
        below, beside = self._wrapped()
        widest = max((len(label) for _, label in vertical.ticks), default=1)
        left = 10 + ROW * len(beside) + _CHARACTER * widest
        right, bottom = _WIDTH - 12, HEIGHT - 22 - ROW * len(below)
        top = 8.0 + (ROW if vertical.note else 0.0)
        low, high = _range(xs)
        for count in range(9, 1, -1):
            horizontal = linear_scale(low, high, count, whole=self.whole)
            needed = sum(len(label) + 2 for _, label in horizontal.ticks) * _CHARACTER
            if needed < right - left:
                break
        if horizontal.note:
            bottom -= ROW
        return Box(left, top, right, bottom, horizontal, vertical)

    def _legend(self, box: Box) -> str:
        labelled = [line for line in self._lines if line.label]
        if not labelled or (len(labelled) == 1 and not self._bars):
            return ""
        width = 34 + _CHARACTER * max(len(line.label) for line in labelled)
        height = 6 + ROW * len(labelled)
        left, top = emptiest(box, width, height, self._lines, self._bars)
        rows = []
        for i, line in enumerate(labelled):
            y = top + 3 + ROW * (i + 0.5)
            rows.append(
                f'<path d="M{left + 4:.1f} {y:.1f}h20" stroke="{line.colour}" stroke-width="1.5"/>'
                f'<text x="{left + 30:.1f}" y="{y + 3.5:.1f}">{html.escape(line.label)}</text>'
            )
        return "".join(rows)


def _range(values: list[Array]) -> tuple[float, float]:
    joined = np.concatenate([v.ravel() for v in values]) if values else np.zeros(0)
    joined = joined[np.isfinite(joined)]
    return (float(joined.min()), float(joined.max())) if joined.size else (0.0, 0.0)


def _thinned(x: Array, y: Array) -> tuple[Array, Array]:
    """The lowest and the highest of neighbours where there are more points than pixels."""
    size = -(-x.size // _COLUMNS)
    if size < 4:
        return x, y
    padded = np.full((_COLUMNS, size), np.nan)
    padded.ravel()[: y.size] = y
    gaps = np.isnan(padded)
    lowest = np.where(gaps, np.inf, padded).argmin(1)
    highest = np.where(gaps, -np.inf, padded).argmax(1)
    ends = np.sort(np.stack((lowest, highest), 1), 1) + size * np.arange(_COLUMNS)[:, None]
    kept = np.unique(np.minimum(ends.ravel(), x.size - 1))
    return x[kept], y[kept]
