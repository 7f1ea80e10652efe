"""Designs learned from several starts, hardened, and the best of them on training objects."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labrecon.errors import LabreconError, RecipeError, TrainingError
from labrecon.experiment import Experiment
from labrecon.io.checkpoints import CheckpointFolder
from labrecon.learner import Learner, fit
from labrecon.learners import ExchangeResult, Supervised, exchange, greedy, hardened
from labrecon.learners.samples import ObjectBatch, ObjectSamples, sample_generator
from labrecon.learners.supervised import simulated
from labrecon.solvers.trained import with_unit_noise
from labrecon.study.recipe import DesignRecipe
from labrecon.study.subject import Subject
from labrecon.train.data import TrainingData
from labrecon.train.order import Order

__all__ = ["Learned", "learned_from"]


@dataclass(frozen=True)
class Learned:
    """A design learned from one start.

    Attributes:
        start: its number.
        first: values of the designs at the start, hardened.
        values: learned and hardened.
        relaxed: learned, before it was hardened.
        loss: after hardening, on objects that were learned from.
        history: the loss step by step.
        status: of the training.
    """

    start: int
    first: dict[str, Tensor]
    values: dict[str, Tensor]
    relaxed: dict[str, Tensor]
    loss: float
    history: list[float] = field(default_factory=list)
    status: str = "finished"


def learned_from(
    order: Order,
    subject: Subject,
    data: TrainingData,
    start: int,
    folder: Path | None,
    tell: Callable[[int, int, dict[str, float]], None],
    *,
    blind: bool = False,
) -> Learned:
    """Learn from one start: the designs as they are for 0, then random ones.

    Args:
        order: what was asked for.
        subject: what is designed.
        data: objects.
        start: number of the start.
        folder: of checkpoints.
        tell: is told of each step: its number, their total, and its record.
        blind: give each object the truth of another: the negative control.

    Raises:
        RecipeError: network or learner refuse an option.
        TrainingError: a loss that is not finite, memory.
    """
    recipe = order.recipe
    assert isinstance(recipe, DesignRecipe)
    experiment = copy.deepcopy(subject.experiment)
    first = _start(recipe, subject, start)
    experiment.place(first)
    learner = _learner(order, subject, experiment, data)
    if blind:
        _blinded(learner)
    history: list[float] = []
    try:
        if recipe.design.method == "gradient":
            status = _by_gradient(recipe, learner, data, folder, history, tell)
        else:
            status = _by_choice(recipe, subject, experiment, learner, data, history, tell, start)
    except LabreconError:
        raise
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise TrainingError(f"learning {', '.join(subject.names)}: {error}") from error
    relaxed = experiment.current(*subject.names)
    values, _ = hardened(experiment, relaxed)
    experiment.place(values)
    hard_first, _ = hardened(experiment, first)
    return Learned(start, hard_first, values, relaxed, _loss(learner, data), history, status)


def _start(recipe: DesignRecipe, subject: Subject, start: int) -> dict[str, Tensor]:
    """The designs as they are for gradients' first start; else random ones, or moved at random."""
    table, nominal = recipe.design, subject.nominal
    # Where k of n weights are alike, a hard choice of k would be one of the first k.
    alike = bool(table.subset) and table.relaxation == "straight-through"
    if start == 0 and table.method == "gradient" and not alike:
        return nominal
    drawn = subject.usual.get("random", [])
    if drawn:
        return dict(drawn[start % len(drawn)])
    if table.method != "gradient":
        return {n: subject.experiment.designs[n].harden(v) for n, v in nominal.items()}
    generator = sample_generator(recipe.seed, start, -8)
    moved = {}
    for name, value in nominal.items():
        spread = float(value.double().std()) if value.numel() > 1 else 0.0
        spread = spread or 0.1 * float(value.abs().max()) or 0.1
        n = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        moved[name] = subject.experiment.designs[name].project(value + (0.3 * spread * n).to(value))
    return moved


