"""Plots that are written as SVG: where things lie is compared with the data and with matplotlib."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.ticker import AutoLocator

from labrecon.instrument import Curve
from labrecon.report import plots
from labrecon.report.scale import linear_scale, log_scale
from labrecon.report.svg import Plot


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [element.text for element in parsed(svg).iter("text")]


def paths(svg: str, colour: str) -> list[str]:
    return [p.get("d") for p in parsed(svg).iter("path") if colour in p.attrib.values()]


def points(path: str) -> np.ndarray:
    """Corners of a line; each of its pieces begins with a point of no length."""
    numbers = re.findall(r"[-\d.]+", re.sub(r"M[^L]*L", " ", path))
    return np.array(numbers, dtype=float).reshape(-1, 2)


def number(label: str) -> float:
    return float(label.replace("−", "-"))


def ticks_of(svg: str) -> tuple[np.ndarray, np.ndarray]:
    """Value and position of the ticks of each axis: columns value, position."""
    across, down = [], []
    for element in parsed(svg).iter("text"):
        if element.get("text-anchor") == "middle" and element.get("x") and element.text != "x":
            across.append((number(element.text), float(element.get("x"))))
        elif element.get("text-anchor") == "end":
            down.append((number(element.text), float(element.get("y")) - 3.5))
    return np.array(across), np.array(down)


def values_of(svg: str, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """The data of a line, read off the axes as a person would, by their ticks."""
    found = points(paths(svg, colour)[0])
    across, down = ticks_of(svg)
    x = np.polyval(np.polyfit(across[:, 1], across[:, 0], 1), found[:, 0])
    y = np.polyval(np.polyfit(down[:, 1], down[:, 0], 1), found[:, 1])
    return x, y


BLUE, ORANGE = "#3b82f6", "#f08a24"


def test_a_line_lies_where_its_data_are():
    x = np.linspace(-3, 5, 50)
    y = 1e-2 * np.sin(x) + 0.3
    svg = plots.lines({"a": (x, y)}, "x", "y", whole=False)
    seen_x, seen_y = values_of(svg, BLUE)
    np.testing.assert_allclose(seen_x, x, atol=1e-3)
    np.testing.assert_allclose(seen_y, y, atol=1e-5)


def test_a_logarithmic_line_lies_where_its_data_are():
    svg = plots.lines({"a": ([1, 2, 3, 4], [1.0, 1e-2, 0.0, 1e-6])}, "x", "y", log=True)
    found = points(paths(svg, BLUE)[0])
    # What is not positive is not there; decades are equally far from each other.
    assert len(found) == 3
    first, second, last = found[:, 1]
    assert (last - second) / (second - first) == pytest.approx(2.0, abs=1e-3)
    assert {"10⁰", "10⁻²", "10⁻⁶"} <= set(texts(svg))


def test_a_line_is_broken_at_values_that_are_not_finite():
    nan = math.nan
    svg = plots.lines({"a": (range(6), [1.0, nan, 2.0, 3.0, math.inf, 2.0])}, "x", "y")
    line, dots = paths(svg, BLUE)
    assert line.count("M") == 3
    assert dots.count("M") == 4
    assert "nan" not in svg
    assert "inf" not in svg.replace("infinite", "")


@pytest.mark.parametrize(
    "values",
    [[], [3.0], [0.0, 0.0], [math.nan], [1e308, -1e308], [1e308], [5e-324, 0], [1.0, 1 + 1e-15]],
)
@pytest.mark.parametrize("log", [False, True])
def test_any_values_make_a_plot(values, log):
    svg = plots.lines({"a": (range(len(values)), values)}, "x", "y", log=log)
    parsed(svg)
    assert not re.search(r"nan|inf\b", svg)


def test_thinning_keeps_every_peak():
    values = np.random.default_rng(0).normal(size=50_000)
    values[31_007], values[31_008], values[123] = 40.0, math.inf, -30.0
    svg = plots.profile({"a": values}, "x", "y")
    _, y = values_of(svg, BLUE)
    assert len(y) <= 1800
    assert y.max() == pytest.approx(40.0, abs=0.05)
    assert y.min() == pytest.approx(-30.0, abs=0.05)


def test_thinning_keeps_gaps():
    values = np.ones(20_000)
    values[5000:15_000] = np.nan
    assert paths(plots.profile({"a": values}, "x", "y"), BLUE)[0].count("M") == 2


def test_histogram_is_a_density():
    residual = np.random.default_rng(0).normal(size=20_000)
    residual[:100] = 77.0
    svg = plots.histogram(residual)
    bars = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)H([\d.]+)", paths(svg, BLUE)[0])
    left, foot, top, right = np.array(bars, dtype=float).T
    _, down = ticks_of(svg.replace("normalised residual", "x"))
    per = np.polyfit(down[:, 1], down[:, 0], 1)[0]
    heights = (top - foot) * per
    assert len(heights) == 81
    assert heights.sum() * 10 / 81 == pytest.approx(1.0, abs=0.005)
    # 100 of 20,000 in the last bar, of width 10 / 81.
    assert heights[-1] == pytest.approx(100 / 20_000 * 8.1, rel=0.02)
    np.testing.assert_allclose(right - left, (right[-1] - left[0]) / 81, atol=0.02)


def test_marker_lies_at_its_value():
    svg = plots.curve(Curve("c", [60, 61, 62, 64], [3, 1, 2, 5], "x", "score", 61.25))
    at = float(re.match(r"M([\d.]+)", paths(svg, ORANGE)[0])[1])
    across, _ = ticks_of(svg.replace(">61.25<", "><"))
    assert np.polyval(np.polyfit(across[:, 1], across[:, 0], 1), at) == pytest.approx(
        61.25, abs=0.01
    )
    assert "61.25" in texts(svg)


def test_first_profile_lies_on_top_and_comes_first_in_the_legend():
    svg = plots.profile({"estimate": np.arange(5.0), "truth": np.arange(5.0)}, "x", "y")
    strokes = re.findall(rf'stroke="({BLUE}|{ORANGE})" stroke-linecap', svg)
    assert strokes == [ORANGE, BLUE]
    assert [t for t in texts(svg) if t in ("estimate", "truth")] == ["estimate", "truth"]


def test_legend_keeps_out_of_the_way():
    rising = plots.lines({"a": ([0, 1, 2], [0, 1, 2]), "b": ([0, 1, 2], [0, 1, 1.9])}, "x", "y")
    falling = plots.lines({"a": ([0, 1, 2], [2, 1, 0]), "b": ([0, 1, 2], [1.9, 1, 0])}, "x", "y")

    def legend(svg):
        (found,) = [e for e in parsed(svg).iter("text") if e.text == "a"]
        return float(found.get("x"))

    assert legend(rising) < 200 < legend(falling)


def test_text_is_escaped_and_takes_the_colour_of_the_page():
    svg = plots.lines({"<a & b>": ([0, 1], [0, 1]), "c": ([0, 1], [0, 1])}, "<x>", '"y" & z')
    title = parsed(svg).find("title").text
    assert title == '"y" & z over <x>: <a & b>, c'
    assert "<a & b>" in texts(svg)
    assert 'fill="currentColor"' in svg
    assert svg.count('stroke="currentColor"') == 1
    assert 'role="img"' in svg
    assert "width=" not in svg.partition(">")[0]


def test_long_labels_are_wrapped():
    svg = Plot("a label of an axis that goes on and on " * 3, "y").svg()
    assert sum("label" in t for t in texts(svg)) >= 2


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (-3.2, 4.7), (0.001, 0.002), (63.4, 68), (0, 1e4), (-5, 5), (1e-3, 7e-3), (0, 20)],
)
def test_steps_are_those_of_matplotlib(low, high):
    scale = linear_scale(low, high, 9)
    expected = AutoLocator().tick_values(scale.low, scale.high)
    expected = expected[(expected >= scale.low) & (expected <= scale.high)]
    np.testing.assert_allclose([value for value, _ in scale.ticks], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("low", "high", "labels", "note"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"], ""),
        (-1, 1, ["−1.0", "−0.5", "0.0", "0.5", "1.0"], ""),
        (0, 3e-7, ["0", "1", "2", "3"], "×10⁻⁷"),
        (0, 2e6, ["0.0", "0.5", "1.0", "1.5", "2.0"], "×10⁶"),
        (1000000.1, 1000000.5, ["0.1", "0.2", "0.3", "0.4", "0.5"], "+1000000"),
        (-1000000.5, -1000000.1, ["0.5", "0.6", "0.7", "0.8", "0.9"], "−1000001"),
    ],
)
def test_labels(low, high, labels, note):
    scale = linear_scale(low, high, 6)
    assert [label for _, label in scale.ticks] == labels
    assert scale.note == note


def test_whole_ticks_are_whole():
    for high in (1, 2, 3, 7, 20, 1234):
        values = [value for value, _ in linear_scale(0, high, 9, whole=True).ticks]
        assert values == [round(value) for value in values]
        assert len(values) >= 2


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (1e-5, 1, ["10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "10⁰"]),
        (1e-12, 1, ["10⁻¹²", "10⁻¹⁰", "10⁻⁸", "10⁻⁶", "10⁻⁴", "10⁻²", "10⁰"]),
        (1000, 6000, ["1000", "2000", "5000"]),
        (3e-8, 2e-7, ["5×10⁻⁸", "10⁻⁷", "2×10⁻⁷"]),
        (3e-4, 4.1e-4, ["0.00030", "0.00032", "0.00034", "0.00036", "0.00038", "0.00040"]),
    ],
)
def test_logarithmic_labels(low, high, labels):
    assert [label for _, label in log_scale(low, high, 7).ticks] == labels


@pytest.mark.slow
def test_pages_in_grey_need_no_matplotlib():
    """It takes longer to import than a page to write."""
    code = (
        "import sys, numpy as np; from labrecon.report import plots, pictures;"
        "plots.histogram(np.zeros(9)); pictures.picture('', np.eye(9), (0, 1));"
        "sys.exit('matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
