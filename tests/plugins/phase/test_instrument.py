"""The microscope: what it hands over, recipes that reconstruct what they should."""

import subprocess
import sys

import pytest
import torch
from phase_cases import F64, microscope

from labrecon.instrument import ReaderError, Scan
from labrecon.noise import Amplitude, Gaussian, Scaled
from labrecon.plugins import resolve
from labrecon.problem import Problem
from labrecon.recipe import load_recipe
from labrecon.solver import solve
from labrecon.solvers import GaussNewton
from labrecon_phase.abbe import AbbeImaging
from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.instrument import PhaseInstrument
from labrecon_phase.led_arrays import half_circles, planar, quasi_dome, rings, spiral
from labrecon_phase.led_patterns import LEDPatterns
from labrecon_phase.weak_object import WeakObject

PHASE = PhaseInstrument()


def simulated(geometry: PhaseGeometry | None = None, seed: int = 0) -> Scan:
    return PHASE.simulate(geometry or PHASE.example(), torch.Generator().manual_seed(seed))


def known(scan: Scan) -> PhaseGeometry:
    assert isinstance(scan.geometry, PhaseGeometry)
    return scan.geometry


def nrmse(found: torch.Tensor, truth: torch.Tensor) -> float:
    difference = PHASE.gauge(found) - PHASE.gauge(truth)
    return float(difference.norm() / PHASE.gauge(truth).norm())


