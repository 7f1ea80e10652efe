"""LISTA (Gregor and LeCun 2010): how many iterations of FISTA one learned iteration is worth.

The paper: 18 with 100 atoms, 35 with 400. The protocol is theirs on other images: 10×10 patches, a
dictionary learned online, codes of converged FISTA as targets.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from labrecon.networks.lista import make_lista
from labrecon.operators import Matrix
from labrecon.priors import L1
from labrecon.problem import Problem
from labrecon.seeds import seeded
from labrecon.solver import solve
from labrecon.solvers import FISTA

WEIGHT = 0.1
SIDE = 10


def patches(folder: Path, pattern: str, images: int, count: int, seed: int) -> Tensor:
    """Patches without mean, of norm 1, of the more lively places of images."""
    random = np.random.default_rng(seed)
    found = []
    for path in sorted(folder.glob(pattern))[:images]:
        image = np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255
        windows = np.lib.stride_tricks.sliding_window_view(image, (SIDE, SIDE))
        flat = windows.reshape(-1, SIDE * SIDE)
        flat = flat[random.permutation(len(flat))[: 4 * count // images]]
        flat = flat - flat.mean(1, keepdims=True)
        lively = flat[flat.std(1) > 0.05][: count // images]
        found.append(lively / np.linalg.norm(lively, axis=1, keepdims=True))
    return torch.from_numpy(np.concatenate(found))


def codes(dictionary: Tensor, data: Tensor, iterations: int) -> Tensor:
    problem = Problem(Matrix(dictionary), data)
    return solve(FISTA(prior=L1(WEIGHT)), problem, iterations=iterations, check_every=10_000).x


def learned_dictionary(
    data: Tensor, atoms: int, batches: int, generator: torch.Generator
) -> Tensor:
    """Online dictionary learning (Mairal et al. 2009): sparse codes, then each atom in turn."""
    places = torch.randperm(len(data), generator=generator)[:atoms]
    dictionary = data[places].T.contiguous()
    seen, paired = torch.zeros(atoms, atoms), torch.zeros(SIDE * SIDE, atoms)
    for _ in range(batches):
        batch = data[torch.randint(len(data), (256,), generator=generator)]
        z = codes(dictionary, batch, 40)
        seen, paired = 0.95 * seen + z.T @ z, 0.95 * paired + batch.T @ z
        for atom in range(atoms):
            if seen[atom, atom] > 1e-6:
                change = (paired[:, atom] - dictionary @ seen[:, atom]) / seen[atom, atom]
                moved = dictionary[:, atom] + change
                dictionary[:, atom] = moved / torch.linalg.vector_norm(moved)
    return dictionary


def error(x: Tensor, target: Tensor) -> float:
    return float((x - target).square().sum(-1).mean())


@pytest.mark.slow
@pytest.mark.reproduction
@pytest.mark.parametrize(("atoms", "iterations"), [(100, 12), (400, 25)])
def test_one_iteration_is_worth_many_of_fista(lab_data: Path, atoms: int, iterations: int) -> None:
    folder = lab_data / "images" / "bsd400_set12"
    if not folder.is_dir():
        pytest.skip(f"the images are not in {folder}")
    generator = torch.Generator().manual_seed(0)
    data = patches(folder / "train", "*.png", images=8, count=10000, seed=0)
    unseen = patches(folder / "Set12", "*.png", images=3, count=1500, seed=1)
    dictionary = learned_dictionary(data, atoms, 30, generator)
    targets, truth = codes(dictionary, data, 200), codes(dictionary, unseen, 2000)

    operator = Matrix(dictionary)
    problem = Problem(operator, unseen)
    with seeded(0):
        network = make_lista(problem, depth=1, weight=WEIGHT)
    with torch.no_grad():
        untrained = error(network(problem), truth)
    steps = 2000
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        chosen = torch.randint(len(data), (128,), generator=generator)
        x = network(Problem(operator, data[chosen]))
        loss = 0.5 * (x - targets[chosen]).square().sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        trained = error(network(problem), truth)
    fista = [error(codes(dictionary, unseen, k), truth) for k in range(1, 61)]
    worth = next((k for k, value in enumerate(fista, start=1) if value <= trained), 60)
    print(f"{atoms} atoms: {untrained:.4f} -> {trained:.4f}, worth {worth} of FISTA")
    assert trained <= 0.35 * untrained
    assert trained <= fista[iterations - 1]
