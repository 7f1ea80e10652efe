"""Any solver, with calibration unknowns estimated between its steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from labrecon.calibration.conclusion import conclude
from labrecon.calibration.derivatives import FIRST_SCALE
from labrecon.calibration.nuisance_step import Placed, nuisance_step, placed_problem
from labrecon.calibration.result import Calibration
from labrecon.calibration.unknowns import Bounds, Unknowns
from labrecon.operator import Operator
from labrecon.options import whole
from labrecon.solver import Problem, Solver, SolverError, State
from labrecon.solvers.cg import CG

__all__ = ["Alternating"]

#: Share of the steps after which the estimates are compared with those at the end.
LATE = 0.8
#: First damping of a step in the nuisances, as a fraction of the diagonal.
DAMPING = 1e-3


class Alternating(Solver):
    """A step of any solver in the object, then one of Gauss–Newton in the nuisances.

    For nonlinear operators, and for priors that `calibrate` can not hold: total variation,
    denoisers, trained networks. It needs more steps than variable projection, as none knows that
    the other half follows it. Errors come from the object and the nuisances together all the same,
    see `conclude`: those of a step with a fixed object would be far too small.

    Args:
        solver: of the object. It restarts from its estimate after each change where its steps
            build on each other (`CG`).
        nuisances: names of nuisances of the operator; they have one value for the batch.
        after: steps in the object alone before the nuisances are touched.
        every: steps in the object between steps in the nuisances.
        bounds: lowest and highest value of nuisances, by name.

    Raises:
        SolverError: a number is out of range; on a problem, see `Unknowns`.

    Example:
        >>> from labrecon.solvers import GaussNewton
        >>> solver = Alternating(GaussNewton(), nuisances=["led_shift"], after=2)
    """

    def __init__(
        self,
        solver: Solver,
        *,
        nuisances: Sequence[str],
        after: int = 2,
        every: int = 1,
        bounds: Bounds | None = None,
    ) -> None:
        super().__init__()
        self.solver = solver
        self.nuisances = tuple(nuisances)
        self.after = whole("Alternating: after", after, at_least=0, error=SolverError)
        self.every = whole("Alternating: every", every, error=SolverError)
        self.bounds = dict(bounds or {})
        self.needs_exact_adjoint = solver.needs_exact_adjoint
        self.needs_linear = solver.needs_linear

    @property
    def state_type(self) -> type[State]:  # type: ignore[override]
        """The inner solver's state with the nuisances beside it."""
        kind: Any = self.solver.state_type
        return _beside(kind)

    def unknowns(self, problem: Problem) -> Unknowns:
        """The nuisances as a vector.

        Raises:
            SolverError: see `Unknowns`.
        """
        try:
            return Unknowns(problem.operator, self.nuisances, self.bounds)
        except ValueError as error:
            raise SolverError(str(error)) from error

    def check(self, problem: Problem) -> None:
        """Raise `SolverError` where the solver can not treat the problem, or lacks a nuisance."""
        self.solver.check(problem)
        self.unknowns(problem)

    def init(self, problem: Problem, x0: Tensor | None = None) -> State:
        """The inner solver's, at the operator's own values."""
        unknowns = self.unknowns(problem)
        scales = torch.full((len(unknowns),), FIRST_SCALE, dtype=torch.float64)
        start = Placed(unknowns.start, scales, DAMPING)
        return self._joined(self.solver.init(problem, x0), start)

    def step(self, problem: Problem, state: Any) -> tuple[State, dict[str, Any]]:
        """One step in the object and, when it is their turn, one in the nuisances."""
        unknowns = self.unknowns(problem)
        # A state that was read from a file is where the solve is; nuisances are on the CPU.
        p, scales = state.nuisances.cpu(), state.nuisance_scales.cpu()
        at = Placed(p, scales, state.nuisance_damping)
        posed = placed_problem(problem, unknowns, p)
        inner, told = self.solver.step(posed, state)
        if inner.k > self.after and (inner.k - self.after) % self.every == 0:
            x = self.solver.estimate(inner)
            at = nuisance_step(posed, unknowns, x, at)
            if isinstance(self.solver, CG) and not torch.equal(at.p, p):
                # Its directions are those of one operator.
                moved = placed_problem(problem, unknowns, at.p)
                inner = self.solver.init(moved, x).replace(k=inner.k)
        values = dict(zip(unknowns.labels, at.p.tolist(), strict=True))
        return self._joined(inner, at), {**told, **values}

    def estimate(self, state: Any) -> Tensor:
        """The inner solver's."""
        return self.solver.estimate(state)

    def calibrated(self, problem: Problem, state: Any) -> Operator:
        """The operator with the nuisances that were estimated."""
        return self.unknowns(problem).placed(state.nuisances.cpu())

    def concluded(
        self,
        problem: Problem,
        state: Any,
        history: Sequence[Mapping[str, float]],
        *,
        weight: float | None = None,
        inner: int = 100,
    ) -> Calibration:
        """Errors of the nuisances at the end of a solve, the object's uncertainty included.

        Args:
            problem: as it was solved, with the operator's own values.
            state: where the solve ended.
            history: of the solve; the values in it tell whether they have settled.
            weight: of the quadratic prior that errors are computed with, see `calibrate`.
            inner: conjugate-gradient iterations.
        """
        unknowns = self.unknowns(problem)
        x, p = self.estimate(state), state.nuisances.cpu()
        start = dict(zip(unknowns.labels, unknowns.start.tolist(), strict=True))
        records = [{"step": 0.0, **start}]
        for one in history:
            kept = {name: one[name] for name in unknowns.labels if name in one}
            records.append({"step": one["iteration"], **kept})
        earlier = [r for r in records if r["step"] <= LATE * state.k][-1]
        last = p - torch.tensor([earlier[name] for name in unknowns.labels], dtype=p.dtype)
        return conclude(
            placed_problem(problem, unknowns, p),
            unknowns,
            p,
            x,
            method="alternating",
            history=records,
            last=last,
            over=state.k - int(earlier["step"]),
            scales=state.nuisance_scales,
            weight=weight,
            inner=inner,
        )

    def penalty(self, x: Tensor, ndim: int) -> Tensor:
        """The inner solver's."""
        return self.solver.penalty(x, ndim)

    def objective(self, problem: Problem, x: Tensor) -> Tensor:
        """The inner solver's."""
        return self.solver.objective(problem, x)

    def _joined(self, inner: State, at: Placed) -> State:
        own = {f.name: getattr(inner, f.name) for f in dataclasses.fields(self.solver.state_type)}
        held: dict[str, Any] = {
            "nuisances": at.p,
            "nuisance_scales": at.scales,
            "nuisance_damping": at.damping,
        }
        make: Any = self.state_type
        joined: State = make(**own, **held)
        return joined


@functools.cache
def _beside(kind: type[State]) -> type[State]:
    """A solver's state with fields for nuisances, which take no part in its fixed point."""
    constant = {"constant": True}
    made = dataclasses.make_dataclass(
        f"Alternating{kind.__name__}",
        [
            (name, of, dataclasses.field(metadata=constant, kw_only=True))
            for name, of in (
                ("nuisances", Tensor),
                ("nuisance_scales", Tensor),
                ("nuisance_damping", float),
            )
        ],
        bases=(kind,),
        frozen=True,
    )
    return cast("type[State]", made)
