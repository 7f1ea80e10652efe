"""TIFF stacks and MATLAB files."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from opened_files import check_told
from scipy.io import savemat

from labrecon.instrument import ReaderError
from labrecon_ct.readers import border
from labrecon_ct.readers.htc import HTCReader
from labrecon_ct.readers.tiff import TiffReader

VIEWS = 11


def images(count: int, level: float = 500.0) -> np.ndarray:
    return np.random.default_rng(1).poisson(level, (count, 2, 9)).astype(np.uint16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stack = images(VIEWS)
    for i, image in enumerate(stack):
        tifffile.imwrite(tmp_path / f"view_{i}.tif", image)
    (tmp_path / "angles.txt").write_text(
        "# degrees\n" + "\n".join(str(16 * i) for i in range(VIEWS))
    )
    for name, level in (("flats", 900), ("darks", 10)):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "all.tif", images(4, level), photometric="minisblack")
    return tmp_path


def test_folder_in_the_order_of_its_numbers(folder: Path) -> None:
    assert TiffReader().matches(folder)
    scan = TiffReader().read(folder)
    # view_10 comes after view_9, not after view_1.
    assert torch.equal(scan.data[:, 10], torch.from_numpy(images(VIEWS)[10].astype(np.float32)))
    assert scan.calibration["flats"].shape == (4, 2, 9)
    assert "1 px = 1 mm" in scan.assumed["pixel size"]


def test_multipage_file_with_settings(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "scan.tif", images(VIEWS), photometric="minisblack")
    (tmp_path / "scan_angles.txt").write_text(
        "# unit: rad\n" + ", ".join(str(0.28 * i) for i in range(VIEWS))
    )
    (tmp_path / "scan.toml").write_text(
        "pixel_size = 0.1\nsource_origin = 100\norigin_detector = 50\nenergy_kev = 30.0\n"
    )
    scan = TiffReader().read(tmp_path / "scan.tif")
    assert scan.geometry.kind == "cone"
    assert scan.geometry.angles[1] == pytest.approx(0.28)
    assert scan.provenance["energy_kev"] == 30
    (tmp_path / "scan.toml").write_text("pixelsize = 0.1\n")
    with pytest.raises(ReaderError, match="pixelsize"):
        TiffReader().read(tmp_path / "scan.tif")


def test_bad_stacks(folder: Path) -> None:
    angles = folder / "angles.txt"
    words = angles.read_text()
    angles.write_text(words.replace("160", "north"))
    with pytest.raises(ReaderError, match="not a number"):
        TiffReader().read(folder)
    angles.write_text(words.replace("160", ""))
    with pytest.raises(ReaderError, match="10 angles for 11 projections"):
        TiffReader().read(folder)
    angles.unlink()
    with pytest.raises(ReaderError, match=r"no angles\.txt"):
        TiffReader().read(folder)
    angles.write_text(words)
    image = folder / "view_3.tif"
    image.write_bytes(image.read_bytes()[:30])
    with pytest.raises(ReaderError, match="truncated"):
        TiffReader().read(folder)
    tifffile.imwrite(image, np.ones((5, 5), np.uint16))
    with pytest.raises(ReaderError, match="differ in size"):
        TiffReader().read(folder)


def mat(path: Path, **changes: object) -> Path:
    degrees = np.arange(0, 360.1, 2.0)
    parameters = {
        "angles": degrees,
        "distanceSourceOrigin": 410.66,
        "distanceSourceDetector": 553.74,
        "distanceUnit": "mm",
        "pixelSizePost": 0.2,
    }
    sinogram = np.random.default_rng(2).random((len(degrees), 20))
    savemat(path, {"CtDataFull": {"sinogram": sinogram, "parameters": parameters} | changes})
    return path


def test_htc_drops_the_repeated_view(tmp_path: Path) -> None:
    scan = HTCReader().read(mat(tmp_path / "a.mat"))
    assert scan.data.shape == (180, 20)
    assert scan.geometry.kind == "fan"
    assert scan.geometry.origin_detector == pytest.approx(143.08)
    assert scan.provenance["quantity"] == "line integrals"
    assert "repeats" in scan.ignored["last view"]


def test_bad_mat(tmp_path: Path) -> None:
    path = mat(tmp_path / "a.mat", sinogram=np.full((181, 20), np.nan))
    with pytest.raises(ReaderError, match="NaN"):
        HTCReader().read(path)
    with pytest.raises(ReaderError, match="angles for 7 projections"):
        HTCReader().read(mat(path, sinogram=np.ones((7, 20))))
    with pytest.raises(ReaderError, match="complex"):
        HTCReader().read(mat(path, sinogram=1j * np.ones((181, 20))))
    with pytest.raises(ReaderError, match=r"parameters\.angles is missing"):
        HTCReader().read(mat(path, parameters={"pixelSizePost": 0.2}))
    mat(path)
    path.write_bytes(path.read_bytes()[:1000])
    assert HTCReader().matches(path)
    with pytest.raises(ReaderError, match="truncated or damaged"):
        HTCReader().read(path)


def test_data_larger_than_the_machine_are_refused() -> None:
    with pytest.raises(ReaderError, match=r"GiB as float32"):
        border.check_memory(10**15, "scan")


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    """A folder of thousands of images is usual; the system lets a process open about a thousand."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for i in range(150):
        tifffile.imwrite(tmp_path / f"view_{i:04d}.tif", np.full((3, 8), 1000 + i, np.uint16))
    np.savetxt(tmp_path / "angles.txt", np.linspace(0, 180, 150, endpoint=False))
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        scan = TiffReader().read(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert scan.data.shape == (3, 150, 8)
    assert scan.data[0, :, 0].tolist() == list(range(1000, 1150))


def test_files_with_different_numbers_of_images(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a_1.tif", np.ones((4, 8), np.uint16))
    tifffile.imwrite(tmp_path / "a_2.tif", np.ones((2, 4, 8), np.uint16), photometric="minisblack")
    (tmp_path / "angles.txt").write_text("0 90")
    with pytest.raises(ReaderError, match=r"a_2\.tif holds 2 images, the first file 1"):
        TiffReader().read(tmp_path)


def test_all_files_are_told(tmp_path: Path) -> None:
    stack = images(VIEWS)
    tifffile.imwrite(tmp_path / "scan.tif", stack, photometric="minisblack")
    (tmp_path / "scan_angles.txt").write_text(" ".join(map(str, range(VIEWS))))
    check_told(TiffReader(), tmp_path / "scan.tif", "scan.tif", "scan_angles.txt")
    (tmp_path / "scan.toml").write_text("pixel_size = 0.1")
    for name in ("flats", "darks"):
        level = 4000.0 if name == "flats" else 10.0
        tifffile.imwrite(tmp_path / f"scan_{name}.tif", images(4, level), photometric="minisblack")
    names = ("scan.tif", "scan_angles.txt", "scan.toml", "scan_flats.tif", "scan_darks.tif")
    check_told(TiffReader(), tmp_path / "scan.tif", *names)
