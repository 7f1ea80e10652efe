"""Deep ADMM-Net: ADMM on learned filters, with learned shrinkage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.networks.data_step import data_step
from labrecon.networks.unrolled import Unrolled
from labrecon.options import number, whole
from labrecon.priors.filter_bank import FilterBank
from labrecon.priors.piecewise_linear import PiecewiseLinear
from labrecon.problem import Problem, SolverError
from labrecon.solver import Solver, State
from labrecon.solvers.quadratic import data_weights

__all__ = ["FilterADMM", "make_admm_net"]


@dataclass(frozen=True)
class FilterState(State):
    """Image; split filter responses and scaled multipliers ``(*lead, filters, *image)``."""

    x: Tensor
    z: Tensor
    u: Tensor


class FilterADMM(Solver):
    """One stage of Deep ADMM-Net (Yang, Sun, Li and Xu 2016), eqs. 5 to 9.

    ``c_l = D_l ∗ x``, ``z_l = S_l(c_l + u_l)``, ``u_l ← u_l + η_l (c_l − z_l)``,
    ``x ← (AᴴWA + Σ |ρ_l| H_lᴴH_l)⁻¹ (AᴴWy + Σ ρ_l H_lᴴ(z_l − u_l))``.

    A stage ends with the image and the first image comes before it, so that every parameter acts
    on the result: ``coupling`` and ``rho`` have one layer more than the rest. With ``H = D`` and
    soft thresholding it is ADMM on ``Σ λ‖D_l ∗ x‖₁``. The learned ``ρ`` and ``η`` may have any
    sign, as published; the modulus in the inverse is that of the authors' code.

    Args:
        analysis: ``D``, one per layer.
        shrink: ``S``, one per layer.
        coupling: ``H``, one per layer and one before.
        rho: ``ρ (layers + 1, filters)``.
        dual_step: ``η (layers, filters)``.
        inner: conjugate-gradient steps at most, where the data step has no closed form.

    Raises:
        SolverError: the numbers of layers or filters do not agree.
    """

    state_type = FilterState
    needs_linear = True
    needs_exact_adjoint = True

    def __init__(
        self,
        analysis: list[FilterBank],
        shrink: list[PiecewiseLinear],
        coupling: list[FilterBank],
        rho: Tensor,
        dual_step: Tensor,
        *,
        inner: int = 50,
    ) -> None:
        super().__init__()
        depth = len(analysis)
        counts = (len(shrink), len(coupling) - 1, len(rho) - 1, len(dual_step))
        if depth < 1 or any(count != depth for count in counts):
            raise SolverError(
                f"Deep ADMM-Net: {depth} analysis layers need as many of shrinkage and dual steps, "
                f"and one more of coupling filters and rho; got {counts} besides that one"
            )
        self.analysis = nn.ModuleList(analysis)
        self.shrink = nn.ModuleList(shrink)
        self.coupling = nn.ModuleList(coupling)
        self.rho = nn.Parameter(rho)
        self.dual_step = nn.Parameter(dual_step)
        self.inner = whole("inner", inner, error=SolverError)
        self.axes = analysis[0].axes

    def init(self, problem: Problem, x0: Tensor | None = None) -> FilterState:
        """``x0``, or the data step with all else zero."""
        data_weights(problem, self.name)
        x = self.start(problem, x0)
        zero = 0 * self._at(self.analysis, 0)(x)
        if x0 is None:
            x = self._image(problem, 0, zero, None)
        return FilterState(0, x, zero, zero)

    def step(self, problem: Problem, state: FilterState) -> tuple[FilterState, dict[str, Any]]:
        """Filter responses, shrinkage, multipliers, image."""
        k = state.k
        c = self._at(self.analysis, k)(state.x)
        z = self._at(self.shrink, k)(c + state.u, self.axes)
        u = state.u + self._per_filter(self.dual_step, k) * (c - z)
        x = self._image(problem, k + 1, z - u, state.x)
        return FilterState(k + 1, x, z, u), {}

    def _image(self, problem: Problem, k: int, copies: Tensor, x: Tensor | None) -> Tensor:
        filters: FilterBank = self._at(self.coupling, k)
        rho = self.rho[min(k, len(self.rho) - 1)].abs()
        pull = filters.adjoint(self._per_filter(self.rho, k) * copies)
        return data_step(
            problem, pull, rho, filters=filters, x0=x, iterations=self.inner, solver=self.name
        )

    def _at(self, layers: nn.ModuleList, k: int) -> Any:
        return layers[min(k, len(layers) - 1)]

    def _per_filter(self, numbers: Tensor, k: int) -> Tensor:
        return numbers[min(k, len(numbers) - 1)].reshape(-1, *[1] * self.axes)


def make_admm_net(
    problem: Problem,
    *,
    depth: int = 7,
    size: int = 3,
    threshold: float = 0.05,
    rho: float = 0.2,
    dual_step: float = 1.6,
    scale: float = 1.0,
    seed: int = 0,
    inner: int = 50,
) -> Unrolled:
    """Deep ADMM-Net for problems like this one; untrained, it is ADMM with soft thresholding.

    Filters act along the last two axes (the last of a one-dimensional object).

    Args:
        problem: an example; its operator tells what objects there are and the size of ``A``.
        depth: stages.
        size: taps of a filter along each axis: ``size² − 1`` filters.
        threshold: of the shrinkage before training, for objects of size one.
        rho: penalty before training, for ``‖A‖ = 1``.
        dual_step: step of the multipliers before training.
        scale: typical size of object values.
        seed: not used: nothing is drawn at random.
        inner: conjugate-gradient steps at most, where the data step has no closed form.

    Raises:
        SolverError: the operator is not linear, or a number is out of range.
        PriorError: a filter size is even.
    """
    depth = whole("Deep ADMM-Net: depth", depth, error=SolverError)
    rho = number("Deep ADMM-Net: rho", rho, above=0, error=SolverError)
    dual_step = number("Deep ADMM-Net: dual_step", dual_step, error=SolverError)
    domain = problem.operator.domain
    axes = min(2, domain.ndim)
    rho = rho * float(torch.as_tensor(problem.lipschitz()).max())
    banks = [FilterBank(axes, size) for _ in range(2 * depth + 1)]
    filters = len(banks[0].atoms)
    solver = FilterADMM(
        banks[:depth],
        [PiecewiseLinear(filters, threshold=threshold, scale=scale) for _ in range(depth)],
        banks[depth:],
        torch.full((depth + 1, filters), rho),
        torch.full((depth, filters), dual_step),
        inner=inner,
    )
    solver.check(problem)
    return Unrolled(solver, depth).to(domain.real_dtype)
