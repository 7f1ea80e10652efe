"""What a trained network is worth: beside itself untrained, and beside classical methods."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from labrecon.errors import LabreconError, TrainingError
from labrecon.learners.self_supervised import Part, Pass
from labrecon.learners.supervised import default_metrics
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor
from labrecon.report.training import SHOWN, Method
from labrecon.solver import solve
from labrecon.solvers.direct import Direct
from labrecon.solvers.trained import Trained
from labrecon.train.classical import Classical, solved, tuned, tuned_without_truth
from labrecon.train.data import TrainingData
from labrecon.train.judgement import mean_metrics
from labrecon.train.order import Order

__all__ = ["beside", "judged", "warn_if_worse"]

#: What a smaller value of speaks for a network, the first that is known.
ERRORS = ("nrmse", "held_out_chi2", "held_out_error")


@dataclass(frozen=True)
class Maker:
    """What makes reconstructions of problems, and of parts of them."""

    whole: Callable[[Problem], Tensor]
    part: Callable[[Part, Problem], Tensor]


def judged(title: str, order: Order, data: TrainingData, network: Reconstructor) -> Method:
    """What a network makes of all that was held out.

    Raises:
        TrainingError: it can not treat that.
    """
    term = order.recipe.data_term
    solver = Trained(network, data_term=term)

    def whole(problem: Problem) -> Tensor:
        return solver.step(problem, solver.init(problem))[0].x

    def part(some: Part, problem: Problem) -> Tensor:
        return Pass(network, problem, (), term).reconstruct_part(some)

    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        return _method(title, data, Maker(whole, part))
    except (RuntimeError, ValueError, ArithmeticError) as error:
        raise TrainingError(f"{title}, on held-out objects: {error}") from error
    finally:
        for module, mode in modes:
            module.training = mode


def warn_if_worse(order: Order, trained: Method, before: Method) -> None:
    """Note where training has made a network worse."""
    name = next((name for name in ERRORS if name in trained.metrics), None)
    if name is None or not trained.metrics[name] > before.metrics[name]:
        return
    now, then = trained.metrics[name], before.metrics[name]
    told = {"nrmse": "NRMSE", "held_out_chi2": "held-out χ²"}.get(name, "held-out error")
    order.warnings.append(
        f"on held-out objects the trained network is worse than before training ({told} "
        f"{now:.3g}, before {then:.3g}): train longer (fit.epochs), with a lower "
        "fit.learning_rate, or on more objects"
    )


def beside(order: Order, data: TrainingData) -> list[Method]:
    """The classical solver, and the instrument's own direct inversion."""
    if order.recipe.classical.skip:
        return []
    methods = []

    def attempt(make: Callable[[], Method], title: str) -> None:
        try:
            methods.append(make())
        except (LabreconError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            order.warnings.append(f"the comparison with {title} failed: {error}")

    attempt(lambda: _classical(order, data), order.plan.title)
    attempt(lambda: _direct(data), "the direct inversion")
    return methods


def _classical(order: Order, data: TrainingData) -> Method:
    if order.without_truth:
        found = tuned_without_truth(order.plan, data.judged_seen, data.problems)
        on = f"{sum(len(one.problem.data) for one in data.judged_seen)} scans that were trained on"
        on = f"held-out samples of {on}"
    else:
        found = tuned(order.plan, data.seen, data.unseen)
        on = f"{sum(math.prod(p.batch) for p, _ in data.seen)} objects that were trained on"
    note = "nothing to tune"
    if found.weight is not None and found.tried:
        note = f"weight {found.weight:.3g}: the best of {len(found.tried)} on {on}"
    return _method(found.title, data, _ready(order, found), note, found)


def _ready(order: Order, found: Classical) -> Maker:
    left = iter(found.estimates)

    def part(some: Part, problem: Problem) -> Tensor:
        return solved(order.plan, some.problem, found.weight)

    return Maker(lambda problem: next(left), part)


def _direct(data: TrainingData) -> Method:
    def part(some: Part, problem: Problem) -> Tensor:
        # It knows no weights: its data are scaled up in their place.
        louder = replace(some.problem, data=some.gain * some.problem.data)
        return solve(Direct(), louder).x

    return _method(
        "direct inversion", data, Maker(lambda problem: solve(Direct(), problem).x, part)
    )


def _method(
    title: str, data: TrainingData, maker: Maker, note: str = "", timed: Classical | None = None
) -> Method:
    begin = time.perf_counter()
    with torch.no_grad():
        made = [maker.whole(problem) for problem in data.problems]
        seconds = time.perf_counter() - begin if timed is None else timed.seconds
        without = [
            one.metrics(x, None if one.part is None else maker.part(one.part, one.problem))
            for one, x in zip(data.judged_unseen, made, strict=False)
        ]
    ndim = data.problems[0].operator.domain.ndim
    estimates = [x for batch in made for x in _elements(batch, ndim)]
    truths = [x for _, truth in data.unseen for x in _elements(truth, ndim)]
    metrics = {**mean_metrics(without), **_of_truths(estimates, truths)}
    return Method(title, metrics, [x.cpu() for x in estimates[:SHOWN]], seconds, note)


def _of_truths(estimates: Sequence[Tensor], truths: Sequence[Tensor]) -> dict[str, float]:
    if not truths:
        return {}
    return {
        name: math.fsum(metric(x, t) for x, t in zip(estimates, truths, strict=True)) / len(truths)
        for name, metric in default_metrics(tuple(truths[0].shape)).items()
    }


def _elements(x: Tensor, ndim: int) -> list[Tensor]:
    return list(x.reshape(-1, *x.shape[x.ndim - ndim :]))
