"""Misfit: how far data are from what a reconstruction predicts, in units of their noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labrecon.learners.self_supervised.levels import offset
from labrecon.learners.self_supervised.term import Pass, Term
from labrecon.problem import Problem

__all__ = [
    "Consistency",
    "Misfit",
    "misfit",
    "normalised_misfit",
    "object_misfit",
    "pick_misfit",
]

Misfit = Callable[[Problem, Tensor, Tensor | None], Tensor]


def misfit(problem: Problem, x: Tensor, counted: Tensor | None = None) -> Tensor:
    """Twice the negative log-likelihood per real sample: χ², 1 for the truth and a known noise.

    Args:
        problem: as measured.
        x: the estimate ``(*batch, *domain.shape)``.
        counted: 1 for the samples that count; by default all of positive weight.
    """
    weights = _counted(problem, counted)
    space = problem.operator.range
    total = problem.noise.nll(problem.operator(x), problem.data, weights, space.ndim)
    return 2 * total / _samples(weights, problem)


def normalised_misfit(problem: Problem, x: Tensor, counted: Tensor | None = None) -> Tensor:
    """``‖y − A x‖₂ / ‖y‖₂ + ‖y − A x‖₁ / ‖y‖₁`` over the samples that count (Yaman et al. 2020).

    It looks at no noise level; where the data span decades, as in k-space, the second part hears
    the quiet ones.
    """
    weights = _counted(problem, counted)
    space = problem.operator.range
    inside = (weights > 0).expand(problem.data.shape)
    error = torch.where(inside, _residual(problem, x), 0).flatten(-space.ndim)
    data = torch.where(inside, problem.data, 0).flatten(-space.ndim)
    tiny = torch.finfo(data.real.dtype).tiny
    found = error.new_zeros(error.shape[:-1], dtype=data.real.dtype)
    for order in (2, 1):
        size = torch.linalg.vector_norm(data, order, -1).clamp_min(tiny)
        found = found + torch.linalg.vector_norm(error, order, -1) / size
    return found


def object_misfit(problem: Problem, x: Tensor, counted: Tensor | None = None) -> Tensor:
    """``mean |B (A x − y)|²`` with the operator's own linear inversion ``B`` of what counts.

    The same minimiser as that of `misfit`, sooner: where ``A`` smooths, as projections do, a
    misfit of data hardly feels the fine detail that an error of the object consists of.
    """
    weights = _counted(problem, counted)
    operator, space = problem.operator, problem.operator.range
    inside = (weights > 0).expand(problem.data.shape)
    axes = tuple(range(-space.ndim, 0))
    share = inside.to(weights.dtype).mean(axes, keepdim=True)
    # As loud as if all counted: an inversion adds up what each acquisition gives.
    error = torch.where(inside, _residual(problem, x), 0) / share
    return operator.initial(error).abs().square().flatten(-operator.domain.ndim).mean(-1)


MISFITS = {"noise": misfit, "l1+l2": normalised_misfit, "object": object_misfit}


def pick_misfit(loss: str) -> Misfit:
    """The misfit of a name.

    Raises:
        ValueError: there is no such loss.
    """
    if loss not in MISFITS:
        raise ValueError(f"loss is one of {', '.join(MISFITS)}, got {loss!r}")
    return MISFITS[loss]


class Consistency(Term):
    """`misfit` of the data that the network was given: for a sum with what keeps it from noise."""

    def __call__(self, run: Pass) -> Tensor:
        """χ² of each slice."""
        return misfit(run.problem, run.estimate)


def _residual(problem: Problem, x: Tensor) -> Tensor:
    """``A x + b − y`` with the background ``b`` of the noise."""
    predicted = problem.operator(x)
    return predicted + offset(problem.noise, predicted) - problem.data


def _counted(problem: Problem, counted: Tensor | None) -> Tensor:
    weights = problem.weights
    if counted is None:
        like = problem.data.real
        return torch.ones_like(like) if weights is None else weights.to(like.dtype)
    return counted if weights is None else counted * weights


def _samples(weights: Tensor, problem: Problem) -> Tensor:
    space = problem.operator.range
    inside = (weights > 0).expand(problem.data.shape).flatten(problem.data.ndim - space.ndim)
    parts = 2 if problem.data.is_complex() else 1
    return parts * inside.sum(-1).clamp_min(1)
