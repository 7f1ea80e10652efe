"""Filtered back-projection in absolute units: 1/mm inside a body of 1/mm."""

from __future__ import annotations

import math

import pytest
import torch
from ct_phantoms import Ellipsoid, chords, error, turn

from labrecon_ct.filtering import FILTERS, ramp
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.projector import CTProjector

BODY = Ellipsoid((0.08, -0.12, 0.0), (0.6, 0.42, math.inf), 0.4, 0.8)
CORE = Ellipsoid(BODY.centre, (0.5, 0.33, math.inf), BODY.phi)
HALO = Ellipsoid(BODY.centre, (0.68, 0.5, math.inf), BODY.phi)
N = 128
FAN = {"beam": "cone", "source_origin": 4.0, "origin_detector": 2.0}


def parallel(angles: tuple[float, ...], **more: object) -> CTGeometry:
    fields = {"columns": N, "column_pitch": 2 / N, "volume_shape": (N, N), **more}
    return CTGeometry(angles=angles, voxel_size=2 / N, **fields)


def fan(angles: tuple[float, ...], **more: object) -> CTGeometry:
    return parallel(angles, **{"column_pitch": 3.2 / N, **FAN, **more})


def inside(image: torch.Tensor, geometry: CTGeometry) -> torch.Tensor:
    """Values well inside the body over its attenuation."""
    return image[CORE.raster(geometry, 1) > 0] / BODY.value


def outside(image: torch.Tensor, geometry: CTGeometry) -> torch.Tensor:
    """Values off the body, in the disc that every view sees, over its attenuation."""
    disc = Ellipsoid((0, 0, 0), (0.95, 0.95, math.inf)).raster(geometry, 1) > 0
    return image[disc & (HALO.raster(geometry, 1) == 0)] / BODY.value


def irregular(n: int, arc: float) -> tuple[float, ...]:
    """Angles whose spacing swings by a factor of three."""
    return tuple(arc * (i / n + 0.08 * math.sin(2 * math.pi * i / n)) for i in range(n))


PI = math.pi
SCANS = {
    "180°": parallel(turn(200)),
    "180°, both ends": parallel(tuple(PI * i / 200 for i in range(201))),
    "180° from −50°": parallel(tuple(a - 0.9 for a in turn(200))),
    "360°": parallel(turn(240, 2 * PI)),
    "360°, odd": parallel(turn(241, 2 * PI)),
    "360°, jittered": parallel(
        tuple(a + 2e-4 * math.sin(37 * i) for i, a in enumerate(turn(240, 2 * PI)))
    ),
    "irregular": parallel(irregular(300, PI)),
    "golden": parallel(tuple((i * 1.941611) % PI for i in range(233))),
    "misaligned": parallel(turn(200), centre_offset=2.7),
    "half acquisition": parallel(turn(360, 2 * PI), columns=80, centre_offset=-30.0),
    "half acquisition, other side": parallel(turn(360, 2 * PI), columns=80, centre_offset=30.0),
    "fan": fan(turn(300, 2 * PI)),
    "fan, misaligned": fan(turn(300, 2 * PI), centre_offset=2.7),
    "fan, clockwise": fan(tuple(-a for a in turn(300, 2 * PI))),
    "fan, irregular": fan(irregular(400, 2 * PI)),
    "fan, short scan": fan(turn(240, PI + 0.6)),
    "fan, short scan, shifted": fan(tuple(1.1 + a for a in turn(240, PI + 0.45))),
    "fan, short scan across 0": fan(tuple(a - 1.5 for a in turn(240, PI + 0.6))),
    "fan, short scan past 360°": fan(tuple((a + 5.0) % (2 * PI) for a in turn(240, PI + 0.6))),
    "two turns": parallel(turn(480, 4 * PI)),
    "fan, half acquisition": fan(turn(360, 2 * PI), columns=80, centre_offset=-30.0),
}


