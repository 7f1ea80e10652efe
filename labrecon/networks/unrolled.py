"""Unrolled: a solver's steps as the layers of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from labrecon.networks.learnable import with_learned
from labrecon.options import whole
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstruction, Reconstructor
from labrecon.solver import Solver, SolverError

__all__ = ["Unrolled", "first_estimate"]

#: Where a network starts: by name, or a module from data to a first estimate.
Start = str | nn.Module
STARTS = ("zero", "adjoint", "initial")


class Unrolled(Reconstructor):
    """``depth`` steps of a solver as a network, whose numbers and priors can be learned.

    Untrained it is the solver, stopped after ``depth`` iterations.

    Args:
        solver: its `step` is a layer. Parameters that it has already are used as they are.
        depth: number of layers.
        tied: where ``learn`` makes parameters: one set for all layers, rather than one each.
        learn: what becomes learnable, see `labrecon.networks.learnable.with_learned`; the solver
            that was given stays as it is.
        start: "zero", "adjoint" (``Aᴴ y``), "initial" (the operator's own), or a module that is
            called with the data.
        problem: an example, where ``learn`` names a step size that is found from the operator.

    Raises:
        SolverError: depth, start or a name in ``learn`` is wrong.
    """

    def __init__(
        self,
        solver: Solver,
        depth: int,
        *,
        tied: bool = False,
        learn: Iterable[str] = (),
        start: Start = "zero",
        problem: Problem | None = None,
    ) -> None:
        super().__init__()
        self.depth = whole("depth", depth, error=SolverError)
        learned = list(learn)
        if learned:
            solver = with_learned(solver, learned, depth, tied=tied, problem=problem)
        self.solver = solver
        if isinstance(start, str) and start not in STARTS:
            raise SolverError(f"start is a module or one of {', '.join(STARTS)}, got {start!r}")
        self.start = start

    def reconstruct(
        self, problem: Problem, x0: Tensor | None = None, *, trace: bool = False
    ) -> Reconstruction:
        """The estimate after the last layer."""
        self.solver.check(problem)
        problem = problem.prepare()
        state = self.solver.init(problem, first_estimate(self.start, problem, x0))
        losses: dict[str, Tensor] = {}
        estimates: list[Tensor] = []
        for _ in range(self.depth):
            state, told = self.solver.step(problem, state)
            for name, value in told.items():
                if isinstance(value, Tensor):
                    losses[name] = losses[name] + value if name in losses else value
            if trace:
                estimates.append(self.solver.estimate(state))
        x = self.solver.estimate(state)
        return Reconstruction(x, losses, {"iterations": float(self.depth)}, trace=tuple(estimates))


def first_estimate(start: Start, problem: Problem, x0: Tensor | None) -> Tensor | None:
    """``x0`` if given, else what ``start`` says; None for zeros."""
    if x0 is not None or start == "zero":
        return x0
    if isinstance(start, nn.Module):
        made: Tensor = start(problem.data)
        return made
    makers: dict[str, Callable[[Tensor], Tensor]] = {
        "adjoint": problem.operator.adjoint,
        "initial": problem.operator.initial,
    }
    return makers[start](problem.data)
