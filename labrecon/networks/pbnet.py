"""pbnet: an acquisition and the solver of its reconstruction, learned jointly."""

from __future__ import annotations

import torch
from torch import nn

from labrecon.networks.unrolled import Unrolled
from labrecon.options import number, whole
from labrecon.priors.l1 import L1
from labrecon.problem import Problem, SolverError
from labrecon.schedule import Schedule
from labrecon.solvers.proximal import ISTA

__all__ = ["make_pbnet"]


def make_pbnet(
    problem: Problem,
    *,
    depth: int = 20,
    weight: float = 1.75,
    step_size: float | None = None,
    scale: float = 1.0,
    seed: int = 0,
) -> Unrolled:
    """ISTA whose step size and penalty are learned together with what the operator can change.

    The physics-based network of Kellman's tutorial "How to do physics-based learning" (2020):
    ``x ← soft(x − τ Aᴴ(A x − y), τ λ)``, shared by all layers. When the data are simulated by the
    operator that the problem holds, gradients reach its designs through the measurement and
    through every layer; `labrecon.Operator.learn` turns them on. The tutorial's gradient is that
    of ``‖A x − y‖²``, twice ours: its ``α`` and ``λ`` are ``τ / 2`` and ``2 λ`` here. Nothing is
    constrained, as published. Not for images that are not sparse themselves.

    Args:
        problem: an example, for a step size that is found from the operator.
        depth: layers.
        weight: ``λ`` before training, for objects of size one.
        step_size: ``τ`` before training (default ``1 / ‖A‖²``).
        scale: typical size of object values.
        seed: not used: nothing is drawn at random.

    Raises:
        SolverError: a number is out of range, or the operator is nonlinear and no step size given.
    """
    depth = whole("pbnet: depth", depth, error=SolverError)
    weight = number("pbnet: weight", weight, at_least=0, error=SolverError)
    scale = number("pbnet: scale", scale, above=0, error=SolverError)
    if step_size is None:
        step_size = 1 / float(torch.as_tensor(problem.lipschitz()).max())
    step_size = number("pbnet: step_size", step_size, above=0, error=SolverError)
    solver = ISTA(
        prior=L1(nn.Parameter(torch.tensor(weight * scale))),
        step_size=Schedule(step_size, constraint=None, learn=True),
    )
    return Unrolled(solver, depth).to(problem.operator.domain.real_dtype)
