"""The step size that gradient steps of a network start from."""

from __future__ import annotations

import torch

from labrecon.operator import LinearityError
from labrecon.problem import Problem
from labrecon.solver import SolverError

__all__ = ["safe_step"]


def safe_step(problem: Problem) -> float:
    """``1 / L``, the smallest of a batch.

    Raises:
        SolverError: the operator is nonlinear.
    """
    try:
        return 1 / float(torch.as_tensor(problem.lipschitz()).max())
    except LinearityError as error:
        raise SolverError(
            f"{problem.operator.name} is nonlinear and has no Lipschitz constant: give the network "
            "a step_size, one with which plain gradient descent converges"
        ) from error
