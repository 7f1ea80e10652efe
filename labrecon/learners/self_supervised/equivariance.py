"""Equivariance: a reconstruction of a turned object should be the turned reconstruction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon.learners.self_supervised.levels import (
    clean_of,
    counting,
    drawn,
    level_known,
    offset,
    variance,
)
from labrecon.learners.self_supervised.term import Pass, Term
from labrecon.learners.self_supervised.transforms import check_transforms, transformed
from labrecon.options import flag
from labrecon.problem import Problem
from labrecon.space import squared_norm

__all__ = ["Equivariance"]


class Equivariance(Term):
    """``‖R(A T R(y)) − T R(y)‖²`` with a transformation ``T`` of objects (Chen et al. 2021).

    Where a turned object is as likely as the object, ``T R(y)`` is one more object to train on,
    whose measurement is known: what ``A`` can not see of one, it sees of the other. Not where ``A``
    sees the same of both: parallel views that are evenly spread tell nothing new after a turn by
    their distance.

    In the unit of χ², so that a weight of 1 counts a difference of the object as much as the data
    would that see it: ``‖·‖² ‖A R(y)‖² / (‖R(y)‖² σ² m)`` with ``m`` real samples.

    Args:
        transforms: names of `TRANSFORMS`, of which one is drawn for each slice in each step.
        noisy: simulate the measurement of ``T R(y)`` with the declared noise, as the network sees
            it in use (Chen et al. 2022); without where its level is unknown.

    Raises:
        ValueError: an unknown transformation.
    """

    def __init__(self, transforms: Sequence[str] = ("rotations",), *, noisy: bool = True) -> None:
        names = (transforms,) if isinstance(transforms, str) else tuple(transforms)
        self.transforms = names
        self.noisy = flag("noisy", noisy)

    def check(self, problem: Problem) -> None:
        """Raise `ValueError` where a transformation does not fit the objects."""
        check_transforms(self.transforms, problem.operator.domain)

    def __call__(self, run: Pass) -> Tensor:
        """The difference of each slice, in the unit of χ²."""
        problem, operator = run.problem, run.problem.operator
        turned = transformed(run.estimate, self.transforms, run.generators)
        clean = operator(turned)
        data = clean + offset(problem.noise, clean)
        known = level_known(problem)
        if self.noisy and known:
            data = data + drawn(problem, clean, run.generators)
        error = squared_norm(run.reconstruct(data) - turned, operator.domain.ndim)
        with torch.no_grad():
            # Of the object as it was seen: turned, it may be out of sight.
            sight = torch.where(counting(problem), operator(run.estimate), 0)
            seen = squared_norm(sight, operator.range.ndim)
            power = squared_norm(run.estimate, operator.domain.ndim).clamp_min(1e-30)
            level = _level(problem, known)
        return error * seen / power / level


def _level(problem: Problem, known: bool) -> Tensor:
    """``σ² m`` of each slice: the power of its noise; that of unit noise where it is unknown."""
    if known:
        spread = variance(problem, clean_of(problem.noise, problem.data))
    else:
        spread = counting(problem).to(problem.data.real.dtype)
    parts = 2 if problem.data.is_complex() else 1
    return parts * spread.flatten(-problem.operator.range.ndim).sum(-1)
