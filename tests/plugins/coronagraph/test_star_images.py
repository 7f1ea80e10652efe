"""Star images of aberrations: derivatives, designs, and wavefronts found again from images."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import scipy.special
import torch
from astropy.io import fits

from labrecon import Problem, Space, solve
from labrecon.priors import Tikhonov
from labrecon.solvers import GaussNewton
from labrecon_coronagraph.aberrations import zernikes
from labrecon_coronagraph.autoregression import Autoregression
from labrecon_coronagraph.geometry import MAS
from labrecon_coronagraph.optics_fits import export_optics
from labrecon_coronagraph.optics_geometry import OpticsGeometry
from labrecon_coronagraph.star_images import StarImages
from labrecon_coronagraph.wavefront_instrument import WavefrontInstrument

WAVEFRONT = WavefrontInstrument()


def geometry(**changes: object) -> OpticsGeometry:
    small = WAVEFRONT.example().changed(samples=32, pixels=16, modes=4, pixel_scale=20.0)
    return small.changed(**changes)


def images(**changes: object) -> StarImages:
    return StarImages(geometry(**changes), dtype=torch.float64)


def coefficients(frames: int = 1, modes: int = 4, seed: int = 0, rms: float = 20.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return rms * torch.randn(frames, modes, generator=generator, dtype=torch.float64)


def test_derivatives_by_aberrations_and_designs_are_central_differences() -> None:
    operator = images(actuators=4, bandwidth=0.1, colours=2)
    x, u = coefficients(), coefficients(seed=1)
    ahead, behind = operator(x + 1e-3 * u), operator(x - 1e-3 * u)
    torch.testing.assert_close(operator.jvp(x, u), (ahead - behind) / 2e-3, rtol=1e-5, atol=1e-12)
    generator = torch.Generator().manual_seed(2)
    weights = torch.rand(operator.range.shape, generator=generator, dtype=torch.float64)
    for name in ("apodizer", "phase", "lyot_stop", "commands"):
        (parameter,) = operator.learn(name)
        (gradient,) = torch.autograd.grad((weights * operator(x)).sum(), parameter)
        way = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
        values = operator.current(name)[name]
        sums = [
            float((weights * operator.at(**{name: values + h * way})(x)).sum().detach())
            for h in (1e-4, -1e-4)
        ]
        expected = (sums[0] - sums[1]) / 2e-4
        assert float((gradient * way).sum()) == pytest.approx(expected, rel=1e-5)


def test_unit_is_the_peak_of_the_bare_star() -> None:
    operator = images(mask="none", apodizer="none", pixels=17, diversity=(0.0,))
    image = operator(torch.zeros(1, 4, dtype=torch.float64))[0, 0].detach()
    assert float(image[8, 8]) == pytest.approx(1.0, abs=1e-9)
    assert float(operator.peak()) == pytest.approx(1.0)
    # Maréchal: the peak falls as exp(−(2π W/λ)²); to second order in the phase it is exact.
    x = torch.zeros(1, 4, dtype=torch.float64)
    x[0, 2] = 20.0
    peak = float(operator(x)[0, 0, 8, 8])
    assert peak == pytest.approx(math.exp(-((2 * math.pi * 20 / 1593) ** 2)), abs=2e-4)


def test_satellite_spots_have_their_place_and_light() -> None:
    """``J₁(φ)²/J₀(φ)²`` of the star at ±f, ``φ = 2πa/λ`` (Jacobi, Anger), but for its rings."""
    scale = 1593e-9 / 8.0 * MAS / 2
    clear = {"mask": "none", "apodizer": "none", "samples": 64, "pixels": 33}
    operator = images(
        **clear, pixel_scale=scale, diversity=(0.0,), spots=((0.0, 6.0, 80.0), (5.0, 0.0, 40.0))
    )
    image = operator(torch.zeros(1, 4, dtype=torch.float64))[0, 0].detach()
    for (y, x), amplitude in (((16, 28), 80.0), ((16, 4), 80.0), ((26, 16), 40.0)):
        phase = 2 * math.pi * amplitude / 1593
        expected = scipy.special.j1(phase) ** 2 / scipy.special.j0(phase) ** 2
        near = image[y - 1 : y + 2, x - 1 : x + 2]
        assert int(near.argmax()) == 4
        assert float(image[y, x] / image[16, 16]) == pytest.approx(expected, rel=0.1)


def test_tilt_moves_the_star_by_its_angle() -> None:
    """A tilt of ``a`` nm rms is one of ``4a/D`` rad: 31.25 nm over 8 m are a pixel of … mas."""
    scale = 4 * 31.25e-9 / 8.0 * MAS
    operator = images(mask="none", apodizer="none", pixels=17, pixel_scale=scale, diversity=(0.0,))
    x = torch.zeros(1, 4, dtype=torch.float64)
    x[0, 0] = 31.25
    image = operator(x)[0, 0].detach()
    assert divmod(int(image.argmax()), 17) == (8, 9)


def test_plate_mirror_and_aberrations_add() -> None:
    operator = images(actuators=5)
    x = coefficients()
    mode = zernikes(operator.optics.pupil, 5)[1:]
    plate = torch.tensordot(x[0], mode, 1) * 2 * math.pi / 1593
    other = operator.at(phase=plate)(torch.zeros_like(x))
    torch.testing.assert_close(other, operator(x), rtol=1e-9, atol=1e-15)
    generator = torch.Generator().manual_seed(3)
    commands = 30 * torch.randn(len(operator.commands), generator=generator, dtype=torch.float64)
    moved = operator.at(commands=commands)(x)
    path = torch.tensordot(commands, operator.influence, 1) * 2 * math.pi / 1593
    torch.testing.assert_close(moved, operator.at(phase=path)(x), rtol=1e-9, atol=1e-15)


@pytest.mark.slow
def test_a_wavefront_is_found_to_the_photon_limit() -> None:
    """Phase diversity: errors over repeated noise are those of the Cramér–Rao bound."""
    scan = WAVEFRONT.example().changed(mask="vortex", apodizer="none", lyot_stop=0.95)
    operator, noise = WAVEFRONT.operator(scan), WAVEFRONT.noise(scan)
    truth = WAVEFRONT.objects(scan, 1, torch.Generator().manual_seed(1))[0]
    with torch.no_grad():
        clean = operator(truth)
        units = torch.eye(10, dtype=torch.float64)[:, None]
        columns = torch.stack([operator.jvp(truth, u).flatten() for u in units])
        information = (columns / noise.variance(clean).flatten()) @ columns.mT
        bound = torch.linalg.inv(information).diagonal().sqrt()
        errors = []
        for seed in range(6):
            data = noise.sample(clean, torch.Generator().manual_seed(seed))
            problem = Problem(operator, data, noise)
            found = solve(GaussNewton(prior=Tikhonov(1e-3)), problem, iterations=12).x
            errors.append((found - truth)[0] / bound)
    assert float(torch.stack(errors).square().mean().sqrt()) == pytest.approx(1.0, abs=0.25)


def test_one_focused_image_leaves_the_sign_of_even_aberrations_open() -> None:
    """A real even pupil: W and its mirrored negative give the same image; defocus tells them."""
    flipped = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    x = coefficients()
    alone = images(diversity=(0.0,), apodizer="none")
    torch.testing.assert_close(alone(flipped * x), alone(x), rtol=1e-6, atol=1e-12)
    pair = images(diversity=(0.0, 100.0), apodizer="none")
    away = (pair(flipped * x) - pair(x)).detach().norm() / pair(x).detach().norm()
    assert float(away) > 0.05


@pytest.mark.slow
def test_a_drift_prior_helps_where_photons_are_few() -> None:
    """AR(1) over frames: the error of each frame falls, as neighbours tell of it."""
    scan = geometry(
        frames=8, mask="vortex", apodizer="none", lyot_stop=0.9, photons=2e3, diversity=(0.0, 100.0)
    )
    operator, noise = WAVEFRONT.operator(scan), WAVEFRONT.noise(scan)
    generator = torch.Generator().manual_seed(0)
    drift = [torch.randn(4, generator=generator, dtype=torch.float64)]
    for _ in range(7):
        new = torch.randn(4, generator=generator, dtype=torch.float64)
        drift.append(0.98 * drift[-1] + math.sqrt(1 - 0.98**2) * new)
    truth = 15.0 * torch.stack(drift)
    errors = {}
    with torch.no_grad():
        data = noise.sample(operator(truth), generator)
        problem = Problem(operator, data, noise)
        slow = Autoregression(Space((8, 4), torch.float64), 0.98)
        for name, chain in (("alone", None), ("drift", slow)):
            solver = GaussNewton(prior=Tikhonov(1 / 15.0**2, operator=chain))
            found = solve(solver, problem, iterations=12).x
            errors[name] = float((found - truth).norm() / truth.norm())
    assert errors["drift"] < 0.7 * errors["alone"]


def test_designs_go_out_as_fits_and_come_back(tmp_path: Path) -> None:
    operator = images(actuators=4)
    names = ("apodizer", "phase", "lyot_stop", "commands")
    designs = operator.current(*names)
    export_optics(operator.geometry, designs, tmp_path / "optics")
    back = export_optics.read(tmp_path / "optics.fits")
    assert set(back) == set(names)
    for name, value in designs.items():
        torch.testing.assert_close(back[name], value)
    with fits.open(tmp_path / "optics.fits") as file:
        assert file["COMMANDS"].header["BUNIT"] == "nm"
        assert file["PHASE"].header["WAVELEN"] == 1.593
        stated = file["APODIZER"].header
        assert (stated["PUPIL"], stated["FPMASK"], stated["MASKRAD"]) == ("circular", "disc", 92.5)
        assert stated["LYOTOUT"] == 1.0
    made = WAVEFRONT.designed(operator.geometry, designs)
    again = StarImages(made, dtype=torch.float64)
    torch.testing.assert_close(again(coefficients()), operator(coefficients()))
    with pytest.raises(ValueError, match="not dose"):
        export_optics(operator.geometry, {"dose": torch.ones(2)}, tmp_path / "x")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"bandwidth": 0.1}, "at least 2 colours"),
        ({"colours": 3}, "one colour no bandwidth"),
        ({"mask": "vortex", "charge": 3, "apodizer": "none"}, "even"),
        ({"pupil": torch.ones(8, 8)}, r"\(32, 32\)"),
        ({"apodizer": 2 * torch.ones(32, 32)}, "from 0 to 1"),
        ({"commands": torch.ones(3)}, "need actuators"),
        ({"mask": "vortex"}, 'give "apodizer": "none"'),
        ({"wavelength": 1593.0}, "less than 40"),
        ({"samples": 4}, "greater than or equal to 16"),
    ],
)
def test_what_is_no_geometry(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        geometry(**changes)


def test_what_is_no_optics() -> None:
    with pytest.raises(ValueError, match="commands of 3 actuators"):
        images(actuators=4, commands=torch.ones(3))
