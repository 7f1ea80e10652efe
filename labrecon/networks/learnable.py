"""A classical solver's numbers and priors turned into what a network learns."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize

from labrecon.constraint import Positive
from labrecon.prior import Prior
from labrecon.problem import Problem
from labrecon.schedule import Schedule, number_at
from labrecon.solver import Solver, SolverError

__all__ = ["with_learned"]


def with_learned(
    solver: Solver,
    names: Iterable[str],
    depth: int,
    *,
    tied: bool,
    problem: Problem | None = None,
) -> Solver:
    """A copy of a solver in which the named numbers and priors are learned, from where they are.

    Args:
        solver: the classical one; it stays as it is.
        names: numbers of the solver (``"step_size"``, ``"rho"``, ``"mu"``, ``"momentum"``), which
            become a `Schedule`; ``"prior"`` for all parameters of the prior; ``"prior.weight"``
            for a number of the prior, kept positive.
        depth: number of layers.
        tied: one value for all layers, rather than one each.
        problem: an example, for a step size that is found from the operator.

    Raises:
        SolverError: there is no such number, or it can not be learned.
    """
    solver = copy.deepcopy(solver)
    names = list(names)
    for name in names:
        if not name.startswith("prior"):
            _learn_number(solver, name, 1 if tied else depth, problem)
    of_prior = [name for name in names if name.startswith("prior")]
    if of_prior:
        _learn_prior(solver, of_prior, depth, tied)
    return solver


def _learn_number(solver: Solver, name: str, layers: int, problem: Problem | None) -> None:
    value = getattr(solver, name, False)
    if value is None and name == "step_size":
        if problem is None:
            raise SolverError(
                f"{solver.name}: its step size is 1 / L of a problem; give problem=, an example, "
                "or a step_size to start from"
            )
        # Of a batch with different curvatures, the step that is safe for all.
        value = 1 / float(torch.as_tensor(problem.lipschitz()).max())
    if isinstance(value, bool) or not isinstance(value, int | float | Schedule):
        numbers = [key for key, held in vars(solver).items() if _is_number(held)]
        numbers += [key for key, held in solver.named_children() if isinstance(held, Schedule)]
        told = ", ".join(key for key in numbers if not key.startswith("_")) or "none"
        raise SolverError(f"{solver.name} has no number {name!r} to learn; it has {told}")
    start = [float(number_at(value, k)) for k in range(layers)]
    bounded = name == "momentum"
    try:
        learned = Schedule(start, constraint="unit" if bounded else "positive", learn=True)
    except SolverError as error:
        raise SolverError(f"{solver.name}: {name} can not be learned from {start}: {error}") from (
            error
        )
    if name in vars(solver):
        delattr(solver, name)
    setattr(solver, name, learned)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _learn_prior(solver: Solver, names: list[str], depth: int, tied: bool) -> None:
    prior = getattr(solver, "prior", None)
    if not isinstance(prior, Prior):
        raise SolverError(f"{solver.name} has no single prior whose parameters could be learned")
    for name in names:
        if name == "prior":
            for parameter in prior.parameters():
                parameter.requires_grad_()
        else:
            _learn_number_of_prior(prior, name.removeprefix("prior."))
    if not tied:
        solver.prior = nn.ModuleList([copy.deepcopy(prior) for _ in range(depth)])


def _learn_number_of_prior(prior: Prior, name: str) -> None:
    kind = type(prior).__name__
    value = getattr(prior, name, None)
    if isinstance(value, nn.Parameter):
        value.requires_grad_()
        return
    if not isinstance(value, torch.Tensor) and not _is_number(value):
        raise SolverError(f"{kind} has no number {name!r} to learn")
    start = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if not bool((start > 0).all()):
        raise SolverError(f"{kind}: {name} is learned from a positive number, got {value}")
    delattr(prior, name)
    setattr(prior, name, nn.Parameter(start.clone()))
    parametrize.register_parametrization(prior, name, Positive())