def test_announcing_the_plugin_loads_nothing_heavy() -> None:
    code = (
        "import sys, labrecon_phase as p; p.labrecon_instruments(); p.labrecon_operators();"
        "print([m for m in ('torch', 'numpy', 'scipy', 'tifffile') if m in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert told.stdout.strip() == "[]"


def test_every_dotted_path_leads_somewhere() -> None:
    import labrecon_phase

    for table in (PHASE.readers, PHASE.steps, PHASE.exporters):
        assert all(callable(resolve(path)) for path in table.values())
    for hook in ("operators", "feasible_sets", "instruments"):
        assert all(
            callable(resolve(p)) for p in getattr(labrecon_phase, f"labrecon_{hook}")().values()
        )


@pytest.mark.parametrize("name", [name for name in PHASE.recipes() if name != "design"])
def test_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(name, PHASE)
    assert all(step.step in PHASE.steps for step in recipe.prepare)


def test_what_data_are_decides_model_and_noise() -> None:
    example = PHASE.example()
    assert isinstance(PHASE.operator(example), AbbeImaging)
    assert isinstance(PHASE.operator(example.changed(quantity="contrast")), WeakObject)
    assert PHASE.operator(example, precision="double").domain.dtype == F64
    assert isinstance(PHASE.noise(example), Scaled)
    assert isinstance(PHASE.noise(example.changed(electrons=None)), Gaussian)
    assert isinstance(PHASE.noise(example.changed(electrons=None, sample="field")), Amplitude)
    contrast = PHASE.noise(example.changed(quantity="contrast"))
    assert float(contrast.variance(torch.zeros(()))) == pytest.approx(1 / 30_000)


def test_photons_are_those_of_the_electrons() -> None:
    """Shot and read noise of an empty field: variance ``(N + σ²) / N²`` of the intensity."""
    geometry = PHASE.example().changed(electrons=400.0, read_noise=3.0)
    clean = torch.ones(200_000, dtype=F64)
    made = PHASE.noise(geometry).sample(clean, torch.Generator().manual_seed(1))
    assert float(made.var()) == pytest.approx((400 + 9) / 400**2, rel=0.02)


@pytest.mark.parametrize("sample", ["phase", "absorbing", "field"])
def test_objects_fit_every_geometry(sample: str) -> None:
    geometry = microscope(sample=sample, shape=(48, 32))
    objects = PHASE.objects(geometry, 2, torch.Generator().manual_seed(0))
    assert objects.shape == (2, *PHASE.operator(geometry).domain.shape)
    assert objects.is_complex() == (sample == "field")
    assert not torch.equal(objects[0], objects[1])
    if sample == "absorbing":
        assert float(objects[:, 1].max()) <= 0  # nothing gives light


def test_data_of_another_shape_are_refused() -> None:
    scan = simulated()
    with pytest.raises(ReaderError, match=r"expected \(exposure, y, x\) = \(4, 48, 48\)"):
        PHASE.check(scan.replace(data=scan.data[:3]))


def test_unknowns_of_the_gauge_do_not_count() -> None:
    x = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(PHASE.gauge(x + 3), PHASE.gauge(x))
    field = torch.polar(torch.ones_like(x), x)
    turned = field * torch.polar(torch.tensor(1.0), torch.tensor(0.7))
    torch.testing.assert_close(PHASE.gauge(turned), PHASE.gauge(field))


@torch.no_grad()
def test_tikhonov_and_gauss_newton_find_the_phase() -> None:
    """Photon noise and phases of 0.8 rad: the linear model is a start, the nonlinear one better."""
    geometry = PHASE.example().changed(shape=(32, 32))
    scan = simulated(geometry)
    ready = resolve(PHASE.steps["contrast"])(scan)
    linear = PHASE.operator(known(ready)).initial(ready.data)
    problem = Problem(PHASE.operator(geometry), scan.data[None], scan.noise)
    nonlinear = solve(GaussNewton(), problem, x0=linear[None], iterations=2).x[0]
    assert scan.truth is not None
    assert nrmse(linear, scan.truth) < 0.6
    assert nrmse(nonlinear, scan.truth) < 0.5 * nrmse(linear, scan.truth)


def test_baselines_are_feasible() -> None:
    example = PHASE.example()
    for count in (1, 2, 3, 4):
        geometry = PHASE.with_acquisitions(example, count)
        assert geometry.exposures == count
        feasible = PHASE.operator(geometry).designs["patterns"]
        found = PHASE.baselines(geometry, "patterns", torch.Generator().manual_seed(0))
        assert {"half circles (DPC)", "random"} <= set(found)
        for patterns in found.values():
            assert patterns.shape == (count, 49)
            assert feasible.violations(patterns) == {}
            assert PHASE.budget(geometry, {"patterns": patterns})["exposures"] == str(count)
    assert PHASE.baselines(example, "other", torch.Generator()) == {}


def sines(leds: torch.Tensor) -> torch.Tensor:
    return leds[:, :2] / leds.norm(dim=1, keepdim=True)


def test_led_arrays() -> None:
    """Pitches, rings and the spiral by which frames of ptychography are ordered."""
    flat = planar(5, 4.0, 60.0)
    assert sorted(set(flat[:, 0].tolist())) == [-8, -4, 0, 4, 8]
    wound = spiral(5, 4.0, 60.0)
    assert {tuple(p) for p in wound.tolist()} == {tuple(p) for p in flat.tolist()}
    assert bool((wound.diff(dim=0).norm(dim=1) == 4).all())
    assert wound[0, :2].tolist() == [0, 0]

    ring = rings([1, 8, 16], 0.5)
    assert len(ring) == 25
    torch.testing.assert_close(sines(ring[-16:]).norm(dim=1), torch.full((16,), 0.5, dtype=F64))
    torch.testing.assert_close(sines(ring[1:9]).norm(dim=1), torch.full((8,), 0.25, dtype=F64))
    dome = quasi_dome(0.9, 0.1)
    torch.testing.assert_close(dome.norm(dim=1), torch.full((len(dome),), 60.0, dtype=F64))
    apart = torch.cdist(sines(dome), sines(dome)) + torch.eye(len(dome))
    torch.testing.assert_close(apart.amin(1), torch.full((len(dome),), 0.1, dtype=F64))


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_half_circles_are_feasible(count: int) -> None:
    leds = planar(9, 4.0, 67.5)
    patterns = half_circles(leds, 0.25, count)
    assert LEDPatterns(torch.ones(count, len(leds))).violations(patterns) == {}
    with pytest.raises(ValueError, match="no LED is within"):
        half_circles(leds + torch.tensor([100.0, 0, 0]), 0.25, 2)
