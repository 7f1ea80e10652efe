"""What is trained in an adaptation: the network, nuisances, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from labrecon.adapt.made import Made, reused
from labrecon.adapt.order import Order
from labrecon.errors import LabreconError, ScanError, TrainingError
from labrecon.io.checkpoints import CheckpointFolder
from labrecon.io.logs import CsvLog
from labrecon.learner import FitResult, Learner, Samples, fit
from labrecon.learners.adaptation import Adaptation, Transfer
from labrecon.learners.imitation import Imitation
from labrecon.learners.samples import PairSamples, split
from labrecon.learners.self_supervised import MeasuredScan, ScanSamples
from labrecon.problem import Problem
from labrecon.train.folder import RunFolder

__all__ = ["trained"]


def trained(order: Order, made: Made, folder: RunFolder) -> FitResult:
    """Train what the recipe asks for, from the last checkpoint on.

    Raises:
        ScanError: the scans do not state their noise, or differ in it from slice to slice.
        TrainingError: a loss that is not finite, memory.
    """
    recipe = order.recipe
    network_moves = recipe.method != "rr"
    for parameter in made.inner.parameters():
        parameter.requires_grad_(network_moves and parameter.requires_grad)
    made.operator.learn(*recipe.calibrate)
    try:
        learner = _learner(order, made)
        seen, held = _samples(order)
    except ValueError as error:
        raise ScanError(str(error)) from error
    by_discrepancy = recipe.by_discrepancy
    if order.tell is not None:
        order.tell(_begins(order))

    def watch(step: int, record: dict[str, float]) -> bool:
        order.host.fit_step(step, record)
        if order.clock.watcher is not None:
            told = {"step": float(step), **record}
            order.clock.watcher.step(f"adapting ({recipe.method})", told, recipe.fit.steps)
        # The scans fit within their noise: going on would fit the noise itself.
        return by_discrepancy and record.get("validation/loss", recipe.stop + 1) <= recipe.stop

    try:
        result = fit(
            learner,
            seen,
            recipe.config,
            validation=held,
            callbacks=[CsvLog(folder.path / "log.csv"), watch],
            checkpoints=CheckpointFolder(folder.path / "checkpoints", tell=order.warnings.append),
            device=order.device,
        )
    except LabreconError:
        raise
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise TrainingError(f"adapting {order.parent.card.network}: {error}") from error
    finally:
        for name in recipe.calibrate:
            made.operator.get_parameter(name).requires_grad_(False)
    if by_discrepancy and result.status == "finished":
        order.warnings.append(
            f"χ² of the scans did not come down to {recipe.stop:g} in {result.steps} steps: train "
            "longer (fit.steps), or with a higher fit.learning_rate"
        )
    return result


def _begins(order: Order) -> str:
    """What is about to be fitted, to what, and for how long."""
    recipe = order.recipe
    parts = ["the network"] if recipe.method != "rr" else []
    return (
        f"adapting ({recipe.method}): {' and '.join([*parts, *recipe.calibrate])} fitted to "
        f"{_counted(len(order.problems), 'scan')}, {_counted(recipe.fit.steps, 'step')} at most; "
        "log.csv gets a line per step"
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _learner(order: Order, made: Made) -> Learner:
    recipe, term = order.recipe, order.parent.card.data_term
    if recipe.method == "transfer":
        return Transfer(made.network, made.operator, anchor=recipe.anchor, data_term=term)
    measure = recipe.measure
    learner = Adaptation(
        made.network,
        made.operator,
        misfit=Imitation(reused(order), term) if measure == "reused" else measure,
        anchor=recipe.anchor,
        nuisance_rate=recipe.fit.nuisance_rate,
        data_term=term,
    )
    if recipe.method != "rr":
        for problem in order.problems:
            learner.check(problem)
    return learner


def _samples(order: Order) -> tuple[Samples, Samples]:
    """Slices to adapt to, and those that decide when to stop; a single one does both."""
    recipe = order.recipe
    if recipe.method == "transfer":
        pairs = list(zip(order.scans, order.truths, strict=True))
        groups = list(range(len(pairs)))
        kept, held = _split(groups, recipe.validation, recipe.seed)
        term = order.parent.card.data_term

        def some(indices: list[int]) -> PairSamples:
            chosen: Any = [pairs[i] for i in indices]
            return PairSamples(chosen, [order.problems[i].operator for i in indices], term)

        return some(kept), some(held)
    if len(order.problems) == 1:
        [scan] = _stacked(order.problems)
        return ScanSamples([scan], recipe.seed), ScanSamples([scan], recipe.seed + 1, fixed=True)
    kept, held = _split(list(range(len(order.problems))), recipe.validation, recipe.seed)
    return (
        ScanSamples(_stacked([order.problems[i] for i in kept]), recipe.seed),
        ScanSamples(_stacked([order.problems[i] for i in held]), recipe.seed + 1, fixed=True),
    )


def _stacked(problems: Sequence[Problem]) -> list[MeasuredScan]:
    """Scans of one operator and one noise as one stack: a network is quicker with many at once."""
    groups: dict[Any, list[Problem]] = {}
    for problem in problems:
        noise = [(name, value.cpu().numpy().tobytes()) for name, value in _levels(problem)]
        key = (id(problem.operator), type(problem.noise), tuple(noise), problem.weights is None)
        groups.setdefault(key, []).append(problem)
    made = []
    for group in groups.values():
        shape = group[0].operator.range.shape
        data = torch.cat([one.data.reshape(-1, *shape) for one in group])
        given = [
            one.weights.expand(one.data.shape).reshape(-1, *shape)
            for one in group
            if one.weights is not None
        ]
        weights = torch.cat(given) if given else None
        made.append(MeasuredScan(replace(group[0], data=data, weights=weights)))
    return made


def _levels(problem: Problem) -> list[tuple[str, Tensor]]:
    return [*problem.noise.named_buffers(), *problem.noise.named_parameters()]


def _split(groups: list[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Of a single scan, the same twice."""
    return split(groups, fraction, seed) if len(groups) > 1 else (groups, groups)
