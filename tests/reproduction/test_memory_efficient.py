"""Memory-efficient learning (Kellman et al. 2020): the figures of systems.md §2.

Layers are ISTA steps with leaky soft thresholding (slope 0.5, threshold 0.02), the matrix is
70 × 100 / 10, the batch 16; compared are gradients by the matrix.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from labrecon.networks import ReversalError, Unrolled
from labrecon.networks.meter import Meter
from labrecon.operators import Matrix
from labrecon.prior import Prior
from labrecon.priors.leaky import LeakyL1
from labrecon.problem import Problem
from labrecon.solvers import ISTA
from labrecon.solvers.proximal import ProximalState

pytestmark = pytest.mark.reproduction
F64 = torch.float64


class Published(ISTA):
    """The gradient step undone by a fixed number of iterations, as in the published code."""

    iterations = 4

    def inverse(self, problem: Problem, state: ProximalState) -> ProximalState:
        assert isinstance(self.prior, Prior)
        tau = float(state.step_size)
        u = x = self.prior.inverse(state.x, tau)
        for _ in range(self.iterations):
            x = u + tau * problem.gradient(x)
        return state.replace(k=state.k - 1, x=x, v=x)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def gradient(
    depth: int,
    strength: float,
    dtype: torch.dtype = F64,
    kind: type[ISTA] = ISTA,
    **options: Any,
) -> Tensor:
    """By the matrix, with step ``strength / L``."""
    matrix = draw(0, 70, 100) / 10
    tau = strength / float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    operator = Matrix(matrix.to(dtype), learn=True)
    x = draw(1, 16, 100).to(dtype)
    solver = kind(prior=LeakyL1(0.02 / tau, slope=0.5), step_size=tau)
    network = Unrolled(solver, depth, **options)
    (network(Problem(operator, operator(x).detach())) - x).square().mean().backward()
    assert operator.matrix.grad is not None
    return operator.matrix.grad


def error(depth: int, strength: float, dtype: torch.dtype = F64, **options: Any) -> float:
    expected = gradient(depth, strength, dtype)
    found = gradient(depth, strength, dtype, memory="invert", **options)
    return float((found - expected).norm() / expected.norm())


def test_double_precision_without_waypoints() -> None:
    assert error(20, 0.3, waypoints=0) <= 1e-7


def test_single_precision_with_a_waypoint_every_ten_layers() -> None:
    # The state is off by 0.9e-4 to 1.2e-4 of its norm, depending on the library's sums.
    assert error(100, 0.3, torch.float32, waypoints=10, tolerance=3e-4) <= 1e-5


def test_single_precision_with_waypoints_by_trial() -> None:
    # States within 1e-5; a sample that so passes the corner of the threshold costs the gradient.
    assert error(100, 0.3, torch.float32) <= 1e-3


@pytest.mark.parametrize(("depth", "strength"), [(100, 0.3), (20, 0.9), (100, 0.9)])
def test_chains_that_are_off_are_refused(depth: int, strength: float) -> None:
    with pytest.raises(ReversalError):
        gradient(depth, strength, memory="invert", waypoints=0)


def test_single_precision_without_waypoints_is_refused() -> None:
    with pytest.raises(ReversalError):
        gradient(20, 0.3, torch.float32, memory="invert", waypoints=0)


def test_the_published_number_of_iterations_is_wrong_and_refused() -> None:
    found = gradient(20, 0.3, kind=Published, memory="invert", waypoints=0, tolerance=1e9)
    expected = gradient(20, 0.3)
    assert (found - expected).norm() > 0.1 * expected.norm()
    with pytest.raises(ReversalError, match="checkpoint"):
        gradient(20, 0.3, kind=Published, memory="invert", waypoints=0)


def test_checkpointing_is_exact() -> None:
    assert torch.equal(gradient(100, 0.3), gradient(100, 0.3, memory="checkpoint"))


def test_what_is_alive_does_not_grow_with_depth() -> None:
    """Twenty layers and two hundred, the waypoints that the longer one has more taken off."""
    peaks = {}
    for depth in (20, 200):
        with Meter() as meter:
            gradient(depth, 0.3, memory="invert", waypoints=10)
        peaks[depth] = meter.peak
    state = 16 * 100 * 8
    more = 199 // 10 - 19 // 10
    assert abs(peaks[200] - more * state - peaks[20]) <= 0.05 * peaks[20]
