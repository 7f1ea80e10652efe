"""Dark zones: darker for aberrations that were not learned from, at the throughput asked for."""

from __future__ import annotations

import cvxpy
import numpy as np
import pytest
import torch

from labrecon import FitConfig, fit
from labrecon.learners import ObjectSamples
from labrecon_coronagraph.actuators import mirror_commands
from labrecon_coronagraph.dark_zone import DarkZone, dark_zone, inner_working_angle, transmission
from labrecon_coronagraph.microdots import Microdots
from labrecon_coronagraph.wavefront_instrument import WavefrontInstrument

WAVEFRONT = WavefrontInstrument()


def test_commands_are_the_nearest_that_a_mirror_can_make() -> None:
    """Against a quadratic programme."""
    places = torch.tensor([[y, x] for y in range(4) for x in range(4) if (y, x) != (0, 0)])
    mirror = mirror_commands(places, stroke=80.0, between=30.0)
    generator = torch.Generator().manual_seed(0)
    wanted = 100 * torch.randn(len(places), generator=generator, dtype=torch.float64)
    c = cvxpy.Variable(len(places))
    rules = [cvxpy.abs(c) <= 80]
    spots = places.tolist()
    for i, a in enumerate(spots):
        for j, b in enumerate(spots):
            if abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1:
                rules.append(c[i] - c[j] <= 30)
    cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(c - wanted.numpy())), rules).solve(
        solver=cvxpy.CLARABEL
    )
    made = mirror.project(wanted)
    np.testing.assert_allclose(made.numpy(), c.value, atol=1e-3)
    assert not mirror.violations(made)
    told = {rule: str(v) for rule, v in mirror.violations(wanted).items()}
    assert any("step too large" in rule for rule in told)


def test_transmission_of_the_apodized_lyot_coronagraph() -> None:
    """A planet on the mask is gone; from some λ/D on nothing of it is missing."""
    operator = WAVEFRONT.operator(WAVEFRONT.example())
    assert transmission(operator, 0.0) < 1e-4
    assert transmission(operator, 6.0) == pytest.approx(1.0, abs=0.05)
    angle = inner_working_angle(operator)
    assert transmission(operator, angle) == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
def test_a_learned_apodizer_is_darker_at_equal_throughput_with_drift_and_jitter() -> None:
    """VLT with spiders, 185 mas mask; 30 nm of static aberrations and 4 mas of jitter."""
    scan = WAVEFRONT.example().changed(
        pupil="vlt", pixels=64, modes=100, aberration=30.0, jitter=4.0, diversity=(0.0,)
    )
    operator = WAVEFRONT.operator(scan)
    learner = DarkZone(operator, dark_zone(operator, 3, 8), designs=("apodizer",))
    samples = ObjectSamples(WAVEFRONT.objects(scan, 64, torch.Generator().manual_seed(0)))
    unseen = WAVEFRONT.objects(scan, 64, torch.Generator().manual_seed(9))
    perfect = torch.zeros_like(unseen[:1])
    with torch.no_grad():
        first = learner.contrast(unseen)
        first_perfect = float(learner.contrast(perfect))
        angle = inner_working_angle(operator)
    fit(learner, samples, FitConfig(steps=200, batch_size=8, learning_rate=3e-3))
    assert learner.harden() == {"apodizer": {}}
    with torch.no_grad():
        last = learner.contrast(unseen)
        last_perfect = float(learner.contrast(perfect))
        passed = float(operator.peak())
    print(
        f"contrast {first.mean():.3g} -> {last.mean():.3g}, perfect {first_perfect:.3g} -> "
        f"{last_perfect:.3g}, throughput {learner.throughput:.4f} -> {passed:.4f}"
    )
    assert passed > 0.995 * learner.throughput
    assert float(last.mean()) < 0.85 * float(first.mean())
    # Not on average alone: for each of the aberrations.
    assert float((last < first).double().mean()) > 0.95
    assert last_perfect < 0.1 * first_perfect
    assert inner_working_angle(operator) < angle + 0.1


@pytest.mark.slow
def test_a_mirror_digs_a_hole_into_the_speckles_of_known_aberrations() -> None:
    """Electric-field conjugation by descent: the static wavefront is known, the mirror takes it."""
    scan = WAVEFRONT.example().changed(
        pixels=48, modes=30, aberration=20.0, diversity=(0.0,), actuators=16, stroke=200.0
    )
    operator = WAVEFRONT.operator(scan)
    learner = DarkZone(operator, dark_zone(operator, 3, 6), designs=("commands",))
    known = WAVEFRONT.objects(scan, 1, torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = float(learner.contrast(known))
    fit(learner, ObjectSamples(known), FitConfig(steps=150, batch_size=1, learning_rate=0.5))
    assert learner.harden() == {"commands": {}}
    with torch.no_grad():
        assert float(learner.contrast(known)) < 0.05 * before


def test_what_is_refused() -> None:
    operator = WAVEFRONT.operator(WAVEFRONT.example())
    with pytest.raises(ValueError, match="no design dose; there are apodizer, phase, lyot_stop"):
        DarkZone(operator, dark_zone(operator, 3, 6), designs=("dose",))
    with pytest.raises(ValueError, match="with 0 pixels"):
        DarkZone(operator, dark_zone(operator, 30, 40))
    with pytest.raises(ValueError, match="zone is"):
        DarkZone(operator, torch.ones(3, 3))


def test_dots_have_the_density_of_the_grey_and_scatter_far_out() -> None:
    """Their rounding has hardly any low frequencies; rounding each sample alone has all."""
    n = 64
    y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, n, dtype=torch.float64)], indexing="ij")
    grey = torch.exp(-(y.square() + x.square()))
    dots = Microdots()
    made = dots.harden(grey)
    assert set(made.flatten().tolist()) == {0.0, 1.0}
    assert not dots.violations(made)

    def low(rounding: torch.Tensor) -> float:
        spectrum = torch.fft.fft2(rounding).abs().square()
        return float(spectrum[:5, :5].mean() / spectrum.mean())

    assert low(made - grey) < 0.05
    assert low(grey.round() - grey) > 1


def test_a_printed_apodizer_hides_the_star_near_the_axis() -> None:
    """An apodizer of dots has the prolate's contrast within a few λ/D, but not far out."""
    scan = WAVEFRONT.example().changed(samples=256, pixels=32, diversity=(0.0,), dots=True, modes=1)
    operator = WAVEFRONT.operator(scan)
    learner = DarkZone(operator, dark_zone(operator, 2.5, 4), designs=("apodizer",))
    nothing = torch.zeros(1, 1, 1, dtype=torch.float64)
    clear = torch.ones_like(operator.optics.pupil)
    with torch.no_grad():
        operator.place({"apodizer": clear})
        without = float(learner.contrast(nothing))
        operator.place({"apodizer": operator.optics.apodizer})
        assert learner.harden() == {"apodizer": {}}
        dots = float(learner.contrast(nothing))
    assert dots < 0.02 * without
