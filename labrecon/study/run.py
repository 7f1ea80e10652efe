"""A design study from objects to a folder with designs, exports, provenance and report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labrecon.clock import Watcher
from labrecon.errors import ObjectsError, TrainingError
from labrecon.instrument import Instrument
from labrecon.io.plain import dumps, plain
from labrecon.plugins import Host
from labrecon.report.page import page_or_warning
from labrecon.report.study import CountReport, StudyReport, render_study
from labrecon.report.training import SHOWN
from labrecon.study.exporting import export
from labrecon.study.judging import Judged, judge, margin, robustness
from labrecon.study.learning import Learned, learned_from
from labrecon.study.recipe import DesignRecipe
from labrecon.study.subject import Subject, Values, subject_of
from labrecon.train.data import TrainingData, from_objects
from labrecon.train.folder import RunFolder
from labrecon.train.order import Order, place_order

__all__ = ["StudyResult", "design"]

LEARNED, CONTROL = "learned", "learned from wrong truths"


@dataclass(frozen=True)
class StudyResult:
    """What `design` made.

    Attributes:
        output: the folder.
        summary: what ``--json`` prints: designs, metrics, margins, exports.
        warnings: what went wrong without stopping it.
        already_done: the study was finished before, and nothing was done now.
    """

    output: Path
    summary: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    already_done: bool = False


@dataclass(frozen=True)
class _Count:
    """One number of acquisitions: what was learned, and what it is worth."""

    subject: Subject
    starts: list[Learned]
    judged: list[Judged]
    curves: dict[str, tuple[list[float], dict[str, list[float]]]]

    @property
    def best(self) -> Learned:
        """The start with the lowest loss after hardening, on training objects."""
        return min(self.starts, key=lambda each: each.loss)


def design(
    instrument: str | Instrument,
    out: str | Path,
    *,
    exposures: Sequence[int] = (),
    network: str | None = None,
    objects: str | Path | None = None,
    recipe: str | Path | Mapping[str, Any] = "design",
    overrides: Iterable[str] = (),
    geometry: str | Path | None = None,
    scan: str | Path | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
    host: Host | None = None,
) -> StudyResult:
    """Learn what an instrument should acquire, and compare it with what one would do otherwise.

    Designs are learned from several starts, hardened, and judged on held-out objects by a
    reconstruction other than the one that they were learned through, beside the instrument's usual
    designs, random ones, and a control that was learned from wrong truths. The folder holds
    ``design.json`` (values, violations, budget), ``geometry.json`` (an acquisition that has the
    design), what the instrument's exporters write, ``provenance.json`` and ``report.html``; with
    several numbers of acquisitions a folder for each.

    Args:
        instrument: a registered name, or an instrument.
        out: the folder: a new one, or one to go on with.
        exposures: numbers of acquisitions to study; by default the recipe's, or the geometry's own.
        network: what designs are learned through; by default the recipe's.
        objects: folder of objects; by default the instrument simulates them.
        recipe: a TOML file, a name from ``instrument.recipes()``, or values.
        overrides: dotted assignments on top of the recipe: ``"design.starts=5"``.
        geometry: JSON file of the acquisition; by default the instrument's example.
        scan: a measured file whose geometry is taken.
        device: a torch device, or ``"auto"`` for the first GPU if there is one.
        watcher: is told of the progress.
        host: plugin host; the process's own by default.

    Raises:
        RecipeError: recipe, name, option, or nothing to design; exit code 2.
        ObjectsError, ScanError: objects or the scan can not be read; 3.
        TrainingError: a loss that is not finite, memory; 4.
        OutputError: the folder is taken, can not be written, or a learned design is infeasible; 5.
        Interrupted: Ctrl-C; 130.
    """
    out = Path(out)
    given = list(overrides)
    if exposures:
        given.append(f"design.exposures=[{', '.join(map(str, exposures))}]")
    order = place_order(
        instrument,
        network=network,
        objects=objects,
        recipe=recipe,
        overrides=given,
        geometry=geometry,
        scan=scan,
        device=device,
        watcher=watcher,
        host=host,
        task="design",
        kind=DesignRecipe,
    )
    assert isinstance(order.recipe, DesignRecipe)
    counts: list[int | None] = [*order.recipe.design.exposures] or [None]
    with order.clock("operator"):
        subjects = [subject_of(order, count) for count in counts]
    with order.clock("objects"):
        measured = [_data(order, subject) for subject in subjects]
    facts = {
        "instrument": order.instrument.name,
        "geometry": order.geometry.model_dump(mode="json"),
        "objects": [data.digest for data in measured],
        "study": "design",
    }
    run = RunFolder.open(out, order.recipe.plain(), facts)
    if run.done:
        told = run.provenance()
        return StudyResult(out, _summary(out, told), told.get("warnings", []), already_done=True)
    with run.at_work():
        return _carry_out(order, order.recipe, subjects, measured, run)


def _carry_out(
    order: Order,
    recipe: DesignRecipe,
    subjects: list[Subject],
    measured: list[TrainingData],
    run: RunFolder,
) -> StudyResult:
    studied = []
    for subject, data in zip(subjects, measured, strict=True):
        order.warnings += subject.warnings
        studied.append(_study(order, recipe, subject, data, run))
    data = measured[0]
    order.warnings += data.warnings
    with order.clock("export"):
        written = [export(order, each.subject, each.best.values, run.path) for each in studied]
    provenance = order.provenance(
        data.inputs,
        data=data.told,
        designs=[
            {**_told(each), "files": files} for each, files in zip(studied, written, strict=True)
        ],
    )
    with order.clock("report"):
        run.write("report.html", _page(order, recipe, studied, provenance, data))
    provenance["timings_seconds"] = order.clock.rounded()
    provenance["warnings"] = order.warnings
    run.write("provenance.json", dumps(provenance))
    return StudyResult(run.path, _summary(run.path, provenance), order.warnings)


def _data(order: Order, subject: Subject) -> TrainingData:
    try:
        return from_objects(
            order.recipe,
            order.instrument,
            subject.geometry,
            subject.experiment.operator,
            subject.experiment.noise,
            order.device,
        )
    except ValueError as error:
        raise ObjectsError(f"the objects can not be measured: {error}") from error


def _study(
    order: Order, recipe: DesignRecipe, subject: Subject, data: TrainingData, run: RunFolder
) -> _Count:
    name = "" if subject.count is None else f"{subject.count} exposures, "
    folder = run.path / "checkpoints" / str(subject.count or "own")

    def learn(start: int, title: str, *, blind: bool = False) -> Learned:
        def tell(step: int, total: int, record: dict[str, float]) -> None:
            if order.clock.watcher is not None:
                shown = {"step": float(step), **record}
                order.clock.watcher.step(f"{name}{title}", shown, total)

        own = folder / ("control" if blind else str(start))
        with order.clock("learn"):
            return learned_from(order, subject, data, start, own, tell, blind=blind)

    starts = [learn(start, f"start {start + 1}") for start in range(recipe.design.starts)]
    # The best one first: it is exported, drawn, and tried for robustness.
    ranked = sorted(starts, key=lambda each: each.loss)
    draws: dict[str, Sequence[Values]] = {
        LEARNED: [each.values for each in ranked],
        **subject.usual,
    }
    if recipe.design.control and recipe.learner.name == "design" and len(data.train) > 1:
        last = recipe.design.starts - 1
        draws[CONTROL] = [learn(last, "control", blind=True).values]
    with order.clock("judge"):
        try:
            judged = [judge(order, subject, data, t, values, SHOWN) for t, values in draws.items()]
            curves = _curves(order, recipe, subject, data, judged)
        except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
            raise TrainingError(f"reconstructing held-out objects: {error}") from error
    _warn_if_worse(order, name, judged)
    return _Count(subject, starts, judged, curves)


def _warn_if_worse(order: Order, name: str, judged: Sequence[Judged]) -> None:
    metric = _metric(judged)
    for other in judged[1:]:
        m = margin(judged[0], other, metric)
        if other.title != CONTROL and m.mean < 0:
            order.warnings.append(
                f"{name}on held-out objects {other.title!r} is better than what was learned, by "
                f"{-m.mean:.3g} in {metric.upper()}: learn longer (fit.steps), from more starts or "
                "objects"
            )


def _curves(
    order: Order,
    recipe: DesignRecipe,
    subject: Subject,
    data: TrainingData,
    judged: list[Judged],
) -> dict[str, tuple[list[float], dict[str, list[float]]]]:
    found = {}
    metric = _metric(judged)
    for name, sizes in recipe.evaluation.robustness.items():
        series = {
            each.title: robustness(order, subject, data, each, name, sizes, metric)
            for each in judged
            if each.title != CONTROL
        }
        found[name] = (list(sizes), series)
    return found


def _metric(judged: Sequence[Judged]) -> str:
    return "psnr" if "psnr" in judged[0].metrics[0] else next(iter(judged[0].metrics[0]))


def _told(each: _Count) -> dict[str, Any]:
    learned, metric = each.judged[0], _metric(each.judged)
    return {
        "exposures": each.subject.count,
        "names": list(each.subject.names),
        "starts": [
            {"loss": start.loss, "steps": len(start.history), "status": start.status}
            for start in each.starts
        ],
        "best_start": each.best.start,
        "methods": [
            {
                "title": one.title,
                "metrics": {name: one.interval(name).mean for name in one.metrics[0]},
                "intervals": {name: str(one.interval(name)) for name in one.metrics[0]},
                "draws": one.metrics,
                "reconstruction": one.method,
                "weight": one.weight,
            }
            for one in each.judged
        ],
        "margins": {
            one.title: {"metric": metric, "mean": m.mean, "half": m.half, "text": str(m)}
            for one in each.judged[1:]
            for m in [margin(learned, one, metric)]
        },
        "robustness": {
            name: {"sizes": sizes, metric: series} for name, (sizes, series) in each.curves.items()
        },
    }


def _page(
    order: Order,
    recipe: DesignRecipe,
    studied: list[_Count],
    provenance: dict[str, Any],
    data: TrainingData,
) -> str:
    ndim = studied[0].subject.experiment.operator.domain.ndim
    truths = [
        order.instrument.gauge(x).cpu()
        for _, truth in data.unseen
        for x in truth.reshape(-1, *truth.shape[truth.ndim - ndim :])
    ][:SHOWN]
    counts = [
        CountReport(
            each.subject.count,
            each.subject.geometry,
            each.best.first,
            each.best.values,
            {f"start {s.start + 1}": s.history for s in each.starts},
            {one.title: (one.values[0], one.estimates) for one in each.judged},
            told,
        )
        for each, told in zip(studied, provenance["designs"], strict=True)
    ]
    report = StudyReport(
        order.instrument,
        studied[0].subject.experiment.operator.domain.axes,
        order.instrument.voxel_size(order.geometry),
        provenance,
        truths,
        counts,
        order.warnings,
    )
    return page_or_warning(lambda: render_study(report), order.warnings)


def _summary(out: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("instrument", "data", "designs", "warnings", "timings_seconds")
    told: dict[str, Any] = plain({name: provenance[name] for name in kept})
    return {
        "status": "finished",
        "output": str(out),
        "report": os.fspath(out / "report.html"),
        **told,
    }
