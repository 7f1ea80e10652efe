"""The geometry model: defaults, round trips, and errors a person can act on."""

from __future__ import annotations

import math

import pytest
from ct_phantoms import turn
from pydantic import ValidationError

from labrecon_ct.geometry import CTGeometry

CONE = {"beam": "cone", "source_origin": 40.0, "origin_detector": 20.0}
EXAMPLES = [
    CTGeometry(angles=turn(5), columns=8),
    CTGeometry(angles=turn(5), columns=8, dose=(1.0, 2.0, 1.0, 0.5, 1.0), open_beam=1e4, **CONE),
    CTGeometry(angles=turn(5), columns=8, rows=4, detector_tilt=0.01, centre_offset=-1.25),
    CTGeometry(angles=turn(5), columns=8, rows=4, row_pitch=0.5, **CONE),
    CTGeometry(angles=(0.0,), vectors=((0.0, -1.0, 0.0, 0.0, 1.0, 0.0),), columns=8),
]


@pytest.mark.parametrize("geometry", EXAMPLES, ids=lambda g: g.kind)
def test_json_round_trip(geometry: CTGeometry) -> None:
    again = CTGeometry.model_validate_json(geometry.model_dump_json())
    assert again == geometry
    assert again.fingerprint() == geometry.fingerprint()


def test_kinds() -> None:
    kinds = [g.kind for g in EXAMPLES]
    assert kinds == ["parallel", "fan", "parallel3d", "cone", "parallel-vectors"]
    assert [len(g.data_shape) for g in EXAMPLES] == [2, 2, 3, 3, 2]


def test_every_field_says_its_meaning() -> None:
    for name, field in CTGeometry.model_fields.items():
        assert field.description, name


def test_volume_defaults_are_the_magnified_detector() -> None:
    geometry = CTGeometry(angles=turn(5), columns=8, rows=4, column_pitch=0.3, **CONE)
    assert geometry.magnification == pytest.approx(1.5)
    assert geometry.voxel == pytest.approx((0.2, 0.2, 0.2))
    assert geometry.volume_shape == (4, 8, 8)


def test_parallel_rays_magnify_nothing() -> None:
    """A beamline that records its distances is still parallel."""
    fields = {**CONE, "beam": "parallel", "column_pitch": 0.3}
    geometry = CTGeometry(angles=turn(5), columns=8, **fields)
    assert geometry.magnification == 1.0
    assert geometry.voxel == (0.3, 0.3)


def test_centre_column() -> None:
    geometry = CTGeometry(angles=turn(5), columns=640, centre_offset=296.0 - 319.5)
    assert geometry.centre_column == 296.0


def test_select_takes_every_list_along() -> None:
    chosen = EXAMPLES[1].select([1, 3])
    assert chosen.angles == (EXAMPLES[1].angles[1], EXAMPLES[1].angles[3])
    assert chosen.dose == (2.0, 0.5)
    assert len(EXAMPLES[4].select([0]).vectors or ()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"angles": (0.0, 0.1, 0.2, 0.3, 0.4)},
        {"columns": 9},
        {"centre_offset": 0.5},
        {"voxel_size": 0.9},
        {"volume_shape": (8, 9)},
    ],
)
def test_fingerprint_tells_projections_apart(change: dict[str, object]) -> None:
    assert EXAMPLES[0].model_copy(update=change).fingerprint() != EXAMPLES[0].fingerprint()


def test_fingerprint_ignores_the_dose() -> None:
    brighter = EXAMPLES[1].model_copy(update={"dose": None, "open_beam": 5.0})
    assert brighter.fingerprint() == EXAMPLES[1].fingerprint()


def test_slicewise() -> None:
    rows = CTGeometry(angles=turn(5), columns=8, rows=4)
    assert rows.slicewise
    for change in ({"detector_tilt": 0.1}, {"slice_thickness": 0.5}, {"volume_shape": (3, 8, 8)}):
        assert not rows.model_copy(update=change).slicewise
    assert not EXAMPLES[3].slicewise


def test_degrees_are_noticed() -> None:
    with pytest.warns(UserWarning, match="degrees given as radians"):
        CTGeometry(angles=tuple(float(i) for i in range(180)), columns=8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"angles": ()}, "angles"),
        ({"angles": (0.0, math.nan)}, "angles"),
        ({"column_pitch": math.inf}, "column_pitch"),
        ({"column_pitch": "wide"}, "column_pitch"),
        ({"beam": "cone", "source_origin": 0.0, "origin_detector": 9.0}, "source_origin"),
        ({"columns": 0}, "columns"),
        ({"column_pitch": -1.0}, "column_pitch"),
        ({"column_pitch": math.nan}, "column_pitch"),
        ({"beam": "cone"}, "needs source_origin and origin_detector in mm"),
        ({"volume_shape": (4, 8, 8)}, "volume_shape needs 2 positive sizes for a 2D geometry"),
        ({"detector_tilt": 0.1}, "a detector tilt needs detector rows"),
        ({"dose": (1.0,)}, "dose needs 5 positive numbers, one per angle"),
        ({"vectors": ((0.0, 1.0),)}, "vectors needs 5 poses of 6 numbers, one per angle"),
        ({"pitch": 1.0}, "pitch"),
    ],
)
def test_errors(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CTGeometry(**{"angles": turn(5), "columns": 8, **fields})


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        EXAMPLES[0].columns = 9
