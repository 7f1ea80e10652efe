"""Plug-and-play MRI with the released DnCNN denoisers (Ryu et al. 2019, brain image).

Their table: PnP-ADMM with DnCNN 19.86, PnP-FBS with DnCNN 19.59. What they call PSNR is a
signal-to-noise ratio. Their SimpleCNN rows are not repeated: its weights are not at hand.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat
from torch import Tensor

from labrecon.networks.plug_and_play import make_pnp
from labrecon.networks.published import read_dncnn
from labrecon.operators import AsComplex, Fourier, MaskedFourier
from labrecon.priors.denoisers import Denoiser
from labrecon.problem import Problem
from labrecon.space import Space

pytestmark = [pytest.mark.reproduction, pytest.mark.slow]


def snr(estimate: Tensor, truth: Tensor) -> float:
    """``10 log₁₀(Σ|t|² / Σ|x − t|²)`` in dB."""
    error = (estimate - truth).abs().double().square().sum()
    return 10 * math.log10(float(truth.double().square().sum() / error))


class Scan:
    """The authors' simulated measurement: 30 % of k-space at random, with their noise."""

    def __init__(self, folder: Path) -> None:
        image = np.array(Image.open(folder / "Brain.jpg").convert("L")) / 255.0
        mask = loadmat(folder / "Q_Random30.mat")["Q1"].astype(float)
        noise = 3 * loadmat(folder / "noises.mat")["noises"]
        self.truth = torch.from_numpy(image).float()
        zero_filled = torch.from_numpy(np.fft.ifft2(np.fft.fft2(image) * mask + noise))
        self.zero_filled = zero_filled.to(torch.complex64)
        # Their k-space has its origin in the corner, and the image its own: the transform of it
        # brings the data to the convention here.
        space = Space((256, 256), torch.complex64)
        self.operator = MaskedFourier(space, torch.fft.fftshift(torch.from_numpy(mask)))
        self.data = self.operator.mask * Fourier(space)(self.zero_filled)


@pytest.fixture
def folder(lab_data: Path) -> Path:
    path = lab_data / "published" / "pnp"
    if not path.is_dir():
        pytest.skip(f"the released denoisers are not in {path}")
    return path


def denoiser(folder: Path, sigma: int, **options) -> Denoiser:
    """The denoiser with the contrast that the authors give its images: [0, 1] and σ/2 more."""
    span = 1 + sigma / 255 / 2
    network = read_dncnn(folder / f"DnCNN_noise{sigma}.npz").to(memory_format=torch.channels_last)
    return Denoiser(network, input_range=((1 - span) / 2, (1 + span) / 2), **options)


@pytest.mark.parametrize("iterations", [50, pytest.param(100, marks=pytest.mark.nightly)])
def test_admm_with_dncnn_15(folder: Path, iterations: int) -> None:
    """Their order of the steps is another one with the same limit, see tests/networks.

    They take the real part of a complex data step. For a real object that is the data step of
    real images with a weight on the samples whose mirror image in k-space was not measured.
    """
    scan, rho = Scan(folder), 0.25  # 1 / (2 α) with α = 2
    mask = scan.operator.mask
    mirrored = mask.flip((0, 1)).roll((1, 1), (0, 1))
    weights = torch.where(mirrored > 0, 1.0, rho / (rho + 0.5))
    problem = Problem(scan.operator @ AsComplex(Space((256, 256))), scan.data, weights=weights)
    pnp = make_pnp(
        # The data step has three eigenvalues: conjugate gradients end after as many.
        problem, solver="admm", denoiser=denoiser(folder, 15), depth=iterations, rho=rho, inner=3
    )  # fmt: skip
    with torch.no_grad():
        trace = pnp.reconstruct(problem, scan.zero_filled.abs(), trace=True).trace
    scores = [snr(x, scan.truth) for x in trace]
    moves = [float((b - a).norm() / b.norm()) for a, b in pairwise(trace)]
    print(f"ADMM: {scores[9]:.3f} dB @10, {scores[-1]:.3f} @{iterations}, moves {moves[-1]:.1e}")
    assert snr(scan.zero_filled, scan.truth) == pytest.approx(9.60, abs=0.005)
    assert scores[9] == pytest.approx(19.85, abs=0.03)
    assert scores[49] == pytest.approx(19.86, abs=0.03)
    assert scores[-1] == pytest.approx(19.86, abs=0.03)
    assert moves[-1] < 1e-5


def test_forward_backward_with_dncnn_5(folder: Path) -> None:
    """They report the image between the data step and the denoiser, whose phase is dropped."""
    scan, step = Scan(folder), 0.4
    problem = Problem(scan.operator, scan.data)
    prior = denoiser(folder, 5, complex_as="modulus")
    pnp = make_pnp(problem, solver="ista", denoiser=prior, depth=60, step_size=step)
    with torch.no_grad():
        x = pnp(problem, scan.zero_filled)
        reported = (x - step * problem.gradient(x)).abs()
    score = snr(reported, scan.truth)
    print(f"FBS: {score:.3f} dB")
    assert score == pytest.approx(19.59, abs=0.03)
