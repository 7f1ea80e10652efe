"""Projections against exact chords, independent codes, and each other."""

from __future__ import annotations

import math

import pytest
import torch
from ct_phantoms import Ellipsoid, chords, error, gaussian, turn

from labrecon_ct.geometry import CTGeometry
from labrecon_ct.poses import poses
from labrecon_ct.projector import CTProjector

BODY = Ellipsoid((0.1, -0.08, 0.06), (0.7, 0.6, 0.65), 0.3)
TILTED = Ellipsoid((0.12, -0.2, 0.0), (0.6, 0.35, math.inf), 0.4, 0.8)


def parallel(n: int, views: int = 45, **more: object) -> CTGeometry:
    h = 2 / n
    fields = {"columns": n, "column_pitch": h, "volume_shape": (n, n), "voxel_size": h, **more}
    return CTGeometry(angles=turn(views), **fields)


def fan(n: int, views: int = 45, **more: object) -> CTGeometry:
    fields = {
        "columns": n,
        "column_pitch": 3.2 / n,
        "source_origin": 4.0,
        "origin_detector": 2.0,
        "volume_shape": (n, n),
        "voxel_size": 2 / n,
        **more,
    }
    return CTGeometry(beam="cone", angles=turn(views, 2 * math.pi), **fields)


def cone(n: int, views: int = 9, **more: object) -> CTGeometry:
    fields = {
        "beam": "cone",
        "columns": n,
        "rows": n,
        "column_pitch": 3.2 / n,
        "source_origin": 4.0,
        "origin_detector": 2.0,
        "volume_shape": (n, n, n),
        "voxel_size": 2 / n,
        "slice_thickness": 2 / n,
        **more,
    }
    return CTGeometry(angles=turn(views, 2 * math.pi), **fields)


def with_vectors(geometry: CTGeometry) -> CTGeometry:
    """The same acquisition, each pose given by vectors."""
    theta = torch.tensor(geometry.angles, dtype=torch.float64)
    table = poses(geometry, theta, torch.tensor(geometry.centre_offset, dtype=torch.float64))
    if geometry.ndim == 2:
        table = table[:, [0, 1, 3, 4, 6, 7]]
    vectors = tuple(tuple(row) for row in table.tolist())
    return geometry.model_copy(update={"vectors": vectors, "centre_offset": 0.0})


def project(geometry: CTGeometry, image: torch.Tensor, **options: object) -> torch.Tensor:
    return CTProjector(geometry, **options)(image.float())


class TestEllipse:
    """Tolerances: 1 % at N ≥ 128 (strip, against bin averages: 0.6 %), halved per octave."""

    @pytest.mark.parametrize(
        ("kernel", "tolerance"), [("line", 1e-2), ("linear", 1e-2), ("strip", 6e-3)]
    )
    def test_parallel_chord_halves_per_octave(self, kernel: str, tolerance: float) -> None:
        errors = []
        for n in (128, 256):
            geometry = parallel(n)
            exact = chords(geometry, TILTED, sub=16 if kernel == "strip" else 1)
            measured = project(geometry, TILTED.raster(geometry, 8), kernel=kernel)
            errors.append(error(measured, exact))
        assert errors[0] < tolerance
        assert 0.4 < errors[1] / errors[0] < 0.62

    def test_rays(self) -> None:
        geometry = parallel(128, 12)
        measured = project(geometry, TILTED.raster(geometry, 8), backend="rays")
        assert error(measured, chords(geometry, TILTED)) < 1e-2

    def test_fan_rays(self) -> None:
        # Bilinear interpolation smooths the edge a little more than a line's own chords.
        geometry = fan(128, 12)
        measured = project(geometry, TILTED.raster(geometry, 8), backend="rays")
        assert error(measured, chords(geometry, TILTED)) < 1.1e-2

    @pytest.mark.parametrize("kernel", ["line", "strip"])
    def test_fan_chord(self, kernel: str) -> None:
        geometry = fan(128)
        exact = chords(geometry, TILTED, sub=16 if kernel == "strip" else 1)
        assert error(project(geometry, TILTED.raster(geometry, 8), kernel=kernel), exact) < 1e-2

    @pytest.mark.parametrize("backend", ["matrix", "rays"])
    @pytest.mark.parametrize("make", [parallel, fan])
    def test_offset_axis(self, make: object, backend: str) -> None:
        geometry = make(128, 12, centre_offset=7.3)
        measured = project(geometry, TILTED.raster(geometry, 8), backend=backend)
        assert error(measured, chords(geometry, TILTED)) < 1.5e-2
        mirrored = geometry.model_copy(update={"centre_offset": -7.3})
        assert error(measured, chords(mirrored, TILTED)) > 0.3

    @pytest.mark.parametrize("kernel", ["line", "linear", "strip"])
    def test_mass(self, kernel: str) -> None:
        geometry = parallel(128)
        image = TILTED.raster(geometry, 8)
        mass = float(image.sum()) * geometry.voxel[0] ** 2
        per_view = project(geometry, image, kernel=kernel).sum(-1) * geometry.column_pitch
        # Lines sample the object; only area weights conserve mass view by view.
        if kernel == "strip":
            assert float((per_view / mass - 1).abs().max()) < 1e-5
        assert abs(float(per_view.mean()) / mass - 1) < 1e-4

    def test_millimetres(self) -> None:
        """Pixel and detector sizes are lengths: halving all lengths halves the integrals."""
        large, small = parallel(64), parallel(64, column_pitch=1 / 64, voxel_size=1 / 64)
        image = TILTED.raster(large, 4)
        assert error(2 * project(small, image), project(large, image)) < 1e-6


