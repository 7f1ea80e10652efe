"""How a training went: curves of its log, and what was learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from labrecon.report import plots
from labrecon.report.parameters import moved_weights, numbers_by_layer
from labrecon.report.sections import Section

__all__ = ["curves", "learned_numbers", "learned_weights"]

#: Learned values by their names.
Values = Mapping[str, Tensor]
#: Points of a loss curve; more change nothing that one could see.
_POINTS = 400
_UNITS = {"psnr": "PSNR in dB", "ssim": "SSIM", "nrmse": "NRMSE"}


def curves(log: Sequence[Mapping[str, float]]) -> Section | None:
    """Loss, what validation tells, and the learning rate, by step."""
    steps = [record["step"] for record in log]
    if len(steps) < 2:
        return None
    losses = {"training": _thinned(steps, [record["loss"] for record in log])}
    drawn = []
    for name in sorted({key for record in log for key in record}):
        points = [(r["step"], r[name]) for r in log if math.isfinite(r.get(name, math.nan))]
        if name == "validation/loss":
            losses["held out"] = ([x for x, _ in points], [y for _, y in points])
        elif name.startswith("validation/") and len(points) > 1:
            kind = name.removeprefix("validation/")
            series = {kind: ([x for x, _ in points], [y for _, y in points])}
            title = f"{_UNITS.get(kind, kind)}, held out"
            drawn.append((title, plots.lines(series, "step", _UNITS.get(kind, kind))))
    positive = all(y > 0 for _, ys in losses.values() for y in ys)
    drawn.insert(0, ("loss", plots.lines(losses, "step", "loss", log=positive)))
    rates = [record.get("learning_rate", math.nan) for record in log]
    if len(set(rates)) > 1:
        series = {"": _thinned(steps, rates)}
        drawn.append(("learning rate", plots.lines(series, "step", "learning rate", log=True)))
    return Section("Training", plots=drawn)


def _thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means of neighbours, so that a page stays small."""
    size = math.ceil(len(x) / _POINTS)
    parts = range(0, len(x), size)
    return (
        [math.fsum(x[i : i + size]) / len(x[i : i + size]) for i in parts],
        [math.fsum(y[i : i + size]) / len(y[i : i + size]) for i in parts],
    )


def learned_numbers(before: Values, after: Values) -> Section | None:
    """Step sizes, weights of priors: what is one number in each layer."""
    starts = numbers_by_layer(before)
    drawn, rows = [], []
    for name, points in numbers_by_layer(after).items():
        start = starts.get(name, [])
        if len(points) > 1:
            series = {"trained": _columns(points), "at first": _columns(start)}
            drawn.append((name, plots.lines(series, "layer", name.rpartition(".")[2])))
        else:
            rows.append((name, f"{start[0][1]:.6g}" if start else "–", f"{points[0][1]:.6g}"))
    if not drawn and not rows:
        return None
    columns = ("number", "at first", "trained")
    return Section("Learned numbers", plots=drawn, columns=columns, rows=rows)


def learned_weights(before: Values, after: Values) -> Section | None:
    """How far arrays of weights, such as convolutions, have moved."""
    moved = moved_weights(before, after)
    if not moved:
        return None
    rows = []
    series: dict[str, tuple[list[float], list[float]]] = {}
    for name, (layers, numbers, points) in moved.items():
        ratios = [ratio for _, ratio in points]
        rows.append((name, str(layers), f"{numbers:,}", f"{min(ratios):.3g}, {max(ratios):.3g}"))
        if layers > 1 and len(series) < 6:
            series[name] = _columns(sorted(points))
    drawn = [("how far they moved", plots.lines(series, "layer", "‖w − w₀‖ / ‖w₀‖"))]
    return Section(
        "Learned weights",
        "w₀ are the weights at first.",
        plots=drawn if series else [],
        columns=("weights", "layers", "numbers", "‖w − w₀‖ / ‖w₀‖, smallest and largest"),
        rows=rows,
        split=bool(series),
    )


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    return [float(x) for x, _ in points], [y for _, y in points]
