"""Learned steps and momentum, in cycles that are checked (Heaton et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.networks.by_name import Options, solver_by_name
from labrecon.networks.safe_step import safe_step
from labrecon.networks.unrolled import Unrolled
from labrecon.options import flag, number, whole
from labrecon.plugins import Host
from labrecon.prior import Prior, Zero
from labrecon.problem import Problem
from labrecon.schedule import Schedule
from labrecon.solver import Solver, SolverError, State, constant
from labrecon.solvers.gradient import initial_step
from labrecon.space import per_element, squared_norm

__all__ = ["LearnedMomentum", "make_learned_momentum"]


@dataclass(frozen=True)
class CycleState(State):
    """Iterate and its last change; where the cycle began, and what is known of it per element.

    ``residual`` is ``‖x − T(x)‖²`` at the anchor, ``plain`` whether this cycle is of safe steps,
    ``safe`` their size.
    """

    x: Tensor
    velocity: Tensor
    anchor: Tensor = constant()
    residual: Tensor = constant()
    plain: Tensor = constant()
    safe: Tensor | float = constant()


class LearnedMomentum(Solver):
    """``x ← prox_{τₖ g}(x + βₖ d − τₖ ∇D(x))``, ``d`` the last change, numbers per iteration.

    On quadratics with curvatures in ``[μ, L]``, some ``τₖ`` and ``βₖ`` make ``K`` steps as good as
    those of any method that adds up gradients: Chebyshev's iteration for the worst case. They can
    be learned from examples without knowing ``μ``.

    After ``K`` steps the cycle begins anew, at rest. It was good where ``‖x − T(x)‖`` fell to
    ``decrease`` times that of its beginning, ``T`` the plain proximal gradient step of ``1 / L``. A
    batch element where it did not goes back to where the cycle began, for ``K`` steps of ``T``. So
    it converges where they do, however the numbers were learned and on whatever problem; the first
    ``K`` steps, those of training, are taken as they are. A cycle is judged as the next begins: run
    one more than you need.

    Args:
        step_size: ``τₖ``, a `Schedule`.
        momentum: ``βₖ``, a `Schedule`; ``β₀`` has no effect.
        cycle: ``K``.
        prior: ``g``; the same in all layers, since ``T`` has one fixed point.
        nesterov: take the gradient at ``x + βₖ d``.
        decrease: see above, below 1.
        safe_step: in place of ``1 / L``, for nonlinear operators.
    """

    state_type = CycleState

    def __init__(
        self,
        *,
        step_size: Schedule,
        momentum: Schedule,
        cycle: int,
        prior: Prior | None = None,
        nesterov: bool = False,
        decrease: float = 0.9,
        safe_step: float | None = None,
    ) -> None:
        super().__init__()
        self.prior: Prior = Zero() if prior is None else prior
        self.step_size = step_size
        self.momentum = momentum
        self.cycle = whole("cycle", cycle, error=SolverError)
        self.nesterov = flag("nesterov", nesterov, error=SolverError)
        self.decrease = number("decrease", decrease, above=0, below=1, error=SolverError)
        self.safe_step = (
            None
            if safe_step is None
            else number("safe_step", safe_step, above=0, error=SolverError)
        )

    def check(self, problem: Problem) -> None:
        """Refuse a prior per layer also: there is no one solution that the steps could end at."""
        super().check(problem)
        if isinstance(self._modules["prior"], nn.ModuleList):
            raise SolverError(
                f"{self.name}: a prior per layer, of which each has its own solution; learn one "
                "for all of them (tied=True)"
            )

    def init(self, problem: Problem, x0: Tensor | None = None) -> CycleState:
        """Zeros or ``x0``, at rest."""
        x = self.start(problem, x0)
        size = squared_norm(x.detach(), problem.operator.domain.ndim)
        unknown = torch.zeros_like(size)
        safe = initial_step(self.safe_step, problem)
        return CycleState(0, x, 0 * x, x, unknown, unknown.bool(), safe)

    def step(self, problem: Problem, state: CycleState) -> tuple[CycleState, dict[str, Any]]:
        """One step; the first of a cycle judges the cycle before."""
        k = state.k % self.cycle
        prior = self.prior.layer(k)
        gradient: Tensor | None = None
        if k == 0:
            state, gradient = self._begin(problem, prior, state)
        tau, beta = self.step_size(k), self.momentum(k)
        if state.k >= self.cycle:
            plain = per_element(state.plain, problem.operator.domain.ndim)
            tau, beta = torch.where(plain, state.safe, tau), torch.where(plain, 0.0, beta)
        ahead = state.x + beta * state.velocity
        if gradient is None:
            gradient = problem.gradient(ahead if self.nesterov else state.x)
        x, told = prior.prox_and_losses(ahead - tau * gradient, tau)
        return state.replace(k=state.k + 1, x=x, velocity=x - state.x), told

    def _begin(
        self, problem: Problem, prior: Prior, state: CycleState
    ) -> tuple[CycleState, Tensor]:
        """A cycle's first state, and the gradient at it."""
        ndim = problem.operator.domain.ndim
        x, gradient = state.x, problem.gradient(state.x)
        residual = self._residual(prior, state, x, gradient, ndim)
        failed = torch.zeros_like(state.plain)
        if state.k:
            # NaN is no fall either.
            fell = residual <= self.decrease**2 * state.residual
            failed = ~state.plain & ~fell
        if bool(failed.any()):
            x = torch.where(per_element(failed, ndim), state.anchor, x)
            gradient = problem.gradient(x)
            residual = torch.where(failed, state.residual, residual)
        state = state.replace(
            x=x, velocity=torch.zeros_like(x), anchor=x, residual=residual, plain=failed
        )
        return state, gradient

    @torch.no_grad()
    def _residual(
        self, prior: Prior, state: CycleState, x: Tensor, gradient: Tensor, ndim: int
    ) -> Tensor:
        return squared_norm(x - prior.prox(x - state.safe * gradient, state.safe), ndim)


