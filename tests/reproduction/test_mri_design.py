"""Learned acquisitions on brain slices that were not learned from, four coils, σ = 1 %.

A mask of 32 of 128 lines beats equispaced and variable-density random lines, and a trajectory beats
its golden-angle radial start under the same limits of a Prisma, with every reconstruction tried.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from brain_slices import brain_slices, relative_error
from torch import Tensor

from labrecon import Space
from labrecon.learners import exchange
from labrecon.noise import Gaussian
from labrecon.operators import MaskedFourier
from labrecon.priors import TV, WaveletL1
from labrecon.problem import Problem
from labrecon.solver import Solver, solve
from labrecon.solvers import CG, FISTA
from labrecon_mri.gradient_slew import GradientSlew
from labrecon_mri.masks import equispaced, variable_density
from labrecon_mri.nufft import NUFFT
from labrecon_mri.phantoms import birdcage_maps
from labrecon_mri.sense import Sense
from labrecon_mri.spline import BSpline
from labrecon_mri.trajectories import radial

pytestmark = pytest.mark.reproduction
N, FOV, SIGMA, CENTRE = 128, (0.22, 0.22), 0.01, 8
SPOKES, SAMPLES, DWELL = 12, 512, 10e-6


@pytest.fixture(scope="module")
def slices(lab_data: Path) -> tuple[Tensor, Tensor]:
    every = brain_slices(lab_data / "published/ista_net/brain_test", N)
    return every[:38], every[40:]


def cartesian(mask: Tensor) -> Sense:
    space = Space((N, N), torch.complex64, ("y", "x"))
    return Sense(MaskedFourier(space, mask), birdcage_maps(4, (N, N))[None])


def along(trajectory: Tensor) -> Sense:
    return Sense(NUFFT((N, N), FOV, trajectory), birdcage_maps(4, (N, N))[None])


def errors(
    operator: Sense, objects: Tensor, solvers: dict[str, tuple[Solver, int]]
) -> dict[str, float]:
    """Of each reconstruction, with the same noise for every acquisition."""
    generator = torch.Generator().manual_seed(5)
    problem = Problem(operator, Gaussian(SIGMA).sample(operator(objects), generator))
    return {
        name: relative_error(solve(s, problem, iterations=n, objective=False).x, objects)
        for name, (s, n) in solvers.items()
    }


@torch.no_grad()
def learn_mask(seed: int, objects: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    start = variable_density(N, 4, CENTRE, generator=generator)
    solver = FISTA(prior=WaveletL1(2e-3), step_size=1.0)

    def losses() -> Iterator[Callable[[Tensor], float]]:
        while True:
            batch = objects[torch.randperm(len(objects), generator=generator)[:6]]
            noise = int(torch.randint(2**31, (), generator=generator))

            def loss(mask: Tensor, batch: Tensor = batch, noise: int = noise) -> float:
                operator = cartesian(mask)
                same = torch.Generator().manual_seed(noise)
                data = Gaussian(SIGMA).sample(operator(batch), same)
                problem = Problem(operator, data).prepare()
                state = solver.init(problem)
                for _ in range(25):
                    state, _ = solver.step(problem, state)
                return relative_error(solver.estimate(state), batch)

            yield loss

    low = equispaced(N, N / CENTRE, CENTRE)
    found = exchange(start, losses(), rounds=280, generator=generator, fixed=low)
    return found.mask, start


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_learned_mask_beats_random_and_even_ones(
    seed: int, slices: tuple[Tensor, Tensor]
) -> None:
    train, unseen = slices
    solvers = {
        "CG-SENSE": (CG(rho=1e-2), 25),
        "L1-wavelet": (FISTA(prior=WaveletL1(2e-3)), 50),
        "TV": (FISTA(prior=TV(2e-3)), 50),
    }
    mask, start = learn_mask(seed, train)
    assert int(mask.sum()) == N // 4
    learned = errors(cartesian(mask), unseen, solvers)
    generator = torch.Generator().manual_seed(100 + seed)
    drawn = [variable_density(N, 4, CENTRE, generator=generator) for _ in range(4)]
    random = [errors(cartesian(m), unseen, solvers) for m in (start, *drawn)]
    even = errors(cartesian(equispaced(N, 4, CENTRE)), unseen, solvers)
    for name in solvers:
        best = min(each[name] for each in random)
        typical = sum(each[name] for each in random) / len(random)
        print(seed, name, f"learned {learned[name]:.4f}, best of 5 random {best:.4f}, "
              f"even {even[name]:.4f}")  # fmt: skip
        # Regularised, it beats the luckiest of the five; plain CG-SENSE may tie with that one.
        assert learned[name] < (typical if name == "CG-SENSE" else best)
        assert learned[name] < 0.9 * even[name]


def test_a_learned_trajectory_beats_its_radial_start(slices: tuple[Tensor, Tensor]) -> None:
    train, unseen = slices
    generator = torch.Generator().manual_seed(0)
    start = radial(SPOKES, SAMPLES, (N, N), FOV)
    spline = BSpline(64, SAMPLES, DWELL)
    on_points = GradientSlew.of("prisma", dwell=spline.spacing)
    limits = GradientSlew.of("prisma", dwell=DWELL)
    assert limits.violations(start) == {}
    edge, steps, rate = N / (2 * FOV[0]), 100, 4.0
    control = on_points.project(spline.fit(start)).requires_grad_()
    operator, solver = along(start), CG(rho=3e-2)
    optimiser = torch.optim.Adam([control], lr=rate)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        batch = train[torch.randint(len(train), (2,), generator=generator)]
        at = operator.at(**{"sampling.trajectory": spline(control)})
        problem = Problem(at, Gaussian(SIGMA).sample(at(batch), generator))
        state = solver.init(problem)
        for _ in range(8):
            state, _ = solver.step(problem, state)
        error = (solver.estimate(state) - batch).abs().square().sum((-2, -1))
        loss = (error / batch.abs().square().sum((-2, -1))).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            control.copy_(on_points.project(control.clamp(-edge, edge)))
    learned = spline(control.detach())
    # Every sample is within what the scanner can do.
    assert limits.violations(learned) == {}
    solvers = {
        "CG-SENSE": (CG(rho=3e-2), 25),
        "L1-wavelet": (FISTA(prior=WaveletL1(1e-2)), 80),
        "TV": (FISTA(prior=TV(1e-2)), 80),
    }
    before, after = errors(along(start), unseen, solvers), errors(along(learned), unseen, solvers)
    for name in solvers:
        print(name, f"radial {before[name]:.4f}, learned {after[name]:.4f}")
        assert after[name] < 0.8 * before[name]
