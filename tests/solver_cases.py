"""One small problem per solver, for the tests that all solvers must pass.

A new solver is added to `CASES` and thereby to every generic test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.design import Box
from labrecon.noise import Gaussian, Noise, Poisson
from labrecon.operator import Operator
from labrecon.prior import Prior
from labrecon.priors import L1, TV, Tikhonov
from labrecon.problem import Problem
from labrecon.solver import Solver
from labrecon.solvers import (
    ADMM,
    CG,
    FISTA,
    HQS,
    ISTA,
    MLEM,
    PDHG,
    SIRT,
    Direct,
    GaussNewton,
    GradientDescent,
)
from labrecon.space import Space

ROWS, COLUMNS = 7, 5


class Dense(Operator):
    """A matrix that is a design, so that gradients reach it through `at`."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(
            Space((matrix.shape[1],), matrix.dtype), Space((matrix.shape[0],), matrix.dtype)
        )
        self.design("matrix", matrix, Box(0.0, 10.0))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.mT


@dataclass(frozen=True)
class Case:
    """A solver, and the noise of the data that it takes.

    Attributes:
        make: the solver, from a prior (which those without one ignore).
        noise: of the data.
        prior: from its weight.
    """

    name: str
    make: Callable[[Prior], Solver]
    noise: Noise
    prior: Callable[[Tensor | float], Prior] = L1

    def solver(self, weight: Tensor | float = 0.05) -> Solver:
        return self.make(self.prior(weight))

    def problem(self, data: Tensor | None = None, matrix: Tensor | None = None) -> Problem:
        operator: Operator = Dense(nominal_matrix())
        if matrix is not None:
            operator = operator.at(matrix=matrix)
        return Problem(operator, nominal_data() if data is None else data, self.noise)


def nominal_matrix() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(ROWS, COLUMNS, dtype=torch.float64, generator=generator) + 0.05


def nominal_data(*batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(*batch, COLUMNS, dtype=torch.float64, generator=generator).abs() + 0.3
    y = x @ nominal_matrix().mT
    return y + 0.1 * torch.rand(y.shape, dtype=y.dtype, generator=generator)


GAUSSIAN = Gaussian(0.7)
CASES = [
    Case("direct", lambda prior: Direct(), GAUSSIAN),
    Case("gradient", lambda prior: GradientDescent(), GAUSSIAN),
    Case("heavy-ball", lambda prior: GradientDescent(momentum=0.6), GAUSSIAN),
    Case("gauss-newton", lambda prior: GaussNewton(prior=Tikhonov(0.1), inner=4), GAUSSIAN),
    Case("cg", lambda prior: CG(rho=0.1), GAUSSIAN),
    Case("ista", lambda prior: ISTA(prior=prior), GAUSSIAN),
    Case(
        "ista-backtracking",
        lambda prior: ISTA(prior=prior, step_size=1.0, backtracking=True),
        GAUSSIAN,
    ),
    Case("fista", lambda prior: FISTA(prior=prior), GAUSSIAN),
    Case("fista-restart", lambda prior: FISTA(prior=prior, restart=True), GAUSSIAN),
    Case("admm", lambda prior: ADMM(prior=prior, rho=0.5, inner=4), GAUSSIAN),
    Case(
        "admm-tv",
        lambda prior: ADMM(prior=prior, rho=0.5, inner=4),
        GAUSSIAN,
        lambda weight: TV(weight, ndim=1, nonneg=True),
    ),
    Case("hqs", lambda prior: HQS(prior=prior, mu=0.5, growth=1.1, inner=4), GAUSSIAN),
    Case("pdhg", lambda prior: PDHG(prior=prior), GAUSSIAN),
    Case(
        "pdhg-tv",
        lambda prior: PDHG(prior=prior),
        GAUSSIAN,
        lambda weight: TV(weight, ndim=1, nonneg=True),
    ),
    Case("pdhg-preconditioned", lambda prior: PDHG(prior=prior, preconditioned=True), GAUSSIAN),
    Case("pdhg-poisson", lambda prior: PDHG(prior=prior), Poisson(0.2)),
    Case("sirt", lambda prior: SIRT(nonneg=True), GAUSSIAN),
    Case("mlem", lambda prior: MLEM(), Poisson(0.2)),
]
