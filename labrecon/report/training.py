"""The report of a training: curves, held-out objects before and after, what was learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from labrecon.io.plain import dumps
from labrecon.report import plots
from labrecon.report.page import environment
from labrecon.report.parameters import moved_weights, numbers_by_layer
from labrecon.report.pictures import Picture, data_picture, picture, planes, window_of
from labrecon.report.sections import Section, middle_plane

__all__ = ["Method", "TrainingReport", "metric_title", "render_training"]

#: Points of a loss curve; more change nothing that one could see.
_POINTS = 400
#: Held-out objects that are shown.
SHOWN = 3
_UNITS = {"psnr": "PSNR in dB", "ssim": "SSIM", "nrmse": "NRMSE"}
_TITLES = {
    "chi2": "χ²",
    "held_out_chi2": "held-out χ²",
    "held_out_error": "held-out error",
}


@dataclass(frozen=True)
class Method:
    """What one way to reconstruct made of the held-out objects.

    Attributes:
        title: of the method.
        metrics: means over all held-out objects.
        estimates: of the objects that are shown, each ``(*domain.shape)``.
        seconds: for all held-out objects together.
        note: what else is to be said.
    """

    title: str
    metrics: Mapping[str, float]
    estimates: Sequence[Tensor]
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True)
class TrainingReport:
    """What the report of a training is made of.

    Attributes:
        network: its name.
        instrument: title of the instrument.
        axes: of the objects.
        voxel_size: of the objects in mm.
        unit: of the objects' values.
        provenance: as in ``provenance.json``.
        log: a record per step: loss, "validation/…".
        methods: the trained network first.
        truths: the held-out objects that are shown; none where they are unknown.
        data: what was measured of them.
        data_axes: of these data.
        data_unit: of their values.
        before: values of what is learned, by name, before training.
        after: and after it.
        warnings: shown at the top.
    """

    network: str
    instrument: str
    axes: tuple[str, ...]
    voxel_size: tuple[float | None, ...] | None
    unit: str
    provenance: dict[str, Any]
    log: Sequence[Mapping[str, float]]
    methods: Sequence[Method]
    truths: Sequence[Tensor]
    data: Sequence[Tensor]
    data_axes: tuple[str, ...]
    data_unit: str
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    warnings: list[str] = field(default_factory=list)


def metric_title(name: str) -> str:
    """A metric as people write it."""
    return _TITLES.get(name, name.upper())


def render_training(report: TrainingReport) -> str:
    """The page as HTML, with everything inside."""
    sections = [_objects(report, i) for i in range(len(report.methods[0].estimates))]
    made = [_comparison(report), *sections, _curves(report), _numbers(report), _weights(report)]
    return (
        environment()
        .get_template("training.html.j2")
        .render(
            report=report,
            provenance=report.provenance,
            tiles=_tiles(report),
            sections=[section for section in made if section is not None],
            recipe=dumps(report.provenance["recipe"]),
            told=dumps(report.provenance),
        )
    )


def _tiles(report: TrainingReport) -> list[tuple[str, str, str]]:
    told, training = report.provenance, report.provenance["training"]
    best = training["best_step"]
    kept = "" if best is None else f", best on held-out objects at {best}"
    steps = f"{training['steps']} steps in {training['seconds']:.3g} s{kept}"
    objects = f"{told['data']['trained_on']} + {told['data']['held_out']}"
    held = "objects" if report.truths else "scans"
    tiles = [
        ("Network", report.network, f"{told['model']['parameters']:,} numbers learned"),
        ("Training", training["status"], steps),
        (held.capitalize(), objects, "trained on + held out"),
    ]
    first, *others = report.methods
    beside = next((m for m in others if m.note), others[0] if others else None)
    for name, value in first.metrics.items():
        note = f"mean of the held-out {held}"
        if beside is not None and name in beside.metrics:
            note = f"{beside.title}: {beside.metrics[name]:.4g}"
        tiles.append((metric_title(name), f"{value:.4g}", note))
    return tiles


def _comparison(report: TrainingReport) -> Section:
    names = tuple(report.methods[0].metrics)
    rows = [
        (
            method.title,
            *(f"{method.metrics.get(name, math.nan):.4g}" for name in names),
            "–" if method.seconds is None else f"{method.seconds:.3g}",
            method.note,
        )
        for method in report.methods
    ]
    known = (
        "PSNR: peak is max − min of each truth; SSIM: the same as data range; NRMSE: relative to "
        "the norm of the truth; nothing is cut off at the border."
    )
    alone = (
        "Held-out χ²: mean square of what samples differ from their prediction by a "
        "reconstruction that was made without them, in units of their noise; smaller is better, "
        "and 1 is the truth. Held-out error: the same relative to the samples. χ²: of all data "
        "with their own reconstruction; below 1 it follows the noise."
    )
    held = "objects" if report.truths else "scans"
    told = [f"Means over {held} that were never trained on."]
    told += [alone] if any(name in _TITLES for name in names) else []
    told += [known] if "psnr" in names else []
    return Section(
        f"Held-out {held}",
        " ".join(told),
        columns=("method", *(metric_title(name) for name in names), "seconds", ""),
        rows=rows,
    )


def _objects(report: TrainingReport, index: int) -> Section:
    truth = report.truths[index] if report.truths else None
    made = {m.title: m.estimates[index] for m in report.methods}
    named = made if truth is None else {"truth": truth, **made}
    reference = next(iter(named.values()))
    title = f"Held-out {'scan' if truth is None else 'object'} {index + 1}"
    if reference.ndim < 2:
        drawn = {name: _array(x) for name, x in named.items()}
        return Section(title, plots=[("", plots.profile(drawn, report.axes[0], report.unit))])
    window = window_of([image for _, image, _ in _planes(report, reference)])
    shown = []
    for name, x in named.items():
        plane, image, pixel = _planes(report, x)[0]
        shown.append(picture(name, image, window, unit=report.unit, pixel=pixel, note=plane))
    shown += _measured(report, index)
    if truth is None:
        note = "All in the grey window of the first; below the data."
        return Section(title, note, shown, tight=True)
    errors = {name: (x - truth).abs() for name, x in made.items()}
    largest = max(float(np.percentile(_array(e), 99.5)) for e in errors.values()) or 1.0
    for name, x in errors.items():
        _, image, pixel = _planes(report, x)[0]
        title_of = f"error of {name.removesuffix(' (trained)')}"
        span, unit = (0.0, largest), report.unit
        shown.append(picture(title_of, image, span, unit=unit, colours="magma", pixel=pixel))
    note = "All in the grey window of the truth; below the data, and |estimate − truth|."
    return Section(title, note, shown, tight=True)


def _measured(report: TrainingReport, index: int) -> list[Picture]:
    axes = report.data_axes
    image, where = middle_plane(_array(report.data[index]), len(axes), axes)
    if image.ndim < 2:
        return []
    note = f"{axes[-2]} ↓   {axes[-1]} →   {where}"
    window = window_of([image])
    return [data_picture("data", image, window, unit=report.data_unit, note=note)]


def _planes(report: TrainingReport, x: Tensor) -> list[tuple[str, NDArray[Any], Any]]:
    return planes(x, report.axes, report.voxel_size)


def _array(x: Tensor) -> NDArray[Any]:
    modulus = x.detach().abs() if x.is_complex() else x.detach()
    values: NDArray[Any] = modulus.cpu().numpy()
    return values


def _curves(report: TrainingReport) -> Section | None:
    steps = [record["step"] for record in report.log]
    if len(steps) < 2:
        return None
    losses = {"training": _thinned(steps, [record["loss"] for record in report.log])}
    drawn = []
    for name in sorted({key for record in report.log for key in record}):
        points = [(r["step"], r[name]) for r in report.log if math.isfinite(r.get(name, math.nan))]
        if name == "validation/loss":
            losses["held out"] = ([x for x, _ in points], [y for _, y in points])
        elif name.startswith("validation/") and len(points) > 1:
            kind = name.removeprefix("validation/")
            series = {kind: ([x for x, _ in points], [y for _, y in points])}
            title = f"{_UNITS.get(kind, kind)}, held out"
            drawn.append((title, plots.lines(series, "step", _UNITS.get(kind, kind))))
    positive = all(y > 0 for _, ys in losses.values() for y in ys)
    drawn.insert(0, ("loss", plots.lines(losses, "step", "loss", log=positive)))
    rates = [record.get("learning_rate", math.nan) for record in report.log]
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


def _numbers(report: TrainingReport) -> Section | None:
    after, before = numbers_by_layer(report.after), numbers_by_layer(report.before)
    drawn, rows = [], []
    for name, points in after.items():
        start = before.get(name, [])
        if len(points) > 1:
            series = {"trained": _columns(points), "at first": _columns(start)}
            drawn.append((name, plots.lines(series, "layer", name.rpartition(".")[2])))
        else:
            rows.append((name, f"{start[0][1]:.6g}" if start else "–", f"{points[0][1]:.6g}"))
    if not drawn and not rows:
        return None
    columns = ("number", "at first", "trained")
    return Section("Learned numbers", plots=drawn, columns=columns, rows=rows)


def _weights(report: TrainingReport) -> Section | None:
    moved = moved_weights(report.before, report.after)
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
