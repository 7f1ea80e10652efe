"""The simultaneous iterative reconstruction technique."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.options import flag, number
from labrecon.solver import Problem, Solver, SolverError, State, constant

__all__ = ["SIRT"]


@dataclass(frozen=True)
class SIRTState(State):
    """Iterate, and the inverse row and column sums."""

    x: Tensor
    rows: Tensor = constant()
    columns: Tensor = constant()


class SIRT(Solver):
    """``x ← x + λ C Aᵀ R W (y − A x)`` with inverse row sums ``R`` and column sums ``C``.

    Robust, tolerates an unmatched back-projection, regularises by stopping early (Gilbert 1972;
    Gregor and Benson 2008). Not for operators with negative entries, nor when time matters: `CG`
    needs far fewer iterations.

    Args:
        relaxation: ``λ`` in (0, 2).
        nonneg: clamp ``x`` at 0 in each step.
    """

    state_type = SIRTState
    needs_linear = True

    def __init__(self, *, relaxation: float = 1.0, nonneg: bool = False) -> None:
        super().__init__()
        self.relaxation = number("relaxation", relaxation, above=0, below=2, error=SolverError)
        self.nonneg = flag("nonneg", nonneg, error=SolverError)

    def init(self, problem: Problem, x0: Tensor | None = None) -> SIRTState:
        """The inverse sums, 0 where a row or column is empty."""
        x = self.start(problem, x0)
        operator = problem.operator
        rows = operator(torch.ones_like(operator.domain.zeros(device=x.device)))
        ones = torch.ones_like(operator.range.zeros(*problem.batch, device=x.device))
        columns = operator.adjoint(problem.weighted(ones))
        return SIRTState(
            0, x, _inverse(rows, operator.range.ndim), _inverse(columns, operator.domain.ndim)
        )

    def step(self, problem: Problem, state: SIRTState) -> tuple[SIRTState, dict[str, float]]:
        """One simultaneous correction."""
        residual = problem.weighted(problem.data - problem.operator(state.x))
        update = state.columns * problem.operator.adjoint(state.rows * residual)
        x = state.x + self.relaxation * update
        return state.replace(k=state.k + 1, x=x.clamp_min(0) if self.nonneg else x), {}


def _inverse(sums: Tensor, ndim: int) -> Tensor:
    if sums.is_complex():
        raise SolverError("SIRT needs an operator with non-negative entries")
    # A sum far below the others belongs to a row that misses the object: it would blow up.
    floor = 1e-6 * sums.amax(tuple(range(-ndim, 0)), keepdim=True)
    if bool((sums < -floor).any()):
        raise SolverError("SIRT needs an operator with non-negative entries")
    usable = sums > floor
    return torch.where(usable, 1 / torch.where(usable, sums, 1.0), 0.0)
