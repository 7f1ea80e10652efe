"""The rotation centre is found without help."""

import math

import pytest
import torch
from ct_scans import excess, simulated

from labrecon_ct.steps.bad_pixels import bad_pixels
from labrecon_ct.steps.centre import centre
from labrecon_ct.steps.common import StepError
from labrecon_ct.steps.flat_field import flat_field
from labrecon_ct.steps.rings import rings
from labrecon_ct.steps.zingers import zingers

TURN = 2 * math.pi


def unaware(scan):
    """The scan as a file without a centre gives it, prepared."""
    geometry = scan.geometry.model_copy(update={"centre_offset": 0.0})
    scan = scan.replace(geometry=geometry)
    return rings(bad_pixels(flat_field(zingers(scan))))


@pytest.mark.parametrize(
    ("arc", "offset", "options"),
    [
        (math.pi, 0.0, {}),
        (math.pi, 5.3, {}),
        (math.pi, -21.6, {}),
        (math.pi, 4.2, {"beam": 1000.0, "gain_error": 0.01, "dead": 3, "zingers": 50}),
        (TURN, -11.2, {}),
        (TURN, 61.7, {"size": 290}),
        (TURN, -70.3, {"size": 300, "beam": 2000.0}),
        (TURN, 3.4, {"fan": True, "size": 150}),
    ],
)
def test_found_within_half_a_column(arc: float, offset: float, options: dict) -> None:
    scan = simulated(arc=arc, offset=offset, columns=192, seed=1, **options)
    done = centre(unaware(scan))
    assert done.geometry.centre_offset == pytest.approx(offset, abs=0.5)
    curve = done.curves[-1]
    assert curve.marker == pytest.approx(done.geometry.centre_column)
    assert len(curve.x) == len(curve.y) > 20


def test_half_acquisition_reconstructs_the_wider_field() -> None:
    scan = simulated(arc=TURN, views=360, offset=40.0, size=208, beam=1e6, seed=6)
    blind = unaware(scan)
    blind = blind.replace(geometry=blind.geometry.model_copy(update={"volume_shape": (128, 128)}))
    done = centre(blind)
    assert done.geometry.volume_shape == pytest.approx((208, 208), abs=2)
    done = done.replace(geometry=done.geometry.model_copy(update={"volume_shape": (208, 208)}))
    assert excess(done) < 0.3


def test_not_applicable_keeps_the_centre() -> None:
    scan = flat_field(simulated(arc=1.0, views=60, offset=2.0, fan=True))
    done = centre(scan)
    assert done.geometry == scan.geometry
    assert "not applicable" in done.steps[-1]["result"]
    with pytest.raises(StepError, match="flat_field"):
        centre(simulated())


def test_a_scan_without_object_keeps_the_centre() -> None:
    scan = flat_field(simulated(seed=7))
    generator = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(scan.data.shape, generator=generator)
    done = centre(scan.replace(data=noise))
    assert "not applicable" in done.steps[-1]["result"]