def make_learned_momentum(
    problem: Problem,
    *,
    depth: int = 10,
    prior: str = "zero",
    threshold: float = 0.01,
    nesterov: bool = False,
    step_size: float | None = None,
    learn: Iterable[str] = (),
    prior_options: Options | None = None,
    start: str = "initial",
    scale: float = 1.0,
    seed: int = 0,
    host: Host | None = None,
) -> Unrolled:
    """Gradient steps with momentum whose numbers are learned, one pair per layer.

    It begins with Nesterov's momenta (as his method with ``nesterov``). Two numbers per layer need
    few examples and can not invent structure; they make the prior's own optimum come sooner. More
    steps than were trained are safe: ``solve(network.solver, problem)`` repeats and checks them,
    see `LearnedMomentum`.

    Args:
        problem: an example: its operator gives step sizes and weights.
        depth: number of layers, and length of a cycle.
        prior: a registered one with a prox.
        threshold: the prior's weight as a fraction of ``scale · L``.
        nesterov: take the gradient ahead.
        step_size: at the start, and that of safe steps; None for ``1 / L`` (linear operators).
        learn: what is learned besides, such as ``"prior.weight"``, one for all layers.
        prior_options: of the prior's constructor.
        start: "zero", "adjoint" or "initial".
        scale: typical size of the object's values.
        seed: of the first weights of a prior that has some.
        host: where names are looked up.

    Raises:
        UnknownNameError: nobody registers the prior.
        SolverError: a number is wrong, or a nonlinear operator comes without a step size.
    """
    depth = whole("depth", depth, error=SolverError)
    first = safe_step(problem) if step_size is None else step_size
    first = number("step_size", first, above=0, error=SolverError)
    held: Any = solver_by_name(
        problem, "ista", prior, threshold * scale, {"step_size": first}, prior_options, seed, host
    ).prior
    solver = LearnedMomentum(
        step_size=Schedule(first, depth, learn=True),
        momentum=Schedule(
            [max(k, 0.5) / (k + 3) for k in range(depth)], constraint="unit", learn=True
        ),
        cycle=depth,
        prior=held,
        nesterov=nesterov,
        safe_step=step_size,
    )
    built = solver.to(problem.operator.domain.real_dtype)
    return Unrolled(built, depth, tied=True, learn=learn, start=start, problem=problem)
