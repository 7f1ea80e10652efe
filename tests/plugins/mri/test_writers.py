"""NIfTI and BART volumes, read back by nibabel and byte by byte."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.instrument import MRIInstrument
from labrecon_mri.readers.bart import BARTReader
from labrecon_mri.writers.bart import write_bart
from labrecon_mri.writers.nifti import write_nifti

TILTED = ((1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (0.0, -0.8, 0.6))
#: A turn about all axes, as an oblique prescription gives.
TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
OBLIQUE = tuple(tuple(float(v) for v in row) for row in TURN)


def volume(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def info(axes: str, geometry: Any = None, **fields: Any) -> dict[str, Any]:
    sizes = None
    if geometry is not None:
        sizes = MRIInstrument().voxel_size(geometry)
    return {
        "axes": tuple(axes.split()), "voxel_size": sizes, "unit": "a.u.", "geometry": geometry,
        "provenance": {"created": "today"}, **fields,
    }  # fmt: skip


def lps(image: nibabel.Nifti1Image, *index: int) -> np.ndarray:
    """Where a voxel (x, y, z) lies: right and anterior are negative in LPS."""
    return (image.affine @ (*index, 1))[:3] * (-1, -1, 1)


def test_voxels_of_a_volume_lie_where_the_scan_says(tmp_path: Path) -> None:
    geometry = MRIGeometry(matrix=(5, 8, 6), fov=(0.05, 0.16, 0.06), position=(11.0, -22.0, 33.0),
                           directions=OBLIQUE)  # fmt: skip
    x = volume(5, 8, 6)
    path = write_nifti(tmp_path / "a", x, info("z y x", geometry))
    assert path.name == "a.nii.gz"
    image = nibabel.load(path)
    np.testing.assert_allclose(
        np.asarray(image.dataobj), x.abs().numpy().transpose(2, 1, 0), rtol=1e-6
    )
    assert image.header.get_zooms() == pytest.approx((10, 20, 10))
    assert int(image.header["sform_code"]) == 1
    assert int(image.header["qform_code"]) == 1
    assert image.header.get_xyzt_units()[0] == "mm"
    # Pixel N//2 is where k-space has its origin: at the position.
    np.testing.assert_allclose(lps(image, 3, 4, 2), (11, -22, 33), atol=1e-4)
    expected = np.array([11, -22, 33]) + 2 * 10 * TURN[0] - 3 * 20 * TURN[1] + 1 * 10 * TURN[2]
    np.testing.assert_allclose(lps(image, 5, 1, 3), expected, atol=1e-4)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)


def test_slices_are_the_third_axis(tmp_path: Path) -> None:
    geometry = MRIGeometry(matrix=(8, 6), fov=(0.16, 0.06), frames={"contrast": 2, "slice": 3},
                           position=(1.0, 2.0, 3.0), directions=TILTED, spacing=0.0045)  # fmt: skip
    x = volume(2, 3, 8, 6)
    image = nibabel.load(write_nifti(tmp_path / "a", x, info("contrast slice y x", geometry)))
    assert image.shape == (6, 8, 3, 2)
    np.testing.assert_allclose(
        np.asarray(image.dataobj), x.abs().numpy().transpose(3, 2, 1, 0), rtol=1e-6
    )
    assert image.header.get_zooms()[:3] == pytest.approx((10, 20, 4.5))
    # The position is the middle of the stack: that of slice 1 of 0, 1, 2.
    np.testing.assert_allclose(lps(image, 3, 4, 1), (1, 2, 3), atol=1e-5)
    np.testing.assert_allclose(
        lps(image, 3, 4, 2) - lps(image, 3, 4, 1), 4.5 * np.array(TILTED[2]), atol=1e-5
    )


def test_one_slice_is_a_volume_of_one(tmp_path: Path) -> None:
    geometry = MRIGeometry(matrix=(8, 6), fov=(0.16, 0.06), position=(1.0, 2.0, 3.0),
                           directions=TILTED)  # fmt: skip
    image = nibabel.load(write_nifti(tmp_path / "a", volume(8, 6), info("y x", geometry)))
    assert image.shape == (6, 8, 1)
    np.testing.assert_allclose(lps(image, 3, 4, 0), (1, 2, 3), atol=1e-5)
    assert int(image.header["sform_code"]) == 1


@pytest.mark.parametrize(
    "geometry",
    [
        MRIGeometry(matrix=(8, 6), fov=(0.16, 0.06), frames={"slice": 3}),
        # Slices without a distance lie nobody knows where.
        MRIGeometry(matrix=(8, 6), fov=(0.16, 0.06), frames={"slice": 3},
                    position=(1.0, 2.0, 3.0), directions=TILTED),
    ],
)  # fmt: skip
def test_an_unknown_place_is_said_to_be_unknown(tmp_path: Path, geometry: MRIGeometry) -> None:
    image = nibabel.load(write_nifti(tmp_path / "a", volume(3, 8, 6), info("slice y x", geometry)))
    assert int(image.header["sform_code"]) == 0
    assert int(image.header["qform_code"]) == 0
    assert image.header.get_zooms()[:2] == pytest.approx((10, 20))
    sform = image.header.get_sform()
    np.testing.assert_allclose(sform @ (3, 4, 1, 1), (0, 0, 0, 1), atol=1e-5)
    np.testing.assert_allclose(np.diag(sform), (-10, -20, 1, 1), atol=1e-5)


def test_without_any_geometry(tmp_path: Path) -> None:
    told = info("y x") | {"voxel_size": (2.0, 3.0)}
    del told["geometry"]
    image = nibabel.load(write_nifti(tmp_path / "a", volume(8, 6), told))
    assert image.header.get_zooms()[:2] == (3, 2)


def test_parts_of_complex_images(tmp_path: Path) -> None:
    x = volume(4, 8, 6)
    expected = x.numpy().transpose(2, 1, 0)
    for part, values, kind in (
        ("magnitude", np.abs(expected), np.float32),
        ("phase", np.angle(expected), np.float32),
        ("complex", expected, np.complex64),
    ):
        path = write_nifti(tmp_path / part, x, info("z y x"), part=part)  # type: ignore[arg-type]
        image = nibabel.load(path)
        assert image.get_data_dtype() == kind
        np.testing.assert_allclose(np.asarray(image.dataobj), values, rtol=1e-6, atol=1e-7)
        assert part in image.header["descrip"].item().decode()
    with pytest.raises(ValueError, match=r"part is 'magnitude'.*got 'real'"):
        write_nifti(tmp_path / "a", x, info("z y x"), part="real")  # type: ignore[arg-type]


def test_provenance_is_inside(tmp_path: Path) -> None:
    image = nibabel.load(write_nifti(tmp_path / "a", volume(4, 8, 6), info("z y x")))
    (extension,) = image.header.extensions
    told = json.loads(extension.get_content())
    assert told["provenance"] == {"created": "today"}
    assert told["axes"] == ["x", "y", "z"]


@pytest.mark.parametrize("axes", ["angle detector", "y x x", "y"])
def test_what_is_no_image(tmp_path: Path, axes: str) -> None:
    x = volume(*(4,) * len(axes.split()))
    with pytest.raises(ValueError, match=r"output\.format"):
        write_nifti(tmp_path / "a", x, info(axes))
    assert not list(tmp_path.iterdir())


def test_bart_volumes(tmp_path: Path) -> None:
    x = volume(2, 3, 2, 4, 8, 6)
    path = write_bart(tmp_path / "a", x, info("contrast slice set z y x"))
    assert path.name == "a.cfl"
    dims = [int(n) for n in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    assert dims == [6, 8, 4, 1, 2, 2, 1, 1, 1, 1, 1, 1, 1, 3, 1, 1]
    stored = np.fromfile(path, "<c8").reshape(dims, order="F").squeeze()
    np.testing.assert_array_equal(stored, x.numpy().transpose(5, 4, 3, 2, 0, 1))


def test_bart_reads_its_own(tmp_path: Path) -> None:
    x = volume(3, 8, 6)
    again = BARTReader().read(write_bart(tmp_path / "a", x, info("slice y x")))
    assert torch.equal(again.data, x[:, None])


def test_an_axis_that_bart_has_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no place in a BART array"):
        write_bart(tmp_path / "a", volume(2, 8, 6), info("shot y x"))
    assert not list(tmp_path.iterdir())