class TestVolumes:
    def test_cone_sphere(self) -> None:
        geometry = cone(48, 5)
        measured = project(geometry, BODY.raster(geometry, 4), backend="rays")
        assert error(measured, chords(geometry, BODY)) < 3.5e-2

    def test_tall_row_pitch(self) -> None:
        """Rows that do not match slices: no slice-by-slice shortcut."""
        geometry = CTGeometry(
            angles=turn(5), columns=48, rows=20, column_pitch=1 / 24, row_pitch=1 / 10,
            slice_thickness=1 / 16, volume_shape=(32, 48, 48),
        )  # fmt: skip
        assert not geometry.slicewise
        measured = project(geometry, BODY.raster(geometry, 4))
        assert error(measured, chords(geometry, BODY)) < 3.5e-2

    def test_slices_are_the_2d_operator(self) -> None:
        volume = torch.rand(2, 4, 32, 32)
        geometry = CTGeometry(angles=turn(10), columns=40, rows=4, volume_shape=(4, 32, 32))
        flat = geometry.slice_geometry()
        assert geometry.slicewise
        y = CTProjector(geometry)(volume)
        assert y.shape == (2, 4, 10, 40)
        assert torch.equal(y, CTProjector(flat)(volume))
        back = CTProjector(geometry).adjoint(y)
        assert torch.equal(back, CTProjector(flat).adjoint(y))

    def test_parallel_3d_rays_equal_2d(self) -> None:
        """The frame of a volume's slice is the frame of an image: y is not mirrored."""
        geometry = CTGeometry(angles=turn(7), columns=30, rows=4, volume_shape=(4, 24, 24))
        volume = gaussian(geometry, 4.0, -6.0, 3.0)
        same = CTProjector(geometry, backend="rays", dtype=torch.float64)(volume)
        # A detector tilt of next to nothing switches the shortcut off.
        tilted = geometry.model_copy(update={"detector_tilt": 1e-12})
        assert not tilted.slicewise
        general = CTProjector(tilted, backend="rays", dtype=torch.float64)(volume)
        # The quadrature points of a ray differ, and a blob tells y from −y.
        assert error(general, same) < 1e-3
        assert error(general, CTProjector(geometry, kernel="linear")(volume.float())) < 1e-2

    def test_cone_mid_plane_equals_fan(self) -> None:
        flat = fan(24, 6, centre_offset=1.5)
        geometry = cone(24, 6, centre_offset=1.5, rows=5, volume_shape=(5, 24, 24))
        volume = gaussian(geometry, 0.3, -0.5, 0.25)
        middle = CTProjector(geometry, backend="rays", dtype=torch.float64)(volume)[2]
        plane = CTProjector(flat, backend="rays", dtype=torch.float64)(volume[2])
        assert error(middle, plane) < 1e-3

    def test_tilt_turns_the_detector(self) -> None:
        """A tilted detector's pixel sees what its position on an upright one sees."""
        tilt = 0.2
        upright = CTGeometry(
            angles=turn(3), columns=48, rows=48, column_pitch=1 / 24, volume_shape=(48, 48, 48)
        )
        geometry = upright.model_copy(update={"detector_tilt": tilt})
        measured = project(geometry, BODY.raster(geometry, 3), backend="rays")
        i, j = 33, 15
        a, b = (i - 23.5) / 24, (j - 23.5) / 24
        u = a * math.cos(tilt) - b * math.sin(tilt)
        v = a * math.sin(tilt) + b * math.cos(tilt)
        theta = torch.tensor(upright.angles, dtype=torch.float64)
        point = torch.stack([u * theta.cos(), u * theta.sin(), torch.full_like(theta, v)], -1)
        along = torch.stack([theta.sin(), -theta.cos(), torch.zeros_like(theta)], -1)
        exact = torch.from_numpy(BODY.chord(point.numpy(), along.numpy()))
        assert error(measured[j, :, i], exact) < 2e-2


