"""MoDL: a shared denoising network and exact data consistency in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.networks.data_step import data_step
from labrecon.networks.unrolled import Unrolled
from labrecon.options import number, whole
from labrecon.prior import Prior
from labrecon.priors.channels import channel_count
from labrecon.priors.denoisers import Denoiser, DnCNN
from labrecon.problem import Problem, SolverError
from labrecon.schedule import Schedule, number_at, pick
from labrecon.seeds import seeded
from labrecon.solver import Solver, State
from labrecon.solvers.gradient import require_step
from labrecon.solvers.quadratic import data_weights

__all__ = ["DataConsistency", "make_modl"]


@dataclass(frozen=True)
class ConsistentState(State):
    """The image."""

    x: Tensor


class DataConsistency(Solver):
    """``z = D(x)``, ``x ← (AᴴWA + λ)⁻¹ (AᴴWy + λ z)`` (Aggarwal, Mani and Jacob 2019).

    Half-quadratic splitting with the prior first and a coupling that is learned. The solve is
    differentiated implicitly: ``λ``, the data and the operator's parameters all get the gradient
    of its exact solution (the authors' code gives them none, or that of ``λ z`` alone).

    Args:
        prior: its prox is ``D``; one for all layers, or one each.
        coupling: ``λ``, a number or a schedule.
        inner: conjugate-gradient steps at most, where the operator has no closed form.
        tolerance: their relative residual.
    """

    state_type = ConsistentState
    needs_linear = True
    needs_exact_adjoint = True

    def __init__(
        self,
        *,
        prior: Prior,
        coupling: float | Schedule,
        inner: int = 50,
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.coupling = require_step(coupling, "coupling")
        self.inner = whole("inner", inner, error=SolverError)
        self.tolerance = number("tolerance", tolerance, at_least=0, error=SolverError)

    def init(self, problem: Problem, x0: Tensor | None = None) -> ConsistentState:
        """``x0`` or zero."""
        data_weights(problem, self.name)
        return ConsistentState(0, self.start(problem, x0))

    def step(
        self, problem: Problem, state: ConsistentState
    ) -> tuple[ConsistentState, dict[str, Any]]:
        """The prior, then the data."""
        k = state.k
        coupling = number_at(self.coupling, k)
        prior: Prior = pick(self.prior, k).layer(k)
        z, told = prior.prox_and_losses(state.x, 1 / coupling)
        x = data_step(
            problem,
            coupling * z,
            coupling,
            x0=state.x,
            iterations=self.inner,
            tolerance=self.tolerance,
            solver=self.name,
        )
        return ConsistentState(k + 1, x), told

    def inverse(self, problem: Problem, state: ConsistentState) -> ConsistentState:
        """``z = x + Aᴴ W (A x − y) / λ``, exactly, then the inverse of the prior."""
        k = state.k - 1
        coupling = number_at(self.coupling, k)
        z = state.x + problem.gradient(state.x) / coupling
        prior: Prior = pick(self.prior, k).layer(k)
        return ConsistentState(k, prior.inverse(z, 1 / coupling))


def make_modl(
    problem: Problem,
    *,
    depth: int = 10,
    features: int = 64,
    layers: int = 5,
    coupling: float = 0.05,
    scale: float = 1.0,
    seed: int = 0,
    batch_norm: bool = False,
    inner: int = 50,
    start: str = "initial",
) -> Unrolled:
    """MoDL for problems like this one: one denoiser and one coupling shared by all layers.

    The denoiser acts on the last two axes (the last of a one-dimensional object), and changes
    nothing before training: the network starts as iterated Tikhonov regularisation.

    Args:
        problem: an example; its operator tells what objects there are and the size of ``A``.
        depth: alternations.
        features: channels of the denoiser.
        layers: its convolutions.
        coupling: ``λ`` before training, for ``‖A‖ = 1``; it stays positive.
        scale: typical size of object values.
        seed: of the weights.
        batch_norm: in the denoiser, as published. Its layers then depend on the batch, and in
            training on how often they ran before.
        inner: conjugate-gradient steps at most, where the operator has no closed form.
        start: "initial" for the operator's own first estimate; "adjoint" for ``Aᴴ y``, as published
            for ``‖A‖ = 1``.

    Raises:
        SolverError: the operator is not linear, the start is unknown, or a number is out of range.
        PriorError: a size of the denoiser is out of range.
    """
    depth = whole("MoDL: depth", depth, error=SolverError)
    coupling = number("MoDL: coupling", coupling, above=0, error=SolverError)
    domain = problem.operator.domain
    axes = min(2, domain.ndim)
    coupling = coupling * float(torch.as_tensor(problem.lipschitz()).max())
    with seeded(seed):
        network = DnCNN(
            channel_count(domain.dtype),
            axes=axes,
            features=features,
            depth=layers,
            batch_norm=batch_norm,
        )
    last: nn.Module = network.residual[-1]
    nn.init.zeros_(last.weight)  # type: ignore[arg-type]
    solver = DataConsistency(
        prior=Denoiser(network, scale=scale, axes=axes),
        coupling=Schedule(coupling, learn=True),
        inner=inner,
    )
    solver.check(problem)
    return Unrolled(solver, depth, start=start).to(domain.real_dtype)
