"""ADMM-CSNet: ADMM with a learned residual network in place of the prox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.networks.data_step import data_step
from labrecon.networks.unrolled import Unrolled
from labrecon.options import number, whole
from labrecon.prior import Prior, PriorError
from labrecon.priors.channels import apply_network, convolution
from labrecon.priors.piecewise_linear import PiecewiseLinear
from labrecon.problem import Problem, SolverError
from labrecon.schedule import Schedule, number_at, pick
from labrecon.seeds import seeded
from labrecon.solver import Solver, State
from labrecon.solvers.quadratic import data_weights

__all__ = ["PiecewiseLinearResidual", "PriorFirstADMM", "make_admm_csnet"]


class PiecewiseLinearResidual(Prior):
    """``v − C₂ S(C₁ v)`` with convolutions ``C`` and learned piecewise linear ``S`` per channel.

    One gradient step on a learned prior, in place of a prox (Yang, Sun, Li and Xu 2020, eq. 12):
    it has no penalty, and the step is not used. Real and imaginary part of complex images go
    through the same network. Before training ``C₂ = 0``: the prior lets everything pass.

    Args:
        axes: convolved axes, the last ones.
        features: channels.
        size: taps along each axis, odd.
        scale: typical size of object values; the network sees ``v / scale``.

    Raises:
        PriorError: the number of features or the size is wrong.
    """

    def __init__(
        self, axes: int = 2, features: int = 128, size: int = 5, *, scale: float = 1.0
    ) -> None:
        super().__init__()
        what = "PiecewiseLinearResidual"
        features = whole(f"{what}: features", features, error=PriorError)
        if whole(f"{what}: size", size, error=PriorError) % 2 == 0:
            raise PriorError(f"{what}: size must be odd, got {size}")
        self.axes = axes
        self.scale = number(f"{what}: scale", scale, above=0, error=PriorError)
        self.first = convolution(axes, 1, features, size)
        self.shrink = PiecewiseLinear(features, negative="zero")
        self.second = convolution(axes, features, 1, size)
        start = {"first.weight": (2 / (size**axes * features)) ** 0.5}
        for name, value in self.named_parameters():
            if not name.startswith("shrink"):
                nn.init.normal_(value, std=start.get(name, 0.0))

    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        """``v − scale · C₂ S(C₁ v / scale)``."""
        if x.is_complex():
            return torch.complex(self.prox(x.real, step), self.prox(x.imag, step))
        channels = (x / self.scale).unsqueeze(-self.axes - 1)
        change = apply_network(self._network, channels, self.axes)
        return x - self.scale * change.squeeze(-self.axes - 1)

    def _network(self, channels: Tensor) -> Tensor:
        return self.second(self.shrink(self.first(channels), self.axes))


@dataclass(frozen=True)
class SplitState(State):
    """Image, the prior's copy of it, scaled multiplier."""

    x: Tensor
    z: Tensor
    u: Tensor


class PriorFirstADMM(Solver):
    """ADMM with ``z = x`` whose step ends with the data: ``z``, ``u``, then ``x``.

    ``z ← prior(x + u)``, ``u ← u + η (x − z)``, ``x ← (AᴴWA + ρ)⁻¹ (AᴴWy + ρ (z − u))``.

    From the same start it makes the iterates of `labrecon.solvers.ADMM`; a step is cut elsewhere,
    so that in a network every layer acts on the estimate, which is ``x``. ``rho`` has one layer
    more than the rest: the first image is found before the first step.

    Args:
        prior: one for all layers, or one each.
        rho: number or schedule.
        dual_step: ``η``, number or schedule.
        inner: conjugate-gradient steps at most, where the data step has no closed form.
    """

    state_type = SplitState
    needs_linear = True
    needs_exact_adjoint = True

    def __init__(
        self,
        *,
        prior: Prior | nn.ModuleList,
        rho: float | Schedule,
        dual_step: float | Schedule = 1.0,
        inner: int = 50,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.rho = rho
        self.dual_step = dual_step
        self.inner = whole("inner", inner, error=SolverError)

    def init(self, problem: Problem, x0: Tensor | None = None) -> SplitState:
        """``x0``, or the data step with all else zero."""
        data_weights(problem, self.name)
        x = self.start(problem, x0)
        zero = 0 * x
        if x0 is None:
            x = self._image(problem, 0, zero, None)
        return SplitState(0, x, zero, zero)

    def step(self, problem: Problem, state: SplitState) -> tuple[SplitState, dict[str, Any]]:
        """Prior, multiplier, image."""
        k = state.k
        prior: Prior = pick(self.prior, k).layer(k)
        z, told = prior.prox_and_losses(state.x + state.u, 1 / number_at(self.rho, k))
        u = state.u + number_at(self.dual_step, k) * (state.x - z)
        x = self._image(problem, k + 1, z - u, state.x)
        return SplitState(k + 1, x, z, u), told

    def _image(self, problem: Problem, k: int, copy: Tensor, x: Tensor | None) -> Tensor:
        rho = number_at(self.rho, k)
        return data_step(problem, rho * copy, rho, x0=x, iterations=self.inner, solver=self.name)


def make_admm_csnet(
    problem: Problem,
    *,
    depth: int = 10,
    features: int = 32,
    size: int = 5,
    rho: float = 0.1,
    dual_step: float = 1.0,
    scale: float = 1.0,
    seed: int = 0,
    inner: int = 50,
) -> Unrolled:
    """ADMM-CSNet (Yang, Sun, Li and Xu 2020) for problems like this one.

    Convolutions act along the last two axes (the last of a one-dimensional object). Untrained, it
    is ADMM without a prior: iterated Tikhonov regularisation.

    Args:
        problem: an example; its operator tells what objects there are and the size of ``A``.
        depth: stages, untied.
        features: channels of the prior; published are 128.
        size: taps along each axis.
        rho: penalty before training, for ``‖A‖ = 1``; it stays positive.
        dual_step: step of the multipliers before training; it may change sign, as published.
        scale: typical size of object values.
        seed: of the weights.
        inner: conjugate-gradient steps at most, where the data step has no closed form.

    Raises:
        SolverError: the operator is not linear, or a number is out of range.
        PriorError: as `PiecewiseLinearResidual`.
    """
    depth = whole("ADMM-CSNet: depth", depth, error=SolverError)
    rho = number("ADMM-CSNet: rho", rho, above=0, error=SolverError)
    dual_step = number("ADMM-CSNet: dual_step", dual_step, error=SolverError)
    domain = problem.operator.domain
    axes = min(2, domain.ndim)
    rho = rho * float(torch.as_tensor(problem.lipschitz()).max())
    with seeded(seed):
        priors = [PiecewiseLinearResidual(axes, features, size, scale=scale) for _ in range(depth)]
    solver = PriorFirstADMM(
        prior=nn.ModuleList(priors),
        rho=Schedule(rho, depth + 1, learn=True),
        dual_step=Schedule(dual_step, depth, constraint=None, learn=True),
        inner=inner,
    )
    solver.check(problem)
    return Unrolled(solver, depth).to(domain.real_dtype)
