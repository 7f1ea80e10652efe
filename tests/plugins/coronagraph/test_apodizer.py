"""The prolate apodizer against its one-dimensional eigenproblem and what it is made for."""

import math

import numpy as np
import pytest
import torch
from scipy.special import j0

from labrecon_coronagraph.apodizer import prolate
from labrecon_coronagraph.focal_masks import LyotDisc
from labrecon_coronagraph.fourier import Grid
from labrecon_coronagraph.propagation import Coronagraph, intensity
from labrecon_coronagraph.pupils import circular, segmented, vlt


def hankel(diameter: float) -> tuple[float, np.ndarray, np.ndarray]:
    """``∫₀¹ J0(cρr) Φ(r) r dr = ν Φ(ρ)``, ``c = πm/2``, ``Λ0 = c² ν²`` (Soummer 2003, Slepian)."""
    c = math.pi * diameter / 2
    nodes, weights = np.polynomial.legendre.leggauss(80)
    r, w = (nodes + 1) / 2, weights / 2
    root = np.sqrt(w * r)
    values, vectors = np.linalg.eigh(root[:, None] * j0(c * np.outer(r, r)) * root)
    leading = np.abs(values).argmax()
    profile = vectors[:, leading] / root
    return c**2 * values[leading] ** 2, r, profile / profile[0]


@pytest.mark.parametrize(
    ("diameter", "published", "within"), [(2, 0.907293, 6e-4), (3, 0.992355, 1e-4)]
)
def test_its_eigenvalue_is_that_of_the_radial_problem(
    diameter: float, published: float, within: float
) -> None:
    expected, r, profile = hankel(diameter)
    assert expected == pytest.approx(published, abs=1e-6)
    n = 128
    pupil = circular(n)
    apodizer, eigenvalue = prolate(pupil, LyotDisc(diameter / 2, samples=64 / diameter))
    assert eigenvalue == pytest.approx(expected, abs=within)
    y, x = (2 * axis for axis in Grid.pupil(n).meshed())
    radius = torch.hypot(y + 0 * x, x + 0 * y)
    inside = radius < 0.97
    curve = np.interp(radius[inside].numpy(), r, profile)
    difference = apodizer[inside] - torch.from_numpy(curve) * float(apodizer.max())
    assert float(difference.abs().max()) < 3e-3


@pytest.mark.parametrize(("diameter", "rejected"), [(2, 8.7e-3), (3, 8.6e-5)])
def test_it_rejects_the_star(diameter: float, rejected: float) -> None:
    """``(1 − Λ0)²`` of the light passes; of a clear pupil ten to a thousand times more."""
    pupil, mask = circular(128), LyotDisc(diameter / 2, samples=64 / diameter)
    apodizer, eigenvalue = prolate(pupil, mask)
    star = torch.ones(128, 128, dtype=torch.complex128)
    image = Grid.centred(8, 1.0)

    def passed(apodizer: torch.Tensor) -> float:
        optics = Coronagraph(pupil, mask, image=image, apodizer=apodizer)
        return float(intensity(optics.lyot_field(star)).sum() / (pupil * apodizer).square().sum())

    behind = passed(apodizer)
    assert behind == pytest.approx(rejected, rel=0.05)
    assert behind < 1.6 * (1 - eigenvalue) ** 2
    assert passed(torch.ones_like(pupil)) == pytest.approx(
        {2: 8.7e-2, 3: 7.5e-2}[diameter], rel=0.05
    )


def test_it_is_an_eigenfunction() -> None:
    """Behind it the field is ``(1 − Λ0) A Φ`` in the pupil, of any shape."""
    pupil, mask = vlt(96, spiders=False), LyotDisc(2.252)
    apodizer, eigenvalue = prolate(pupil, mask)
    assert float(apodizer.max()) == 1
    assert float(apodizer.min()) == 0
    optics = Coronagraph(
        pupil, mask, image=Grid.centred(8, 1.0), apodizer=apodizer, lyot_stop=(pupil > 0).double()
    )
    field = optics.lyot_field(torch.ones(96, 96, dtype=torch.complex128))
    expected = pupil * apodizer - eigenvalue * apodizer
    torch.testing.assert_close(field, expected + 0j, rtol=0, atol=1e-11)


def test_behind_spiders_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"changes its sign .* without spiders"):
        prolate(vlt(64), LyotDisc(2.252))


def test_too_few_iterations_are_told() -> None:
    with pytest.raises(RuntimeError, match=r"still changed by .* after 3 iterations"):
        prolate(circular(32), LyotDisc(1.5), iterations=3)


def test_segments_have_one_of_one_sign() -> None:
    apodizer, eigenvalue = prolate(segmented(64), LyotDisc(2.252))
    assert -0.01 < float(apodizer.min()) <= 0
    assert 0.9 < eigenvalue < 1
