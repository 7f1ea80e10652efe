"""Focal-plane masks: the disc's samples against HCIPy and its area, what may be asked for."""

import math

import hcipy
import numpy as np
import pytest
import torch

from labrecon_coronagraph.focal_masks import FocalMask, LyotDisc, NoMask, Vortex


@pytest.mark.parametrize("radius", [0.5, 2.252, 4.0])
def test_a_disc_has_the_grey_rim_and_the_area_of_a_disc(radius: float) -> None:
    mask = LyotDisc(radius)
    grid, blocked = mask.grid, mask.blocked()
    n, step = grid.shape[0], grid.step
    assert n % 2 == 0
    assert step <= 1 / 20
    corner = [-step * (n - 1) / 2] * 2
    plane = hcipy.CartesianGrid(hcipy.RegularCoords([step, step], [n, n], corner))
    disc = hcipy.evaluate_supersampled(hcipy.make_circular_aperture(2 * radius), plane, 8)
    expected = torch.from_numpy(np.asarray(disc).reshape(n, n))
    assert float((blocked - expected).abs().max()) < 0.05
    assert float(blocked.sum()) * step**2 == pytest.approx(math.pi * radius**2, rel=1e-3)
    # All of it is on the grid, as wide as the disc.
    assert n * step == pytest.approx(2 * radius)
    assert float(blocked[n // 2, 0]) > 0.5


def test_finer_samples_are_as_fine_as_asked_for() -> None:
    assert LyotDisc(2.0, samples=50 / 2).grid.shape == (100, 100)
    assert LyotDisc(2.252, samples=50 / 2.252).grid.shape == (100, 100)
    assert LyotDisc(1.01, samples=10).grid.shape == (22, 22)


@pytest.mark.parametrize("mask", [LyotDisc(1.5), Vortex(2), NoMask()])
def test_what_comes_out_is_another_tensor_than_what_went_in(mask: FocalMask) -> None:
    """Or the same one, but never changed: the wave is still needed."""
    wave = torch.ones(16, 16, dtype=torch.complex128)
    mask.propagation(16)(wave, 1.0)
    assert bool((wave == 1).all())


def test_impossible_discs_are_refused() -> None:
    for samples in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="samples per λ0/D, expected a number above 0"):
            LyotDisc(1.0, samples=samples)
    with pytest.raises(ValueError, match="supersampling 0"):
        LyotDisc(1.0, supersampling=0)
