"""Bases of aberrations against Noll's table, HCIPy, their norms, and a mirror's geometry."""

import math

import hcipy
import numpy as np
import pytest
import torch

from labrecon.zernike import noll
from labrecon_coronagraph.aberrations import (
    actuator_places,
    fourier_frequencies,
    fourier_modes,
    influence_functions,
    zernikes,
)
from labrecon_coronagraph.fourier import Grid
from labrecon_coronagraph.pupils import circular, vlt

F64 = torch.float64


def test_nolls_index_is_his_table() -> None:
    expected = [(0, 0), (1, 1), (1, -1), (2, 0), (2, -2), (2, 2), (3, -1), (3, 1), (3, -3), (3, 3)]
    assert [noll(j) for j in range(1, 11)] == expected
    assert [noll(j) for j in (11, 22, 37)] == [(4, 0), (6, 0), (8, 0)]
    for j in range(1, 200):
        n, m = hcipy.noll_to_zernike(j)
        assert noll(j) == (n, m)
    with pytest.raises(ValueError, match="counts from 1, got 0"):
        noll(0)


def test_zernikes_are_those_of_hcipy() -> None:
    n, count = 64, 45
    pupil = circular(n)
    grid = hcipy.make_pupil_grid(n, 1)
    basis = hcipy.make_zernike_basis(count, 1, grid, starting_mode=1)
    inside = (pupil > 0).double()
    radius = torch.hypot(
        *(a + 0 * b for a, b in (Grid.pupil(n).meshed(), Grid.pupil(n).meshed()[::-1]))
    )
    inside = inside * (radius <= 0.5)
    for made, theirs in zip(zernikes(pupil, count), basis, strict=True):
        expected = torch.from_numpy(np.asarray(theirs).reshape(n, n))
        torch.testing.assert_close(made * inside, expected * inside, rtol=0, atol=1e-10)


def test_zernikes_are_orthonormal_over_the_round_pupil() -> None:
    pupil = circular(256)
    modes = zernikes(pupil, 21).flatten(1)
    weight = pupil.flatten() / pupil.sum()
    gram = (modes * weight) @ modes.T
    torch.testing.assert_close(gram, torch.eye(21, dtype=F64), rtol=0, atol=5e-3)


def test_zernikes_are_not_changed_by_an_obscuration() -> None:
    """The norm is that of the open circle, so that a coefficient means the same everywhere."""
    obscured = vlt(64)
    made, full = zernikes(obscured, 6), zernikes(circular(64), 6)
    seen = obscured > 0
    torch.testing.assert_close(made[:, seen], full[:, seen])
    assert float(made[:, ~seen].abs().max()) == 0
    assert zernikes(obscured.float(), 6).dtype is torch.float32
    with pytest.raises(ValueError, match="0 Zernike modes"):
        zernikes(obscured, 0)


def test_fourier_modes_are_all_waves_within_the_cutoff() -> None:
    frequencies = fourier_frequencies(6)
    every = {tuple(f) for f in frequencies.tolist()}
    assert len(every) == len(frequencies)
    within = [(y, x) for y in range(-6, 7) for x in range(-6, 7) if 0 < y * y + x * x <= 36]
    assert every | {(-y, -x) for y, x in every} == set(within)
    assert 2 * len(frequencies) == len(within)
    lengths = frequencies.double().norm(dim=1)
    assert bool((lengths.diff() >= 0).all())
    for bad in (0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="expected at least 1"):
            fourier_frequencies(bad)


def test_fourier_modes_are_orthonormal_over_the_square() -> None:
    modes = fourier_modes(circular(32), 4).flatten(1)
    gram = modes @ modes.T / 32**2
    torch.testing.assert_close(gram, torch.eye(len(modes), dtype=F64))


def test_a_fourier_mode_puts_speckles_where_its_frequency_is() -> None:
    from labrecon_coronagraph.focal_masks import NoMask
    from labrecon_coronagraph.propagation import Coronagraph

    pupil = circular(64)
    index = fourier_frequencies(5).tolist().index([3, -4])
    sine = fourier_modes(pupil, 5)[2 * index + 1]
    optics = Coronagraph(pupil, NoMask(), image=Grid.centred(41, 0.5))
    added = optics.images(0.01 * sine)[0] - optics.images(0 * sine)[0]
    y, x = divmod(int(added.argmax()), 41)
    assert (abs(y - 20) / 2, abs(x - 20) / 2) == (3, 4)
    assert (y - 20) * (x - 20) < 0


def test_actuators_are_those_over_the_pupil() -> None:
    """SPHERE: 41 across, 1377 of them active."""
    places = actuator_places(circular(400), 41)
    assert 1300 < len(places) < 1400
    assert places.min() == 0
    assert places.max() == 40
    # Mirrored the set is the same.
    both = {tuple(p) for p in places.tolist()}
    assert {(40 - y, x) for y, x in both} == both
    obscured = {tuple(p) for p in actuator_places(circular(400, 0.3), 41).tolist()}
    assert both - obscured
    assert all(math.hypot(y - 20, x - 20) < 6 for y, x in both - obscured)
    for across in (1, 17):
        with pytest.raises(ValueError, match="expected from 2 to 16"):
            actuator_places(circular(16), across)


def test_an_actuator_moves_its_neighbours_by_the_coupling() -> None:
    """Samples that lie on actuators: 9 across 81 samples, 10 apart but for half a sample."""
    n, across = 81, 9
    pupil = torch.ones(n, n, dtype=F64)
    places = actuator_places(pupil, across).tolist()
    assert len(places) == 81
    poke = influence_functions(pupil, across, coupling=0.2)
    middle = poke[places.index([4, 4])]
    y, x = Grid.pupil(n).meshed()
    expected = 0.2 ** ((y**2 + x**2) * 64)
    torch.testing.assert_close(middle, expected)
    assert float(middle[40, 40]) == 1
    moved = poke[places.index([4, 5])]
    peak = divmod(int(moved.argmax()), n)
    assert peak == (40, 50)
    # Commands of one value make a flat mirror but for its rim.
    flat = poke.sum(0)[30:51, 30:51]
    assert float((flat.max() - flat.min()) / flat.mean()) < 0.1
    for coupling in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="expected within 0 and 1"):
            influence_functions(pupil, across, coupling=coupling)
