"""Gauss–Newton for nonlinear operators, with calibration unknowns estimated beside the object."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labrecon.functional import Map
from labrecon.krylov import cg_start, cg_step
from labrecon.operator import Operator
from labrecon.options import number, whole
from labrecon.prior import Prior, Zero
from labrecon.priors.tikhonov import Tikhonov
from labrecon.solver import Problem, Solver, SolverError, State, constant
from labrecon.space import per_element

__all__ = ["GaussNewton"]

#: How often a step that makes things worse is tried again with four times the damping.
TRIALS = 5
#: Change of the data, relative to the data, by which derivatives of nuisances are measured.
PROBE = 1e-3


@dataclass(frozen=True)
class GaussNewtonState(State):
    """Iterate, damping per element, values of the nuisances, and their scales and damping."""

    x: Tensor
    damping: Tensor = constant()
    nuisances: tuple[Tensor, ...] = constant()
    scales: Tensor | float = constant()
    nuisance_damping: float = constant()


class GaussNewton(Solver):
    """``x ← x + d`` with ``(JᴴWJ + R + μ) d = −∇(D + ½ xᴴR x)``, ``W = w / variance(A x)``.

    Levenberg's and Marquardt's method with the Fisher information of any noise in the place of the
    Hessian; the system is solved by conjugate gradients, and ``μ`` falls with each step that lowers
    the objective and rises where one does not. For nonlinear operators, of which it needs the
    derivative (`Operator.linearize`) and nothing else: Fourier ptychography, phase retrieval,
    polarimetry. Not for
    linear ones, where `CG` does the same in one step.

    With ``nuisances`` a Gauss–Newton step in these follows each step in ``x``: LED positions, pupil
    aberrations, a rotation centre. Their derivatives are differences of two forward models, so that
    operators outside torch are served, too; they have one value for the batch.

    Args:
        prior: `Tikhonov`, whose ``weight · KᴴK`` is ``R``; or none.
        inner: conjugate-gradient iterations per step.
        damping: the first ``μ`` as a fraction of the mean diagonal of ``JᴴWJ``.
        nuisances: names from ``operator.nuisances``.
        after: steps in ``x`` alone, before nuisances are estimated.

    Raises:
        SolverError: a number is out of range, or the operator has no such nuisance.
    """

    state_type = GaussNewtonState

    def __init__(
        self,
        *,
        prior: Prior | None = None,
        inner: int = 10,
        damping: float = 1e-2,
        nuisances: Sequence[str] = (),
        after: int = 2,
    ) -> None:
        super().__init__()
        self.prior = Zero() if prior is None else prior
        if not isinstance(self.prior, Zero | Tikhonov):
            raise SolverError(
                f"GaussNewton takes a quadratic prior (tikhonov), got {type(prior).__name__}: take "
                "FISTA with backtracking for others"
            )
        self.inner = whole("GaussNewton: inner", inner, error=SolverError)
        self.damping = number("GaussNewton: damping", damping, above=0, error=SolverError)
        self.nuisances = tuple(nuisances)
        self.after = whole("GaussNewton: after", after, at_least=0, error=SolverError)

    def check(self, problem: Problem) -> None:
        """Raise `SolverError` where the operator lacks a nuisance."""
        super().check(problem)
        known = problem.operator.nuisances
        unknown = [name for name in self.nuisances if name not in known]
        if unknown:
            raise SolverError(
                f"{problem.operator.name} has no nuisance {', '.join(unknown)}; it has "
                f"{', '.join(known) or 'none'}"
            )

    def init(self, problem: Problem, x0: Tensor | None = None) -> GaussNewtonState:
        """At ``x0``, by default ``operator.initial(y)``: at zero derivatives may vanish."""
        x = problem.operator.initial(problem.data) if x0 is None else self.start(problem, x0)
        scale = self._diagonal(problem, x)
        values = tuple(problem.operator.current(*self.nuisances).values())
        scales = torch.full((sum(v.numel() for v in values),), 1e-2, dtype=torch.float64)
        return GaussNewtonState(0, x, self.damping * scale, values, scales, 1e-3)

    def _diagonal(self, problem: Problem, x: Tensor) -> Tensor:
        """Mean diagonal of ``JᴴWJ`` per element, by one random probe."""
        generator = torch.Generator().manual_seed(0)
        domain = problem.operator.domain
        with torch.no_grad():
            # The same for all elements, which are not to know of each other.
            probe = domain.random(generator=generator, device=x.device).expand_as(x)
            probe = probe / (2**0.5 if probe.is_complex() else 1.0)
            normal, _ = self._system(problem, x)
            mean = (probe.conj() * normal(probe)).real.flatten(x.ndim - domain.ndim).mean(-1)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny)

    def _system(self, problem: Problem, x: Tensor) -> tuple[Map, Tensor]:
        """``u ↦ JᴴWJ u`` and ``∇(D + ½ xᴴR x)``."""
        operator = problem.operator
        tangent = operator if operator.linear else operator.linearize(x)
        predicted = operator(x)
        weights = 1 / problem.noise.variance(predicted)
        if not torch.is_grad_enabled():
            weights = weights.detach()
        weights = problem.weighted(weights)
        score = problem.weighted(problem.noise.score(predicted, problem.data))
        gradient = tangent.adjoint(score) + self._regular(x)

        def normal(u: Tensor) -> Tensor:
            return tangent.adjoint(weights * tangent(u))

        return normal, gradient

    def _regular(self, u: Tensor) -> Tensor:
        """``R u``."""
        if isinstance(self.prior, Zero):
            return 0 * u
        assert isinstance(self.prior, Tikhonov)
        k, weight = self.prior.operator, self.prior.weight
        if k is None:
            return weight * u
        return k.adjoint(weight * k(u))

    def step(
        self, problem: Problem, state: GaussNewtonState
    ) -> tuple[GaussNewtonState, dict[str, Any]]:
        """One step in the object, and one in the nuisances."""
        operator = self._placed(problem.operator, state.nuisances)
        posed = Problem(operator, problem.data, problem.noise, problem.weights)
        x, damping, loss = self._object_step(posed, state)
        following = state.replace(k=state.k + 1, x=x, damping=damping)
        if self.nuisances and following.k > self.after:
            following = self._nuisance_step(posed, following)
        told = {"objective_before": float(loss.detach().sum())}
        for name, value in zip(self.nuisances, following.nuisances, strict=True):
            flat = value.flatten().tolist()
            told |= (
                {f"{name}.{i}": v for i, v in enumerate(flat)} if value.ndim else {name: flat[0]}
            )
        return following, told

    def _object_step(
        self, problem: Problem, state: GaussNewtonState
    ) -> tuple[Tensor, Tensor, Tensor]:
        ndim = problem.operator.domain.ndim
        normal, gradient = self._system(problem, state.x)
        before = self.objective(problem, state.x)
        # Sums of many samples are known to so much: near the solution nothing tells better.
        slack = 100 * torch.finfo(before.dtype).eps * before.detach().abs()
        x, damping = state.x, state.damping
        accepted = torch.zeros_like(before, dtype=torch.bool)
        for _ in range(TRIALS):
            mu = per_element(damping, ndim)

            def apply(u: Tensor, mu: Tensor = mu) -> Tensor:
                return normal(u) + self._regular(u) + mu * u

            inner = cg_start(apply, -gradient, None, ndim)
            for _ in range(self.inner):
                inner = cg_step(apply, inner, ndim)
            moved = state.x + inner.x
            better = self.objective(problem, moved) <= before + slack
            new = better & ~accepted
            x = torch.where(per_element(new, ndim), moved, x)
            damping = torch.where(new, damping / 3, torch.where(accepted, damping, damping * 4))
            accepted = accepted | better
            if bool(accepted.all()):
                break
        return x, damping, before

    def calibrated(self, problem: Problem, state: GaussNewtonState) -> Operator:
        """The operator with the nuisances that were estimated."""
        return self._placed(problem.operator, state.nuisances)

    # -- nuisances -----------------------------------------------------------------------------

    def _placed(self, operator: Operator, values: tuple[Tensor, ...]) -> Operator:
        """The operator with these values of the nuisances: a copy, the given one stays."""
        if not values:
            return operator
        placed = copy.deepcopy(operator)
        placed.place(dict(zip(self.nuisances, values, strict=True)))
        return placed

    @torch.no_grad()
    def _nuisance_step(self, problem: Problem, state: GaussNewtonState) -> GaussNewtonState:
        predicted = problem.operator(state.x)
        before = float(problem.loss(state.x).double().sum())
        score = problem.weighted(problem.noise.score(predicted, problem.data)).double()
        weights = problem.weighted(1 / problem.noise.variance(predicted)).double()
        columns, scales = self._derivatives(problem, state, predicted)
        right = torch.stack([-(c * score).sum() for c in columns])
        matrix = torch.stack(
            [torch.stack([(a * weights * b).sum() for b in columns]) for a in columns]
        )
        damping = state.nuisance_damping
        for _ in range(TRIALS):
            regular = torch.diag(damping * matrix.diagonal() + torch.finfo(torch.float64).tiny)
            change = torch.linalg.lstsq(matrix + regular, right[:, None]).solution[:, 0]
            values = self._feasible(problem.operator, _added(state.nuisances, change))
            moved = self._placed(problem.operator, values)
            loss = moved(state.x)
            after = problem.noise.nll(loss, problem.data, problem.weights).double().sum()
            if float(after) <= before:
                return state.replace(
                    nuisances=values, scales=scales, nuisance_damping=max(damping / 3, 1e-6)
                )
            damping *= 4
        return state.replace(scales=scales, nuisance_damping=damping)

    def _derivatives(
        self, problem: Problem, state: GaussNewtonState, predicted: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """``∂A(x)/∂p`` for each number of the nuisances, by differences of a fitting size."""
        assert isinstance(state.scales, Tensor)
        columns, scales = [], []
        size = float(torch.linalg.vector_norm(predicted))
        for i, scale in enumerate(state.scales.tolist()):
            change = torch.zeros_like(state.scales)
            change[i] = scale
            ahead = self._placed(problem.operator, _added(state.nuisances, change))(state.x)
            behind = self._placed(problem.operator, _added(state.nuisances, -change))(state.x)
            difference = (ahead - behind).double()
            moved = float(torch.linalg.vector_norm(difference)) / (2 * size) / PROBE
            # What changes nothing but the rounding (the piston of a pupil) is left as it is.
            felt = moved * PROBE > 30 * torch.finfo(predicted.dtype).eps
            columns.append(difference / (2 * scale) if felt else 0 * difference)
            moved = moved if felt else 1.0
            scales.append(scale / min(max(moved, 0.1), 10.0))
        return columns, torch.tensor(scales, dtype=torch.float64)

    def _feasible(self, operator: Operator, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        sets = [operator.nuisances[name] for name in self.nuisances]
        pairs = zip(sets, values, strict=True)
        return tuple(v if feasible is None else feasible.project(v) for feasible, v in pairs)


def _added(values: tuple[Tensor, ...], change: Tensor) -> tuple[Tensor, ...]:
    parts = change.split([value.numel() for value in values])
    pairs = zip(values, parts, strict=True)
    return tuple(v + part.reshape(v.shape).to(v) for v, part in pairs)
