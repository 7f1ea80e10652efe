"""Designs judged on held-out objects, by a reconstruction that none of them was learned for."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import t as student
from torch import Tensor

from labrecon.experiment import Experiment
from labrecon.learners.jitter import Jitter
from labrecon.learners.samples import sample_generator
from labrecon.learners.supervised import default_metrics
from labrecon.problem import Problem
from labrecon.study.recipe import DesignRecipe
from labrecon.study.subject import Subject, Values
from labrecon.train.classical import solved, tuned
from labrecon.train.data import TrainingData
from labrecon.train.order import Order

__all__ = ["Interval", "Judged", "interval", "judge", "margin", "robustness"]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval; without one where there is a single value."""

    mean: float
    half: float
    count: int

    def __str__(self) -> str:
        if self.count < 2:
            return f"{self.mean:.4g}"
        return f"{self.mean:.4g} ± {self.half:.2g}"


def interval(values: Sequence[float]) -> Interval:
    """Student's interval of the mean.

    Example:
        >>> str(interval([1.0, 2.0, 3.0]))
        '2 ± 2.5'
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Interval(mean, math.nan, n)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return Interval(mean, float(student.ppf(0.975, n - 1)) * spread / math.sqrt(n), n)


@dataclass(frozen=True)
class Judged:
    """What reconstructions make of a design, or of several draws of one.

    Attributes:
        title: of the design.
        values: of the draws.
        metrics: for each, the mean over all held-out objects, by name.
        estimates: of the first draw, for the objects that are shown.
        method: the reconstruction, and the weight of its prior.
        weight: of the prior.
    """

    title: str
    values: list[dict[str, Tensor]]
    metrics: list[dict[str, float]]
    estimates: list[Tensor]
    method: str
    weight: float | None

    def interval(self, name: str) -> Interval:
        """Of a metric over the draws."""
        return interval([m[name] for m in self.metrics])


def judge(
    order: Order,
    subject: Subject,
    data: TrainingData,
    title: str,
    draws: Sequence[Values],
    shown: int,
) -> Judged:
    """Metrics of all draws of a design; the prior's weight is found on training objects.

    Where designs are learned with jitter, the weight is found with it, too: a lab that knows its
    instrument to be off reconstructs accordingly.
    """
    metrics, estimates, weight, method = [], [], None, ""
    for number, values in enumerate(draws):
        experiment = with_designs(subject.experiment, values)
        unseen = _problems(order, experiment, data, held=True)
        seen = _problems(order, experiment, data, held=False) if number == 0 else []
        if number == 0:
            found = tuned(order.plan, seen, unseen)
            weight, method, made = found.weight, found.title, found.estimates
        else:
            made = _solved(order, weight, unseen)
        pairs = _pairs(made, unseen, experiment.operator.domain.ndim)
        metrics.append(_metrics(order, pairs))
        if number == 0:
            estimates = [order.instrument.gauge(x).cpu() for x, _ in pairs[:shown]]
    return Judged(title, [dict(v) for v in draws], metrics, estimates, method, weight)


def robustness(
    order: Order,
    subject: Subject,
    data: TrainingData,
    judged: Judged,
    name: str,
    sizes: Sequence[float],
    metric: str,
) -> list[float]:
    """A metric where a nuisance is off by a size, in a random direction for each object."""
    experiment = with_designs(subject.experiment, judged.values[0])
    found = []
    for size in sizes:
        problems = _problems(order, experiment, data, held=True, off={name: size})
        made = _solved(order, judged.weight, problems)
        pairs = _pairs(made, problems, experiment.operator.domain.ndim)
        found.append(_metrics(order, pairs)[metric])
    return found


def margin(learned: Judged, other: Judged, metric: str) -> Interval:
    """How much better the learned designs are than the mean of the others, over the starts."""
    base = other.interval(metric).mean
    sign = -1.0 if metric == "nrmse" else 1.0
    return interval([sign * (m[metric] - base) for m in learned.metrics])


def with_designs(experiment: Experiment, values: Values) -> Experiment:
    """A copy of an experiment that has these designs."""
    placed = copy.deepcopy(experiment)
    placed.place(values)
    for name in values:
        placed.get_parameter(name).requires_grad_(False)
    return placed


def _problems(
    order: Order,
    experiment: Experiment,
    data: TrainingData,
    *,
    held: bool,
    off: Mapping[str, float] | None = None,
) -> list[tuple[Problem, Tensor]]:
    """Measurements of held-out objects, or of a few that were learned from, and their truths."""
    recipe = order.recipe
    assert isinstance(recipe, DesignRecipe)
    samples = data.validation if held else data.train
    count = len(samples) if held else min(recipe.classical.objects, len(samples))
    jitter = Jitter(experiment.operator, {} if held else recipe.design.jitter)
    # A solver that calibrates finds one set of nuisances per problem, and each object has its own.
    calibrates = bool(order.plan.calibrate.nuisances)
    problems, size = [], 1 if calibrates else recipe.config.batch_size
    for begin in range(0, count, size):
        batch = samples.batch(range(begin, min(begin + size, count)), -1)
        x = batch.objects.to(order.device)
        images = []
        for i, (one, generator) in enumerate(zip(x, batch.generators, strict=True)):
            where = sample_generator(recipe.seed, begin + i, -11)
            values = {**jitter.draw(where), **jitter.displaced(off or {}, where)}
            with torch.no_grad():
                images.append(experiment.sample(one, generator, values))
        problem = Problem(experiment.operator, torch.stack(images), experiment.noise)
        problems.append((problem, x))
    return problems


def _solved(
    order: Order, weight: float | None, problems: Sequence[tuple[Problem, Tensor]]
) -> list[Tensor]:
    return [solved(order.plan, problem, weight) for problem, _ in problems]


def _pairs(
    made: Sequence[Tensor], problems: Sequence[tuple[Problem, Tensor]], ndim: int
) -> list[tuple[Tensor, Tensor]]:
    found = []
    for x, (_, truth) in zip(made, problems, strict=True):
        shape = x.shape[x.ndim - ndim :]
        found += list(zip(x.reshape(-1, *shape), truth.reshape(-1, *shape), strict=True))
    return found


def _metrics(order: Order, pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    gauge = order.instrument.gauge
    metrics = default_metrics(tuple(pairs[0][1].shape))
    return {
        name: math.fsum(metric(gauge(x), gauge(t)) for x, t in pairs) / len(pairs)
        for name, metric in metrics.items()
    }
