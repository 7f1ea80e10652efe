"""Maximum-likelihood expectation maximisation for Poisson data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.noise import PoissonGaussian
from labrecon.solver import Problem, Solver, SolverError, State, constant
from labrecon.space import per_element

__all__ = ["MLEM"]


@dataclass(frozen=True)
class MLEMState(State):
    """Iterate and sensitivity ``Aᵀ w``."""

    x: Tensor
    sensitivity: Tensor = constant()


class MLEM(Solver):
    """``x ← x / (Aᵀw) · Aᵀ(w y / (A x + b))`` (Shepp and Vardi 1982; Richardson and Lucy).

    Keeps ``x ≥ 0``, raises the Poisson likelihood in each step and needs no step size. Slow. Not
    to the end on noisy data, which it turns to speckle. With electronic noise it works on the
    shifted counts.
    """

    state_type = MLEMState
    needs_linear = True

    def check(self, problem: Problem) -> None:
        """Raise `SolverError` unless the operator is linear and the noise Poisson."""
        super().check(problem)
        if not isinstance(problem.noise, PoissonGaussian):
            raise SolverError(
                f"MLEM maximises the Poisson likelihood; the noise is "
                f"{type(problem.noise).__name__}"
            )

    def init(self, problem: Problem, x0: Tensor | None = None) -> MLEMState:
        """A positive constant image that predicts the total of each element, or ``x0``."""
        ones = torch.ones_like(problem.data)
        sensitivity = problem.operator.adjoint(problem.weighted(ones))
        floor = _floor(sensitivity, problem.operator.domain.ndim)
        if bool((sensitivity < -floor).any()):
            raise SolverError("MLEM needs an operator with non-negative entries")
        if x0 is None:
            noise, operator = problem.noise, problem.operator
            assert isinstance(noise, PoissonGaussian)
            axes = tuple(range(-operator.range.ndim, 0))
            empty, counts = noise.shifted(torch.zeros_like(problem.data), problem.data)
            total = problem.weighted(counts).sum(axes)
            excess = problem.weighted(counts - empty).sum(axes)
            expected = problem.weighted(operator(torch.ones_like(sensitivity))).sum(axes)
            # Some light at least: a sample at 0 stays there for ever.
            level = torch.maximum(excess, 1e-3 * total).clamp_min(1e-6) / expected
            x = per_element(level, operator.domain.ndim) * torch.ones_like(sensitivity)
        else:
            x = self.start(problem, x0)
            if not bool((x >= 0).all()):
                raise SolverError("MLEM needs x0 ≥ 0; a sample that starts at 0 stays there")
        return MLEMState(0, x, sensitivity)

    def step(self, problem: Problem, state: MLEMState) -> tuple[MLEMState, dict[str, float]]:
        """One multiplicative update."""
        noise = problem.noise
        assert isinstance(noise, PoissonGaussian)
        mean, counts = noise.shifted(problem.operator(state.x), problem.data)
        seen = mean > 0
        ratio = torch.where(seen, counts / torch.where(seen, mean, 1.0), 0.0)
        usable = state.sensitivity > _floor(state.sensitivity, problem.operator.domain.ndim)
        gain = problem.operator.adjoint(problem.weighted(ratio)) / torch.where(
            usable, state.sensitivity, 1.0
        )
        return state.replace(k=state.k + 1, x=torch.where(usable, state.x * gain, 0.0)), {}


def _floor(sensitivity: Tensor, ndim: int) -> Tensor:
    """What an FFT leaves of 0, for each element."""
    return 1e-6 * sensitivity.amax(tuple(range(-ndim, 0)), keepdim=True)
