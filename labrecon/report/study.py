"""The report of a design study: patterns before and after, quality, robustness, examples."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from labrecon.io.plain import dumps
from labrecon.report import plots
from labrecon.report.page import environment
from labrecon.report.pictures import picture, planes, window_of
from labrecon.report.sections import Section

if TYPE_CHECKING:
    from labrecon.instrument import Instrument

__all__ = ["CountReport", "StudyReport", "render_study"]


@dataclass(frozen=True)
class CountReport:
    """One number of acquisitions.

    Attributes:
        count: of acquisitions, None where it is the geometry's own.
        geometry: of the acquisition.
        before: designs at the start of the best one.
        after: the best learned ones.
        histories: loss by step, by name of the start.
        designs: values and estimates of each design that was judged.
        told: what provenance says.
    """

    count: int | None
    geometry: Any
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    histories: Mapping[str, Sequence[float]]
    designs: Mapping[str, tuple[Mapping[str, Tensor], Sequence[Tensor]]]
    told: Mapping[str, Any]

    @property
    def title(self) -> str:
        """For headings."""
        if self.count is None:
            return ""
        return f"{self.count} {'exposure' if self.count == 1 else 'exposures'}: "


@dataclass(frozen=True)
class StudyReport:
    """What the report of a design study is made of.

    Attributes:
        instrument: it draws its designs.
        axes: of the objects.
        voxel_size: of the objects in mm.
        provenance: as in ``provenance.json``.
        truths: the held-out objects that are shown.
        counts: one for each number of acquisitions.
        warnings: shown at the top.
    """

    instrument: Instrument
    axes: tuple[str, ...]
    voxel_size: tuple[float | None, ...] | None
    provenance: dict[str, Any]
    truths: Sequence[Tensor]
    counts: Sequence[CountReport]
    warnings: list[str] = field(default_factory=list)


def render_study(report: StudyReport) -> str:
    """The page as HTML, with everything inside."""
    made: list[Section | None] = [_quality(report)]
    for count in report.counts:
        made += [_designs(report, count), _table(count), _robustness(count)]
    made += [_example(report, report.counts[-1], i) for i in range(len(report.truths))]
    made += [_learning(c) for c in report.counts]
    return (
        environment()
        .get_template("study.html.j2")
        .render(
            report=report,
            provenance=report.provenance,
            tiles=_tiles(report),
            sections=[section for section in made if section is not None],
            recipe=dumps(report.provenance["recipe"]),
            told=dumps(report.provenance),
        )
    )


def _tiles(report: StudyReport) -> list[tuple[str, str, str]]:
    told = report.counts[-1].told
    data = report.provenance["data"]
    tiles = [("Objects", f"{data['trained_on']} + {data['held_out']}", "learned from + held out")]
    learned = told["methods"][0]
    for name, text in learned["intervals"].items():
        tiles.append((name.upper(), text, f"learned, by {learned['reconstruction']}"))
    for title, m in list(told["margins"].items())[:3]:
        unit = "dB" if m["metric"] == "psnr" else m["metric"].upper()
        tiles.append((f"better than {title}", f"{m['text']} {unit}", "learned, mean of the starts"))
    return tiles


def _quality(report: StudyReport) -> Section | None:
    if len(report.counts) < 2:
        return None
    metric = next(iter(report.counts[0].told["methods"][0]["metrics"]))
    series: dict[str, tuple[list[float], list[float]]] = {}
    for count in report.counts:
        for method in count.told["methods"]:
            x, y = series.setdefault(method["title"], ([], []))
            x.append(float(count.count or 0))
            y.append(method["metrics"][metric])
    drawn = plots.lines(series, "exposures", f"{metric.upper()} on held-out objects")
    return Section("Quality and number of exposures", plots=[("", drawn)])


def _designs(report: StudyReport, count: CountReport) -> Section:
    drawn = []
    shown = {"at first": count.before, "learned": count.after}
    for title, (values, _) in count.designs.items():
        if not title.startswith("learned") and not _same(values, count.before):
            shown[title] = values
        elif not title.startswith("learned"):
            shown[f"at first: {title}"] = shown.pop("at first", values)
    for title, values in list(shown.items())[:5]:
        drawn.append((title, _drawing(report.instrument, count.geometry, values)))
    return Section(
        f"{count.title}designs",
        "As the hardware sees them, after hardening.",
        plots=drawn,
    )


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def _drawing(instrument: Instrument, geometry: Any, values: Mapping[str, Tensor]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained", facecolor="white")
    given = {name: value.detach().cpu() for name, value in values.items()}
    if not instrument.show_design(geometry, given, figure):
        figure.clear()
        axes = figure.subplots(1, len(given), squeeze=False)[0]
        for axis, (name, value) in zip(axes, given.items(), strict=True):
            axis.set_title(name)
            flat = value.double().reshape(-1, value.shape[-1] if value.ndim else 1).numpy()
            if value.ndim < 2:
                axis.bar(np.arange(flat.size), flat.flatten(), width=1.0, color="k")
            else:
                axis.imshow(flat, aspect="auto", cmap="gray", interpolation="nearest")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=90)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img alt="design" style="width:100%" src="data:image/png;base64,{data}">'


def _table(count: CountReport) -> Section:
    methods = count.told["methods"]
    names = tuple(methods[0]["metrics"])
    rows = []
    for method in methods:
        m = count.told["margins"].get(method["title"])
        note = method["reconstruction"]
        if method["weight"] is not None:
            note += f", weight {method['weight']:.3g}"
        shown = "–" if m is None else f"{m['text']}"
        rows.append((method["title"], *(method["intervals"][name] for name in names), shown, note))
    metric = next(iter(count.told["margins"].values()))["metric"] if rows[1:] else "psnr"
    control = ""
    if any(method["title"] == "learned from wrong truths" for method in methods):
        control = (
            " The last was learned from the truths of other objects: what it gains has nothing to "
            "do with objects."
        )
    return Section(
        f"{count.title}held-out objects",
        "Means over objects that were not learned from, after hardening, at equal budget; ± is the "
        "95 % interval over starts, or over random draws. The reconstruction is another than the "
        "one that designs were learned through; the weight of its prior is found for each design "
        "on objects that were learned from." + control,
        columns=(
            "design",
            *(name.upper() for name in names),
            f"learned is better by ({metric.upper()})",
            "reconstruction",
        ),
        rows=rows,
    )


def _robustness(count: CountReport) -> Section | None:
    drawn = []
    for name, told in count.told["robustness"].items():
        (metric,) = [key for key in told if key != "sizes"]
        series = {title: (told["sizes"], values) for title, values in told[metric].items()}
        drawn.append((name, plots.lines(series, f"{name} off by", metric.upper(), whole=False)))
    if not drawn:
        return None
    return Section(
        f"{count.title}robustness",
        "The instrument is off by so much, in a direction of its own for each object, and the "
        "reconstruction does not know.",
        plots=drawn,
    )


def _example(report: StudyReport, count: CountReport, index: int) -> Section | None:
    truth = report.truths[index]
    if truth.ndim < 2:
        return None
    named = {"truth": truth}
    named |= {title: x[index] for title, (_, x) in count.designs.items() if index < len(x)}
    window = window_of([_plane(report, truth)[0]])
    shown = [
        picture(title, image, window, unit=report.instrument.unit, pixel=pixel)
        for title, x in named.items()
        for image, pixel in [_plane(report, x)]
    ]
    note = "All in the grey window of the truth."
    return Section(f"{count.title}held-out object {index + 1}", note, shown, tight=True)


def _plane(report: StudyReport, x: Tensor) -> tuple[Any, Any]:
    _, image, pixel = planes(x, report.axes, report.voxel_size)[0]
    return image, pixel


def _learning(count: CountReport) -> Section | None:
    series = {
        title: ([float(i + 1) for i in range(len(values))], list(values))
        for title, values in count.histories.items()
        if len(values) > 1
    }
    if not series:
        return None
    positive = all(v > 0 and math.isfinite(v) for _, ys in series.values() for v in ys)
    drawn = plots.lines(series, "step", "loss", log=positive)
    return Section(f"{count.title}learning", plots=[("", drawn)])
