"""What a plot consists of, as paths and texts of SVG."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labrecon.report.scale import Scale

__all__ = [
    "HEIGHT",
    "ROW",
    "Bars",
    "Box",
    "Line",
    "axes_path",
    "bar_path",
    "emptiest",
    "line_path",
    "mark_path",
]

#: Of the picture; the width is a matter of the plot.
HEIGHT = 245.0
#: Of text.
ROW = 13.0
Array = NDArray[np.floating[Any]]
#: Edges, heights and colour.
Bars = tuple[Array, Array, str]


@dataclass(frozen=True)
class Line:
    """A line through points; values that are not finite break it.

    Attributes:
        x: of the points.
        y: of the points.
        colour: of the line.
        width: of the line.
        label: in the legend; none without.
        dots: draw the points as well.
    """

    x: Array
    y: Array
    colour: str
    width: float
    label: str
    dots: bool


@dataclass(frozen=True)
class Box:
    """The plotting area, and the way from values to it."""

    left: float
    top: float
    right: float
    bottom: float
    xs: Scale
    ys: Scale

    def across(self, x: Array | float) -> Array:
        """Horizontal positions of values."""
        found: Array = self.left + self.xs.share(x) * (self.right - self.left)
        return found

    def down(self, y: Array | float) -> Array:
        """Vertical positions of values."""
        found: Array = self.bottom - self.ys.share(y) * (self.bottom - self.top)
        return found


def line_path(box: Box, line: Line) -> str:
    """A line, and its points if they are drawn."""
    across, down = box.across(line.x), box.down(line.y)
    finite = np.isfinite(across) & np.isfinite(down)
    parts, before = [], False
    for x, y, there in zip(across.tolist(), down.tolist(), finite.tolist(), strict=True):
        if there:
            # A point between gaps is a line of no length: a round cap makes it a dot.
            parts.append(f" {x:.2f} {y:.2f}" if before else f"M{x:.2f} {y:.2f}h0L{x:.2f} {y:.2f}")
        before = there
    style = f'fill="none" stroke="{line.colour}" stroke-linecap="round" stroke-linejoin="round"'
    drawn = f'<path d="{"".join(parts)}" {style} stroke-width="{line.width:g}"/>'
    if line.dots:
        spots = zip(across[finite].tolist(), down[finite].tolist(), strict=True)
        dots = "".join(f"M{x:.2f} {y:.2f}h0" for x, y in spots)
        drawn += f'<path d="{dots}" {style} stroke-width="4"/>'
    return drawn


def bar_path(box: Box, edges: Array, heights: Array, colour: str) -> str:
    """A bar of each height between neighbouring edges."""
    across, down = box.across(edges).tolist(), box.down(heights).tolist()
    foot = float(box.down(0.0))
    bars = "".join(
        f"M{a:.2f} {foot:.2f}V{top:.2f}H{b:.2f}V{foot:.2f}z"
        for a, b, top in zip(across[:-1], across[1:], down, strict=True)
    )
    return f'<path d="{bars}" fill="{colour}" fill-opacity=".65"/>'


def mark_path(box: Box, x: float, text: str, colour: str) -> str:
    """A vertical line with a text beside it."""
    at = float(box.across(x))
    # At the side where there is room.
    side, anchor = (4, "start") if at < (box.left + 3 * box.right) / 4 else (-4, "end")
    return (
        f'<path d="M{at:.2f} {box.top:.1f}V{box.bottom:.1f}" stroke="{colour}" '
        f'stroke-width="1.2"/><text x="{at + side:.2f}" y="{box.top + 10:.1f}" '
        f'text-anchor="{anchor}" fill="{colour}">{html.escape(text)}</text>'
    )


def axes_path(box: Box, below: list[str], beside: list[str]) -> str:
    """Grid, ticks and labels; ``below`` and ``beside`` are the rows of the axes' names."""
    left, top, right, bottom = box.left, box.top, box.right, box.bottom
    grid, marks, texts = [], [], []
    for value, label in box.xs.ticks:
        x = float(box.across(value))
        grid.append(f"M{x:.2f} {top:.1f}V{bottom:.1f}")
        marks.append(f"M{x:.2f} {bottom:.1f}v3.5")
        texts.append(f'<text x="{x:.2f}" y="{bottom + 14:.1f}" text-anchor="middle">{label}</text>')
    for value, label in box.ys.ticks:
        y = float(box.down(value))
        grid.append(f"M{left:.1f} {y:.2f}H{right:.1f}")
        marks.append(f"M{left:.1f} {y:.2f}h-3.5")
        texts.append(f'<text x="{left - 6:.1f}" y="{y + 3.5:.2f}" text-anchor="end">{label}</text>')
    marks += [f"M{left:.1f} {float(box.down(value)):.2f}h-2" for value in box.ys.minor]
    if box.ys.note:
        texts.append(f'<text x="{left:.1f}" y="{top - 5:.1f}">{box.ys.note}</text>')
    if box.xs.note:
        texts.append(
            f'<text x="{right:.1f}" y="{bottom + 27:.1f}" text-anchor="end">{box.xs.note}</text>'
        )
    middle = (left + right) / 2
    for i, row in enumerate(reversed(below)):
        texts.append(
            f'<text x="{middle:.1f}" y="{HEIGHT - 4 - ROW * i:.1f}" text-anchor="middle">'
            f"{html.escape(row)}</text>"
        )
    middle = (top + bottom) / 2
    for i, row in enumerate(beside):
        x = 11 + ROW * i
        texts.append(
            f'<text transform="translate({x:.1f} {middle:.1f}) rotate(-90)" text-anchor="middle">'
            f"{html.escape(row)}</text>"
        )
    frame = f"M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}"
    return (
        f'<g fill="none" stroke="currentColor"><path d="{"".join(grid)}" stroke-opacity=".12" '
        f'stroke-width=".6"/><path d="{frame}{"".join(marks)}" stroke-width=".8"/></g>'
        f"{''.join(texts)}"
    )


def emptiest(
    box: Box,
    width: float,
    height: float,
    lines: list[Line],
    bars: list[Bars],
) -> tuple[float, float]:
    """The corner where a legend of this size hides least, the upper right one first."""
    spots = [(box.across(line.x), box.down(line.y)) for line in lines]
    # The body of a bar covers what is below its top: a point at several heights stands for it.
    for edges, heights, _ in bars:
        centre = box.across((edges[1:] + edges[:-1]) / 2)
        spots += [(centre, box.down(heights * share)) for share in (1.0, 0.75, 0.5, 0.25)]
    left, right = box.left + 4, box.right - width
    top, bottom = box.top + 2, box.bottom - height - 4
    corners = [(right, top), (left, top), (left, bottom), (right, bottom)]

    def hidden(corner: tuple[float, float]) -> int:
        x0, y0 = corner
        inside = 0
        for x, y in spots:
            within = (x > x0 - 6) & (x < x0 + width) & (y > y0 - 4) & (y < y0 + height + 4)
            inside += int(np.count_nonzero(within))
        return inside

    return min(corners, key=hidden)
