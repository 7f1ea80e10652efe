"""The fully sampled 7-coil brain along radial and spiral trajectories at 3× undersampling.

The coil images, with their noise, are sampled by the NUFFT; the reference is their combination by
ESPIRiT maps. Regularised SENSE beats CG-SENSE, stopped where it is best, and that beats gridding.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from labrecon.operators.fourier import centred_fft
from labrecon.priors import TV, WaveletL1
from labrecon.problem import Problem
from labrecon.solver import solve
from labrecon.solvers import CG, FISTA
from labrecon_mri.espirit import espirit_maps
from labrecon_mri.nufft import NUFFT
from labrecon_mri.sense import Sense
from labrecon_mri.trajectories import radial, spiral

pytestmark = pytest.mark.reproduction
MATRIX, FOV = (256, 216), (0.256, 0.216)
# 402 spokes or 24 interleaves sample this matrix fully.
TRAJECTORIES = {
    "radial": radial(134, 512, MATRIX, FOV),
    "spiral": spiral(24, 2048, MATRIX, FOV)[::3],
}
# Measured on 2026-11-27: gridding, CG-SENSE (best of its iterations), L1-wavelet, TV.
MEASURED = {
    "radial": (0.084, 0.0605, 0.0547, 0.0533),
    "spiral": (0.346, 0.0918, 0.0764, 0.0710),
}
WEIGHTS = {"radial": (1e-4, 5e-5), "spiral": (3e-4, 3e-4)}


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_regularised_sense_beats_cg_sense_and_gridding(name: str, lab_data: Path) -> None:
    path = lab_data / "mri/brain7_complex_labmidas/brain_slice.npz"
    images = torch.from_numpy(np.load(path)["arr_0"].transpose(2, 0, 1).copy())
    images = images / images.abs().max()
    k = centred_fft(images, (-2, -1))
    maps, _ = espirit_maps(k[:, 116:140, 96:120], MATRIX, crop=0.8)
    truth = (maps[0].conj() * images).sum(0)
    inside = maps[0].abs().sum(0) > 0

    def error(x: torch.Tensor) -> float:
        return float(((x - truth) * inside).norm() / (truth * inside).norm())

    nufft = NUFFT(MATRIX, FOV, TRAJECTORIES[name])
    sense = Sense(nufft, maps)
    data = nufft(images)
    problem = Problem(sense, data)
    start = sense.initial(data)
    largest = float(problem.gradient(torch.zeros_like(truth)).abs().max())
    cg = min(
        error(solve(CG(), problem, x0=start, iterations=n, objective=False).x)
        for n in (5, 8, 12, 16, 20, 30)
    )

    def regularised(prior: torch.nn.Module) -> float:
        solver = FISTA(prior=prior)
        return error(solve(solver, problem, x0=start, iterations=120, objective=False).x)

    wavelet_weight, tv_weight = WEIGHTS[name]
    found = (
        error(start),
        cg,
        regularised(WaveletL1(wavelet_weight * largest)),
        regularised(TV(tv_weight * largest)),
    )
    print(name, [round(value, 4) for value in found])
    gridding, best_cg, wavelet, tv = found
    assert best_cg < gridding
    assert wavelet < 0.95 * best_cg
    assert tv < 0.93 * best_cg
    assert found == pytest.approx(MEASURED[name], rel=0.05)
