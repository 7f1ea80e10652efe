"""What the scans look like before and after: residuals, and errors where truths are known."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from labrecon.adapt.order import Order
from labrecon.adapt.source import FITS
from labrecon.calibration.conclusion import HOPELESS
from labrecon.errors import LabreconError, ReconstructionError, TrainingError
from labrecon.learners.supervised import default_metrics
from labrecon.networks.calibrated import Calibrated
from labrecon.operator import Operator
from labrecon.quality import assess
from labrecon.reconstructor import Reconstructor
from labrecon.solvers.trained import Trained

__all__ = ["SHOWN", "Judged", "judged", "warn_of"]

#: Scans that are shown in the report.
SHOWN = 3
#: Share of the noise that an image can fit at all, beyond which a calibration has fitted it.
NOISE_FITTED = 0.6


@dataclass(frozen=True)
class Judged:
    """What one way to reconstruct makes of the scans.

    Attributes:
        title: of the way.
        chi2: mean over the scans, by the new operator; None where the noise level is unknown.
        deviation: of the residual, likewise.
        whiteness: largest lag-1 correlation of a residual in units of its bound, likewise.
        seconds: for all scans.
        estimates: of the scans that are shown, each ``(*domain.shape)``.
        metrics: means over all slices whose truth is known.
        note: what else is to be said.
    """

    title: str
    chi2: float | None
    deviation: float
    whiteness: float | None
    seconds: float
    estimates: Sequence[Tensor]
    metrics: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def told(self) -> dict[str, Any]:
        """The numbers."""
        return {
            "title": self.title,
            "chi2": self.chi2,
            "residual_std": self.deviation,
            "lag1_worst": self.whiteness,
            "seconds": self.seconds,
            "metrics": self.metrics,
            "note": self.note,
        }


def judged(order: Order, network: Reconstructor) -> list[Judged]:
    """The adapted network first, then the trained one with the new operator and with the old."""
    operator = network.placed(order.operator) if isinstance(network, Calibrated) else None
    title = f"adapted ({order.recipe.method})"
    seen = "trained on these very objects: judge by others" if order.truths else ""
    ways = [_way(title, order, network, operator, note=seen)]
    try:
        before = order.parent.build(order.problems[0], order.host)
    except LabreconError as error:
        order.warnings.append(f"the trained network alone does not fit the new operator: {error}")
        return ways
    note = "the operator of the scans in the trained network"
    ways.append(_way("not adapted", order, before, operator, note=note))
    old = order.old_operator()
    if old.range.shape == order.operator.range.shape and order.differences:
        note = "as if nothing had changed; residuals by the new operator"
        ways.append(_way("old operator", order, before, operator, old, note))
    return ways


def _way(
    title: str,
    order: Order,
    network: Reconstructor,
    operator: Operator | None,
    used: Operator | None = None,
    note: str = "",
) -> Judged:
    """Args: ``operator`` judges (by default each scan's own), ``used`` reconstructs."""
    solver = Trained(network, data_term=order.parent.card.data_term)
    made: list[Tensor] = []
    begin = time.perf_counter()
    try:
        with torch.no_grad():
            for problem in order.problems:
                asked = problem if used is None else replace(problem, operator=used)
                made.append(solver.step(asked, solver.init(asked))[0].x)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        raise ReconstructionError(f"{title}: {error}") from error
    seconds = time.perf_counter() - begin
    found = []
    for problem, x in zip(order.problems, made, strict=True):
        judge = problem if operator is None else replace(problem, operator=operator)
        with torch.no_grad():
            found.append(assess(judge, judge.operator(x)))
    known = [q.chi2 for q in found if q.chi2 is not None]
    white = [q.lag1_worst for q in found if q.lag1_worst is not None]
    ndim = order.operator.domain.ndim
    shown = [x.reshape(-1, *x.shape[x.ndim - ndim :])[0].cpu() for x in made[:SHOWN]]
    return Judged(
        title,
        math.fsum(known) / len(known) if len(known) == len(found) else None,
        math.fsum(q.deviation for q in found) / len(found),
        math.fsum(white) / len(white) if white else None,
        seconds,
        shown,
        _metrics(order, made),
        note,
    )


def _metrics(order: Order, made: list[Tensor]) -> dict[str, float]:
    truths: list[Tensor | None] = [*order.truths] or [scan.truth for scan in order.scans]
    domain = order.operator.domain
    pairs = [
        pair
        for x, truth in zip(made, truths, strict=True)
        if truth is not None and truth.shape == x.shape
        for pair in zip(_elements(x, domain.ndim), _elements(truth, domain.ndim), strict=True)
    ]
    if not pairs:
        return {}
    return {
        name: math.fsum(metric(x.cpu(), t.cpu()) for x, t in pairs) / len(pairs)
        for name, metric in default_metrics(domain.shape).items()
    }


def _elements(x: Tensor, ndim: int) -> list[Tensor]:
    return list(x.reshape(-1, *x.shape[x.ndim - ndim :]))


def warn_of(order: Order, ways: list[Judged]) -> None:
    """Note where the residual says that the adaptation did not do what it should.

    Raises:
        TrainingError: what was calibrated fits the noise, or nothing: it is not the instrument's.
    """
    after, operator = ways[0], order.operator
    freedom = min(1.0, operator.domain.size / operator.range.size)
    lowest = 1 - NOISE_FITTED * freedom
    if order.recipe.calibrate and after.chi2 is not None and after.chi2 < lowest:
        raise TrainingError(
            f"calibrating {', '.join(order.recipe.calibrate)} came to χ² = {after.chi2:.3g}: it "
            "fits the noise. Scans alone do not tell what makes an operator keep more or less, as "
            "the width of a blur or a gain; shifts, centres and angles they do. Measure it, and "
            "give scans whose geometry has it"
        )
    if order.recipe.calibrate and after.chi2 is not None and after.chi2 > HOPELESS:
        raise TrainingError(
            f"calibrating {', '.join(order.recipe.calibrate)} came to χ² = {after.chi2:.3g}; "
            f"beyond {HOPELESS:g} it is no solution of the model, and not kept: {_first(order)}"
            "start nearer (from a geometry that is about right), try a smaller coupling, or see "
            "whether the noise of the scans is understated. Without a network, the table "
            "[calibrate] of `labrecon recon` finds it, with its error"
        )
    known, before = after.metrics.get("nrmse"), ways[min(1, len(ways) - 1)]
    if known is not None and known > before.metrics["nrmse"]:
        order.warnings.append(
            f"where truths are known, the adapted network is worse (NRMSE {known:.3g}) than one "
            f"that is not adapted ({before.metrics['nrmse']:.3g}): try another coupling or method"
        )
    if after.chi2 is not None and not FITS[0] < after.chi2 < FITS[1]:
        advice = "a smaller" if after.chi2 > 1 else "a larger"
        remedy = f"{advice} coupling" if order.recipe.method.startswith("rr") else "more fit.steps"
        other = ways[1].chi2 if len(ways) > 1 else None
        without = "" if other is None else f" (not adapted {other:.3g})"
        order.warnings.append(
            f"χ² of the scans is {after.chi2:.3g} after the adaptation{without}, expected about 1: "
            f"{_first(order)}try {remedy}, or the geometry is not what the instrument does now "
            "(--calibrate)"
        )


def _first(order: Order) -> str:
    """What to do before anything else, where the network was doubtful before."""
    if not order.doubts:
        return ""
    return (
        f"first see to {order.parent.folder} itself, which has warnings of its own (an adapted "
        "network is no better than the one it came from); then "
    )
