"""Linear estimators and scans with exact answers, for the self-supervised learners."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labrecon import Operator, Problem, Space
from labrecon.learners.samples import sample_generator
from labrecon.learners.self_supervised import Pass
from labrecon.noise import Noise
from labrecon.reconstructor import Reconstruction, Reconstructor

__all__ = [
    "QUICK",
    "Linear",
    "Ramp",
    "Scale",
    "generators",
    "measured",
    "objects",
    "passed",
    "stage",
]


#: A training of the toy instrument that takes no time.
QUICK = {
    "prepare": [],
    "network": {"name": "unrolled", "prior": "l1", "depth": 2, "start": "zero"},
    "data": {"count": 8, "validation": 0.25},
    "learner": {"name": "ssdu", "axes": "row"},
    "fit": {"epochs": 2, "batch_size": 4, "learning_rate": 0.05},
    "classical": {"skip": True},
}


class Linear(Reconstructor):
    """``x = C y`` with the weighted data laid out as a vector."""

    def __init__(self, matrix: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix.clone())
        self.shape = shape

    def reconstruct(self, problem, x0=None, *, trace=False):
        data = problem.weighted(problem.data)
        batch = data.shape[: data.ndim - problem.operator.range.ndim]
        x = data.reshape(*batch, -1) @ self.matrix.mT.to(data.dtype)
        return Reconstruction(x.reshape(*batch, *self.shape))


class Scale(Reconstructor):
    """``x = a · (what the weighted data are)``, for operators whose data are images."""

    def __init__(self, a: float = 1.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def reconstruct(self, problem, x0=None, *, trace=False):
        return Reconstruction(self.a * problem.weighted(problem.data))


class Stage(Operator):
    """``views`` equal looks at an object ``(n)``: data ``(view, n)``."""

    def __init__(self, views: int, n: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(Space((n,), dtype, ("x",)), Space((views, n), dtype, ("view", "detector")))

    def forward(self, x):
        return x.unsqueeze(-2).expand(*x.shape[:-1], *self.range.shape)

    def adjoint(self, y):
        return y.sum(-2)

    def initial(self, y):
        return y.mean(-2)


class Ramp(Operator):
    """Each row with a gain of its own, and no inversion but the default."""

    def __init__(self) -> None:
        space = Space((8, 8), torch.float64, ("row", "column"))
        super().__init__(space, space)
        self.register_buffer("gain", torch.linspace(0.2, 1, 8).double()[:, None])

    def forward(self, x):
        return self.gain * x

    def adjoint(self, y):
        return self.gain * y


def stage(views: int = 4, n: int = 6) -> Stage:
    """Four looks at six numbers."""
    return Stage(views, n)


def generators(count: int, epoch: int = 0) -> tuple[torch.Generator, ...]:
    """One per slice."""
    return tuple(sample_generator(0, epoch, i) for i in range(count))


def measured(operator: Operator, noise: Noise, x: Tensor, seed: int = 0) -> Problem:
    """A noisy measurement of each object."""
    generator = torch.Generator().manual_seed(seed)
    return Problem(operator, noise.sample(operator(x), generator), noise)


def passed(network: Reconstructor, problem: Problem, epoch: int = 0) -> Pass:
    """A batch on its way through a network."""
    return Pass(network, problem, generators(len(problem.data), epoch), "noise")


def objects(count: int, n: int = 6, seed: int = 0) -> torch.Tensor:
    """Numbers that are correlated, so that the best linear estimate is no multiple of the data."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(n, dtype=torch.float64) + 0.8 * torch.diag(torch.ones(n - 1).double(), 1)
    return torch.randn(count, n, generator=generator, dtype=torch.float64) @ mixing
