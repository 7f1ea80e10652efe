"""The rotation centre is found without help."""

import math
import re

import pytest
import torch
from ct_scans import excess, simulated

from labrecon.instrument import Scan, StepError
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.instrument import CTInstrument
from labrecon_ct.projector import CTProjector
from labrecon_ct.steps.bad_pixels import bad_pixels
from labrecon_ct.steps.centre import centre
from labrecon_ct.steps.flat_field import flat_field
from labrecon_ct.steps.rings import rings
from labrecon_ct.steps.zingers import zingers

TURN = 2 * math.pi


def unaware(scan):
    """The scan as a file without a centre gives it, prepared."""
    geometry = scan.geometry.model_copy(update={"centre_offset": 0.0})
    scan = scan.replace(geometry=geometry)
    return rings(bad_pixels(flat_field(zingers(scan))))


@pytest.mark.slow
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
def test_found_within_a_quarter_of_a_column(arc: float, offset: float, options: dict) -> None:
    scan = simulated(arc=arc, offset=offset, columns=192, seed=1, **options)
    done = centre(unaware(scan))
    assert done.geometry.centre_offset == pytest.approx(offset, abs=0.25)
    curve = done.curves[-1]
    assert curve.marker == pytest.approx(done.geometry.centre_column)
    assert len(curve.x) == len(curve.y) > 20


@pytest.mark.parametrize("seed", range(4))
def test_noise_does_not_draw_the_centre_between_columns(seed: int) -> None:
    """Interpolation smooths noise most half-way between columns; a search must not prefer that."""
    scan = simulated(offset=5.0, columns=128, seed=seed, beam=2e4)
    done = centre(flat_field(scan))
    assert done.geometry.centre_offset == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize(
    ("columns", "offset"), [(32, 0.0), (32, 1.5), (32, -3.0), (40, -5.0), (48, 2.0)]
)
def test_a_narrow_detector(columns: int, offset: float, told: bool) -> None:
    """Candidates near an edge see too few columns to be judged; those that see enough are."""
    scan = simulated(offset=offset, columns=columns, views=60, seed=1)
    done = centre(flat_field(scan) if told else unaware(scan))
    assert "not applicable" not in str(done.steps[-1])
    assert done.geometry.centre_offset == pytest.approx(offset, abs=0.25)


@pytest.mark.parametrize(
    ("told", "search", "why"),
    [
        (
            -9.0,
            0.02,
            r"too narrow for a search about column 6\.5: .* kept; set the column, or skip",
        ),
        (0.0, 0.3, r"falls to the end of the search, column .* kept; set the column, or skip"),
    ],
)
def test_where_a_narrow_detector_can_not_tell(told: float, search: float, why: str) -> None:
    """The axis is half a dozen columns from the edge."""
    scan = flat_field(simulated(offset=-9.0, columns=32, views=60, seed=1))
    given = scan.geometry.model_copy(update={"centre_offset": told})
    done = centre(scan.replace(geometry=given), search=search)
    assert done.geometry == given
    assert re.search(why, done.steps[-1]["result"])


ORDERS = {
    "reversed": lambda turned: turned.flip(0),
    "two turns": lambda turned: 2 * turned,
    "interlaced": lambda turned: torch.cat([turned[::2], turned[1::2]]),
    "golden": lambda turned: torch.arange(len(turned)) * 2.399963,
    "uneven": lambda turned: turned + 0.3 * torch.sin(turned),
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("fan", [False, True])
def test_views_in_any_order(name: str, fan: bool) -> None:
    beam = {"beam": "cone", "source_origin": 150.0, "origin_detector": 100.0} if fan else {}
    angles = ORDERS[name](torch.arange(240, dtype=torch.float64) * TURN / 240) % TURN
    geometry = CTGeometry(
        angles=tuple(angles.tolist()), columns=128, column_pitch=0.5, centre_offset=3.0, **beam
    )
    image = CTInstrument().objects(geometry, 1, torch.Generator().manual_seed(3))[0]
    data = CTProjector(geometry, backend="astra")(image)
    blind = geometry.model_copy(update={"centre_offset": 0.0})
    scan = Scan(data, blind, provenance={"quantity": "line integrals"})
    assert centre(scan).geometry.centre_offset == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("start", [3.0, 5.0])
def test_half_turn_that_passes_360_degrees(start: float) -> None:
    angles = [(start + math.pi * i / 180) % TURN for i in range(180)]
    geometry = CTGeometry(angles=tuple(angles), columns=128, column_pitch=0.5, centre_offset=3.0)
    image = CTInstrument().objects(geometry, 1, torch.Generator().manual_seed(3))[0]
    data = CTProjector(geometry, backend="astra")(image)
    blind = geometry.model_copy(update={"centre_offset": 0.0})
    scan = Scan(data, blind, provenance={"quantity": "line integrals"})
    assert centre(scan).geometry.centre_offset == pytest.approx(3.0, abs=0.1)


@pytest.mark.slow
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
