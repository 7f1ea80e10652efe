"""Proximal gradient methods: ISTA and FISTA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.noise import NoiseError
from labrecon.operator import LinearityError
from labrecon.options import flag
from labrecon.prior import NotInvertibleError, Prior, Zero
from labrecon.solver import Problem, Schedule, Solver, SolverError, State, constant, pick
from labrecon.solvers.gradient import initial_step, moved, optional_step, step_at, undone
from labrecon.space import inner, per_element, squared_norm

__all__ = ["FISTA", "ISTA"]


@dataclass(frozen=True)
class ProximalState(State):
    """Iterate, extrapolated point, Nesterov's ``t`` (per element with restart), step size."""

    x: Tensor
    v: Tensor
    t: Tensor | float = constant()
    step_size: Tensor | float = constant()


class ISTA(Solver):
    """``x ← prox_{τ g}(x − τ ∇D(x))``: proximal gradient (Daubechies, Defrise and De Mol 2004).

    The objective falls in each step, as ``1/k``. Not the one to wait for: `FISTA` is faster and
    costs the same. It serves where monotony matters and as the layer of unrolled networks.

    Args:
        prior: ``g``, or one per layer.
        step_size: ``τ``: a number, a `Schedule`, or None for ``1 / L`` (linear operators).
        backtracking: start from the step size and halve it until the quadratic bound holds; for
            nonlinear operators or noise of unbounded curvature.
        back: takes the place of ``Aᴴ`` in the gradient (learned or analytic weights), or one per
            layer.
    """

    state_type = ProximalState
    momentum = False

    def __init__(
        self,
        *,
        prior: Prior | nn.ModuleList | None = None,
        step_size: float | Schedule | None = None,
        backtracking: bool = False,
        back: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.back = back
        self.prior: Prior | nn.ModuleList = Zero() if prior is None else prior
        self.step_size = optional_step(step_size)
        self.backtracking = flag("backtracking", backtracking, error=SolverError)
        self.restart = False
        # Not in the class: a module set on an instance does not hide an attribute of its class.
        self.extrapolation: Schedule | None = None
        if backtracking and isinstance(step_size, Schedule):
            raise SolverError("backtracking chooses the step size: give a number, not a schedule")
        if backtracking and back is not None:
            raise SolverError("backtracking needs the gradient itself: give no back-projection")

    def init(self, problem: Problem, x0: Tensor | None = None) -> ProximalState:
        """Zeros or ``x0``; the step size is found here, once."""
        x = self.start(problem, x0)
        t: Tensor | float = 1.0
        if self.restart:
            t = torch.ones(problem.batch, dtype=x.real.dtype, device=x.device)
        try:
            tau = initial_step(self.step_size, problem)
        except (LinearityError, NoiseError):
            if not self.backtracking:
                raise
            tau = _probe(problem, x)
        if self.backtracking:
            # One for the batch, searched down from the largest.
            tau = float(torch.as_tensor(tau).max())
        return ProximalState(0, x, x, t, tau)

    def step(self, problem: Problem, state: ProximalState) -> tuple[ProximalState, dict[str, Any]]:
        """One proximal gradient step from the extrapolated point."""
        prior = pick(self.prior, state.k).layer(state.k)
        told: dict[str, Any]
        if self.backtracking:
            x, tau = self._search(problem, state, prior)
            told = {"step_size": tau}
            state = state.replace(step_size=tau)
        else:
            step = step_at(self.step_size, state.k, state.step_size)
            back = None if self.back is None else pick(self.back, state.k)
            x = moved(state.v, problem.gradient(state.v, back), -step)
            x, told = prior.prox_and_losses(x, step)
        if not self.momentum:
            return state.replace(k=state.k + 1, x=x, v=x), told
        return self._extrapolate(problem, state, x), told

    def inverse(self, problem: Problem, state: ProximalState) -> ProximalState:
        """The prox undone by the prior, the gradient step by fixed-point iteration.

        It needs ``τ ‖∇²D‖ < 1``, a prior with an inverse, and with momentum ``βₖ ≠ 0``.
        """
        if self.backtracking or self.restart:
            chosen = "backtracking" if self.backtracking else "restart"
            raise NotInvertibleError(f"{self.name} with {chosen} has no inverse step")
        k = state.k - 1
        prior = pick(self.prior, k).layer(k)
        step = step_at(self.step_size, k, state.step_size)
        back = None if self.back is None else pick(self.back, k)
        v = undone(problem, prior.inverse(state.x, step), step, back)
        if not self.momentum or k == 0:
            return state.replace(k=k, x=v, v=v, t=1.0)
        if self.extrapolation is not None:
            t: Tensor | float = 1.0
            factor: Tensor | float = self.extrapolation(k)
        else:
            t_next = float(state.t)
            t = (t_next * (t_next - 1)) ** 0.5
            factor = (t - 1) / t_next
        if not factor:
            raise NotInvertibleError(f"{self.name}: without momentum in layer {k}, x is forgotten")
        return state.replace(k=k, x=state.x - (state.v - state.x) / factor, v=v, t=t)

    def settled(self, problem: Problem, state: ProximalState) -> ProximalState:
        """The state, and with backtracking the step size, after ten steps that did not change it.

        It holds near the solution too, where a search compares losses that differ by rounding.
        """
        since = 0
        while self.backtracking and since < 10:
            following, _ = self.step(problem, state)
            since = since + 1 if following.step_size == state.step_size else 0
            state = following.replace(k=0, t=state.t)
        return state

    def stationary(
        self, problem: Problem, state: ProximalState
    ) -> tuple[ProximalState, dict[str, Any]]:
        """The step; with backtracking that of the state's step size, without a search."""
        if not self.backtracking:
            return super().stationary(problem, state)  # type: ignore[return-value]
        x = moved(state.v, problem.gradient(state.v), -state.step_size)
        prior = pick(self.prior, state.k).layer(state.k)
        x, told = prior.prox_and_losses(x, state.step_size)
        return state.replace(x=x, v=x), told

    def _search(self, problem: Problem, state: ProximalState, prior: Prior) -> tuple[Tensor, float]:
        loss, g = problem.loss_and_gradient(state.v)
        ndim = problem.operator.domain.ndim
        slack = 8 * torch.finfo(loss.dtype).eps * loss.abs()
        tau = float(state.step_size)
        for _ in range(60):
            x = prior.prox(moved(state.v, g, -tau), tau)
            d = x - state.v
            bound = loss + inner(g, d, ndim).real + squared_norm(d, ndim) / (2 * tau) + slack
            if bool((problem.loss(x) <= bound).all()):
                return x, tau
            tau /= 2
        raise SolverError(
            f"{self.name}: no step size satisfies the quadratic bound (down to {tau:.2g}); is "
            "the data term finite at the first estimate?"
        )

    def _extrapolate(self, problem: Problem, state: ProximalState, x: Tensor) -> ProximalState:
        """Nesterov's momentum, dropped for an element whose last step went uphill."""
        if self.extrapolation is not None:
            v = moved(x, x - state.x, self.extrapolation(state.k))
            return state.replace(k=state.k + 1, x=x, v=v)
        t = state.t
        ndim = problem.operator.domain.ndim
        if isinstance(t, Tensor):
            uphill = inner(state.v - x, x - state.x, ndim).real > 0
            t = torch.where(uphill, torch.ones_like(t), t)
            t_next: Tensor | float = (1 + (1 + 4 * t * t).sqrt()) / 2
            factor: Tensor | float = per_element((t - 1) / t_next, ndim)
        else:
            t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
            factor = (t - 1) / t_next
        v = moved(x, x - state.x, factor)
        return ProximalState(state.k + 1, x, v, t_next, state.step_size)


class FISTA(ISTA):
    """Proximal gradient with Nesterov's momentum: ``1/k²`` (Beck and Teboulle 2009).

    The default for convex problems whose prior has a cheap prox. The objective is not monotone;
    ``restart`` mends that and is faster on well-conditioned problems.

    Args:
        prior: ``g``, or one per layer.
        step_size: ``τ``: a number, a `Schedule`, or None for ``1 / L`` (linear operators).
        backtracking: as for `ISTA`.
        restart: drop the momentum of a batch element whose step points uphill (O'Donoghue and
            Candès 2015, gradient scheme).
        back: as for `ISTA`.
        extrapolation: ``βₖ`` in ``v ← x + βₖ (x − x₋)``: a `Schedule`, or None for Nesterov's.
    """

    momentum = True

    def __init__(
        self,
        *,
        prior: Prior | nn.ModuleList | None = None,
        step_size: float | Schedule | None = None,
        backtracking: bool = False,
        restart: bool = False,
        back: nn.Module | None = None,
        extrapolation: Schedule | None = None,
    ) -> None:
        super().__init__(prior=prior, step_size=step_size, backtracking=backtracking, back=back)
        self.restart = flag("restart", restart, error=SolverError)
        self.extrapolation = extrapolation


def _probe(problem: Problem, x: Tensor) -> float:
    """A step size too large for the curvature along the gradient at ``x``, to search down from."""
    ndim = problem.operator.domain.ndim
    with torch.no_grad():
        g = problem.gradient(x)
        length = float(squared_norm(g, ndim).sum().sqrt())
        scale = float(squared_norm(x, ndim).sum().sqrt()) or 1.0
        small = scale * torch.finfo(x.dtype).eps ** 0.5 / (length or 1.0)
        change = float(squared_norm(problem.gradient(x - small * g) - g, ndim).sum().sqrt())
    if not 0 < change < float("inf"):
        raise SolverError(
            f"the data term is flat, or not finite, at the first estimate (gradient {length:.3g}):"
            " give the solver a step_size or another x0"
        )
    return 4 * small * length / change
