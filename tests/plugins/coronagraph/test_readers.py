"""Readers of FITS cubes, and the headers of SPHERE."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from opened_files import check_told

from labrecon import Scan
from labrecon.instrument import ReaderError
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.instrument import CoronagraphInstrument
from labrecon_coronagraph.readers.fits_cube import FitsCubeReader
from labrecon_coronagraph.readers.naco import NacoReader
from labrecon_coronagraph.readers.off_axis_psf import centred_psf
from labrecon_coronagraph.readers.star_images_fits import StarImagesReader
from labrecon_coronagraph.wavefront_instrument import WavefrontInstrument

ROTATION = np.linspace(-20.0, 50.0, 8)


def star(size: int = 15, at: tuple[float, float] = (7.0, 7.0), width: float = 3.0) -> Any:
    y, x = np.mgrid[:size, :size]
    return np.exp(-4 * np.log(2) * ((y - at[0]) ** 2 + (x - at[1]) ** 2) / width**2)


def cube(frames: int = 8, size: int = 21) -> Any:
    rng = np.random.default_rng(0)
    return (100 * star(size, (10.0, 10.0), 6.0) + rng.normal(size=(frames, size, size))).astype(
        np.float32
    )


def naco(folder: Path, **parts: Any) -> Path:
    values = {
        "cube": cube(),
        "pa": ROTATION[:, None].astype(np.float32),
        "psf": 5 * star(),
        **parts,
    }
    for name, value in values.items():
        if value is not None:
            fits.writeto(folder / f"naco_x_{name}.fits", value)
    return folder / "naco_x_cube.fits"


def general(path: Path, header: Mapping[str, Any] | None = None, **parts: Any) -> Path:
    values = {"cube": cube(), "PARANG": ROTATION, "PSF": 5 * star(), **parts}
    primary = fits.PrimaryHDU(values.pop("cube"))
    for key, value in ({"PIXSCALE": 12.25, "WAVELEN": 1.593} if header is None else header).items():
        primary.header[key] = value
    units = [primary]
    units += [fits.ImageHDU(v, name=k) for k, v in values.items() if v is not None]
    fits.HDUList(units).writeto(path)
    return path


def known(scan: Scan) -> CoronagraphGeometry:
    assert isinstance(scan.geometry, CoronagraphGeometry)
    return scan.geometry


def test_naco_files(tmp_path: Path) -> None:
    path = naco(tmp_path)
    assert NacoReader().matches(path)
    scan = NacoReader().read(path)
    np.testing.assert_array_equal(scan.data.numpy(), cube())
    np.testing.assert_allclose(known(scan).angles, ROTATION - 105.29, atol=1e-5)
    np.testing.assert_allclose(known(scan).psf.values, star(), atol=1e-9)
    assert known(scan).sigma == pytest.approx(1.0, rel=0.05)
    assert known(scan).centre == (10.0, 10.0)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"pa": None}, "no file naco_x_pa.fits"),
        ({"psf": None}, "no file naco_x_psf.fits"),
        ({"pa": ROTATION[:7]}, "7 angles .* for 8 frames"),
        ({"pa": np.radians(ROTATION)}, "look like radians"),
        ({"pa": np.full(8, 30.0)}, "does not turn"),
        ({"pa": np.where(np.arange(8) == 3, np.nan, ROTATION)}, r"frames \[3\] are NaN"),
        ({"cube": cube()[0]}, "expected real frames"),
        ({"cube": cube()[:1], "pa": ROTATION[:1]}, "1 frame"),
        ({"cube": np.full((8, 21, 21), np.nan)}, "no finite numbers"),
        ({"psf": np.minimum(star(), 0.6)}, "saturated"),
        ({"psf": star(at=(0.0, 7.0))}, "edge"),
        ({"psf": np.ones(5)}, "expected a finite image"),
    ],
)
def test_wrong_naco_files_are_refused(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ReaderError, match=message):
        NacoReader().read(naco(tmp_path, **parts))


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = naco(tmp_path)
    content = path.read_bytes()
    for length in (len(content) // 2, 2880 + 100, 1000):
        path.write_bytes(content[:length])
        assert isinstance(NacoReader().matches(path), bool)
        with pytest.raises(ReaderError, match=r"truncated|damaged|no image|no FITS"):
            NacoReader().read(path)
        if FitsCubeReader().matches(path):
            with pytest.raises(ReaderError):
                FitsCubeReader().read(path)


@pytest.mark.parametrize("reader", [NacoReader(), FitsCubeReader()])
def test_what_is_no_cube_does_not_match(tmp_path: Path, reader: Any) -> None:
    other = tmp_path / "naco_y_cube.fits"
    for content in (b"", b"SIMPLE  = nonsense", bytes(range(256)) * 20):
        other.write_bytes(content)
        assert isinstance(reader.matches(other), bool)
    assert not reader.matches(tmp_path)
    assert not reader.matches(tmp_path / "missing_cube.fits")
    image = tmp_path / "image.fits"
    fits.writeto(image, np.ones((4, 4)))
    if reader.matches(image):
        with pytest.raises(ReaderError, match="does not turn in a single image"):
            reader.read(image)


def test_nan_becomes_weight_zero_and_is_told(tmp_path: Path) -> None:
    values = cube()
    values[2] = np.nan
    values[5, 3, 4] = np.inf
    values[:, 0, 0] = np.nan
    scan = NacoReader().read(naco(tmp_path, cube=values))
    assert torch.isfinite(scan.data).all()
    assert scan.weights is not None
    np.testing.assert_array_equal(scan.weights.numpy(), np.isfinite(values))
    assert scan.data[5, 3, 4] == np.median(values[[0, 1, 3, 4, 6, 7], 3, 4])
    assert "8 frames (0, 1, 2" in scan.found["not finite"]


def test_a_general_cube(tmp_path: Path) -> None:
    header = {"PIXSCALE": 12.25, "WAVELEN": 1.593, "CENTREY": 9.5, "CENTREX": 10.25,
              "STARFLUX": 4e4, "EXPOSURE": 16.0, "DIAMETER": 8.0, "SATURATE": 90.0}  # fmt: skip
    path = general(tmp_path / "x.fits", header)
    assert FitsCubeReader().matches(path)
    scan = FitsCubeReader().read(path)
    assert known(scan).angles == pytest.approx(ROTATION)
    assert known(scan).centre == (9.5, 10.25)
    assert known(scan).star_flux == 4e4
    assert known(scan).exposure == 16.0
    assert "saturated" in scan.found
    assert scan.data.dtype == torch.float32


def test_angles_and_psf_beside_the_cube_or_in_a_table(tmp_path: Path) -> None:
    path = general(tmp_path / "y_cube.fits", PARANG=None, PSF=None)
    with pytest.raises(ReaderError, match="no parallactic angles"):
        FitsCubeReader().read(path)
    fits.writeto(tmp_path / "y_parang.fits", ROTATION)
    with pytest.raises(ReaderError, match="no off-axis PSF"):
        FitsCubeReader().read(path)
    fits.writeto(tmp_path / "y_psf.fits", star())
    scan = FitsCubeReader().read(path)
    with fits.open(path, mode="append") as opened:
        column = fits.Column("parang", "D", array=2 * ROTATION)
        opened.append(fits.BinTableHDU.from_columns([column]))
    again = FitsCubeReader().read(path)
    assert known(again).angles == pytest.approx([2 * angle for angle in known(scan).angles])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"WAVELEN": 1.6}, "no PIXSCALE"),
        ({"PIXSCALE": 12.25}, "no WAVELEN"),
        ({"PIXSCALE": 0.01225, "WAVELEN": 1.6}, "arcsec"),
        ({"PIXSCALE": 3.4e-6, "WAVELEN": 1.6}, "degrees"),
        ({"PIXSCALE": 5.9e-8, "WAVELEN": 1.6}, "radians"),
        ({"PIXSCALE": 12.25, "WAVELEN": 1.6e-6}, "expected µm"),
        ({"PIXSCALE": "wide", "WAVELEN": 1.6}, "expected a number"),
        ({"PIXSCALE": 12.25, "WAVELEN": 1.6, "CENTREY": 99.0, "CENTREX": 1.0}, "off the frame"),
    ],
)
def test_units_that_can_not_be_are_refused(
    tmp_path: Path, header: dict[str, Any], message: str
) -> None:
    with pytest.raises(ReaderError, match=message):
        FitsCubeReader().read(general(tmp_path / "x.fits", header))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    geometry = CoronagraphGeometry.model_validate(
        {
            "shape": (21, 21),
            "field": (15, 17),
            "pixel_scale": 12.25,
            "wavelength": 1.593,
            "angles": tuple(ROTATION),
            "centre": (9.9, 10.2),
            "psf": star() ** 1.1,
            "exposure": 32.0,
            "smear": 0.3,
            "transmission": ((0.0, 0.1), (90.0, 1.0)),
            "star_flux": 1e5,
            "gain": 1.75,
            "read_noise": 10.0,
        }
    )
    scan = Scan(torch.from_numpy(cube()), geometry)
    path = tmp_path / "simulated.fits"
    reader = FitsCubeReader()
    reader.write(scan, path)
    again = reader.read(path)
    torch.testing.assert_close(again.data, scan.data, rtol=0, atol=0)
    assert again.geometry == geometry
    prepared = scan.replace(
        geometry=geometry.changed(annuli=(2.0, 9.0), speckles=np.full((1, 8, 1), 8**-0.5))
    )
    with pytest.raises(ReaderError, match="before the step speckles"):
        reader.write(prepared, path)


def test_products_of_the_sphere_data_center(tmp_path: Path) -> None:
    begin = "ird_convert_recenter_dc5-IRD_SCIENCE_"
    both = np.stack([cube(), 2 * cube()])
    path = tmp_path / f"{begin}REDUCED_MASTER_CUBE-center_im.fits"
    fits.writeto(path, both)
    with pytest.raises(ReaderError, match="PARA_ROTATION_CUBE-rotnth"):
        FitsCubeReader().read(path)
    fits.writeto(tmp_path / f"{begin}PARA_ROTATION_CUBE-rotnth.fits", -ROTATION)
    fits.writeto(tmp_path / "ird_other-IRD_SCIENCE_PSF_MASTER_CUBE-median_unsat.fits",
                 np.stack([star(), 2 * star()]))  # fmt: skip
    fits.writeto(tmp_path / f"{begin}LAMBDA_INFO-lam.fits", np.array([1.593, 1.667]))
    scan = FitsCubeReader().read(path)
    np.testing.assert_array_equal(scan.data.numpy(), cube())
    assert known(scan).angles == pytest.approx(ROTATION)
    assert (known(scan).wavelength, known(scan).pixel_scale) == (1.593, 12.25)
    assert "all but the first of 2" in scan.ignored["wavelengths"]


@pytest.mark.parametrize("move", [(0.3, -0.4), (-0.08, 0.0)])
def test_a_psf_off_its_pixel_is_moved_there(move: tuple[float, float]) -> None:
    found, told = centred_psf(3 * star(21, (10 + move[0], 11 + move[1]), 4.0), "psf")
    assert found.shape == (19, 19)
    np.testing.assert_allclose(found[4:-4, 4:-4], star(19, (9.0, 9.0), 4.0)[4:-4, 4:-4], atol=2e-3)
    assert "peak 3" in told


def test_what_newcomers_do(tmp_path: Path) -> None:
    path = general(tmp_path / "x.fits")
    assert FitsCubeReader().matches(str(path))
    assert FitsCubeReader().read(str(path)).data.shape == (8, 21, 21)
    assert NacoReader().read(str(naco(tmp_path))).data.shape == (8, 21, 21)
    header = {"PIXSCALE": 12.25, "WAVELEN": 1.593, "DIAMETER": 8200.0}
    with pytest.raises(ReaderError, match=r"expected m, .*mm\? then 8.2"):
        FitsCubeReader().read(general(tmp_path / "mm.fits", header))
    lonely = tmp_path / "naco_z_cube.fits"
    fits.writeto(lonely, cube())
    with pytest.raises(ReaderError, match=r"no naco_z_pa.fits beside"):
        FitsCubeReader().read(lonely)
    even = np.pad(star(), ((0, 1), (0, 1)))
    told = FitsCubeReader().read(general(tmp_path / "even.fits", PSF=even)).found
    assert "cut from 16 × 16" in told["off-axis PSF"]


def test_star_images_without_their_geometry(tmp_path: Path) -> None:
    path = tmp_path / "star.fits"
    fits.writeto(path, np.ones((1, 32, 32)))
    assert StarImagesReader().matches(path)
    with pytest.raises(ReaderError, match=r"no star.json beside .*labrecon describe wavefront"):
        StarImagesReader().read(str(path))


def test_planets_of_a_simulation_come_back_as_truth(tmp_path: Path) -> None:
    instrument = CoronagraphInstrument()
    scan = instrument.simulate(instrument.example(), torch.Generator().manual_seed(0))
    assert scan.truth is not None
    path = tmp_path / "night.fits"
    FitsCubeReader().write(scan, str(path))
    again = FitsCubeReader().read(path)
    assert again.truth is not None
    torch.testing.assert_close(again.truth, scan.truth, rtol=0, atol=0)
    with fits.open(path, mode="update") as opened:
        opened["TRUTH"].data = np.zeros((3, 3), np.float32)
    with pytest.raises(ReaderError, match="TRUTH is an array"):
        FitsCubeReader().read(path)


def test_all_files_are_told(tmp_path: Path) -> None:
    check_told(FitsCubeReader(), general(tmp_path / "x.fits"), "x.fits")
    beside = general(tmp_path / "y_cube.fits", PARANG=None, PSF=None)
    fits.writeto(tmp_path / "y_parang.fits", ROTATION)
    fits.writeto(tmp_path / "y_psf.fits", star())
    check_told(FitsCubeReader(), beside, "y_cube.fits", "y_parang.fits", "y_psf.fits")
    files = ("naco_x_cube.fits", "naco_x_pa.fits", "naco_x_psf.fits")
    check_told(NacoReader(), naco(tmp_path), *files)


def test_all_files_of_the_data_center_are_told(tmp_path: Path) -> None:
    ends = ("REDUCED_MASTER_CUBE-center_im", "PARA_ROTATION_CUBE-rotnth",
            "PSF_MASTER_CUBE-median_unsat", "LAMBDA_INFO-lam")  # fmt: skip
    names = [f"ird_x-IRD_SCIENCE_{end}.fits" for end in ends]
    parts = (np.stack([cube(), cube()]), ROTATION, np.stack([star(), star()]), np.array([1.6, 1.7]))
    for name, values in zip(names, parts, strict=True):
        fits.writeto(tmp_path / name, values)
    check_told(FitsCubeReader(), tmp_path / names[0], *names)


def test_both_files_of_star_images_are_told(tmp_path: Path) -> None:
    instrument = WavefrontInstrument()
    scan = instrument.simulate(instrument.example(), torch.Generator().manual_seed(0))
    StarImagesReader().write(scan, tmp_path / "star.fits")
    check_told(StarImagesReader(), tmp_path / "star.fits", "star.fits", "star.json")
