"""ALISTA on the published dictionary and test signals (VITA-Group/ALISTA, MIT)."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat
from torch import Tensor

from labrecon.networks import Unrolled
from labrecon.networks.alista import analytic_weights, make_alista
from labrecon.operators import Matrix
from labrecon.priors import L1
from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import FISTA

pytestmark = pytest.mark.reproduction


@pytest.fixture(scope="module")
def published(lab_data: Path) -> Path:
    folder = lab_data / "published" / "alista"
    if not folder.is_dir():
        pytest.skip(f"the published dictionary is not in {folder}")
    return folder


@pytest.fixture(scope="module")
def dictionary(published: Path) -> Tensor:
    return torch.from_numpy(loadmat(published / "D.mat")["D"].copy())


@pytest.fixture(scope="module")
def signals(published: Path) -> Tensor:
    return torch.from_numpy(np.load(published / "xtest_n500_p10.npy").T.copy())


def decibels(x: Tensor, truth: Tensor) -> float:
    return float(10 * ((x - truth).square().sum() / truth.square().sum()).log10())


def gaussian_bernoulli(count: int, generator: torch.Generator) -> Tensor:
    values = torch.randn(count, 500, generator=generator)
    return values * (torch.rand(count, 500, generator=generator) < 0.1)


def test_closed_form_weights_are_the_published_ones(published: Path, dictionary: Tensor) -> None:
    ours = analytic_weights(dictionary)
    diagonal = (ours * dictionary).sum(0)
    torch.testing.assert_close(diagonal, torch.ones_like(diagonal), rtol=0, atol=2e-15)
    theirs = torch.from_numpy(np.load(published / "W.npy"))
    assert float((ours - theirs).norm() / theirs.norm()) <= 0.00245
    # Theirs come from projected gradients and keep the constraint to 2.5e-3 only.
    scaled = theirs / (theirs * dictionary).sum(0)
    assert float((ours.T @ dictionary).norm()) <= float((scaled.T @ dictionary).norm())


def layerwise(network: Unrolled, operator: Matrix, steps: int, rate: float) -> None:
    """Train with one layer, then with two, and so on; the last one has ``steps`` for each layer."""
    generator = torch.Generator().manual_seed(0)
    depth = network.depth
    stages = [(layers, steps, rate) for layers in range(1, depth + 1)]
    for layers, count, start in [*stages, (depth, 10 * steps, 0.4 * rate)]:
        network.depth = layers
        learned = [p for p in network.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(learned, lr=start)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, count)
        for _ in range(count):
            truth = gaussian_bernoulli(64, generator)
            x = network(Problem(operator, operator(truth)))
            optimiser.zero_grad()
            (x - truth).square().mean().backward()
            optimiser.step()
            schedule.step()


@pytest.mark.slow
def test_32_numbers_beat_200_iterations_of_fista(dictionary: Tensor, signals: Tensor) -> None:
    operator = Matrix(dictionary.float())
    truth = signals.float()
    problem = Problem(operator, operator(truth))
    network = make_alista(problem, depth=16)
    learned = [p for p in network.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learned) == 32

    layerwise(network, operator, steps=30, rate=5e-3)
    with torch.no_grad():
        trace = network.reconstruct(problem, trace=True).trace
    errors = [decibels(x, truth) for x in trace]
    print("ALISTA, layer by layer:", [f"{e:.1f}" for e in errors])
    assert errors[-1] <= -45
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))

    for weight in (0.4, 0.1, 0.05, 0.02, 0.01):
        fista = solve(FISTA(prior=L1(weight)), problem, iterations=200).x
        print(f"FISTA 200, lambda {weight}: {decibels(fista, truth):.1f}")
        assert errors[-1] < decibels(fista, truth)
