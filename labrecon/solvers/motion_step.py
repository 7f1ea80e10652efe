"""Gauss–Newton in the motion of each frame: the step of Lucas and Kanade (1981)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from labrecon.operators.burst import Burst
from labrecon.problem import Problem

__all__ = ["NormalEquations", "masked", "motion_step", "normal_equations"]

#: Longest change of a number in one step, in pixels: gradients tell nothing of what is farther.
LONGEST = 1.0


class NormalEquations(NamedTuple):
    """``JᴴWJ (*batch, frame, number, number)`` and ``JᴴW r (*batch, frame, number)``."""

    matrix: Tensor
    gradient: Tensor


def masked(operator: Burst, weights: Tensor | None, *motions: Tensor) -> Tensor:
    """``weights``, and 0 where a pixel sees beyond the border at any of the motions."""
    total = operator.inside(motions[0])
    for motion in motions[1:]:
        total = total * operator.inside(motion)
    return total if weights is None else total * weights


def normal_equations(
    operator: Burst, problem: Problem, x: Tensor, motion: Tensor, weights: Tensor
) -> NormalEquations:
    """The quadratic model of the data term in the motion of each frame, for an image ``x``.

    Args:
        operator: of the burst.
        problem: its data and noise.
        x: the image.
        motion: ``(*batch, frame, number)``.
        weights: of the samples, 0 at borders.
    """
    predicted = operator(x, motion=motion)
    noise, axes = problem.noise, operator.range.ndim - 1
    columns = operator.jacobian(x, motion).flatten(-axes)
    counted = weights > 0
    score = torch.where(counted, weights * noise.score(predicted, problem.data), 0.0)
    certainty = torch.where(counted, weights / noise.variance(predicted), 0.0)
    rows = columns.conj() * certainty.flatten(-axes).unsqueeze(-2)
    matrix = (rows @ columns.mT).real
    gradient = (columns.conj() @ score.flatten(-axes).unsqueeze(-1)).real.squeeze(-1)
    return NormalEquations(matrix, gradient)


def motion_step(
    operator: Burst,
    problem: Problem,
    x: Tensor,
    motion: Tensor,
    weights: Tensor | None,
    damping: float,
) -> Tensor:
    """``p_k ← p_k − (JᴴWJ)⁻¹ JᴴW r_k`` for each frame where it lowers the data term.

    Both losses are taken over the samples that neither of the motions hides: a frame can not gain
    by leaving the field of view. What all frames share can not be told from a shift of the image;
    it is taken from frame 0. That one is let go first, and what it moved by is then taken off all:
    held, with its part of the data, it would draw the image to its place too slowly.

    Args:
        operator: of the burst.
        problem: its data and noise.
        x: the image.
        motion: ``(*batch, frame, number)``.
        weights: of the data, or None.
        damping: added to the diagonal, as a fraction of it.
    """
    equations = normal_equations(operator, problem, x, motion, masked(operator, weights, motion))
    matrix = equations.matrix
    tiny = torch.finfo(matrix.dtype).tiny ** 0.5
    regular = torch.diag_embed(damping * matrix.diagonal(dim1=-2, dim2=-1) + tiny)
    change = torch.linalg.solve(matrix + regular, equations.gradient.unsqueeze(-1)).squeeze(-1)
    longest = change.detach().abs().amax(-1, keepdim=True)
    change = change * (LONGEST / longest.clamp_min(LONGEST))
    moved = motion - change
    with torch.no_grad():
        both = masked(operator, weights, motion, moved)
        axes = operator.range.ndim - 1
        before = problem.noise.nll(operator(x, motion=motion), problem.data, both, axes)
        after = problem.noise.nll(operator(x, motion=moved), problem.data, both, axes)
        better = (after <= before) & (both.flatten(-axes).sum(-1) > 0)
    found = torch.where(better.unsqueeze(-1), moved, motion)
    return found - (found - motion)[..., :1, :]
