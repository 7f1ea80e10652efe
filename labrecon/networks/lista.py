"""LISTA: sparse coding by a few learned iterations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.networks.unrolled import Unrolled
from labrecon.operators.matrix import Matrix
from labrecon.options import number, whole
from labrecon.prior import soft_threshold
from labrecon.problem import Problem, SolverError
from labrecon.solver import Solver, State

__all__ = ["LearnedLinearISTA", "make_lista", "require_matrix"]


def require_matrix(problem: Problem, method: str) -> Tensor:
    """The entries of a problem's `Matrix` operator.

    Raises:
        SolverError: the operator is another.
    """
    operator = problem.operator
    if not isinstance(operator, Matrix) or operator.matrix.ndim != 2:
        raise SolverError(
            f"{method} learns a matrix of the size of the operator's, so it takes a Matrix of "
            f"shape (m, n), got {operator.name}; for other operators take ista-net or pbnet"
        )
    return operator.matrix.detach()


@dataclass(frozen=True)
class CodeState(State):
    """The code."""

    x: Tensor


class LearnedLinearISTA(Solver):
    """``Z ← h_θ(Wₑ y + S Z)`` with learned matrices (Gregor and LeCun 2010), eq. 3.

    The first estimate is ``h_θ(Wₑ y)``. ``Wₑ = Aᴴ/L``, ``S = I − AᴴA/L`` and ``θ = λ/L`` make it
    `labrecon.solvers.ISTA` with an `labrecon.priors.L1` prior of weight ``λ`` and one iteration
    more. It is tied to the matrix it was trained for: the operator of the problem is not used.

    Args:
        encoder: ``Wₑ (n, m)``.
        feedback: ``S (n, n)``.
        threshold: ``θ (n)``, of any sign.

    Raises:
        SolverError: the shapes do not agree.
    """

    state_type = CodeState

    def __init__(self, encoder: Tensor, feedback: Tensor, threshold: Tensor) -> None:
        super().__init__()
        n = len(encoder)
        if encoder.ndim != 2 or feedback.shape != (n, n) or threshold.shape != (n,):
            raise SolverError(
                "LISTA needs We (n, m), S (n, n) and theta (n), got shapes "
                f"{tuple(encoder.shape)}, {tuple(feedback.shape)} and {tuple(threshold.shape)}"
            )
        self.encoder = nn.Parameter(encoder)
        self.feedback = nn.Parameter(feedback)
        self.threshold = nn.Parameter(threshold)

    def check(self, problem: Problem) -> None:
        """Raise `SolverError` at weights, or where the operator has other sizes than ``Wₑ``."""
        operator = problem.operator
        if problem.weights is not None:
            raise SolverError(
                "LISTA has learned to treat all samples alike: give no weights, or take ista-net"
            )
        n, m = self.encoder.shape
        if (operator.range.size, operator.domain.size) != (m, n):
            raise SolverError(
                f"this LISTA was made for a {m}×{n} matrix; {operator.name} maps "
                f"{operator.domain.size} samples to {operator.range.size}"
            )

    def init(self, problem: Problem, x0: Tensor | None = None) -> CodeState:
        """``x0``, or ``h_θ(Wₑ y)``."""
        if x0 is None:
            return CodeState(0, self._shrunk(problem, self._encoded(problem)))
        return CodeState(0, self.start(problem, x0))

    def step(self, problem: Problem, state: CodeState) -> tuple[CodeState, dict[str, Any]]:
        """One application of ``S``."""
        flat = state.x.flatten(state.x.ndim - problem.operator.domain.ndim)
        update = self._encoded(problem) + flat @ self.feedback.mT
        return CodeState(state.k + 1, self._shrunk(problem, update)), {}

    def _encoded(self, problem: Problem) -> Tensor:
        y = problem.data
        return y.flatten(y.ndim - problem.operator.range.ndim) @ self.encoder.mT

    def _shrunk(self, problem: Problem, flat: Tensor) -> Tensor:
        shape = (*problem.batch, *problem.operator.domain.shape)
        return soft_threshold(flat, self.threshold).reshape(shape)


def make_lista(
    problem: Problem, *, depth: int = 3, weight: float = 0.1, scale: float = 1.0, seed: int = 0
) -> Unrolled:
    """LISTA for the `Matrix` of this problem; untrained, it is ISTA with one iteration more.

    Train it on codes: what a converged solver makes of the data, not what fits the data best.

    Args:
        problem: an example, whose operator is a `Matrix`.
        depth: applications of ``S``.
        weight: of the ℓ₁ norm that the codes are sparse in, for codes of size one.
        scale: typical size of codes.
        seed: not used: nothing is drawn at random.

    Raises:
        SolverError: the operator is no `Matrix`, or a number is out of range.
    """
    depth = whole("LISTA: depth", depth, error=SolverError)
    weight = number("LISTA: weight", weight, at_least=0, error=SolverError)
    scale = number("LISTA: scale", scale, above=0, error=SolverError)
    matrix = require_matrix(problem, "LISTA")
    bound = float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    solver = LearnedLinearISTA(
        matrix.mH / bound,
        identity - matrix.mH @ matrix / bound,
        torch.full((matrix.shape[1],), weight * scale / bound, dtype=matrix.real.dtype),
    )
    return Unrolled(solver, depth)
