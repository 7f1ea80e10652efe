"""The sections of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from labrecon.io.plain import brief, plain
from labrecon.quality import SplitHalf
from labrecon.report import plots
from labrecon.report.calibration import (
    COLUMNS,
    calibration_note,
    calibration_plots,
    calibration_rows,
)
from labrecon.report.data import ReportData
from labrecon.report.ending import ending
from labrecon.report.pictures import (
    Picture,
    data_picture,
    modulus,
    picture,
    planes,
    slices,
    window_of,
)

__all__ = ["SECTIONS", "Section", "middle_plane", "resolution_text"]

#: Samples drawn in the histogram; more change nothing that one could see.
_HISTOGRAM = 500_000
Array = NDArray[Any]


@dataclass(frozen=True)
class Section:
    """Pictures, plots, a table and free HTML under one heading.

    ``split`` puts them side by side, ``tight`` puts five pictures into a row.
    """

    title: str
    note: str = ""
    pictures: list[Picture] = field(default_factory=list)
    plots: list[tuple[str, str]] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = field(default_factory=list)
    html: str = ""
    split: bool = False
    tight: bool = False


def _array(x: Tensor) -> Array:
    values: Array = x.detach().cpu().resolve_conj().numpy()
    return values


def _images(data: ReportData, x: Tensor) -> list[tuple[str, Array, Any]]:
    upward = data.instrument.upward
    return planes(x, data.axes, data.voxel_size, upward) if x.ndim >= 2 else []


def _upright(data: ReportData, image: Array, axis: str) -> Array:
    """With its first row at the bottom where the axis of the rows grows upwards."""
    return image[::-1] if axis in data.instrument.upward else image


def _reconstruction(data: ReportData) -> Section:
    x = data.main.solution.x
    if x.ndim < 2:
        line = plots.profile({"estimate": _array(x).real}, data.axes[0], data.unit)
        return Section("Reconstruction", plots=[("", line)])
    images = _images(data, x)
    window = window_of([image for _, image, _ in images])
    unit = data.unit
    shown = [picture(t, image, window, unit=unit, pixel=p) for t, image, p in images]
    if x.is_complex():
        upward = data.instrument.upward
        shown += [
            picture(
                f"{t} phase".strip(),
                np.angle(np.asarray(image, dtype=np.complex64)),
                (-np.pi, np.pi),
                unit="rad",
                colours="twilight",
                pixel=p,
            )
            for t, image, p in slices(_array(x), data.axes, data.voxel_size, upward)
        ]
    if len(shown) > 1:
        return Section("Reconstruction", pictures=shown)
    profiles = _profiles({"": x}, data)
    return Section("Reconstruction", pictures=shown, plots=profiles, split=True)


def _profiles(named: dict[str, Tensor], data: ReportData) -> list[tuple[str, str]]:
    """Values along the middle row and the middle column of the first slice of each."""
    drawn = []
    for axis in (0, 1):
        lines = {}
        for title, x in named.items():
            image = planes(x, data.axes, data.voxel_size)[0][1]
            lines[title] = np.take(image, image.shape[axis] // 2, axis=axis)
        middle = ("row", "column")[axis]
        plot = plots.profile(lines, data.axes[-1 - axis], data.unit)
        drawn.append((f"middle {middle}", plot))
    return drawn


def _comparison(data: ReportData) -> Section | None:
    truth = data.scan.truth
    x = data.main.solution.x
    if x.ndim < 2 or (len(data.outcomes) == 1 and truth is None):
        return None
    main = _images(data, x)
    window = window_of([image for _, image, _ in main])
    unit = data.unit
    named = [(outcome.task.plan.title, outcome.solution.x) for outcome in data.outcomes]
    if truth is not None and truth.shape == x.shape:
        named.append(("truth", truth))
    named = [(title, other) for title, other in named if other.shape == x.shape]
    shown = []
    for title, other in named:
        plane, image, pixel = _images(data, other)[0]
        shown.append(picture(title, image, window, unit=unit, pixel=pixel, note=plane))
    told = data.provenance["reconstructions"]
    metrics = tuple(told[0]["metrics"])
    columns = ("method", "data", "ended by", "iterations", "seconds", "χ²", "residual σ")
    return Section(
        "Comparison",
        "All in one grey window.",
        pictures=shown,
        plots=_profiles(dict(named), data),
        columns=(*columns, *(name.upper() for name in metrics)),
        rows=[_comparison_row(entry, metrics) for entry in told],
    )


def _comparison_row(told: dict[str, Any], metrics: tuple[str, ...]) -> tuple[str, ...]:
    chi2 = told["quality"]["chi2"]
    return (
        told["title"],
        " × ".join(map(str, told["data_shape"])),
        ending(told)[0],
        str(told["iterations"]),
        f"{told['seconds']:.3g}",
        "–" if chi2 is None else f"{chi2:.3g}",
        f"{told['quality']['residual_std']:.3g}",
        *(brief(told["metrics"].get(name, "–")) for name in metrics),
    )


def _data(data: ReportData) -> Section | None:
    outcome = data.main
    space = outcome.task.problem.operator.range
    measured, where = middle_plane(_array(outcome.task.problem.data), space.ndim, space.axes)
    predicted, _ = middle_plane(_array(outcome.predicted), space.ndim, space.axes)
    residual, _ = middle_plane(_array(outcome.quality.residual), space.ndim, space.axes)
    unit = data.instrument.data_unit
    note = "Residual = (measured − predicted) / " + (
        "σ of the noise." if outcome.quality.level_known else "its own standard deviation."
    )
    if measured.ndim == 1:
        lines = {"measured": modulus(measured), "predicted": modulus(predicted)}
        rest = {"residual / σ": residual.real}
        drawn = [
            ("", plots.profile(lines, space.axes[-1], unit)),
            ("", plots.profile(rest, space.axes[-1], "σ")),
        ]
        return Section("Data and residual", note, plots=drawn)
    scaled = [modulus(measured), modulus(predicted)]
    if np.iscomplexobj(measured):
        scaled, unit = [np.log10(image + 1e-12 * image.max()) for image in scaled], "log₁₀ |·|"
    window = window_of(scaled[:1])
    down = space.axes[-2]
    arrow = "↑" if down in data.instrument.upward else "↓"
    axes = f"{down} {arrow}   {space.axes[-1]} →   {where}"
    first, second, left = (_upright(data, a, down) for a in (*scaled, residual.real))
    shown = [
        data_picture("measured", first, window, unit=unit, note=axes),
        data_picture("predicted", second, window, unit=unit, note=axes),
        data_picture("residual", left, (-4, 4), unit="σ", colours="RdBu_r", note=axes),
    ]
    return Section("Data and residual", note, pictures=shown)


def middle_plane(values: Array, ndim: int, axes: tuple[str, ...]) -> tuple[Array, str]:
    """The last two axes at the middle of the others, and where that is."""
    names = (*["slice"] * (values.ndim - ndim), *axes)
    where = []
    while values.ndim > 2 or (values.ndim == 2 and ndim == 1):
        middle = values.shape[0] // 2
        where.append(f"{names[0]} {middle}")
        values, names = values[middle], names[1:]
    return values, ", ".join(where)


def _convergence(data: ReportData) -> Section | None:
    histories = {o.task.plan.title: o.solution.history for o in data.outcomes}
    drawn = plots.convergence(histories)
    return Section("Convergence", plots=[("", plot) for plot in drawn]) if drawn else None


def _calibration(data: ReportData) -> Section | None:
    found = data.main.calibration
    if found is None:
        return None
    space = data.main.task.problem.operator.range
    shown = []
    for title, residual in (("before", found.residual_before), ("after", found.residual_after)):
        plane, where = middle_plane(_array(residual), space.ndim, space.axes)
        if plane.ndim == 2:
            image = _upright(data, plane.real, space.axes[-2])
            title = f"residual {title}"
            shown.append(
                data_picture(title, image, (-4, 4), unit="σ", colours="RdBu_r", note=where)
            )
    return Section(
        "Calibration",
        calibration_note(found),
        pictures=shown,
        plots=calibration_plots(found),
        columns=COLUMNS,
        rows=calibration_rows(found),
        split=True,
    )


def _preparation(data: ReportData) -> Section | None:
    rows = [
        (
            str(step.get("step", "")),
            ", ".join(f"{k} = {brief(v)}" for k, v in step.items() if k != "step"),
        )
        for step in data.scan.steps
    ]
    drawn = [(shown.title, plots.curve(shown)) for shown in data.scan.curves]
    if not rows and not drawn:
        return None
    columns = ("step", "what it did")
    return Section("Preparation", plots=drawn, columns=columns, rows=rows, split=len(drawn) == 1)


def _residual(data: ReportData) -> Section:
    quality = data.main.quality
    values = _array(quality.residual)
    weights = data.main.task.problem.weights
    if weights is not None:
        values = values[np.broadcast_to(_array(weights), values.shape) > 0]
    if np.iscomplexobj(values):
        values = np.stack((values.real, values.imag))
    values = values.ravel()[:: max(1, values.size // _HISTOGRAM)]
    rows = [
        (
            w.axis,
            f"{w.correlation:+.4f}",
            f"± {w.bound:.4f}",
            "white" if abs(w.correlation) <= w.bound else "structured",
        )
        for w in quality.whiteness
    ]
    masked = f", {quality.masked} masked" if quality.masked else ""
    note = f"{quality.samples} samples{masked}. " + (
        f"χ² per sample {quality.chi2:.4g}; 1 is a fit within the noise, less is fitted noise."
        if quality.chi2 is not None
        else "The scan states no noise level, so the residual is scaled to unit deviation."
    )
    columns = ("axis", "lag-1 correlation", "95 % of white noise", "verdict")
    drawn = [("", plots.histogram(values))]
    return Section("Residual statistics", note, plots=drawn, columns=columns, rows=rows, split=True)


def resolution_text(split: SplitHalf) -> tuple[str, str]:
    """The resolution of two halves, and how it is meant."""
    by = f"halves of {split.axis!r}, {split.threshold}"
    if split.resolution is None:
        return "none", f"the {by} agree on nothing"
    if split.length is None:
        value = f"{1 / split.resolution:.3g} pixels"
    else:
        value = f"{split.length:.3g} mm"
    return value, f"{by}; the pixels hold no more" if split.limited_by_sampling else by


def _resolution(data: ReportData) -> Section | None:
    split = data.main.quality.split_half
    if split is None:
        return None
    curve = split.curve
    x = curve.frequency.tolist()
    series = {
        "correlation of the halves": (x, curve.correlation.tolist()),
        f"threshold: {split.threshold}": (x, curve.threshold(split.threshold).tolist()),
    }
    value, how = resolution_text(split)
    note = (
        f"Full period {value} ({how}). The acquisitions along {split.axis!r} were dealt in turn "
        "into two halves, and each was reconstructed. Errors that both have from preparation, such "
        "as a wrong centre, or from the prior, agree and are not seen."
    )
    drawn = plots.lines(series, "cycles per pixel", "Fourier correlation", whole=False)
    return Section("Resolution", note, plots=[("", drawn)])


def _acquisition(data: ReportData) -> Section:
    geometry = plain(data.scan.geometry)
    rows = [
        ("geometry", str(key), brief(value)) for key, value in geometry.items() if value is not None
    ]
    for group in ("found", "assumed", "ignored"):
        rows += [(group, str(key), str(v)) for key, v in getattr(data.scan, group).items()]
    return Section("Acquisition", columns=("", "what", "value"), rows=rows)


SECTIONS: tuple[Callable[[ReportData], Section | None], ...] = (
    _reconstruction,
    _comparison,
    _data,
    _convergence,
    _calibration,
    _preparation,
    _residual,
    _resolution,
    _acquisition,
)