@pytest.mark.parametrize("beam", [parallel, fan])
def test_corners_beyond_the_detector_are_empty(beam) -> None:
    geometry = beam(turn(240, 2 * PI), centre_offset=1.5)
    projector = CTProjector(geometry, backend="rays")
    image = projector.initial(chords(geometry, BODY).float())
    seen = Ellipsoid((0, 0, 0), (1.0, 1.0, math.inf)).raster(geometry, 1) > 0
    assert float(image[~seen].mean()) == pytest.approx(0, abs=0.005 * BODY.value)


@pytest.mark.parametrize("name", SCANS)
def test_ellipse(name: str) -> None:
    geometry = SCANS[name]
    operator = CTProjector(geometry, filter="hann")
    image = operator.initial(chords(geometry, BODY).float()).double()
    core, void = inside(image, geometry), outside(image, geometry)
    assert float(core.mean()) == pytest.approx(1.0, abs=5e-3)
    assert float(core.std()) < 2e-2
    assert abs(float(void.mean())) < 5e-3
    assert float(void.std()) < 3e-2


@pytest.mark.parametrize("window", FILTERS)
def test_windows(window: str) -> None:
    geometry = SCANS["180°"]
    image = CTProjector(geometry, filter=window).initial(chords(geometry, BODY).float())
    assert float(inside(image.double(), geometry).mean()) == pytest.approx(1.0, abs=2e-3)
    assert error(image, BODY.raster(geometry, 4)) < 0.15


def test_unknown_window() -> None:
    with pytest.raises(ValueError, match="ramp, shepp-logan"):
        ramp(64, 1.0, "blackman")


