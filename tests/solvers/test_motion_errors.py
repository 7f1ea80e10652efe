"""Error bars of motions: dense algebra, and how estimates scatter."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from burst_cases import F64, FRAMES, burst, drawn, noise, scene, taken
from torch import Tensor

from labrecon.noise import Gaussian
from labrecon.operators import Burst, Decimation
from labrecon.problem import Problem, SolverError
from labrecon.solver import solve
from labrecon.solvers import LucasKanade
from labrecon.solvers.motion_errors import motion_errors
from labrecon.solvers.motion_step import motion_step
from labrecon.space import Space


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.slow
def test_error_bars_are_the_scatter_of_joint_estimates() -> None:
    """150 noisy bursts, image and motions estimated together from each, without a prior.

    Pixels are samples, so that the frames alone determine the image.
    """
    sigma, count, size, frames = 0.01, 150, 14, 4
    operator = burst(size, 1, frames)
    x, motion = scene(size=size), drawn(frames, 2, reach=1.0)
    clean = operator(x, motion=motion)
    data = clean.expand(count, *clean.shape)
    operator.place({"motion": motion})
    problem = Problem(operator, data + noise(data, sigma), Gaussian(sigma))
    found = solve(LucasKanade(mu=0.01, start="given"), problem, iterations=30).state.motion
    bars = motion_errors(
        Problem(operator, clean, Gaussian(sigma)), x, motion, ridge=1e-6, iterations=200
    )
    scatter = found[:, 1:].std(0)
    torch.testing.assert_close(scatter, bars[1:], rtol=0.25, atol=0)
    known = motion_errors(Problem(operator, clean, Gaussian(sigma)), x, motion, known_image=True)
    print("scatter / bar", scatter / bars[1:], "for a known image", scatter / known[1:])


@pytest.mark.slow
def test_error_bars_are_the_scatter_of_motions_for_a_known_image() -> None:
    """200 noisy bursts, each registered with the true image: the maximum-likelihood estimate."""
    sigma, count = 0.03, 200
    operator, x, motion = burst(), scene(), drawn(FRAMES, 2)
    clean = operator(x, motion=motion).expand(count, FRAMES, 24, 24)
    problem = Problem(operator, clean + noise(clean, sigma), Gaussian(sigma))
    images = x.expand(count, 48, 48)
    found = motion.expand(count, FRAMES, 2)
    still = torch.zeros_like(found)
    for _ in range(4):
        moved = motion_step(operator, problem, images, found, None, 0.0)
        still = moved - found
        found = moved
    assert float(still.abs().max()) < 1e-3
    bars = motion_errors(Problem(operator, clean[0], Gaussian(sigma)), x, motion, known_image=True)
    # Motions are told against that of frame 0, which scatters as much.
    own = bars[1:].square()
    zero = zero_bars(operator, clean[0], sigma, x, motion)
    expected = (own + zero.square()).sqrt()
    scatter = found[:, 1:].std(0)
    torch.testing.assert_close(scatter, expected, rtol=0.2, atol=0)


def zero_bars(operator: Burst, clean: Tensor, sigma: float, x: Tensor, motion: Tensor) -> Tensor:
    """The bars that frame 0 would have if it were another one."""
    order = [1, 0, 2, 3, 4]
    problem = Problem(operator, clean[order], Gaussian(sigma))
    return motion_errors(problem, x, motion[order], known_image=True)[1]


def test_bars_for_an_unknown_image_are_those_of_dense_algebra() -> None:
    operator = Burst(Decimation(Space((8, 8), F64), 2), 6)
    x, motion, sigma = scene(size=8), drawn(6, 2, reach=0.8), 0.02
    problem = Problem(operator, operator(x, motion=motion), Gaussian(sigma))
    found = motion_errors(problem, x, motion, ridge=1e-2, iterations=300)

    weights = operator.inside(motion).flatten() / sigma**2
    image = operator(torch.eye(64, dtype=F64).reshape(64, 8, 8), motion=motion).flatten(1).T
    step = 1e-6
    columns = []
    for n in range(2, 12):
        change = torch.zeros(12, dtype=F64)
        change[n] = step
        change = change.reshape(6, 2)
        difference = operator(x, motion=motion + change) - operator(x, motion=motion - change)
        columns.append(difference.flatten() / (2 * step))
    both = torch.cat([image, torch.stack(columns, 1)], 1)
    information = both.T @ (weights[:, None] * both)
    rho = 1e-2 * float(weights.max()) * 6 * operator.camera.norm() ** 2
    information[:64, :64] += rho * torch.eye(64, dtype=F64)
    expected = torch.linalg.inv(information).diagonal()[64:].sqrt().reshape(5, 2)
    torch.testing.assert_close(found[1:], expected, rtol=1e-4, atol=0)
    assert bool((found[0] == 0).all())
    known = motion_errors(problem, x, motion, known_image=True)
    assert bool((known <= found * (1 + 1e-9)).all())

    # A solve that ends early tells too small bars, and no wild ones.
    early = [motion_errors(problem, x, motion, ridge=1e-5, iterations=n)[1:] for n in (3, 10, 999)]
    assert bool((known[1:] <= early[0]).all())
    for sooner, later in itertools.pairwise(early):
        assert bool((sooner <= later * (1 + 1e-6)).all())

    unseen = torch.ones(6, 1, 1, dtype=F64)
    unseen[3] = 0
    weighted = Problem(operator, problem.data, problem.noise, unseen)
    without = motion_errors(weighted, x, motion, ridge=1e-2, iterations=300)
    assert bool(torch.isinf(without[3]).all())
    assert bool((without[[1, 2, 4, 5]] >= found[[1, 2, 4, 5]]).all())
    assert float(without[[1, 2, 4, 5]].max()) < 2 * float(found.max())


def test_error_bars_need_a_noise_level_and_a_burst() -> None:
    operator, frames, motion = taken()
    with pytest.raises(SolverError, match=r"Gaussian\(sigma\)"):
        motion_errors(Problem(operator, frames), scene(), motion)
    one = Problem(operator.camera, frames[0], Gaussian(0.1))
    with pytest.raises(SolverError, match="needs a Burst"):
        motion_errors(one, scene(), motion)
