"""Files of LED-array microscopes: measured sets, and files with something wrong."""

import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import tifffile
import torch
from opened_files import check_told
from PIL import Image

from labrecon import Scan
from labrecon.errors import OutputError
from labrecon.instrument import ReaderError
from labrecon.noise import Amplitude
from labrecon_phase.instrument import PhaseInstrument
from labrecon_phase.microscope import Microscope
from labrecon_phase.readers.glass_slide import apparent_heights
from labrecon_phase.readers.half_annulus import HalfAnnulusReader
from labrecon_phase.readers.tiff_leds import TiffLedReader
from labrecon_phase.readers.uconn_mat import UConnMatReader
from labrecon_phase.weak_object import WeakObject

MAT, HALVES, TIFF = UConnMatReader(), HalfAnnulusReader(), TiffLedReader()


def frequencies(scan: Scan) -> torch.Tensor:
    """ν (led, 2) in 1/µm, as models have them."""
    from labrecon_phase.abbe import AbbeImaging

    return AbbeImaging(scan.geometry).frequencies()


# -- UConn ---------------------------------------------------------------------------------------


def mat(**changes: Any) -> dict[str, Any]:
    stack = np.random.default_rng(0).uniform(1, 1.2, (16, 12, 9)).astype(np.float32)
    stack[..., 1:] *= 0.9
    good = {
        "imlow_HDR": stack,
        "wlength": 6.3e-7,
        "z": -5.5e-5,
        "xint": 0.5,
        "yint": 0.25,
        "theta": 90.0,
        "aberration": 0,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def saved(folder: Path, **changes: Any) -> Path:
    path = folder / "scan.mat"
    scipy.io.savemat(path, mat(**changes), do_compression=True)
    return path


def test_blood_smear(lab_data: Path) -> None:
    path = lab_data / "phase/fpm_uconn_bloodsmear/bloodsmear_green.mat"
    assert MAT.matches(path)
    scan = MAT.read(path)
    geometry = scan.geometry
    assert tuple(scan.data.shape) == (225, 128, 128)
    assert float(scan.data[0].mean()) == pytest.approx(1)
    assert (geometry.wavelength, geometry.defocus) == (0.532, 10.0)
    assert geometry.led_shift == (0.0, 0.35)
    assert geometry.pixel == pytest.approx(1.845)
    assert 0.39 < geometry.illumination_na < 0.41
    assert geometry.quantity == "intensity"
    assert isinstance(scan.noise, Amplitude)
    assert "squared" in scan.assumed["quantity"]
    PhaseInstrument().check(scan)
    # Where an LED is within the aperture its images are bright.
    inside = torch.linalg.vector_norm(frequencies(scan), dim=1) < 0.09 / 0.532
    means = scan.data.mean((-2, -1))
    assert float(means[inside].min()) > 2 * float(means[~inside][20:].max())


def test_defocused_images_move_with_the_led(lab_data: Path) -> None:
    """By z λ ν: 55 µm out of focus it is the side of the array that is told from the images."""
    scan = MAT.read(lab_data / "phase/fpm_uconn_bloodsmear/bloodsmear_red.mat")
    window = torch.hann_window(128, periodic=False)
    images = scan.data - scan.data.mean((-2, -1), keepdim=True)
    spectra = torch.fft.fft2(images * window[:, None] * window)
    nu = frequencies(scan)
    for first, second, axis in ((5, 1, 1), (7, 3, 0)):
        peak = torch.fft.ifft2(spectra[second] * spectra[first].conj()).real.flatten().argmax()
        place = (int(peak) // 128, int(peak) % 128)[axis]
        moved = ((place + 64) % 128 - 64) * scan.geometry.pixel
        along = float(nu[second, axis] - nu[first, axis]) * scan.geometry.wavelength
        assert moved == pytest.approx(scan.geometry.defocus * along, abs=1.85)
        assert moved * scan.geometry.defocus * along > 0


def test_glass_slide_bends_rays() -> None:
    """The straight ray has the direction sine of the refracted one, by a bisection of Snell."""
    radii = torch.tensor([0.0, 4.0, 30.0, 80.0], dtype=torch.float64)
    heights = apparent_heights(radii, 90.88, 1.0, 1.52)
    for radius, height in zip(radii.tolist(), heights.tolist(), strict=True):
        low, high = 0.0, 1.0
        for _ in range(60):
            sine = (low + high) / 2
            inside = sine / 1.52
            reach = 90.88 * sine / math.sqrt(1 - sine**2) + inside / math.sqrt(1 - inside**2)
            low, high = (sine, high) if reach < radius else (low, sine)
        assert radius / math.hypot(radius, height) == pytest.approx(low, abs=1e-12)
    assert float(heights[0]) == pytest.approx(90.88 + 1 / 1.52)


def test_offset_turns_with_the_array(tmp_path: Path) -> None:
    geometry = MAT.read(saved(tmp_path)).geometry
    assert geometry.led_shift == pytest.approx((-0.25, 0.5))
    np.testing.assert_allclose(geometry.leds.values[:4, :2], [[0, 0], [4, 0], [4, 4], [0, 4]])
    # LED 1 is one step to the right in the array, which is turned: downwards, beside the offset.
    nu = frequencies(MAT.read(saved(tmp_path)))
    sines = -nu[1] * geometry.wavelength
    assert float(sines[0] / sines[1]) == pytest.approx(4.5 / -0.25)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"imlow_HDR": np.full((8, 8, 9), np.nan, np.float32)}, "576 of 576 .* NaN"),
        ({"imlow_HDR": -np.ones((8, 8, 9), np.float32)}, "negative"),
        ({"imlow_HDR": np.ones((8, 8, 8), np.float32)}, "8 images, expected .* square"),
        ({"imlow_HDR": np.ones((8, 8), np.float32)}, r"expected real amplitudes \(y, x, LED\)"),
        ({"imlow_HDR": np.ones((8, 8, 9), np.complex64)}, "expected real amplitudes"),
        ({"imlow_HDR": np.ones((8, 8, 9), np.float32) * np.arange(9)}, "LED in the middle first"),
        ({"aberration": np.ones((16, 12), complex)}, "Zernike"),
        ({"aberration": 1}, "Zernike"),
        ({"wlength": 630.0}, "in m such as"),
        ({"z": -55.0}, "defocus in m"),
        ({"theta": np.nan}, "one finite number"),
        ({"xint": [0.0, 1.0]}, "one finite number"),
        ({"theta": None}, "has no theta"),
    ],
)
def test_mat_files_with_something_wrong(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    path = saved(tmp_path, **changes)
    assert MAT.matches(path)
    with pytest.raises(ReaderError, match=match):
        MAT.read(path)


def test_truncated_mat(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    for length in (130, 1000, len(content) // 2, len(content) - 40):
        path.write_bytes(content[:length])
        if MAT.matches(path):
            with pytest.raises(ReaderError, match="copy it again"):
                MAT.read(path)


def test_other_files_are_not_mat(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"other": 1.0})
    assert not MAT.matches(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    assert not MAT.matches(path)
    assert not MAT.matches(tmp_path)
    assert not MAT.matches(tmp_path / "absent.mat")


# -- half annuli ---------------------------------------------------------------------------------

TOML = """
wavelength = 0.5
na = 0.4
magnification = 10.0
camera_pixel = 2.0
outer = 0.4
axes = ["+x", "-x"]
"""


def halves(folder: Path, n: int = 2, *, toml: str | None = TOML, ending: str = "png") -> Path:
    r = np.random.default_rng(0)
    for k in range(1, n + 1):
        image = r.integers(90, 110, (40, 32)).astype(np.uint8)
        Image.fromarray(image).save(folder / f"r{k}.{ending}")
    if toml is not None:
        (folder / "microscope.toml").write_text(toml)
    return folder


def test_cells_of_zhou(lab_data: Path) -> None:
    folder = lab_data / "phase/dpc_annular_zhou"
    assert HALVES.matches(folder)
    scan = HALVES.read(folder)
    geometry = scan.geometry
    assert tuple(scan.data.shape) == (4, 2000, 2000)
    assert float(scan.data.mean()) == pytest.approx(1, abs=1e-5)
    assert geometry.pixel == pytest.approx(0.12)
    assert (geometry.object_shape, geometry.sample) == ((2000, 2000), "absorbing")
    assert "no microscope.toml" in scan.assumed["microscope"]
    x, y, z = geometry.leds.values.T
    nu = np.stack([y, x]) / np.sqrt(x * x + y * y + z * z) / 0.523
    steps = nu * 2000 * geometry.pixel
    np.testing.assert_allclose(steps, steps.round(), atol=1e-6)
    radius = np.hypot(*nu) * 0.523
    assert 0.45 <= radius.min() < 0.451
    assert 0.499 < radius.max() <= 0.5 + 1e-9
    lit = geometry.patterns.values > 0
    np.testing.assert_allclose(geometry.patterns.values.sum(1), 1)
    for row, half in enumerate((y < 0, y > 0, x < 0, x > 0)):
        np.testing.assert_array_equal(lit[row], half & (np.abs((y, x)[row // 2]) > 1e-9))


def test_halves_are_summed_as_correlations(tmp_path: Path) -> None:
    scan = HALVES.read(halves(tmp_path))
    geometry = scan.geometry.changed(quantity="contrast")
    model = WeakObject(geometry)
    assert isinstance(model, Microscope)
    steps = model.frequencies() / torch.tensor(model.spacing, dtype=torch.float64)
    assert float((steps - steps.round()).abs().max()) < 1e-6
    assert scan.data.shape == (2, 40, 32)
    lit = geometry.patterns.values > 0
    assert (geometry.leds.values[lit[0], 0] > 0).all()
    assert (geometry.leds.values[lit[1], 0] < 0).all()


@pytest.mark.parametrize("ending", ["tif", "bmp"])
def test_other_endings(tmp_path: Path, ending: str) -> None:
    assert HALVES.read(halves(tmp_path, ending=ending)).data.shape == (2, 40, 32)


def test_saturation_is_told(tmp_path: Path) -> None:
    image = np.full((40, 32), 100, np.uint8)
    image[3, 4] = 255
    halves(tmp_path)
    Image.fromarray(image).save(tmp_path / "r1.png")
    assert "1 of 2560" in HALVES.read(tmp_path).found["saturated pixels"]


@pytest.mark.parametrize(
    ("toml", "match"),
    [
        (TOML + "inner = 0.5", "not below outer"),
        (TOML + "wavelenght = 1", "wavelenght"),
        (TOML.replace('"+x"', '"up"'), "axes.0"),
        (TOML.replace("wavelength = 0.5", ""), "wavelength: Field required"),
        ("wavelength = ", "no TOML"),
        (TOML + "inner = 0.3999", "holds no"),
        (TOML.replace("outer = 0.4", "outer = 1.2"), "no directions in air"),
        (TOML.replace("na = 0.4", "na = 1.4"), "refractive index"),
        (TOML.replace('["+x", "-x"]', '["+x", "-x", "+y"]'), "2 images for 3 exposures"),
        (None, "2 images for 4 exposures"),
    ],
)
def test_wrong_settings(tmp_path: Path, toml: str | None, match: str) -> None:
    with pytest.raises(ReaderError, match=match):
        HALVES.read(halves(tmp_path, toml=toml))


def test_damaged_halves(tmp_path: Path) -> None:
    second = halves(tmp_path) / "r2.png"
    content = second.read_bytes()
    second.write_bytes(content[: len(content) // 2])
    with pytest.raises(ReaderError, match=r"r2.png is truncated"):
        HALVES.read(tmp_path)
    Image.fromarray(np.full((40, 30), 9, np.uint8)).save(second)
    with pytest.raises(ReaderError, match="same camera region"):
        HALVES.read(tmp_path)
    Image.fromarray(np.zeros((40, 32, 3), np.uint8)).save(second)
    with pytest.raises(ReaderError, match="mode RGB"):
        HALVES.read(tmp_path)
    Image.fromarray(np.zeros((40, 32), np.uint8)).save(second)
    with pytest.raises(ReaderError, match="no light"):
        HALVES.read(tmp_path)
    second.rename(tmp_path / "r3.png")
    assert not HALVES.matches(tmp_path)
    with pytest.raises(ReaderError, match="has no r2"):
        HALVES.read(tmp_path)
    (tmp_path / "r1.bmp").write_bytes(b"")
    assert not HALVES.matches(tmp_path)
    with pytest.raises(ReaderError, match="both exposure 1"):
        HALVES.read(tmp_path)


# -- TIFF with LEDs ------------------------------------------------------------------------------


def sidecar(**changes: Any) -> dict[str, Any]:
    good = {
        "led_list": [
            {"x": -4.0, "y": 0.0, "z": 67.5, "board_index": 12},
            {"x": 4.0, "y": 0.0, "z": 67.5},
            {"x": 40.0, "y": 0.0, "z": 67.5},
        ],
        "exposures": [
            {"leds": [{"index": 0, "brightness": 0.5}]},
            {"leds": [{"index": 1, "brightness": 0.25}, {"index": 2}]},
        ],
        "wavelength_um": 0.514,
        "na": 0.25,
        "magnification": 10.0,
        "camera_pixel_um": 5.0,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def images(n: int = 2, value: float = 500.0) -> np.ndarray:
    r = np.random.default_rng(1)
    return r.normal(value, 0.01 * value, (n, 24, 20)).astype(np.uint16)


def stack(folder: Path, data: np.ndarray | None = None, **changes: Any) -> Path:
    path = folder / "scan.tif"
    values = images() if data is None else data
    tifffile.imwrite(path, values, photometric="minisblack", metadata=None)
    (folder / "scan.json").write_text(json.dumps(sidecar(**changes)))
    return path


def test_counts_become_intensities(tmp_path: Path) -> None:
    path = stack(tmp_path, white_dn=800.0, offset_dn=100.0, electrons_per_dn=0.5, read_noise_e=2.0)
    assert TIFF.matches(path)
    scan = TIFF.read(path)
    want = (images().astype(np.float32) - 100) / 800
    np.testing.assert_allclose(scan.data.numpy(), want, rtol=1e-6)
    geometry = scan.geometry
    assert (geometry.electrons, geometry.read_noise, geometry.index) == (400.0, 2.0, 1.0)
    np.testing.assert_array_equal(geometry.patterns.values, [[0.5, 0, 0], [0, 0.25, 1.0]])
    assert scan.assumed == {"immersion": "air"}
    PhaseInstrument().check(scan)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_a_plain_stack_is_that_many_exposures(tmp_path: Path, n: int) -> None:
    """Three and four images are taken for colours by tifffile, unless it is told otherwise."""
    exposures = [{"leds": [{"index": k % 2}]} for k in range(n)]
    path = stack(tmp_path, exposures=exposures)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tifffile.imwrite(path, images(n))
    scan = TIFF.read(path)
    ratio = scan.data / scan.data[0, 0, 0]
    want = images(n) / np.float64(images(n)[0, 0, 0])
    np.testing.assert_allclose(ratio.numpy(), want, rtol=1e-5)


def test_the_brightest_exposure_is_the_unit(tmp_path: Path) -> None:
    data = images()
    data[1] //= 2
    scan = TIFF.read(stack(tmp_path, data, index=1.0))
    assert float(scan.data[0].mean()) == pytest.approx(0.5)
    assert "exposure 0" in scan.assumed["unit of intensity"]
    dark = [{"leds": [{"index": 2}]}, {"leds": [{"index": 1}]}]
    with pytest.raises(ReaderError, match="give white_dn"):
        TIFF.read(stack(tmp_path, data, exposures=dark))


def test_durations_count_as_light(tmp_path: Path) -> None:
    shots = sidecar()["exposures"]
    for shot, time in zip(shots, (10.0, 40.0), strict=True):
        shot |= {"exposure_ms": time, "relative_time": 1.0}
    scan = TIFF.read(stack(tmp_path, exposures=shots, white_dn=900.0))
    np.testing.assert_array_equal(scan.geometry.patterns.values, [[0.125, 0, 0], [0, 0.25, 1]])
    assert scan.ignored == {"relative_time": "exposure_ms is given"}
    del shots[0]["exposure_ms"]
    with pytest.raises(ReaderError, match=r"exposures \[0\] have no exposure_ms"):
        TIFF.read(stack(tmp_path, exposures=shots))


def test_dark_background_and_saturation(tmp_path: Path) -> None:
    data = images()
    data[1, 2, 3] = 4095
    for name, value in (("dark", 100.0), ("empty", 900.0)):
        tifffile.imwrite(tmp_path / f"{name}.tif", images(value=value), metadata=None,
                         photometric="minisblack")  # fmt: skip
    named = {"dark": "dark.tif", "background": "empty.tif", "full_scale_dn": 4095}
    path = stack(tmp_path, data, white_dn=800.0, **named)
    scan = TIFF.read(path)
    dark = images(value=100.0).astype(np.float32).mean(0)
    np.testing.assert_allclose(scan.data.numpy(), (data - dark) / 800, rtol=1e-5)
    empty = (images(value=900.0) - dark) / 800
    np.testing.assert_allclose(scan.calibration["background"].numpy(), empty, rtol=1e-5)
    assert scan.weights is not None
    assert (scan.weights == 0).nonzero().tolist() == [[1, 2, 3]]
    again = tmp_path / "again.tif"
    TIFF.write(scan.replace(weights=None), again)
    torch.testing.assert_close(TIFF.read(again).calibration, scan.calibration)
    with pytest.raises(ReaderError, match="both dark and offset_dn"):
        TIFF.read(stack(tmp_path, offset_dn=5.0, **named))
    with pytest.raises(ReaderError, match=r"none.tif, which is not in"):
        TIFF.read(stack(tmp_path, dark="none.tif"))
    tifffile.imwrite(tmp_path / "small.tif", np.ones((2, 20, 20), np.uint8), metadata=None,
                     photometric="minisblack")  # fmt: skip
    with pytest.raises(ReaderError, match=r"small.tif is \(20, 20\) pixels"):
        TIFF.read(stack(tmp_path, background="small.tif"))


def test_folder_in_the_order_of_numbers(tmp_path: Path) -> None:
    data = images(11)
    for k in range(11):
        tifffile.imwrite(tmp_path / f"shot_{k}.tif", data[k])
    tifffile.imwrite(tmp_path / "dark.tif", np.zeros((24, 20), np.uint16))
    with pytest.raises(ReaderError, match=r"no leds.json in .*led_list.* 12 images"):
        TIFF.read(tmp_path)
    shots = [{"leds": [{"index": 0}]}] * 11
    told = sidecar(exposures=shots, dark="dark.tif", white_dn=1.0)
    (tmp_path / "leds.json").write_text(json.dumps(told))
    assert TIFF.matches(tmp_path)
    np.testing.assert_array_equal(TIFF.read(tmp_path).data.numpy(), data.astype(np.float32))


def ome(folder: Path, xml: str, **changes: Any) -> Path:
    path = stack(folder, **changes)
    tifffile.imwrite(
        path, images(), photometric="minisblack", metadata=None, description=f"<OME>{xml}</OME>"
    )
    return path


OPTICS = (
    '<Instrument><Objective LensNA="0.8" NominalMagnification="20" Immersion="Water"/></Instrument>'
    '<Image><Pixels PhysicalSizeX="325" PhysicalSizeXUnit="nm">'
    '<Channel EmissionWavelength="632"/></Pixels></Image>'
)
UNSAID: dict[str, Any] = dict.fromkeys(("wavelength_um", "na", "magnification", "camera_pixel_um"))


def test_ome_says_what_json_does_not(tmp_path: Path) -> None:
    scan = TIFF.read(ome(tmp_path, OPTICS, **UNSAID))
    geometry = scan.geometry
    assert (geometry.na, geometry.magnification, geometry.index) == (0.8, 20.0, 1.333)
    assert geometry.wavelength == pytest.approx(0.632)
    assert geometry.camera_pixel == pytest.approx(6.5)
    assert "OME" in scan.found["wavelength"]
    assert "PhysicalSizeX" in scan.assumed["camera pixel"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"na": 0.75}, r"na is 0.75 in scan.json and 0.8 in the TIFF's OME"),
        ({"wavelength_um": 0.532}, "wavelength is 0.532 .* 0.632"),
        ({"magnification": 10.0}, "magnification is 10 .* 20"),
        ({"magnification": 20.0, "camera_pixel_um": 0.325}, "PhysicalSizeX is the pixel at the"),
        ({"index": 1.515}, "index is 1.515 .* 1.333"),
    ],
)
def test_conflicts_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ReaderError, match=match):
        TIFF.read(ome(tmp_path, OPTICS, **(UNSAID | changes)))


def test_ome_that_says_too_little(tmp_path: Path) -> None:
    odd = '<Objective LensNA="n/a" NominalMagnification="-1"/><Channel EmissionWavelength="532"/>'
    with pytest.raises(ReaderError, match="say na, magnification, camera_pixel_um"):
        TIFF.read(ome(tmp_path, odd, **UNSAID))
    with pytest.raises(ReaderError, match="document type"):
        TIFF.read(ome(tmp_path, "<!ENTITY a 'b'>"))
    with pytest.raises(ReaderError, match="metadata of the TIFF are damaged"):
        TIFF.read(ome(tmp_path, "<Image>"))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"wavelenght": 1}, "wavelenght: Extra inputs"),
        ({"led_list": [{"x": 0, "y": 0}]}, "led_list.0.z: Field required"),
        ({"led_list": [{"x": 0, "y": 0, "z": -1}]}, r"greater than 0 \(got -1\)"),
        ({"exposures": [{"leds": []}] * 2}, "exposures.0.leds"),
        ({"exposures": [{"leds": [{"index": 3}]}] * 2}, "LED 3, expected .* below 3"),
        ({"exposures": [{"leds": [{"index": 1}] * 2}] * 2}, "each index once"),
        ({"exposures": [{"leds": [{"index": 1}]}] * 3}, "2 images for 3 exposures"),
        ({"exposures": [{"leds": [{"index": 1, "brightness": 0}]}] * 2}, "an LED must be on"),
        ({"na": None}, "add them to scan.json"),
        ({"na": 1.2}, "does not exist at a refractive index"),
        ({"offset_dn": 1000.0}, "100 % of the pixels of exposure 0 .* offset_dn"),
        ({"electrons": 1e4, "electrons_per_dn": 1.0}, "leave one out"),
        ({"quantity": "contrast", "white_dn": 3.0}, "have no white_dn"),
    ],
)
def test_wrong_sidecars(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ReaderError, match=match):
        TIFF.read(stack(tmp_path, **changes))


def test_wrong_images(tmp_path: Path) -> None:
    bad = images().astype(np.float32)
    bad[1, 2, 3] = np.nan
    with pytest.raises(ReaderError, match=r"1 of 960 .* NaN or infinite \(first at \(1, 2, 3\)\)"):
        TIFF.read(stack(tmp_path, bad))
    path = stack(tmp_path)
    tifffile.imwrite(path, np.zeros((2, 24, 20, 3), np.uint8), photometric="rgb", metadata=None)
    with pytest.raises(ReaderError, match="expected a grey image"):
        TIFF.read(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ReaderError, match=r"scan.json is no JSON"):
        TIFF.read(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(ReaderError, match=r"no scan.json beside scan.tif.*led_list"):
        TIFF.read(path)


def test_truncated_tiff(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="tifffile")
    path = stack(tmp_path)
    content = path.read_bytes()
    for part in (0.1, 0.5, 0.95):
        path.write_bytes(content[: int(part * len(content))])
        assert TIFF.matches(path)
        with pytest.raises(ReaderError, match=r"truncated|damaged"):
            TIFF.read(path)


def test_round_trip(tmp_path: Path) -> None:
    instrument = PhaseInstrument()
    geometry = instrument.example().changed(
        bands=("any",) * 4,
        background=(0.01, 0.0, 0.02, 0.125),
        aberration=(0.0, 0.1),
        led_shift=(0.1, -0.2),
        led_rotation=1.5,
        led_height=0.3,
        index=1.333,
        upsample=2,
        flip_illumination=True,
    )
    scan = instrument.simulate(geometry, torch.Generator().manual_seed(0))
    path = tmp_path / "scan.ome.tif"
    TIFF.write(scan, path)
    again = TIFF.read(path)
    assert again.geometry == geometry
    torch.testing.assert_close(again.data, scan.data, rtol=0, atol=0)
    contrast = scan.replace(geometry=geometry.changed(quantity="contrast", sigma=0.01))
    TIFF.write(contrast, path)
    assert TIFF.read(path).geometry == contrast.geometry
    with pytest.raises(OutputError, match="data are"):
        TIFF.write(scan.replace(data=scan.data[None]), path)
    with pytest.raises(OutputError, match="LED-array scan"):
        TIFF.write(Scan(scan.data, Pixel()), path)


class Pixel(PhaseInstrument.Geometry.__base__):  # type: ignore[misc, valid-type]
    """Another instrument's geometry."""


def test_other_files_are_not_tiff(tmp_path: Path) -> None:
    assert not TIFF.matches(tmp_path)
    path = tmp_path / "a.tif"
    path.write_bytes(b"hello\n")
    assert not TIFF.matches(path)
    assert not TIFF.matches(tmp_path / "absent.tif")


def test_all_files_are_told(tmp_path: Path) -> None:
    path = stack(tmp_path)
    check_told(TIFF, path, "scan.tif", "scan.json")
    for name in ("dark", "empty"):
        tifffile.imwrite(tmp_path / f"{name}.tif", images(), metadata=None,
                         photometric="minisblack")  # fmt: skip
    path = stack(tmp_path, white_dn=800.0, dark="dark.tif", background="empty.tif")
    check_told(TIFF, path, "scan.tif", "scan.json", "dark.tif", "empty.tif")
