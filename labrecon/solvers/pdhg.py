"""The primal-dual hybrid gradient method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.options import flag, number
from labrecon.prior import Prior, Zero, moreau
from labrecon.solver import Problem, Solver, SolverError, State, constant, pick

__all__ = ["PDHG"]


@dataclass(frozen=True)
class PDHGState(State):
    """Iterate, its extrapolation, duals of the data and of each term, and the step sizes."""

    x: Tensor
    x_bar: Tensor
    p: Tensor
    q: tuple[Tensor, ...]
    tau: Tensor | float = constant()
    sigma: Tensor | float = constant()
    sigma_terms: Tensor = constant()


class PDHG(Solver):
    """Chambolle and Pock (2011) on ``min_x Σ w · density(A x, y) + Σ h(K x)``.

    Needs only applications of ``A`` and ``K`` and the prox of the noise: no inner iteration, no
    linear solve, Poisson noise as well. One bound (``x ≥ 0``) is taken as the prox of ``x``. Not
    where ``(AᴴA + ρ)⁻¹`` is cheap (`ADMM`), nor with an unmatched adjoint.

    Args:
        prior: ``Σ h(K x)`` through `Prior.split`, or one per layer.
        ratio: balance of primal and dual steps; larger moves ``x`` further per step.
        preconditioned: diagonal steps from row and column sums (Pock and Chambolle 2011), for
            operators with non-negative entries such as CT projectors.
    """

    state_type = PDHGState
    needs_linear = True
    needs_exact_adjoint = True

    def __init__(
        self,
        *,
        prior: Prior | nn.ModuleList | None = None,
        ratio: float = 1.0,
        preconditioned: bool = False,
    ) -> None:
        super().__init__()
        self.prior: nn.Module = Zero() if prior is None else prior
        self.ratio = number("ratio", ratio, above=0, error=SolverError)
        self.preconditioned = flag("preconditioned", preconditioned, error=SolverError)

    def _terms(self, problem: Problem, k: int) -> tuple[Prior, list[Any]]:
        """The bound on ``x``, and the terms that get a dual variable, of iteration ``k``."""
        prior: Prior = pick(self.prior, k)  # type: ignore[assignment]
        terms = list(prior.layer(k).split(problem.operator.domain))
        # Steps that differ between samples need a prox that treats each sample alone.
        simple = [
            i
            for i, (k, h) in enumerate(terms)
            if k is None and (h.separable or not self.preconditioned)
        ]
        primal = terms.pop(simple[0])[1] if simple else Zero()
        return primal, terms

    def init(self, problem: Problem, x0: Tensor | None = None) -> PDHGState:
        """Zero duals; steps with ``Σ σᵢ KᵢᴴKᵢ < 1/τ``, an equal share for each term."""
        x = self.start(problem, x0)
        _, terms = self._terms(problem, 0)
        operator = problem.operator
        tau: Tensor | float
        sigma: Tensor | float
        if self.preconditioned:
            rows, columns = _sums(problem)
            # AᵀRA ≤ C for inverse row sums R and column sums C, so that the terms may be given
            # the mean of C: pixels that few rays meet do not slow them down.
            share = float(columns.detach().mean())
            tau = 0.99 * self.ratio / (columns + len(terms) * share)
            sigma = 1 / (self.ratio * rows)
        else:
            share = operator.norm()
            if share == 0:
                raise SolverError(f"{operator.name} is zero")
            tau = 0.99 * self.ratio / (share * (len(terms) + 1))
            sigma = 1 / (self.ratio * share)
        squares = [1.0 if k is None else k.norm() ** 2 for k, _ in terms]
        sigmas = torch.tensor([share / (self.ratio * n) for n in squares], dtype=torch.float64)
        q = tuple(0 * (x if k is None else k(x)) for k, _ in terms)
        return PDHGState(0, x, x, torch.zeros_like(problem.data), q, tau, sigma, sigmas)

    def step(self, problem: Problem, state: PDHGState) -> tuple[PDHGState, dict[str, float]]:
        """Dual ascent in the data and each term, primal descent, extrapolation."""
        bound, terms = self._terms(problem, state.k)
        sigma = state.sigma
        v = state.p + sigma * problem.operator(state.x_bar)
        weight = 1.0 if problem.weights is None else problem.weights
        p = v - sigma * problem.noise.prox(v / sigma, problem.data, weight / sigma)
        if problem.weights is not None:
            # A sample without weight has no say, not even on where its mean may lie.
            p = torch.where(problem.weights > 0, p, torch.zeros_like(p))
        gradient = problem.operator.adjoint(p)
        q = []
        for (k, h), dual, s in zip(terms, state.q, state.sigma_terms.tolist(), strict=True):
            moved = dual + s * (state.x_bar if k is None else k(state.x_bar))
            q.append(moreau(h, moved, s))
            gradient = gradient + (q[-1] if k is None else k.adjoint(q[-1]))
        x = bound.prox(state.x - state.tau * gradient, state.tau)
        return state.replace(k=state.k + 1, x=x, x_bar=2 * x - state.x, p=p, q=tuple(q)), {}


def _sums(problem: Problem) -> tuple[Tensor, Tensor]:
    """Row and column sums of the operator, those that are 0 replaced by the largest."""
    operator, data = problem.operator, problem.data
    if operator.domain.dtype.is_complex or operator.range.dtype.is_complex:
        raise SolverError("preconditioned steps need a real operator with non-negative entries")
    rows = operator(torch.ones_like(operator.domain.zeros(device=data.device)))
    columns = operator.adjoint(torch.ones_like(operator.range.zeros(device=data.device)))
    # Sums far below the others are 0 up to rounding.
    low, thin = 1e-6 * rows.max(), 1e-6 * columns.max()
    if bool((rows < -low).any()) or bool((columns < -thin).any()) or not bool(rows.max() > 0):
        raise SolverError(
            f"preconditioned steps need non-negative entries; {operator.name} has sums below 0"
        )
    rows = torch.where(rows > low, rows, rows.max())
    return rows, torch.where(columns > thin, columns, columns.max())
