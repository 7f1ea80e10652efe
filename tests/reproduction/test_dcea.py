"""DCEA: photon-limited images with the released weights (Tolooshams et al. 2020).

The authors' own figures are for other images; those here were measured once with independent code
on these three and their means are what is compared.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from labrecon import solve
from labrecon.metrics import psnr
from labrecon.networks.published_dcea import read_dcea
from labrecon.noise import LogPoisson
from labrecon.operators import ConvolutionalDictionary, Identity
from labrecon.priors import L1
from labrecon.problem import Problem
from labrecon.solvers import FISTA
from labrecon.space import Space

pytestmark = pytest.mark.reproduction
#: Cameraman, house, peppers.
IMAGES = ("01", "02", "03")
#: Mean PSNR in dB of the noisy images, of DCEA-C and of DCEA-UC.
NOISY, TIED, UNTIED = 8.96, 24.20, 25.35


def test_images_of_four_counts(lab_data: Path) -> None:
    folder = lab_data / "published" / "dcea"
    if not folder.is_dir():
        pytest.skip(f"the released DCEA is not in {folder}")
    networks = {
        name: read_dcea(folder / f"dcea_{name}_peak4.npz", clip=4.0) for name in ("tied", "untied")
    }
    sizes = {k: sum(p.numel() for p in network.parameters()) for k, network in networks.items()}
    assert sizes == {"tied": 20_618, "untied": 61_516}

    found: dict[str, list[float]] = {"noisy": [], "tied": [], "untied": []}
    generator = torch.Generator().manual_seed(0)
    for name in IMAGES:
        path = lab_data / "images" / "bsd400_set12" / "Set12" / f"{name}.png"
        image = torch.from_numpy(np.array(Image.open(path).convert("L"))).float()
        mean = 4 * image / image.max()
        counts = torch.poisson(mean, generator=generator)
        problem = Problem(Identity(Space(mean.shape)), counts)
        made = {"noisy": counts}
        with torch.no_grad():
            made |= {k: network(problem) for k, network in networks.items()}
        for kind, x in made.items():
            found[kind].append(psnr(x, mean, peak=4.0))
    means = {kind: sum(values) / len(values) for kind, values in found.items()}
    print("PSNR", found, "means", means)
    assert means["noisy"] == pytest.approx(NOISY, abs=0.15)
    assert means["tied"] == pytest.approx(TIED, abs=0.15)
    assert means["untied"] == pytest.approx(UNTIED, abs=0.15)
    assert means["untied"] >= means["tied"] + 0.5


def test_three_atoms_of_fifty_samples_are_found_without_truth() -> None:
    """Codes and atoms in turns, from atoms that are off by 0.55 (the paper's synthetic test).

    Each trace has one event of each atom, on 300 counts. The error is ``√(1 − correlation²)``; what
    noise allows is ``√(50 / Σ 300 s²)``, about 0.05.
    """
    generator = torch.Generator().manual_seed(0)
    traces, samples, rate = 300, 200, 300.0
    space, noise = Space((samples,)), LogPoisson(math.log(rate))

    def of_norm_one(atoms: Tensor) -> Tensor:
        return atoms / torch.linalg.vector_norm(atoms, dim=1, keepdim=True)

    def errors(atoms: Tensor) -> Tensor:
        return (1 - (atoms * truth).sum(1).square()).clamp_min(0).sqrt()

    truth = of_norm_one(torch.randn(3, 50, generator=generator))
    atoms = of_norm_one(truth + 0.7 * of_norm_one(torch.randn(3, 50, generator=generator)))
    events = torch.zeros(traces, 3, samples - 49)
    places = torch.randint(0, samples - 49, (traces, 3, 1), generator=generator)
    events.scatter_(2, places, 0.3 + 0.3 * torch.rand(traces, 3, 1, generator=generator))
    counts = noise.sample(ConvolutionalDictionary(space, truth)(events), generator)
    assert float(errors(atoms).min()) > 0.5

    # Three deviations of noise; the curvature of the dictionary is below 8 at the rate.
    solver = FISTA(prior=L1(3 * rate**0.5, nonneg=True), step_size=1 / (8 * rate))
    codes = None
    for _ in range(5):
        operator = ConvolutionalDictionary(space, atoms)
        codes = solve(solver, Problem(operator, counts, noise), x0=codes, iterations=25).x
        step = 1 / (rate * codes.square().sum((0, 2)))
        for _ in range(4):
            leaf = atoms.clone().requires_grad_()
            noise.nll(operator.at(atoms=leaf)(codes), counts).backward()
            atoms = atoms - step[:, None] * leaf.grad
        atoms = of_norm_one(atoms)
    print("errors of atoms", errors(atoms))
    assert float(errors(atoms).max()) < 0.1
