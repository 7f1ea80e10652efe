"""Speckle statistics against SciPy's noncentral χ², and what a Gaussian would make of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from labrecon.noise import NoiseError, PoissonGaussian
from labrecon_coronagraph.speckle_noise import ModifiedRician


def reference(steady: float, fluctuating: float) -> scipy.stats.rv_continuous:
    """``2 I / I_s`` is a noncentral χ² of two degrees of freedom."""
    return scipy.stats.ncx2(2, 2 * steady / fluctuating, scale=fluctuating / 2)


@pytest.mark.parametrize("steady", [0.0, 0.3, 2.0, 40.0])
def test_density_is_that_of_scipy_up_to_a_constant(steady: float) -> None:
    fluctuating = 0.7
    noise = ModifiedRician(steady, fluctuating)
    halo = torch.linspace(0.05, 3 * (steady + fluctuating), 400, dtype=torch.float64)
    predicted = torch.full_like(halo, steady + fluctuating)
    mine = noise.density(predicted, halo)
    theirs = -torch.from_numpy(reference(steady, fluctuating).logpdf(halo.numpy()))
    assert float((mine - theirs).std()) < 1e-9
    # Its least value is 0, at the mode.
    fine = torch.linspace(0, 3 * (steady + fluctuating), 20_001, dtype=torch.float64)
    least = noise.density(torch.full_like(fine, steady + fluctuating), fine).min()
    assert float(least) == pytest.approx(0, abs=1e-5)
    assert float(least) > -1e-12


def test_samples_have_the_distribution_and_its_tail() -> None:
    noise = ModifiedRician(0.5, 1.5)
    clean = torch.full((100_000,), 2.0, dtype=torch.float64)
    drawn = noise.sample(clean, torch.Generator().manual_seed(0))
    law = reference(0.5, 1.5)
    assert scipy.stats.kstest(drawn.numpy(), law.cdf).pvalue > 0.01
    variance = float(noise.variance(clean)[0])
    assert variance == pytest.approx(law.var(), rel=1e-12)
    assert float(drawn.var()) == pytest.approx(variance, rel=0.03)
    # Five sigma are exceeded thousands of times more often than a Gaussian would say.
    beyond = float((drawn > 2 + 5 * math.sqrt(variance)).double().mean())
    assert beyond == pytest.approx(law.sf(2 + 5 * math.sqrt(variance)), rel=0.3)
    assert beyond > 1000 * scipy.stats.norm.sf(5)


def test_a_planet_adds_to_the_halo_and_gradients_reach_it() -> None:
    noise = ModifiedRician(0.5, 1.5)
    clean = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(1)
    noise.sample(clean, generator).backward()
    assert clean.grad is not None
    assert float(clean.grad) == 1.0
    p = torch.tensor([1.0, 2.5], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([2.0, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda q: noise.density(q, y), p)
    assert math.isinf(float(noise.density(torch.tensor(9.0), torch.tensor(1.0))))


def test_detector_noise_comes_on_top() -> None:
    detector = PoissonGaussian(3.0)
    noise = ModifiedRician(50.0, 20.0, detector)
    clean = torch.full((50_000,), 100.0, dtype=torch.float64)
    drawn = noise.sample(clean, torch.Generator().manual_seed(2))
    assert float(drawn.mean()) == pytest.approx(100, abs=1)
    expected = 20**2 + 2 * 50 * 20 + 100 + 9
    assert float(noise.variance(clean)[0]) == pytest.approx(expected)
    assert float(drawn.var()) == pytest.approx(expected, rel=0.03)


def test_intensities_out_of_range() -> None:
    with pytest.raises(NoiseError, match="steady intensity"):
        ModifiedRician(-1.0, 1.0)
    with pytest.raises(NoiseError, match="fluctuating intensity"):
        ModifiedRician(1.0, np.nan)
    with pytest.raises(NoiseError, match="no speckles"):
        ModifiedRician(1.0, 0.0)
