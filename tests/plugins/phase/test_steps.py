"""Preparation steps: contrast and crop."""

import pytest
import torch

from labrecon import Scan
from labrecon.instrument import StepError
from labrecon.noise import Gaussian
from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.instrument import PhaseInstrument
from labrecon_phase.steps.contrast import contrast
from labrecon_phase.steps.crop import crop


@pytest.fixture
def scan() -> Scan:
    instrument = PhaseInstrument()
    geometry = instrument.example().changed(background=(0.1, 0.0, 0.2, 0.3))
    return instrument.simulate(geometry, torch.Generator().manual_seed(0))


def level(scan: Scan) -> float:
    assert isinstance(scan.noise, Gaussian)
    return float(scan.noise.sigma)


def known(scan: Scan) -> PhaseGeometry:
    assert isinstance(scan.geometry, PhaseGeometry)
    return scan.geometry


def test_contrast_over_the_mean(scan: Scan) -> None:
    made = contrast(scan)
    light = scan.data - torch.tensor([0.1, 0.0, 0.2, 0.3])[:, None, None]
    torch.testing.assert_close(made.data, light / light.mean((-2, -1), keepdim=True) - 1)
    assert known(made).quantity == "contrast"
    assert known(made).background is None
    assert made.steps[-1]["divided_by"] == "mean of each exposure"
    PhaseInstrument().operator(known(made))
    with pytest.raises(StepError, match="contrast already"):
        contrast(made)


def test_contrast_over_the_empty_field(scan: Scan) -> None:
    tilt = torch.linspace(0.5, 1.5, scan.data.shape[-1])
    stray = torch.tensor([0.1, 0.0, 0.2, 0.3])[:, None, None]
    empty = tilt.expand(scan.data.shape) + stray
    uneven = scan.replace(
        data=(scan.data - stray) * tilt + stray, calibration={"background": empty}
    )
    torch.testing.assert_close(contrast(uneven).data, scan.data - stray - 1)
    assert contrast(uneven).steps[-1]["divided_by"] == "empty field"
    assert float(contrast(uneven, background=False).data.mean((-2, -1)).abs().max()) < 1e-5
    with pytest.raises(StepError, match="one per exposure"):
        contrast(scan.replace(calibration={"background": empty[:2]}))
    holes = empty.clone()
    holes[1, 2, 3] = 0
    with pytest.raises(StepError, match="1 pixels of the empty field"):
        contrast(scan.replace(calibration={"background": holes}))


def test_noise_is_estimated() -> None:
    geometry = PhaseInstrument().example().changed(electrons=None, shape=(96, 96))
    y = torch.linspace(0, 6, 96)
    smooth = 2 + 0.3 * torch.sin(y[:, None]) * torch.cos(y)
    noise = 0.02 * torch.randn(4, 96, 96, generator=torch.Generator().manual_seed(0))
    made = contrast(Scan(smooth + noise, geometry))
    assert level(made) == pytest.approx(0.01, rel=0.05)
    assert known(made).sigma == level(made)
    assert made.steps[-1]["sigma_estimated"]
    given = contrast(Scan(smooth + noise, geometry.changed(sigma=0.02)))
    assert level(given) == pytest.approx(0.01, rel=0.1)
    assert not given.steps[-1]["sigma_estimated"]
    assert level(contrast(Scan(torch.ones(4, 96, 96), geometry))) == pytest.approx(1e-6)


def test_contrast_refuses_dark_exposures(scan: Scan) -> None:
    dark = scan.data.clone()
    dark[2] = 0.1
    with pytest.raises(StepError, match="exposure 2 has no light"):
        contrast(scan.replace(data=dark))
    with pytest.raises(StepError, match="data are"):
        contrast(scan.replace(data=dark[:2]))


def test_crop(scan: Scan) -> None:
    full = scan.replace(
        weights=torch.ones(4, 1, 1),
        calibration={"background": scan.data + 1, "other": torch.ones(3)},
    )
    made = crop(full, y=[4, 40], x=[0, 44])
    assert known(made).shape == (36, 44)
    assert torch.equal(made.data, scan.data[:, 4:40, :44])
    assert torch.equal(made.calibration["background"], scan.data[:, 4:40, :44] + 1)
    assert torch.equal(made.calibration["other"], torch.ones(3))
    assert made.weights is not None
    assert made.weights.shape == made.data.shape
    assert made.steps[-1]["y"] == [4, 40]
    assert known(made).leds == known(scan).leds
    PhaseInstrument().check(made)


def test_crop_takes_the_object_along(scan: Scan) -> None:
    fixed = scan.replace(geometry=known(scan).changed(upsample=known(scan).upsampling))
    assert fixed.truth is not None
    u = known(fixed).upsampling
    made = crop(fixed, y=[4, 12], x=[2, 10])
    assert made.truth is not None
    assert torch.equal(made.truth, fixed.truth[..., 4 * u : 12 * u, 2 * u : 10 * u])
    # A small image needs more pixels for the margin of its spectrum.
    small = crop(scan, y=[0, 2], x=[0, 2])
    assert known(small).upsampling > u
    assert small.truth is None
    assert "left out" in small.steps[-1]["truth"]


@pytest.mark.parametrize(
    ("y", "x", "axis"),
    [
        ([0, 49], [0, 48], "y"),
        ([-1, 40], [0, 48], "y"),
        ([5, 6], [0, 48], "y"),
        ([0, 48], [10, 5], "x"),
        ([0, 48], [10], "x"),
    ],
)
def test_crop_refuses_what_is_not_there(scan: Scan, y: list[int], x: list[int], axis: str) -> None:
    with pytest.raises(StepError, match=f"{axis} = .* along {axis}"):
        crop(scan, y=y, x=x)