def test_ramp_has_no_bias() -> None:
    """The band-limited kernel's mean is its tail, not the zero that ``|f|`` sampled would give."""
    transfer = ramp(256, 0.5)
    assert 0 < float(transfer[0]) < 2e-3
    n = len(transfer) - 1
    assert float(transfer[n // 2]) == pytest.approx(0.5 / (2 * 0.5), rel=5e-3)


def test_limited_angle_is_summed_as_it_is() -> None:
    """Views at the ends of a wedge weigh like the others."""
    geometry = parallel(tuple(math.radians(i) for i in range(60)))
    image = CTProjector(geometry).initial(chords(geometry, BODY).float())
    mean = float(inside(image.double(), geometry).mean())
    assert mean < 0.8
    few = parallel(tuple(math.radians(2 * i) for i in range(30)))
    fewer = CTProjector(few).initial(chords(few, BODY).float())
    assert float(inside(fewer.double(), few).mean()) == pytest.approx(mean, rel=5e-2)


def test_sphere_by_fdk() -> None:
    n = 48
    geometry = CTGeometry(
        angles=turn(120, 2 * PI), columns=n, rows=n, column_pitch=3.2 / n, voxel_size=2 / n,
        slice_thickness=2 / n, volume_shape=(n, n, n), **FAN,
    )  # fmt: skip
    centre = (0.1, -0.15, 0.2)
    body = Ellipsoid(centre, (0.6, 0.6, 0.6))
    operator = CTProjector(geometry, filter="hann")
    image = operator.initial(chords(geometry, body).float()).double()
    core = Ellipsoid(centre, (0.45, 0.45, 0.45)).raster(geometry, 1) > 0
    assert float(image[core].mean()) == pytest.approx(1.0, abs=1.5e-2)
    assert float(image[core].std()) < 3e-2
    mirrored = Ellipsoid((0.1, -0.15, -0.2), (0.6, 0.6, 0.6)).raster(geometry, 1)
    truth = body.raster(geometry, 2)
    assert error(image, truth) < 0.25 < error(image, mirrored)


@pytest.mark.parametrize("change", [{"slice_thickness": 0.1}, {"detector_tilt": 0.15}])
def test_parallel_rows_that_are_not_slices(change: dict[str, float]) -> None:
    n = 40
    upright = CTGeometry(
        angles=turn(90), columns=n, rows=n, column_pitch=2 / n, volume_shape=(n, n, n)
    )
    geometry = upright.model_copy(update=change)
    assert not geometry.slicewise
    centre = (0.1, -0.15, 0.3)
    body = Ellipsoid(centre, (0.6, 0.6, 0.6))
    data = CTProjector(geometry)(body.raster(geometry, 3).float())
    image = CTProjector(geometry, filter="hann").initial(data).double()
    core = Ellipsoid(centre, (0.4, 0.4, 0.4)).raster(geometry, 1) > 0
    assert float(image[core].mean()) == pytest.approx(1.0, abs=2e-2)
    assert error(image, body.raster(geometry, 2)) < 0.25


def test_slices_are_filtered_one_by_one() -> None:
    geometry = CTGeometry(angles=turn(60), columns=40, rows=3, volume_shape=(3, 40, 40))
    y = torch.rand(2, 3, 60, 40)
    volume = CTProjector(geometry).initial(y)
    image = CTProjector(geometry.slice_geometry()).initial(y)
    assert torch.allclose(volume, image, atol=1e-5)


@pytest.mark.parametrize("name", ["180°", "fan"])
def test_linear_and_differentiable_in_the_data(name: str) -> None:
    geometry = SCANS[name].select(range(0, 200, 20))
    operator = CTProjector(geometry)
    y = operator.range.random(2).requires_grad_()
    x = operator.initial(y)
    v = torch.randn_like(x)
    (g,) = torch.autograd.grad((x * v).sum(), y)
    dy = torch.randn_like(y)
    with torch.no_grad():
        change = operator.initial(dy)
    assert float((g * dy).sum()) == pytest.approx(float((change * v).sum()), rel=1e-3)


def test_differentiable_in_the_centre() -> None:
    """For smooth data as finite differences say; and without a word of torch (warnings fail)."""
    operator = CTProjector(SCANS["180°"].select(range(0, 200, 20)))
    u = torch.linspace(-4, 4, operator.range.shape[-1])
    y = torch.exp(-u.square()).expand(operator.range.shape)
    v = torch.cos(torch.arange(operator.domain.size).reshape(operator.domain.shape) / 7.0)

    def value() -> torch.Tensor:
        return (operator.initial(y).double() * v).sum()

    (centre,) = operator.learn("centre")
    (gradient,) = torch.autograd.grad(value(), centre)
    ends = []
    for step in (0.3, -0.3):
        operator.place({"centre": torch.tensor(step)})
        with torch.no_grad():
            ends.append(float(value()))
    assert float(gradient) == pytest.approx((ends[0] - ends[1]) / 0.6, rel=0.05)


def test_vectors_start_from_the_scaled_adjoint() -> None:
    geometry = CTGeometry(angles=(0.0,), vectors=((0.0, -1.0, 0.0, 0.0, 1.0, 0.0),), columns=8)
    operator = CTProjector(geometry)
    y = operator(torch.ones(8, 8))
    assert error(operator(operator.initial(y)), y.double()) < 1e-5


@pytest.mark.parametrize(
    "degrees",
    [
        [0.25 * i for i in range(360)] + [90.0 + i for i in range(90)],
        [float(i // 10) for i in range(1800)],
        [i // 3 + 1e-3 * math.sin(7 * i) for i in range(540)],
        (180 * torch.rand(180, generator=torch.Generator().manual_seed(0))).tolist(),
    ],
    ids=["two speeds", "repeated", "encoder noise", "random"],
)
def test_angles_may_be_anywhere(degrees: list[float]) -> None:
    """The sum over views is an integral over the angle, whatever their spacing."""
    geometry = CTGeometry(angles=tuple(map(math.radians, degrees)), columns=96)
    disk = Ellipsoid((4.0, -6.0, 0.0), (25.0, 18.0, math.inf), 0.3)
    image = CTProjector(geometry, uses=1).initial(chords(geometry, disk).float())
    inside = Ellipsoid((4.0, -6.0, 0.0), (20.0, 13.0, math.inf)).raster(geometry, 1) > 0
    assert float(image[inside].mean()) == pytest.approx(1.0, abs=0.02)
