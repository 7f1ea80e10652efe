"""Problems of each kind that a network for any operator must take."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labrecon.operators import Convolution, MaskedFourier, Matrix
from labrecon.problem import Problem
from labrecon.space import Space


def objects(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    coarse = torch.randn(*shape, dtype=dtype, generator=generator)
    return coarse.cumsum(-1) / 3


def blur_1d(dtype: torch.dtype = torch.float32) -> tuple[Problem, Tensor]:
    truth = objects(3, 21, dtype=dtype)
    operator = Convolution(Space((21,), dtype), torch.ones(5, dtype=dtype) / 5)
    return Problem(operator, operator(truth)), truth


def sampled_fourier(dtype: torch.dtype = torch.complex64) -> tuple[Problem, Tensor]:
    truth = objects(3, 12, 10, dtype=dtype)
    mask = torch.rand(12, 10, generator=torch.Generator().manual_seed(5)) < 0.5
    operator = MaskedFourier(Space((12, 10), dtype), mask)
    return Problem(operator, operator(truth)), truth


def slices_to_samples() -> tuple[Problem, Tensor]:
    """A volume whose data have other axes than it: ``(2, 6, 6)`` to ``(50,)``."""
    truth = objects(3, 2, 6, 6)
    matrix = torch.randn(50, 72, generator=torch.Generator().manual_seed(6))
    operator = Matrix(matrix, Space((2, 6, 6)))
    return Problem(operator, operator(truth)), truth


CASES: dict[str, Callable[[], tuple[Problem, Tensor]]] = {
    "real 1D": blur_1d,
    "complex 2D": sampled_fourier,
    "complex 2D, double": lambda: sampled_fourier(torch.complex128),
    "3D to a vector": slices_to_samples,
}


def fall_of_loss(network: torch.nn.Module, problem: Problem, truth: Tensor) -> tuple[float, float]:
    """The mean square error before and after one small step down its gradient."""

    def loss() -> Tensor:
        return (network(problem) - truth).abs().square().mean()

    before = loss()
    before.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    size = torch.stack([g.norm() for g in gradients]).norm()
    with torch.no_grad():
        for p in network.parameters():
            if p.grad is not None:
                p -= 1e-3 / size * p.grad
        return float(before), float(loss())
