"""NumPy files: measured ones without a word about them, and ones that need a sidecar."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opened_files import check_told

from labrecon import Array, Scan
from labrecon.instrument import ReaderError
from labrecon.operators.fourier import centred_ifft
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.readers.numpy_kspace import NumpyReader
from labrecon_mri.readers.trajectories import matrix_of, reversed_lines

READER = NumpyReader()
PULSEQ = "mri/pulseq_gre_epi"
COILS = 3


def values(*shape: int, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng(seed)
    return (r.normal(size=shape) + 1j * r.normal(size=shape)).astype(np.complex64)


def body(ny: int = 48, nx: int = 40) -> np.ndarray:
    """Coil images of an ellipse that fills most of the field of view."""
    y, x = np.indices((ny, nx))
    inside = np.hypot((y - ny // 2) / (0.4 * ny), (x - nx // 2) / (0.4 * nx)) < 1
    phase = np.exp(0.05j * np.arange(COILS)[:, None, None] * x)
    return (inside * phase + 0.01 * values(COILS, ny, nx)).astype(np.complex64)


def fft(images: np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    return np.fft.fftshift(
        np.fft.fft2(np.fft.ifftshift(images, axes=axes), norm="ortho"), axes=axes
    ).astype(np.complex64)


# -- measured ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "matrix", "fov"),
    [
        ("epi128_4ch", (4, 128, 152), 128, 0.256),
        ("epi128_4ch_single_adc", (4, 71, 300), 128, 0.256),
        ("epi96_ramp_1ch", (1, 96, 136), 96, 0.22),
        ("gre256_1ch", (1, 256, 256), 256, 0.256),
        ("gre256_3echo_bipolar_1ch", (3, 1, 256, 256), 256, 0.256),
    ],
)
def test_pulseq_scans(
    lab_data: Path, name: str, data: tuple[int, ...], matrix: int, fov: float
) -> None:
    path = lab_data / PULSEQ / f"{name}.npz"
    assert READER.matches(path)
    scan = READER.read(path)
    geometry = scan.geometry
    assert tuple(scan.data.shape) == data
    assert geometry.matrix == (matrix, matrix)
    assert geometry.fov == pytest.approx((fov, fov))
    assert geometry.trajectory.shape == (*data[:-3], *data[-2:], 2)
    with np.load(path) as stored:
        k, y = stored["ktraj_1_per_m"], stored["kspace"]
        assert geometry.dwell == float(stored["dwell_s"])
    frames = data[0] if len(data) == 4 else 1
    for line in (0, 7, len(y) - 1):
        place = (line % frames, slice(None), line // frames) if frames > 1 else (slice(None), line)
        np.testing.assert_array_equal(scan.data[place].numpy(), y[line])
        path_place = (line % frames, line // frames) if frames > 1 else line
        got = geometry.trajectory.values[path_place]
        np.testing.assert_array_equal(got[:, 0], k[1, line])
        np.testing.assert_array_equal(got[:, 1], k[0, line])


def test_echoes_are_frames(lab_data: Path) -> None:
    scan = READER.read(lab_data / PULSEQ / "gre256_3echo_bipolar_1ch.npz")
    assert scan.geometry.frames == {"contrast": 3}
    k = scan.geometry.trajectory.tensor()
    forwards = k[:, :, -1, 1] > k[:, :, 0, 1]
    assert forwards.all(1).tolist() == [True, False, True]
    assert (~forwards).all(1).tolist() == [False, True, False]
    # All echoes have the same phase-encoding steps.
    assert torch.equal(k[0, :, 0, 0], k[2, :, 0, 0])


def test_the_navigator_comes_along(lab_data: Path) -> None:
    scan = READER.read(lab_data / PULSEQ / "epi128_4ch.npz")
    with np.load(lab_data / PULSEQ / "epi128_4ch_noPE.npz") as stored:
        expected = stored["kspace"].transpose(1, 0, 2)
    np.testing.assert_array_equal(scan.calibration["navigator"].numpy(), expected)
    assert scan.calibration["navigator_reversed"].tolist() == [0, 1] * 64
    assert scan.calibration["reversed"].tolist() == [0, 1] * 64
    assert "epi128_4ch_noPE.npz" in scan.found["navigator"]
    with pytest.raises(ReaderError, match="navigator: _noPE"):
        READER.read(lab_data / PULSEQ / "epi128_4ch_noPE.npz")


def test_a_bare_undersampled_scan(lab_data: Path) -> None:
    path = lab_data / "mri/cart_brain8_sigpy/cartesian_ksp.npy"
    assert READER.matches(path)
    scan = READER.read(path)
    assert scan.data.shape == (8, 230, 180)
    np.testing.assert_array_equal(scan.data.numpy(), np.load(path))
    mask = scan.geometry.mask.tensor()
    assert mask.shape == (230, 180)
    assert 230 * 180 / float(mask.sum()) == pytest.approx(8.04, abs=0.01)
    assert scan.geometry.fov == (0.23, 0.18)
    assert "1 px = 1 mm" in scan.assumed["field of view"]
    assert scan.assumed["domain"].startswith("k-space")


def test_bare_coil_images(lab_data: Path) -> None:
    path = lab_data / "mri/brain7_complex_labmidas/brain_slice.npz"
    scan = READER.read(path)
    assert scan.data.shape == (7, 256, 216)
    assert scan.geometry.mask is None
    assert scan.assumed["domain"].startswith("image")
    with np.load(path) as stored:
        images = stored["arr_0"].transpose(2, 0, 1)
    np.testing.assert_allclose(
        centred_ifft(scan.data, (-2, -1)).numpy(), images, atol=1e-5 * np.abs(images).max()
    )


def test_kspace_without_a_trajectory(lab_data: Path) -> None:
    path = lab_data / "mri/pulseq_flash16/flash128_16ch.npz"
    scan = READER.read(path)
    with np.load(path) as stored:
        np.testing.assert_array_equal(scan.data.numpy(), stored["kspace"].transpose(1, 0, 2))
    assert scan.geometry.mask is None
    assert scan.geometry.trajectory is None


# -- lines along trajectories --------------------------------------------------------------------


def lines(**changes: Any) -> dict[str, Any]:
    """Ten readouts of 24 samples, every second one backwards."""
    x, y = np.meshgrid(np.arange(24) - 11.5, np.arange(10) - 5)
    x[1::2] *= -1
    k = np.stack([x / 0.24, y / 0.1, 0 * x]).astype(np.float32)
    content = {
        "kspace": values(10, COILS, 24),
        "ktraj_1_per_m": k,
        "fov_m": np.array([0.24, 0.1, 0.003]),
        "dwell_s": 4e-6,
    } | changes
    return {name: value for name, value in content.items() if value is not None}


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_lines(tmp_path: Path) -> None:
    scan = READER.read(saved(tmp_path / "a.npz", **lines()))
    assert scan.geometry.matrix == (10, 24)
    assert scan.geometry.fov == (0.1, 0.24)
    assert scan.geometry.dwell == 4e-6
    assert scan.calibration["reversed"].tolist() == [0, 1] * 5


def test_a_volume_keeps_kz(tmp_path: Path) -> None:
    k = lines()["ktraj_1_per_m"]
    k = np.concatenate([k + np.array([0, 0, dk])[:, None, None] for dk in (-400, -200, 0, 200)], 1)
    arrays = lines(ktraj_1_per_m=k, kspace=values(40, COILS, 24), fov_m=[0.24, 0.1, 0.005])
    geometry = READER.read(saved(tmp_path / "a.npz", **arrays)).geometry
    assert geometry.matrix == (4, 10, 24)
    np.testing.assert_array_equal(geometry.trajectory.values, np.moveaxis(k[::-1], 0, -1))


@pytest.mark.parametrize(
    ("extent", "matrix"),
    [
        ((127.99934, 127.73), (128, 128)),
        ((127.99934, 129.41), (128, 128)),
        ((95.99971, 95.65), (96, 96)),
        ((255.99919, 255.0), (256, 256)),
        ((63.9, 128.0), (64, 128)),
        ((40.0, 128.0, 127.0), (40, 128, 128)),
    ],
)
def test_the_matrix_of_an_extent(extent: tuple[float, ...], matrix: tuple[int, ...]) -> None:
    assert matrix_of(extent) == matrix


def test_directions_of_readouts() -> None:
    x = torch.linspace(-1, 1, 20)
    rows = torch.stack([torch.stack([torch.full_like(x, 0.1 * i), x], -1) for i in range(4)])
    rows[2] = rows[2].flip(0)
    back = reversed_lines(rows)
    assert back is not None
    assert back.tolist() == [0, 0, 1, 0]
    angle = torch.linspace(0, 6, 8)[:, None]
    spokes = torch.stack([x * angle.sin(), x * angle.cos()], -1)
    assert reversed_lines(spokes) is None
    # A line that turns round has no direction.
    rows[1, :, 1] = x.abs()
    assert reversed_lines(rows) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fov_m": None}, r"there is no fov_m"),
        ({"fov_m": [0.2, 0.2]}, r"fov_m is .* expected three lengths"),
        ({"fov_m": [240.0, 100.0, 3.0]}, r"up to 2: are they in mm"),
        ({"kspace": values(10, 24)}, r"expected \(line, coil, sample\)"),
        (
            {"kspace": values(9, COILS, 24)},
            r"kspace is \(9, 3, 24\) and ktraj_1_per_m \(3, 10, 24\)",
        ),
        ({"kspace": np.full((10, COILS, 24), np.nan + 0j)}, r"720 of 720 samples of kspace"),
        ({"ktraj_1_per_m": lines()["ktraj_1_per_m"] * np.nan}, r"samples of ktraj_1_per_m"),
        ({"ktraj_1_per_m": lines()["ktraj_1_per_m"] * [[[1]], [[0]], [[1]]]}, r"encodes no image"),
        ({"ktraj_1_per_m": lines()["ktraj_1_per_m"] / 1000}, r"encodes no image|2 pixels"),
        ({"ktraj_1_per_m": lines()["ktraj_1_per_m"] / 10}, r"image of 2 × 2 pixels: is ktraj"),
        ({"dwell_s": -1.0}, r"dwell_s is \[-1.\]"),
    ],
)
def test_lines_that_make_no_scan(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ReaderError, match=told):
        READER.read(saved(tmp_path / "a.npz", **lines(**changes)))


def test_navigators_that_do_not_fit(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", **lines())
    saved(tmp_path / "a_noPE.npz", **lines(kspace=values(10, COILS + 1, 24)))
    with pytest.raises(ReaderError, match="has 4 coils, the scan 3"):
        READER.read(path)
    saved(tmp_path / "a_noPE.npz", other=values(3, 3))
    with pytest.raises(ReaderError, match="expected kspace and ktraj_1_per_m"):
        READER.read(path)


# -- bare arrays ---------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("domain", ["k-space", "image"])
def test_the_coil_axis_and_the_domain_are_found(tmp_path: Path, axis: int, domain: str) -> None:
    images = body()
    array = images if domain == "image" else fft(images)
    path = tmp_path / "a.npy"
    np.save(path, np.moveaxis(array, 0, axis))
    scan = READER.read(path)
    np.testing.assert_allclose(scan.data.numpy(), fft(images), atol=1e-4)
    assert scan.geometry.coils == COILS
    assert scan.assumed["domain"].startswith(domain)


def test_one_coil(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, fft(body())[0])
    assert READER.read(path).data.shape == (1, 48, 40)


def test_ambiguous_arrays_ask_for_a_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, values(30, 48, 40))
    with pytest.raises(
        ReaderError, match=r"(?s)can not be told.*a\.toml.*axes = \[\"coil\""
    ) as told:
        READER.read(path)
    # What the error shows can be copied.
    text = "\n".join(line for line in str(told.value).splitlines() if " = " in line)
    path.with_suffix(".toml").write_text(text)
    scan = READER.read(path)
    assert scan.geometry.coils == 30
    assert scan.geometry.fov == pytest.approx((0.22, 0.22))
    assert not scan.assumed


def test_noise_is_neither_kspace_nor_image(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, values(COILS, 48, 40))
    with pytest.raises(ReaderError, match=r"k-space or an image can not be told"):
        READER.read(path)


def test_kspace_in_the_order_of_an_fft_is_refused(tmp_path: Path) -> None:
    uncentred = np.fft.ifftshift(fft(body()), axes=(-2, -1))
    np.save(tmp_path / "a.npy", uncentred)
    saved(tmp_path / "a.npz", kspace=uncentred)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ReaderError, match=r"around index 0.*fftshift"):
            READER.read(tmp_path / name)


def test_a_sidecar_wins(tmp_path: Path) -> None:
    array = values(2, 48, COILS, 40)
    path = saved(tmp_path / "a.npz", first=array, second=array[0])
    sidecar = path.with_suffix(".toml")
    sidecar.write_text(
        'key = "first"\naxes = ["slice", "kx", "coil", "ky"]\ndomain = "k-space"\n'
        "fov_mm = [200, 240]\ndwell_us = 5\n"
    )
    scan = READER.read(path)
    np.testing.assert_array_equal(scan.data.numpy(), array.transpose(0, 2, 3, 1))
    assert scan.geometry.frames == {"slice": 2}
    assert scan.geometry.matrix == (40, 48)
    assert scan.geometry.fov == (0.2, 0.24)
    assert scan.geometry.dwell == 5e-6
    assert scan.ignored == {"second": "not needed"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('axes = ["coil", "y"]', r"axes: .*among them ky and kx"),
        ('axes = ["coil", "coil", "ky", "kx"]', r"all different"),
        ('axes = ["ky", "kx"]', r"names 2 axes .* arr_0 is \(3, 48, 40\)"),
        ('domain = "sinogram"', r"domain: Input should be"),
        ("fov_mm = [0, 1]", r"positive along each axis"),
        ("fov_mm = [200, 200, 200]", r"fov_mm has 3 lengths, the image 2 axes"),
        ("dwell = 3", r"dwell: Extra inputs"),
        ("axes = [", r"a.toml can not be read"),
        ('key = "k"', r"key = 'k', a.npz holds arr_0"),
    ],
)
def test_sidecars_with_mistakes(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, fft(body()))
    path.with_suffix(".toml").write_text(text)
    with pytest.raises(ReaderError, match=told):
        READER.read(path)


def test_two_arrays_and_no_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", one=values(3, 9, 9), two=values(3, 9, 9))
    with pytest.raises(ReaderError, match=r"holds the arrays one, two, expected one named"):
        READER.read(path)


# -- broken --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    (np.save if suffix == ".npy" else np.savez)(path, values(COILS, 48, 40))
    content = path.read_bytes()
    for size in (len(content) // 2, 60, 7):
        path.write_bytes(content[:size])
        with pytest.raises(ReaderError, match=r"can not be read|damaged"):
            READER.read(path)
    for strange in (b"", b"hello\n" * 20, bytes(range(256)) * 4):
        path.write_bytes(strange)
        assert not READER.matches(path)
        with pytest.raises(ReaderError):
            READER.read(path)
    assert not READER.matches(tmp_path)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.ones((COILS, 48, 40), np.float32), r"float32 numbers, expected complex"),
        (np.zeros((COILS, 0, 40), np.complex64), r"empty"),
        (np.full((COILS, 48, 40), 1e300 + 0j), r"NaN or infinite"),
    ],
)
def test_arrays_that_are_no_samples(tmp_path: Path, array: np.ndarray, told: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ReaderError, match=told):
        READER.read(tmp_path / "a.npy")


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    flag = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (flag,))

    trap = np.array([Trap()], dtype=object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "a.npz", kspace=trap)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ReaderError, match="Python objects"):
            READER.read(tmp_path / name)
    assert not flag.exists()


# -- written by labrecon --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"mask": torch.ones(9, 1), "sigma": 0.02, "frames": {"echo": 2}},
        {
            "trajectory": torch.rand(5, 20, 2) * 40 - 20,
            "times": torch.rand(20),
            "field_map": torch.rand(9, 8),
            "position": (1.0, 2.0, 3.0),
            "directions": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
            "spacing": 0.004,
        },
    ],
)
def test_what_was_written_is_read(tmp_path: Path, fields: dict[str, Any]) -> None:
    geometry = MRIGeometry(matrix=(9, 8), fov=(0.2, 0.19), coils=COILS, **fields)
    samples = (9, 8) if geometry.trajectory is None else (5, 20)
    data = torch.from_numpy(values(*geometry.frames.values(), COILS, *samples))
    calibration = {
        "noise": torch.from_numpy(values(COILS, 50)),
        "noise_scale": torch.tensor(0.4),
    }
    scan = Scan(data, geometry, truth=torch.ones(9, 8), calibration=calibration)
    path = tmp_path / "a.npz"
    READER.write(scan, path)
    again = READER.read(path)
    assert again.geometry == geometry
    assert torch.equal(again.data, data)
    assert torch.equal(again.truth, scan.truth)
    assert again.calibration.keys() == calibration.keys()
    assert all(torch.equal(again.calibration[name], calibration[name]) for name in calibration)


def test_an_edited_file_is_noticed(tmp_path: Path) -> None:
    geometry = MRIGeometry(matrix=(9, 8), fov=(0.2, 0.2), mask=Array(torch.ones(9, 1)))
    path = tmp_path / "a.npz"
    READER.write(Scan(torch.from_numpy(values(1, 9, 8)), geometry), path)
    with np.load(path) as stored:
        arrays = dict(stored)

    def changed(**changes: Any) -> Path:
        return saved(tmp_path / "b.npz", **(arrays | changes))

    for changes, told in (
        ({"kspace": values(1, 8, 9)}, r"kspace is \(1, 8, 9\), expected"),
        ({"kspace": values(1, 9, 8) * np.nan}, r"72 of 72 samples"),
        ({"geometry_fov": np.array([0.2])}, r"impossible acquisition: fov needs 2"),
        ({"geometry_coil": np.array(3)}, r"'coil' is no field"),
        ({"geometry_frames": np.array("{")}, r"frames are"),
        ({"labrecon_format": np.array("labrecon MRI scan 9")}, r"reads 'labrecon MRI scan 1'"),
    ):
        with pytest.raises(ReaderError, match=told):
            READER.read(changed(**changes))


def test_all_files_are_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", **lines())
    check_told(READER, path, "a.npz")
    saved(tmp_path / "a_noPE.npz", **lines())
    (tmp_path / "a.toml").write_text("fov_mm = [3.0, 100.0, 240.0]")
    check_told(READER, path, "a.npz", "a.toml", "a_noPE.npz")
