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
from labrecon.report.learning import curves, learned_numbers, learned_weights
from labrecon.report.page import environment
from labrecon.report.pictures import Picture, data_picture, picture, planes, window_of
from labrecon.report.sections import Section, middle_plane

__all__ = ["Method", "TrainingReport", "metric_title", "render_training"]

#: Held-out objects that are shown.
SHOWN = 3
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
    values = report.before, report.after
    went = [curves(report.log), learned_numbers(*values), learned_weights(*values)]
    made = [_comparison(report), *sections, *went]
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
