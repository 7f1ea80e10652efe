"""Perturb and optimise: independent samples of a Gaussian posterior, each from one linear solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labrecon.krylov import cg_start, cg_step
from labrecon.options import number, whole
from labrecon.prior import ImplicitPriorError, Prior
from labrecon.priors.tikhonov import Tikhonov
from labrecon.problem import Problem, SolverError
from labrecon.solver import Solver, constant
from labrecon.solvers.chains import ChainState, iteration_generator, standard_normal
from labrecon.solvers.prior_score import ExactPull
from labrecon.solvers.quadratic import data_weights
from labrecon.space import squared_norm

__all__ = ["PerturbOptimise"]


@dataclass(frozen=True)
class _Posterior(ChainState):
    """Samples, and the mean of the posterior, which is known without them.

    Attributes:
        centre: the mean ``(*batch, *object)``.
    """

    centre: Tensor = constant()


class PerturbOptimise(Solver):
    """Samples ``x ~ exp(−½‖A x − y‖²_W − g(x))`` with ``g(x) = ½ λ ‖K x‖²``, all independent.

    With ``H = AᴴWA + λKᴴK`` a sample is ``x̄ + H⁻¹ (AᴴW^½ n₁ + λ^½Kᴴ n₂)``, white noise ``n``: the
    right-hand side has the covariance ``H``, so that the sample has ``H⁻¹``, and ``x̄ = H⁻¹AᴴWy`` is
    the mean (Papandreou and Yuille 2010; Orieux, Féron and Giovannelli 2012). Exact up to the
    accuracy of the conjugate gradients, however badly conditioned ``H`` is: nothing has to be
    forgotten, as in `Langevin`, and a few dozen samples do. Gaussian noise, a linear operator and
    `Tikhonov` only. The estimate is ``x̄`` itself.

    Args:
        prior: `Tikhonov`.
        chains: samples that are drawn at once, in each iteration.
        tolerance: of the residual, relative to the right-hand side of a draw.
        inner: conjugate-gradient iterations of a draw, at most.
        seed: of the noise.
    """

    state_type = _Posterior
    random = True
    needs_linear = True
    needs_exact_adjoint = True

    def __init__(
        self,
        *,
        prior: Prior | None = None,
        chains: int = 2,
        tolerance: float = 1e-4,
        inner: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(prior, Tikhonov):
            raise SolverError(
                f"{self.name} needs the prior 'tikhonov', with which the posterior is Gaussian; "
                "for others take 'langevin'"
            )
        self.prior: Tikhonov = prior
        self.chains = whole("chains", chains, error=SolverError)
        self.tolerance = number("tolerance", tolerance, above=0, below=1, error=SolverError)
        self.inner = whole("inner", inner, error=SolverError)
        self.seed = whole("seed", seed, at_least=0, error=SolverError)

    def init(self, problem: Problem, x0: Tensor | None = None) -> _Posterior:
        """The mean, from ``x0`` (zeros without one)."""
        weights, _ = self._weights(problem)
        rhs = problem.operator.adjoint(problem.data if weights is None else weights * problem.data)
        # More accurate than a draw, whose right-hand side is noise alone.
        centre = self._solve(problem, rhs, self.start(problem, x0), 0.01 * self.tolerance)
        x = centre.expand(self.chains, *centre.shape).clone()
        empty, ndim = torch.zeros_like(x), problem.operator.domain.ndim
        taken = torch.zeros(x.shape[: x.ndim - ndim], dtype=x.real.dtype, device=x.device)
        return _Posterior(0, x, empty, empty.real.clone(), taken, 0, 0.0, 0.0, centre)

    def step(self, problem: Problem, state: _Posterior) -> tuple[_Posterior, dict[str, Any]]:
        """One sample of each chain."""
        weights, scale = self._weights(problem)
        data = problem.data.expand(self.chains, *problem.data.shape)
        n = standard_normal(data, iteration_generator(self.seed, state.k, "data", data.device))
        rhs = problem.operator.adjoint(n if weights is None else weights.sqrt() * n)
        rhs = rhs + self._prior_noise(state, scale)
        x = state.centre + scale**-0.5 * self._solve(problem, rhs, None, self.tolerance)
        state = state.replace(k=state.k + 1, x=x, accepted=state.accepted + 1)
        return state.keep(), {}

    def estimate(self, state: _Posterior) -> Tensor:
        """The mean of the posterior."""
        return state.centre

    def penalty(self, x: Tensor, ndim: int) -> Tensor:
        """Of no use here: samples minimise nothing."""
        raise ImplicitPriorError(f"{self.name} has no objective: samples minimise none")

    def _weights(self, problem: Problem) -> tuple[Tensor | None, float]:
        """``W / s`` (None where all are equal) and its largest value ``s``.

        What is solved is ``H / s``, whose numbers are those of the operator.
        """
        weights = data_weights(problem, self.name)
        if weights is None:
            return None, 1.0
        scale = float(weights.max())
        return (None if weights.ndim == 0 else weights / scale), scale

    def _prior_noise(self, state: _Posterior, scale: float) -> Tensor:
        """``(λ/s)^½ Kᴴ n``."""
        operator = self.prior.operator
        shape = state.x if operator is None else operator(torch.zeros_like(state.x))
        n = standard_normal(shape, iteration_generator(self.seed, state.k, "prior", shape.device))
        n = (torch.as_tensor(self.prior.weight, device=n.device) / scale).sqrt().to(n.real) * n
        return n if operator is None else operator.adjoint(n)

    def _solve(self, problem: Problem, rhs: Tensor, x0: Tensor | None, tolerance: float) -> Tensor:
        """``(H/s)⁻¹ rhs``."""
        weights, scale = self._weights(problem)
        pull, ndim = ExactPull(self.prior), problem.operator.domain.ndim

        def apply(u: Tensor) -> Tensor:
            return problem.operator.normal(u, weights) + pull(u, ndim) / scale

        # Squares of large numbers overflow in single precision, those of small ones vanish.
        size = rhs.abs().max().clamp_min(torch.finfo(rhs.dtype).tiny)
        rhs = rhs / size
        state = cg_start(apply, rhs, None if x0 is None else x0 / size, ndim)
        square = squared_norm(rhs, ndim)
        for _ in range(self.inner):
            if bool((state.rr <= tolerance**2 * square).all()):
                return state.x * size
            state = cg_step(apply, state, ndim)
        share = float((state.rr / square).nan_to_num().max().sqrt())
        raise SolverError(
            f"{self.name}: after {self.inner} conjugate-gradient iterations the residual is "
            f"{share:.2g} of the right-hand side, not {tolerance:.2g}: the samples would not be "
            "those of the posterior. Raise inner, or the weight of the prior"
        )
