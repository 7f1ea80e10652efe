"""Off-axis holography: its linear model and inverse, finding the sideband, a measured cell."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from skimage.restoration import unwrap_phase

from labrecon import Scan
from labrecon.instrument import ReaderError, StepError
from labrecon.plugins import resolve
from labrecon.recipe import load_recipe
from labrecon.recon import reconstruct, reconstruct_scan
from labrecon.testing import check_instrument, check_operator
from labrecon_phase.holography import HologramGeometry, OffAxisHologram, find_carrier
from labrecon_phase.holography_instrument import (
    HolographyInstrument,
    carrier,
    reference,
    zero_order,
)
from labrecon_phase.readers.hologram_npz import HologramNpzReader

HOLOGRAPHY, READER = HolographyInstrument(), HologramNpzReader()
CARRIER = (-32, 28)


def geometry(**fields: Any) -> HologramGeometry:
    return HologramGeometry.model_validate({"shape": (128, 120), "carrier": CARRIER, **fields})


def grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = shape
    return np.arange(rows)[:, None] - rows / 2, np.arange(columns) - columns / 2


def lens(shape: tuple[int, int] = (128, 120), curvature: float = 0.01) -> np.ndarray:
    """A Gaussian spot with a quadratic phase: ``exp(−r²/w² + i c r²)``, within the band to 1e-5."""
    y, x = grid(shape)
    square = y**2 + x**2
    return np.exp(-square / 14**2 + 1j * curvature * square)


def fringes(shape: tuple[int, int] = (128, 120), k: tuple[float, float] = CARRIER) -> np.ndarray:
    rows, columns = shape
    y, x = np.arange(rows)[:, None], np.arange(columns)
    return np.exp(2j * np.pi * (k[0] * y / rows + k[1] * x / columns))


def smooth_field(shape: tuple[int, int] = (128, 120)) -> np.ndarray:
    """The field of an empty hologram: a few low frequencies, nowhere 0."""
    y, x = grid(shape)
    a, b = 2 * np.pi * y / shape[0], 2 * np.pi * x / shape[1]
    return 5 * (1 + 0.2 * np.exp(1j * a) + 0.3j * np.exp(-2j * b) + 0.1 * np.exp(1j * (a + b)))


def hologram(u: np.ndarray, wave: np.ndarray, counts: float = 1.0) -> np.ndarray:
    """What the camera sees, all orders: ``|1 + u b exp(i2π k·r)|²``."""
    return counts * np.abs(1 + u * wave) ** 2


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "hologram.npz"
    np.savez(path, **arrays)
    return path


def counted(image: np.ndarray) -> np.ndarray:
    return np.round(40 * image).astype(np.uint8)


# -- model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_reference", [False, True])
def test_the_adjoint_is_exact_in_the_real_inner_product(with_reference: bool) -> None:
    given = geometry(reference=smooth_field() if with_reference else None)
    operator = OffAxisHologram(given, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        x = operator.domain.random(generator=generator)
        y = operator.range.random(generator=generator)
        left = float((operator(x) * y).sum())
        right = float((x.conj() * operator.adjoint(y)).sum().real)
        assert left == pytest.approx(right, rel=1e-11)
    assert torch.allclose(operator.adjoint(y), super(OffAxisHologram, operator).adjoint(y))
    brightest = float(operator.reference.abs().max())
    assert 0.9 < operator.norm() / (2**0.5 * brightest) < 1 + 1e-6


def test_the_model_is_the_hologram_without_its_zero_order() -> None:
    u, field = lens(), smooth_field()
    operator = OffAxisHologram(geometry(reference=field), dtype=torch.float64)
    wave = field * fringes()
    expected = hologram(u, wave) - 1 - np.abs(u * wave) ** 2
    assert np.abs(operator(torch.tensor(u)).numpy() - expected).max() < 1e-3


@pytest.mark.parametrize(
    ("k", "with_reference"), [(CARRIER, False), ((20.5, -31), False), (CARRIER, True)]
)
def test_demodulation_inverts_exactly(k: tuple[float, float], with_reference: bool) -> None:
    # Frequencies of the reference are few: all products stay within twice the band.
    given = geometry(carrier=k, reference=smooth_field() if with_reference else None)
    operator = OffAxisHologram(given, dtype=torch.float64)
    white = operator.domain.random(2, generator=torch.Generator().manual_seed(2))
    u = operator.band_limited(white)
    assert torch.allclose(operator.initial(operator(white)), u, atol=1e-12)
    assert float(u.abs().mean()) > 0.1


def test_a_quadratic_phase_comes_back_from_all_orders() -> None:
    u = lens()
    scan = Scan(torch.tensor(hologram(u, fringes())), geometry())
    found = OffAxisHologram(geometry(), dtype=torch.float64).initial(zero_order(scan).data).numpy()
    assert np.abs(found - u).max() < 1e-4
    y, x = grid((128, 120))
    inside = y**2 + x**2 < 18**2
    phase = unwrap_phase(np.angle(found))
    assert np.abs(phase - phase[64, 60] - 0.01 * (y**2 + x**2))[inside].max() < 1e-3


def test_other_fringes_need_a_band_of_their_own() -> None:
    assert geometry().band == pytest.approx(math.hypot(*CARRIER) / 2)
    # Near the end of the spectrum the other sideband is nearer than zero.
    assert geometry(carrier=(60, 0)).band == pytest.approx(4)
    with pytest.raises(ValidationError, match=r"overlap: give a radius of at most 42\.52"):
        geometry(radius=43)
    with pytest.raises(ValidationError, match="coincides with its mirror image"):
        geometry(carrier=(0, 0))
    with pytest.raises(ValidationError, match="coincides with its mirror image"):
        geometry(carrier=(64, 60))
    with pytest.raises(ValidationError, match="beyond the 60 samples that 120 pixels along x"):
        geometry(carrier=(0, 61))
    with pytest.raises(ValidationError, match=r"the reference is \(y, x\) = \(128, 120\), got"):
        geometry(reference=smooth_field((120, 128)))
    with pytest.raises(ValidationError, match="the reference is 0 in 15360 pixels"):
        geometry(reference=np.zeros((128, 120)))


def test_the_operator_conforms_with_a_reference() -> None:
    given = geometry(reference=smooth_field())
    check_operator(lambda: OffAxisHologram(given), skip=("memory", "cost"))


def test_the_instrument_conforms() -> None:
    report = check_instrument(HOLOGRAPHY, skip=("memory", "cost"))
    assert report.counts()["warned"] == 0


# -- the sideband --------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [(-32, 28), (-20, -40), (-9, 3), (0, -30), (-33, 0)])
def test_the_sideband_is_found_in_its_half_of_the_spectrum(k: tuple[int, int]) -> None:
    noise = 0.3 * np.random.default_rng(0).normal(size=(128, 120))
    for sign in (1, -1):
        wave = fringes(k=(sign * k[0], sign * k[1]))
        image = hologram(0.5 * np.exp(1j * lens().real), wave)
        assert find_carrier(torch.tensor(image + noise)) == k


def test_no_sideband_is_no_hologram() -> None:
    white = torch.randn(200, 210, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="no sideband stands out"):
        find_carrier(white)
    with pytest.raises(ValueError, match="no sideband stands out"):
        find_carrier(torch.ones(64, 64))


def test_the_other_side_inverts_the_phase() -> None:
    u = lens()
    scan = Scan(torch.tensor(hologram(u, fringes())), geometry(), truth=torch.tensor(u))
    other = carrier(scan, side=-1)
    assert other.geometry.carrier == (32, -28)
    assert other.steps[0]["carrier"] == [32, -28]
    operator = OffAxisHologram(other.geometry, dtype=torch.float64)
    found = operator.initial(zero_order(other).data)
    assert other.truth is not None
    assert torch.allclose(found, other.truth, atol=1e-4)
    assert torch.allclose(other.truth, torch.tensor(u.conj()))
    moved = carrier(scan, position=[-30, 25.5])
    assert moved.geometry.carrier == (-30, 25.5)
    assert moved.truth is None
    assert "left out" in moved.steps[0]["truth"]


# -- steps ---------------------------------------------------------------------------------------


def test_the_reference_takes_the_optics_out() -> None:
    field, u = smooth_field(), np.exp(1j * 2 * np.abs(lens()))
    data, empty = hologram(u, field * fringes()), hologram(1, field * fringes())
    scan = Scan(torch.tensor(data), geometry(), calibration={"background": torch.tensor(empty)})
    prepared = reference(zero_order(scan))
    HOLOGRAPHY.check(prepared)
    operator = OffAxisHologram(prepared.geometry, dtype=torch.float64)
    assert np.abs(operator.initial(prepared.data).numpy() - u).max() < 1e-2
    assert [step["step"] for step in prepared.steps] == ["zero_order", "reference"]
    curve = prepared.curves[0]
    assert curve.marker == prepared.geometry.band
    assert np.argmax(curve.y) == 0


def test_without_an_empty_hologram_nothing_is_divided() -> None:
    scan = Scan(torch.tensor(hologram(lens(), fringes())), geometry())
    assert reference(scan).geometry == scan.geometry
    assert "no empty hologram" in reference(scan).steps[0]["divided_by"]


def test_steps_refuse_what_they_can_not_do() -> None:
    field = smooth_field() * fringes()
    empty = torch.tensor(hologram(1, field))
    scan = Scan(torch.tensor(hologram(lens(), field)), geometry())

    def beside(background: torch.Tensor) -> Scan:
        return scan.replace(calibration={"background": background})

    with pytest.raises(StepError, match=r"radius of 30 samples around zero is not between 0"):
        zero_order(scan, radius=30)
    with pytest.raises(StepError, match="radius of 0 samples"):
        zero_order(scan, radius=0)
    with pytest.raises(StepError, match=r"empty hologram is \(120, 128\), expected"):
        reference(beside(empty.mT))
    dark = torch.tensor(hologram(np.exp(-20 * np.abs(lens()) ** 2), field))
    with pytest.raises(StepError, match="hardly any fringes in"):
        reference(beside(dark))
    done = reference(beside(empty))
    with pytest.raises(StepError, match="there is a reference already"):
        reference(done)
    with pytest.raises(StepError, match="put carrier before it"):
        carrier(done, side=-1)
    with pytest.raises(StepError, match="side is 2, expected 1 or -1"):
        carrier(scan, side=2)
    with pytest.raises(StepError, match="expected \\[row, column\\]"):
        carrier(scan, position=[1.0])
    with pytest.raises(StepError, match="for this geometry, got"):
        zero_order(scan.replace(data=scan.data[:100]))


def test_the_zero_order_must_be_gone() -> None:
    scan = Scan(torch.tensor(hologram(lens(), fringes())), geometry())
    with pytest.raises(ReaderError, match="put the step zero_order into the recipe"):
        HOLOGRAPHY.check(scan)
    HOLOGRAPHY.check(zero_order(scan))
    with pytest.raises(ReaderError, match=r"expected \(y, x\) = \(128, 120\)"):
        HOLOGRAPHY.check(scan.replace(data=scan.data[:100]))


# -- instrument ----------------------------------------------------------------------------------


def test_every_dotted_path_leads_somewhere() -> None:
    for table in (HOLOGRAPHY.readers, HOLOGRAPHY.steps):
        assert all(callable(resolve(path)) for path in table.values())
    for name in HOLOGRAPHY.recipes():
        assert all(step.step in HOLOGRAPHY.steps for step in load_recipe(name, HOLOGRAPHY).prepare)


@pytest.mark.parametrize("name", ["recon", "demo"])
def test_a_simulated_scan_goes_through_its_recipes(name: str, tmp_path: Path) -> None:
    scan = HOLOGRAPHY.simulate(HOLOGRAPHY.example(), torch.Generator().manual_seed(4))
    assert scan.truth is not None
    made = reconstruct_scan(HOLOGRAPHY, scan, tmp_path / name, recipe=name, device="cpu")
    error = (made.volume - scan.truth).abs().square().mean().sqrt()
    # Demodulation passes the noise in the band.
    share = math.pi * HOLOGRAPHY.example().band ** 2 / 64**2
    assert float(error) == pytest.approx(0.02 * share**0.5, rel=0.1)
    assert HOLOGRAPHY.voxel_size(scan.geometry) == pytest.approx((2e-4, 2e-4))


# -- files ---------------------------------------------------------------------------------------


def test_a_file_without_background_is_read(tmp_path: Path) -> None:
    data = counted(hologram(0.7 * lens(), fringes()))
    scan = READER.read(saved(tmp_path, data=data, extra=np.arange(3)))
    assert scan.data.dtype == torch.float32
    assert np.array_equal(scan.data.numpy(), data)
    assert scan.geometry.carrier == CARRIER
    assert not scan.calibration
    assert "no bg_data" in scan.assumed["reference"]
    assert "found in data" in scan.found["carrier"]
    assert scan.ignored == {"extra": "not needed"}


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    good = counted(hologram(0.7 * lens(), fringes()))
    path = saved(tmp_path, data=good, bg_data=good)
    assert READER.matches(path)
    content = path.read_bytes()
    for size in (0, 3, 40, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:size])
        assert READER.matches(path) == (size > 3)
        with pytest.raises(ReaderError, match=r"truncated or damaged .*copy it again"):
            READER.read(path)
    middle = len(good.tobytes()) // 2
    path.write_bytes(content[:middle] + b"\xff\x00\xaa" * 9 + content[middle + 27 :])
    with pytest.raises(ReaderError, match="truncated or damaged"):
        READER.read(path)


def test_what_is_no_pair_of_grey_images_is_refused(tmp_path: Path) -> None:
    good = counted(hologram(0.7 * lens(), fringes()))
    nan = good.astype(np.float32)
    nan[3, 4] = np.nan
    objects = np.array([{}], dtype=object)
    for arrays, told in (
        ({"bg_data": good}, "holds bg_data, expected data and bg_data"),
        ({"data": good[None]}, r"data has shape \(1, 128, 120\), expected a grey image"),
        ({"data": good, "bg_data": good[..., None]}, "bg_data has shape"),
        ({"data": good, "bg_data": good[1:]}, r"bg_data is \(127, 120\) pixels, data \(128, 120\)"),
        ({"data": good * 1j}, "holds complex128, expected real counts"),
        ({"data": nan}, r"1 of 15360 pixels of data are NaN or infinite \(first at \(3, 4\)\)"),
        ({"data": good, "bg_data": nan}, "pixels of bg_data are NaN"),
        ({"data": np.ones_like(good)}, "data: no sideband stands out"),
        ({"data": good[:2, :2]}, "no sideband stands out"),
        ({"data": objects}, "holds Python objects, which could run code and are not read"),
    ):
        with pytest.raises(ReaderError, match=told):
            READER.read(saved(tmp_path, **arrays))


def test_other_files_are_left_to_others(tmp_path: Path) -> None:
    assert not READER.matches(saved(tmp_path, kspace=np.ones(3)))
    assert not READER.matches(tmp_path)
    assert not READER.matches(tmp_path / "none.npz")
    text = tmp_path / "text.npz"
    text.write_text("data")
    assert not READER.matches(text)


# -- a measured cell -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cell_file(lab_data: Path) -> Path:
    path = lab_data / "phase" / "hologram_cell_qpretrieve" / "hologram_cell.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path


def textbook(path: Path) -> np.ndarray:
    """Phase of the object over that of the empty hologram: a disc cut out of each spectrum."""
    fields = []
    with np.load(path) as arrays:
        for name in ("data", "bg_data"):
            spectrum = np.fft.fftshift(np.fft.fft2(arrays[name].astype(float)))
            # The mirror image of the sideband at (140, 132), as published with the file.
            row, column = np.indices(spectrum.shape)
            cut = np.hypot(row - 60, column - 78) <= math.hypot(40, 27) / 2
            moved = np.roll(spectrum * cut, (100 - 60, 105 - 78), (0, 1))
            fields.append(np.fft.ifft2(np.fft.ifftshift(moved)))
    return unwrap_phase(np.angle(fields[0] / fields[1]))


def test_a_measured_cell(cell_file: Path, tmp_path: Path) -> None:
    assert READER.matches(cell_file)
    made = reconstruct(HOLOGRAPHY, cell_file, tmp_path / "out", device="cpu")
    assert made.volume.shape == (200, 210)
    phase = unwrap_phase(np.angle(made.volume.numpy()))
    row, column = np.indices(phase.shape)
    far = np.hypot(row - 100, column - 105)
    assert np.abs(phase[far > 75]).max() < 1.3
    assert abs(np.median(phase[far > 75])) < 0.3
    assert 4 < np.median(phase[far < 30]) < 5
    assert 3.5 < np.abs(phase).max() < 5.5
    # A round cell: half its height is reached at one radius in all directions.
    inside = phase > 0.5 * np.median(phase[far < 30])
    centre = [float(axis[inside].mean()) for axis in (row, column)]
    assert np.hypot(centre[0] - 100, centre[1] - 105) < 8
    radius = math.sqrt(inside.sum() / math.pi)
    rim = np.hypot(row - centre[0], column - centre[1])
    assert 45 < radius < 65
    assert inside[rim < 0.93 * radius].all()
    assert not inside[rim > 1.07 * radius].any()
    # At the edges, where spectra leak, the two filters differ.
    within = (slice(10, -10), slice(10, -10))
    difference = (phase - textbook(cell_file))[within]
    difference -= 2 * np.pi * np.round(np.median(difference) / (2 * np.pi))
    assert np.abs(difference).max() < 0.3
    assert difference.std() < 0.05


def test_the_cell_on_the_other_side_is_negative(cell_file: Path) -> None:
    scan = READER.read(cell_file)
    assert scan.geometry.carrier == (-40, -26)
    assert "found in bg_data" in scan.found["carrier"]
    fields = [
        OffAxisHologram(prepared.geometry).initial(prepared.data)
        for prepared in (reference(zero_order(carrier(scan, side=side))) for side in (1, -1))
    ]
    for one, other in itertools.pairwise(fields):
        assert torch.allclose(one, other.conj(), rtol=1e-3, atol=1e-3)


def test_a_cell_without_its_background_keeps_the_optics(cell_file: Path, tmp_path: Path) -> None:
    with np.load(cell_file) as arrays:
        path = saved(tmp_path, data=arrays["data"])
    scan = zero_order(READER.read(path))
    HOLOGRAPHY.check(scan)
    # The cell widens the sideband.
    assert np.hypot(*np.subtract(scan.geometry.carrier, (-40, -26))) < 3
    field = OffAxisHologram(scan.geometry).initial(scan.data).numpy()
    phase = unwrap_phase(np.angle(field))
    middle, corners = phase[80:120, 85:125], (phase[:20, :20], phase[-20:, -20:])
    assert np.median(middle) - np.mean(corners) > 2
