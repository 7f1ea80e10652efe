"""A trained network as a solver of one step, so that it goes through all that a solve does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from labrecon.noise import Gaussian
from labrecon.options import whole
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor
from labrecon.solver import Solver, SolverError
from labrecon.solvers.direct import DirectState

__all__ = ["Trained", "with_unit_noise"]


class Trained(Solver):
    """``x = R(problem)`` with a network ``R``, in one step.

    The step tells ``unfinished``, the number of parts whose estimate the network itself calls not
    converged (`labrecon.networks.Equilibrium`).

    A stack is treated in parts, since a network needs many times the memory of its images. Not for
    data unlike those of the training: nothing in the result would tell, but for its residual.

    Args:
        network: the trained one.
        data_term: what the network was trained with: "unit" for ``½‖A x − y‖²``, whatever the
            noise of the data; weights then only say which samples count. "noise" for the
            likelihood of the data.
        chunk: slices that are treated at once.
    """

    state_type = DirectState
    one_step = True

    def __init__(
        self,
        network: Reconstructor,
        *,
        data_term: Literal["unit", "noise"] = "unit",
        chunk: int = 8,
    ) -> None:
        super().__init__()
        self.network = network
        self.data_term = data_term
        self.chunk = whole("chunk", chunk, error=SolverError)

    def init(self, problem: Problem, x0: Tensor | None = None) -> DirectState:
        """Zeros."""
        return DirectState(0, self.start(problem, x0))

    def step(self, problem: Problem, state: DirectState) -> tuple[DirectState, dict[str, float]]:
        """The network's estimate."""
        problem = replace(problem, prepared=None)
        if self.data_term == "unit":
            problem = with_unit_noise(problem)
        made = [self.network.reconstruct(part) for part in self._parts(problem)]
        x = made[0].x if len(made) == 1 else torch.cat([part.x for part in made])
        unfinished = sum(part.status != "done" for part in made)
        told = {"unfinished": float(unfinished)} if unfinished else {}
        return DirectState(state.k + 1, x.reshape(state.x.shape)), told

    def _parts(self, problem: Problem) -> Iterator[Problem]:
        """The problem, or, of a stack, a few slices at a time."""
        shape = problem.operator.range.shape
        slices = problem.data.reshape(-1, *shape)
        one_noise = all(t.ndim <= len(shape) for t in problem.noise.buffers())
        if len(slices) <= self.chunk or not one_noise:
            yield problem
            return
        weights = problem.weights
        if weights is not None:
            weights = weights.expand(problem.data.shape).reshape(slices.shape)
        for start in range(0, len(slices), self.chunk):
            part = slice(start, start + self.chunk)
            given = None if weights is None else weights[part]
            yield replace(problem, data=slices[part], weights=given)


def with_unit_noise(problem: Problem) -> Problem:
    """The problem as ``½‖A x − y‖²`` over the samples that count."""
    weights = problem.weights
    if weights is not None:
        counted = weights > 0
        weights = None if bool(counted.all()) else counted.to(problem.data.real.dtype)
    return replace(problem, noise=Gaussian(), weights=weights)
