"""The patch model: a planet on speckles that a learned dictionary describes, unrolled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.networks import Unrolled
from labrecon.prior import soft_threshold
from labrecon.problem import Problem, SolverError
from labrecon.solver import Solver, State

__all__ = ["PatchStep", "patch_network"]


@dataclass(frozen=True)
class PatchState(State):
    """The planet's flux (batch, 1) and the codes of the speckles (batch, atom)."""

    x: Tensor
    codes: Tensor


class PatchStep(Solver):
    """One iteration on ``y = α h + D β + n`` with sparse ``β``, in both unknowns.

    ``β ← S_λ(β + Cᵀ(y − α h − D β))``, then ``α ← α + ρ hᵀ(y − D β − α h)/‖h‖²``

    The operator of the problem is the planet's image, ``α ↦ α h``. Dictionary ``D``, analysis
    ``C``, thresholds ``λ`` and rate ``ρ`` are parameters. Fitted together, speckles and planet
    share the light; a dictionary that is fitted first takes the planet's, too (self-subtraction).

    Args:
        dictionary: ``D`` (pixel, atom).
        threshold: ``λ`` of the codes, in their unit.
        rate: ``ρ``.

    Raises:
        SolverError: a dictionary that is no matrix, or numbers that are not positive.

    Source: the patch model of the COBREX project (2022), with the learned analysis of LISTA (Gregor
    and LeCun 2010).
    """

    state_type = PatchState

    def __init__(self, dictionary: Tensor, *, threshold: float = 0.1, rate: float = 1.0) -> None:
        super().__init__()
        if dictionary.ndim != 2:
            raise SolverError(f"a dictionary is (pixel, atom), got {tuple(dictionary.shape)}")
        if not threshold > 0 or not rate > 0:
            raise SolverError(f"threshold {threshold:g} and rate {rate:g}: expected above 0")
        bound = float(torch.linalg.matrix_norm(dictionary, 2)) ** 2
        self.dictionary = nn.Parameter(dictionary.clone())
        self.analysis = nn.Parameter(dictionary / bound)
        limit = torch.full((dictionary.shape[1],), threshold / bound, dtype=dictionary.dtype)
        self.threshold = nn.Parameter(limit)
        self.rate = nn.Parameter(torch.tensor(rate, dtype=dictionary.dtype))

    def check(self, problem: Problem) -> None:
        """Raise `SolverError` at weights, or at patches of another size than the dictionary's."""
        pixels = len(self.dictionary)
        if problem.weights is not None:
            raise SolverError("the patch model knows no weights: leave bad pixels' patches out")
        if problem.operator.range.shape != (pixels,) or problem.operator.domain.shape != (1,):
            raise SolverError(
                f"the patch model fits one flux to {pixels} pixels; {problem.operator.name} maps "
                f"{problem.operator.domain.shape} to {problem.operator.range.shape}"
            )

    def init(self, problem: Problem, x0: Tensor | None = None) -> PatchState:
        """Neither planet nor speckles."""
        x = self.start(problem, x0)
        return PatchState(0, x, x.new_zeros(*problem.batch, self.dictionary.shape[1]))

    def step(self, problem: Problem, state: PatchState) -> tuple[PatchState, dict[str, Any]]:
        """Codes, then flux."""
        planet = problem.operator
        left = problem.data - planet(state.x) - state.codes @ self.dictionary.mT
        codes = soft_threshold(state.codes + left @ self.analysis, self.threshold)
        left = problem.data - planet(state.x) - codes @ self.dictionary.mT
        flux = state.x + self.rate * planet.adjoint(left) / planet.norm() ** 2
        return PatchState(state.k + 1, flux, codes), {}


def patch_network(dictionary: Tensor, *, depth: int = 8, threshold: float = 0.1) -> Unrolled:
    """``depth`` iterations that share dictionary, analysis, thresholds and rate, to be trained."""
    return Unrolled(PatchStep(dictionary, threshold=threshold), depth)