def _learner(order: Order, subject: Subject, experiment: Experiment, data: TrainingData) -> Learner:
    recipe = order.recipe
    assert isinstance(recipe, DesignRecipe)
    operator, noise = experiment.operator, experiment.noise
    batch = data.train.batch([0, 1] if len(data.train) > 1 else [0], 0)
    objects = batch.objects.to(order.device)
    with torch.no_grad():
        problem, _ = simulated(objects, batch.generators, operator, noise, noise)
    if recipe.data_term == "unit":
        problem = with_unit_noise(problem)
    network = order.network(problem, data.scale)
    given: dict[str, Any] = {
        "designs": list(subject.names),
        "jitter": recipe.design.jitter,
        "gauge": order.instrument.gauge,
        "design_rate": recipe.design.rate,
    }
    known = inspect.signature(order.make_learner).parameters
    options = {key: value for key, value in given.items() if key in known}
    try:
        return order.make_learner(network, operator, noise, **{**options, **recipe.learner.options})
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{recipe.where('learner')}: the learner {recipe.learner.name!r}: {error}"
        ) from error


def _by_gradient(
    recipe: DesignRecipe,
    learner: Learner,
    data: TrainingData,
    folder: Path | None,
    history: list[float],
    tell: Callable[[int, int, dict[str, float]], None],
) -> str:
    config = recipe.config
    each = -(-len(data.train) // config.batch_size)
    total = config.steps or each * (config.epochs or 1)

    def show(step: int, record: dict[str, float]) -> None:
        history.append(record["loss"])
        tell(step, total, record)

    checkpoints = None if folder is None else CheckpointFolder(folder, tell=lambda _: None)
    return fit(learner, data.train, config, callbacks=[show], checkpoints=checkpoints).status


def _by_choice(
    recipe: DesignRecipe,
    subject: Subject,
    experiment: Experiment,
    learner: Learner,
    data: TrainingData,
    history: list[float],
    tell: Callable[[int, int, dict[str, float]], None],
    start: int,
) -> str:
    table, (name,) = recipe.design, subject.names
    generator = sample_generator(recipe.seed, start, -9)
    feasible = experiment.designs[name]
    now = experiment.current(*subject.names)[name]
    for parameter in experiment.parameters():
        parameter.requires_grad_(False)
    fixed = feasible.project(torch.full_like(now, -1e3)) >= 1 - 1e-6
    k = round(float(feasible.harden(now).sum()))
    samples = data.train
    count = min(table.batch, len(samples))

    def losses() -> Iterator[Callable[[Tensor], float]]:
        epoch = 0
        while True:
            chosen = torch.randperm(len(samples), generator=generator)[:count].tolist()
            epoch += 1
            yield _loss_of(learner, experiment, name, now.shape, samples, chosen, epoch, history)
            tell(len(history), table.rounds, {"loss": history[-1]})

    found: ExchangeResult
    if table.method == "greedy":
        loss = next(losses())
        found = greedy(
            now.numel(),
            k,
            loss,
            generator=generator,
            fixed=fixed if bool(fixed.any()) and int(fixed.sum()) < k else None,
            candidates=table.candidates,
        )
    else:
        mask = feasible.harden(now)
        found = exchange(
            mask,
            losses(),
            rounds=table.rounds,
            generator=generator,
            fixed=fixed.to(mask) if int(fixed.sum()) < k else None,
        )
    experiment.place({name: found.mask.reshape(now.shape).to(now)})
    return f"{found.accepted} accepted"


def _loss_of(
    learner: Learner,
    experiment: Experiment,
    name: str,
    shape: torch.Size,
    samples: Any,
    chosen: list[int],
    epoch: int,
    history: list[float],
) -> Callable[[Tensor], float]:
    parameter = experiment.get_parameter(name)

    def loss(mask: Tensor) -> float:
        with torch.no_grad():
            parameter.copy_(mask.reshape(shape))
            # The same objects with the same noise for every mask of the batch.
            value = float(learner.loss(samples.batch(chosen, epoch))[0])
        history.append(value)
        return value

    return loss


@torch.no_grad()
def _loss(learner: Learner, data: TrainingData) -> float:
    """On the objects that were learned from, with noise that is the same for every design."""
    samples = data.train
    if not isinstance(samples, ObjectSamples):
        return math.nan
    fixed = ObjectSamples(samples.objects, samples.seed + 17, fixed=True)
    values, size = [], 8
    for begin in range(0, len(fixed), size):
        batch: ObjectBatch = fixed.batch(range(begin, min(begin + size, len(fixed))), 0)
        values.append(len(batch.objects) * float(learner.loss(batch)[0]))
    return math.fsum(values) / len(fixed)


def _blinded(learner: Learner) -> None:
    if isinstance(learner, Supervised):
        measure = learner.measure
        learner.measure = lambda x, t: measure(x, t.roll(1, 0))