class TestVectors:
    @pytest.mark.parametrize("backend", ["matrix", "astra", "rays"])
    @pytest.mark.parametrize("make", [parallel, fan])
    def test_same_as_angles(self, make: object, backend: str) -> None:
        geometry = make(48, 8, centre_offset=2.5)
        image = torch.rand(48, 48)
        expected = project(geometry, image, backend=backend)
        measured = project(with_vectors(geometry), image, backend=backend)
        assert error(measured, expected) < 1e-5

    def test_cone(self) -> None:
        geometry = cone(16, 4, centre_offset=1.5)
        volume = torch.rand(16, 16, 16)
        measured = project(with_vectors(geometry), volume, backend="rays")
        assert error(measured, project(geometry, volume, backend="rays")) < 1e-5


class TestIndependentCodes:
    def test_line_against_diffct(self) -> None:
        """ASTRA's line kernel and diffct's float64 Siddon, written by others."""
        diffct = pytest.importorskip("diffct")
        n, views = 96, 24
        geometry = CTGeometry(
            angles=tuple(0.013 + a for a in turn(views)), columns=128, volume_shape=(n, n)
        )
        theta = torch.tensor(geometry.angles, dtype=torch.float64)
        across = torch.stack([theta.cos(), theta.sin()], -1)
        along = torch.stack([theta.sin(), -theta.cos()], -1)
        # diffct's rows run with +y.
        reference = diffct.Projector(
            (along, torch.zeros_like(across), across), (n, n), 128,
            beam="parallel", backend="torch", precision="float64",
        )  # fmt: skip
        image = torch.rand(n, n, dtype=torch.float64)
        expected = reference(image.flip(0).contiguous())
        assert error(project(geometry, image, backend="matrix"), expected) < 5e-5
        assert error(project(geometry, image, backend="astra"), expected) < 5e-5

    def test_rays_against_linear(self) -> None:
        geometry = CTGeometry(angles=turn(24), columns=160, volume_shape=(128, 128))
        image = TILTED.raster(parallel(128), 4)
        measured = project(geometry, image, backend="rays")
        assert error(measured, project(geometry, image, kernel="linear")) < 3e-3

    @pytest.mark.parametrize("make", [parallel, fan])
    @pytest.mark.parametrize("kernel", ["line", "strip"])
    def test_matrix_is_the_astra_projector(self, make: object, kernel: str) -> None:
        geometry = make(64, 10)
        image = torch.rand(3, 64, 64)
        a = CTProjector(geometry, backend="matrix", kernel=kernel)
        b = CTProjector(geometry, backend="astra", kernel=kernel)
        assert error(a(image), b(image)) < 1e-5
        assert error(a.adjoint(a(image)), b.adjoint(b(image))) < 1e-5


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("backend", ["matrix", "astra", "rays"])
def test_batches(backend: str, batch: tuple[int, ...]) -> None:
    geometry = parallel(16, 5)
    operator = CTProjector(geometry, backend=backend)
    x = torch.rand(*batch, 16, 16)
    y = operator(x)
    assert y.shape == (*batch, 5, 16)
    each = torch.stack([operator(image) for image in x.reshape(-1, 16, 16)])
    assert torch.allclose(y.reshape(-1, 5, 16), each, atol=1e-6)
    assert operator.adjoint(y).shape == x.shape
