"""MRD files, written here by the ismrmrd package: whole, in every kind, and broken."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import pytest
import torch

from labrecon import Array, Scan
from labrecon.errors import OutputError
from labrecon.instrument import ReaderError
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.readers.mrd import MRDReader
from labrecon_mri.readers.numpy_kspace import NumpyReader
from labrecon_mri.readers.trajectories import unit_of

READER = MRDReader()
NX, NY, COILS = 16, 8, 3
PULSEQ = "mri/pulseq_gre_epi"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def kspace(*shape: int, seed: int = 0) -> np.ndarray:
    r = rng(seed)
    return (r.normal(size=shape) + 1j * r.normal(size=shape)).astype(np.complex64)


def header(
    nx: int = NX,
    ny: int = NY,
    nz: int = 1,
    fov: tuple[float, float, float] = (400.0, 200.0, 5.0),
    recon: tuple[int, int, int] = (8, 8, 1),
    recon_fov: tuple[float, float, float] = (200.0, 200.0, 5.0),
    trajectory: str = "cartesian",
    bandwidth: float | None = None,
    limits: dict[str, tuple[int, int, int]] | None = None,
    encodings: int = 1,
) -> bytes:
    xsd = ismrmrd.xsd

    def space(size: tuple[int, ...], length: tuple[float, ...]) -> Any:
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(**dict(zip("xyz", size, strict=True))),
            fieldOfView_mm=xsd.fieldOfViewMm(**dict(zip("xyz", length, strict=True))),
        )

    told = {"kspace_encoding_step_1": (0, ny - 1, ny // 2)} if limits is None else limits
    encoding = xsd.encodingType(
        encodedSpace=space((nx, ny, nz), fov),
        reconSpace=space(recon, recon_fov),
        encodingLimits=xsd.encodingLimitsType(
            **{
                name: xsd.limitType(minimum=low, maximum=high, center=mid)
                for name, (low, high, mid) in told.items()
            }
        ),
        trajectory=xsd.trajectoryType(trajectory),
    )
    system = xsd.acquisitionSystemInformationType(
        receiverChannels=COILS, relativeReceiverNoiseBandwidth=bandwidth
    )
    whole = xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=123_000_000),
        acquisitionSystemInformation=system,
        encoding=[encoding] * encodings,
    )
    return xsd.ToXML(whole).encode()


def line(
    samples: np.ndarray,
    step: int = 0,
    *flags: int,
    path: np.ndarray | None = None,
    centre: int | None = None,
    counters: dict[str, int] | None = None,
    **fields: Any,
) -> ismrmrd.Acquisition:
    trajectory = None if path is None else path.astype(np.float32)
    acquisition = ismrmrd.Acquisition.from_array(samples, trajectory)
    acquisition.idx.kspace_encode_step_1 = step
    acquisition.center_sample = samples.shape[1] // 2 if centre is None else centre
    for name, value in (counters or {}).items():
        setattr(acquisition.idx, name, value)
    for name, value in fields.items():
        if isinstance(value, tuple):
            getattr(acquisition, name)[:] = value
        else:
            setattr(acquisition, name, value)
    for flag in flags:
        acquisition.set_flag(flag)
    return acquisition


def written(path: Path, xml: bytes, lines: list[ismrmrd.Acquisition]) -> Path:
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as dataset:
        dataset.write_xml_header(xml)
        for acquisition in lines:
            dataset.append_acquisition(acquisition)
    return path


def cartesian(data: np.ndarray, **fields: Any) -> list[ismrmrd.Acquisition]:
    """Lines of data (coil, ky, kx)."""
    return [line(data[:, y], y, **fields) for y in range(data.shape[1])]


# -- on the grid -----------------------------------------------------------------------------------


def test_a_cartesian_scan(tmp_path: Path) -> None:
    data = kspace(COILS, NY, NX)
    path = written(tmp_path / "a.h5", header(), cartesian(data, sample_time_us=5.2))
    assert READER.matches(path)
    scan = READER.read(path)
    geometry = scan.geometry
    np.testing.assert_array_equal(scan.data.numpy(), data)
    # Lengths in m, axes (y, x): the readout is oversampled twice, and stays so.
    assert geometry.matrix == (NY, NX)
    assert geometry.fov == (0.2, 0.4)
    assert geometry.mask is None
    assert geometry.dwell == pytest.approx(5.2e-6, rel=1e-12)
    assert geometry.position is None
    assert geometry.directions is None
    assert scan.provenance["recon_matrix"] == [8, 8]
    assert scan.provenance["recon_fov"] == [0.2, 0.2]
    assert "oversampled" in scan.found["readout"]


def test_lines_lie_where_centre_step_and_centre_sample_say(tmp_path: Path) -> None:
    # Asymmetric echo: 11 of 16 samples, of them one discarded before and two after; the echo is
    # at sample 4. Steps 0..4 with the centre at step 3: partial Fourier along y.
    data = kspace(COILS, 5, 11)
    limits = {"kspace_encoding_step_1": (0, 4, 3)}
    fields = {"centre": 4, "discard_pre": 1, "discard_post": 2}
    path = written(tmp_path / "a.h5", header(limits=limits), cartesian(data, **fields))
    scan = READER.read(path)
    expected = np.zeros((COILS, NY, NX), np.complex64)
    expected[:, 1:6, 5:13] = data[:, :, 1:9]
    np.testing.assert_array_equal(scan.data.numpy(), expected)
    # Step 3 is ky = 0 (row NY//2), sample 4 is kx = 0 (column NX//2).
    np.testing.assert_array_equal(scan.data[:, NY // 2, NX // 2].numpy(), data[:, 3, 4])
    mask = scan.geometry.mask.tensor()
    assert mask.shape == (NY, NX)
    assert torch.equal(mask > 0, torch.from_numpy(expected[0] != 0))


def test_missing_lines_make_a_mask(tmp_path: Path) -> None:
    data = kspace(COILS, NY, NX)
    lines = [line(data[:, y], y) for y in (0, 2, 3, 4, 6)]
    geometry = READER.read(written(tmp_path / "a.h5", header(), lines)).geometry
    assert geometry.mask == Array(
        torch.tensor([1, 0, 1, 1, 1, 0, 1, 0], dtype=torch.float32)[:, None]
    )


def test_frames_keep_their_names(tmp_path: Path) -> None:
    data = kspace(2, 3, COILS, NY, NX)
    lines = [
        line(data[s, a, :, y], y, counters={"slice": 4 * s, "average": a, "segment": y % 2})
        for y in range(NY)
        for a in range(3)
        for s in range(2)
        if (s, a, y) != (1, 2, 5)
    ]
    scan = READER.read(written(tmp_path / "a.h5", header(), lines))
    assert scan.geometry.frames == {"slice": 2, "average": 3}
    data[1, 2, :, 5] = 0
    np.testing.assert_array_equal(scan.data.numpy(), data)
    mask = scan.geometry.mask.tensor()
    assert mask.shape == (2, 3, NY, 1)
    assert mask.sum() == 2 * 3 * NY - 1
    assert "not averaged" in scan.assumed["averages"]


def test_three_dimensions(tmp_path: Path) -> None:
    nz = 4
    data = kspace(COILS, nz, NY, NX)
    xml = header(
        nz=nz,
        fov=(400, 200, 40),
        limits={
            "kspace_encoding_step_1": (0, NY - 1, NY // 2),
            "kspace_encoding_step_2": (0, nz - 1, nz // 2),
        },
    )
    lines = [
        line(data[:, z, y], y, counters={"kspace_encode_step_2": z})
        for y in range(NY)
        for z in range(nz)
    ]
    scan = READER.read(written(tmp_path / "a.h5", xml, lines))
    assert scan.geometry.matrix == (nz, NY, NX)
    assert scan.geometry.fov == (0.04, 0.2, 0.4)
    np.testing.assert_array_equal(scan.data.numpy(), data)


def test_reversed_lines_are_turned_round_without_a_trajectory(tmp_path: Path) -> None:
    data = kspace(COILS, NY, NX)
    back = ismrmrd.ACQ_IS_REVERSE
    lines = [line(data[:, y, ::-1], y, back) if y % 2 else line(data[:, y], y) for y in range(NY)]
    scan = READER.read(written(tmp_path / "a.h5", header(trajectory="epi"), lines))
    np.testing.assert_array_equal(scan.data.numpy(), data)
    assert scan.calibration["reversed"].tolist() == [0, 1] * (NY // 2)
    assert "ramp" in scan.assumed["readout"] or "evenly" in scan.assumed["readout"]


def test_lines_of_other_kinds(tmp_path: Path) -> None:
    data = kspace(COILS, NY, NX)
    noise = kspace(COILS, 50, seed=1)
    navigator = kspace(3, COILS, NX, seed=2)
    acs = kspace(COILS, 3, NX, seed=3)
    both = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING
    lines = [
        line(noise, 0, ismrmrd.ACQ_IS_NOISE_MEASUREMENT, sample_time_us=2.0),
        line(kspace(COILS, 5), 0, ismrmrd.ACQ_IS_DUMMYSCAN_DATA),
        *(
            line(navigator[i], 0, ismrmrd.ACQ_IS_PHASECORR_DATA,
                 *([ismrmrd.ACQ_IS_REVERSE] if i == 1 else []))
            for i in range(3)
        ),
        *(
            line(acs[:, i], y, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, sample_time_us=5.0)
            for i, y in enumerate((3, 4, 5))
        ),
        *(line(data[:, y], y, *([both] if y == 6 else []), sample_time_us=5.0)
          for y in range(0, NY, 2)),
    ]  # fmt: skip
    path = written(tmp_path / "a.h5", header(bandwidth=0.8), lines)
    scan = READER.read(path)
    measured = scan.geometry.mask.tensor()[:, 0]
    assert measured.tolist() == [1, 0] * (NY // 2)
    np.testing.assert_array_equal(scan.data[:, ::2].numpy(), data[:, ::2])
    np.testing.assert_array_equal(scan.calibration["noise"].numpy(), noise)
    # Ψ_data = Ψ_noise · (dwell_noise / dwell_data) / relative bandwidth.
    assert float(scan.calibration["noise_scale"]) == pytest.approx((2 / 5) / 0.8)
    grid = scan.calibration["calibration"]
    assert grid.shape == (COILS, NY, NX)
    np.testing.assert_array_equal(grid[:, 3:6].numpy(), acs)
    np.testing.assert_array_equal(grid[:, 6].numpy(), data[:, 6])
    assert not grid[:, [0, 1, 2, 7]].any()
    np.testing.assert_array_equal(
        scan.calibration["navigator"].numpy(), navigator.transpose(1, 0, 2)
    )
    assert scan.calibration["navigator_reversed"].tolist() == [0, 1, 0]
    assert "1 lines" in scan.ignored["dummy"]


def test_noise_scale_of_white_noise(tmp_path: Path) -> None:
    """What the scale is for: noise of one receiver, scanned and measured at other bandwidths."""
    r = rng(5)
    relative, t_noise, t_data = 0.79, 2.0, 8.0

    def draw(power: float, *shape: int) -> np.ndarray:
        z = r.normal(size=shape) + 1j * r.normal(size=shape)
        return (z * math.sqrt(power / 2)).astype(np.complex64)

    noise = draw(relative / t_noise, 1, 20000)
    data = draw(1 / t_data, 1, NY, 2048)
    lines = [
        line(noise, 0, ismrmrd.ACQ_IS_NOISE_MEASUREMENT, sample_time_us=t_noise),
        *cartesian(data, sample_time_us=t_data),
    ]
    xml = header(nx=2048, bandwidth=relative)
    scan = READER.read(written(tmp_path / "a.h5", xml, lines))
    scale = float(scan.calibration["noise_scale"])
    predicted = scale * float(scan.calibration["noise"].abs().square().mean())
    assert predicted == pytest.approx(float(scan.data.abs().square().mean()), rel=0.03)


def test_orientation_and_slices(tmp_path: Path) -> None:
    c, s = math.cos(0.3), math.sin(0.3)
    read, phase, normal = (c, s, 0.0), (-s, c, 0.0), (0.0, 0.0, 1.0)
    data = kspace(3, COILS, NY, NX)
    # Slice 0 is the highest one: z runs downwards with the slice index.
    lines = [
        line(data[i, :, y], y, counters={"slice": i}, position=(10.0, -20.0, 30.0 - 4 * i),
             read_dir=read, phase_dir=phase, slice_dir=normal)
        for i in range(3)
        for y in range(NY)
    ]  # fmt: skip
    geometry = READER.read(written(tmp_path / "a.h5", header(), lines)).geometry
    assert geometry.position == pytest.approx((10, -20, 26))
    assert geometry.spacing == pytest.approx(0.004)
    np.testing.assert_allclose(geometry.directions, [read, phase, (0, 0, -1)], atol=1e-7)


def test_further_encodings_are_left_out(tmp_path: Path) -> None:
    data = kspace(COILS, NY, NX)
    lines = [*cartesian(data), line(kspace(COILS, 4), 0, encoding_space_ref=1)]
    scan = READER.read(written(tmp_path / "a.h5", header(encodings=2), lines))
    np.testing.assert_array_equal(scan.data.numpy(), data)
    assert scan.ignored["encodings"].startswith("1 ")
    assert scan.ignored["other encodings"].startswith("1 ")


# -- along trajectories ----------------------------------------------------------------------------


def spokes(count: int = 6, samples: int = 32) -> np.ndarray:
    """(spoke, sample, (kx, ky)) in cycles/pixel."""
    angle = np.arange(count) * math.pi / count
    radius = np.linspace(-0.5, 0.5, samples)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)[:, None]


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("cycles/pixel", 1), ("rad/pixel", 2 * math.pi), ("cycles/FOV", 64), ("1/m", 64 / 0.25)],
)
def test_units_of_trajectories(tmp_path: Path, unit: str, factor: float) -> None:
    k, data = spokes(), kspace(COILS, 6, 32)
    xml = header(64, 64, fov=(250, 250, 5), trajectory="radial", limits={})
    lines = [line(data[:, i], i, path=factor * k[i]) for i in range(6)]
    scan = READER.read(written(tmp_path / "a.h5", xml, lines))
    np.testing.assert_array_equal(scan.data.numpy(), data)
    assert scan.assumed["trajectory unit"].startswith(unit)
    # Cycles/m, components in the order of the image axes: (ky, kx).
    got = scan.geometry.trajectory.values
    np.testing.assert_allclose(got, k[..., ::-1] * 64 / 0.25, rtol=1e-5, atol=1e-4)


def test_an_unknown_unit_is_refused(tmp_path: Path) -> None:
    xml = header(64, 64, fov=(250, 250, 5), trajectory="radial", limits={})
    lines = [line(kspace(COILS, 32), i, path=20 * k) for i, k in enumerate(spokes())]
    with pytest.raises(ReaderError, match=r"unit of the trajectory is unknown.*cycles/pixel"):
        READER.read(written(tmp_path / "a.h5", xml, lines))


def test_a_unit_that_fits_twice_is_refused() -> None:
    # With a field of view of about 1 m, cycles/FOV and cycles/m are nearly the same.
    with pytest.raises(ReaderError, match=r"cycles/FOV or 1/m"):
        unit_of(np.array([32.0, 32.0]), (64, 64), (0.95, 0.95), (0.95, 0.95))


def test_a_third_component_of_zeros_is_dropped(tmp_path: Path) -> None:
    k = np.concatenate([spokes(), np.zeros((6, 32, 1))], -1)
    xml = header(64, 64, fov=(250, 250, 5), trajectory="radial", limits={})
    lines = [line(kspace(COILS, 32), i, path=k[i]) for i in range(6)]
    scan = READER.read(written(tmp_path / "a.h5", xml, lines))
    assert scan.geometry.trajectory.shape == (6, 32, 2)
    k[2, 3, 2] = 0.1
    lines = [line(kspace(COILS, 32), i, path=k[i]) for i in range(6)]
    with pytest.raises(ReaderError, match="one pixel along z"):
        READER.read(written(tmp_path / "b.h5", xml, lines))


def test_a_stack_of_stars(tmp_path: Path) -> None:
    k, nz = spokes(), 4
    xml = header(64, 64, nz, fov=(250, 250, 80), trajectory="radial",
                 limits={"kspace_encoding_step_2": (0, nz - 1, 2)})  # fmt: skip
    lines = [
        line(kspace(COILS, 32), i, path=k[i], counters={"kspace_encode_step_2": z})
        for z in range(nz)
        for i in range(6)
    ]
    got = READER.read(written(tmp_path / "a.h5", xml, lines)).geometry.trajectory.values
    assert got.shape == (24, 32, 3)
    np.testing.assert_allclose(got[::6, 0, 0], (np.arange(nz) - 2) / 0.08)
    np.testing.assert_allclose(got[:6, :, 1:], k[..., ::-1] * 256, rtol=1e-5, atol=1e-4)


def test_frames_with_trajectories_of_their_own(tmp_path: Path) -> None:
    k, data = spokes(), kspace(2, COILS, 6, 32)
    turned = k[..., ::-1]
    xml = header(64, 64, fov=(250, 250, 5), trajectory="radial", limits={})
    lines = [
        line(data[c, :, i], i, path=(k, turned)[c][i], counters={"contrast": c})
        for i in range(6)
        for c in range(2)
    ]
    scan = READER.read(written(tmp_path / "a.h5", xml, lines))
    assert scan.geometry.frames == {"contrast": 2}
    assert scan.geometry.trajectory.shape == (2, 6, 32, 2)
    np.testing.assert_array_equal(scan.data.numpy(), data)
    with pytest.raises(ReaderError, match=r"contrast 1 has 5 lines, the first frame has 6"):
        READER.read(written(tmp_path / "b.h5", xml, lines[:-1]))


# -- broken ----------------------------------------------------------------------------------------


def test_a_truncated_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", header(), cartesian(kspace(COILS, NY, NX)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert READER.matches(path)
    with pytest.raises(ReaderError, match=rf"{len(content) // 2} bytes and it is truncated"):
        READER.read(path)


@pytest.mark.parametrize("content", [b"", b"hello\n" * 50, bytes(range(256)) * 8])
def test_strange_files_do_not_match(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    assert not READER.matches(path)
    assert not READER.matches(tmp_path)
    with pytest.raises(ReaderError):
        READER.read(path)


def _nan(data: np.ndarray, lines: list[ismrmrd.Acquisition]) -> None:
    lines[5].data[2, 7] = np.nan


def _fewer_coils(data: np.ndarray, lines: list[ismrmrd.Acquisition]) -> None:
    lines[5] = line(data[:2, 5], 5)


def _shorter(data: np.ndarray, lines: list[ismrmrd.Acquisition]) -> None:
    lines[5] = line(data[:, 5, :12], 5)


def _beyond_limits(data: np.ndarray, lines: list[ismrmrd.Acquisition]) -> None:
    lines[5].idx.kspace_encode_step_1 = 40


def _twice(data: np.ndarray, lines: list[ismrmrd.Acquisition]) -> None:
    lines[5].idx.kspace_encode_step_1 = 4


def _no_imaging(data: np.ndarray, lines: list[ismrmrd.Acquisition]) -> None:
    for each in lines:
        each.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)


def _partitions(data: np.ndarray, lines: list[ismrmrd.Acquisition]) -> None:
    lines[5].idx.kspace_encode_step_2 = 3


def _echo_at_the_edge(data: np.ndarray, lines: list[ismrmrd.Acquisition]) -> None:
    lines[5].center_sample = 2


def _all_discarded(data: np.ndarray, lines: list[ismrmrd.Acquisition]) -> None:
    lines[5].discard_pre = 16


def _other_dwell(data: np.ndarray, lines: list[ismrmrd.Acquisition]) -> None:
    lines[5].sample_time_us = 3.0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_nan, r"1 of 48 samples of imaging line 5 are NaN.*first at \(2, 7\)"),
        (_fewer_coils, r"line 5 has 2 channels, the imaging lines begin with 3"),
        (_shorter, r"line 5 has 12 samples, 7 others have 16"),
        (_beyond_limits, r"line 5 has kspace_encode_step_1 = 40, outside.*0 to 7"),
        (_twice, r"1 lines were measured more than once.*lines 4 and 5"),
        (_no_imaging, r"8 lines and none for imaging"),
        (_partitions, r"one pixel along z, and lines have kspace_encode_step_2 up to 3"),
        (_echo_at_the_edge, r"line 5 has 16 samples with the centre of k-space at sample 2"),
        (_all_discarded, r"acquisition 5 discards 16 of its 16 samples"),
        (_other_dwell, r"different sample_time_us"),
    ],
)
def test_lines_that_make_no_scan(
    tmp_path: Path, spoil: Callable[[np.ndarray, list[ismrmrd.Acquisition]], None], told: str
) -> None:
    data = kspace(COILS, NY, NX)
    lines = cartesian(data)
    spoil(data, lines)
    path = written(tmp_path / "a.h5", header(), lines)
    with pytest.raises(ReaderError, match=told):
        READER.read(path)


@pytest.mark.parametrize(
    ("xml", "told"),
    [
        (header(nx=12), r"encoded matrix has 12 along x"),
        (
            header(ny=4, limits={"kspace_encoding_step_1": (0, 7, 4)}),
            r"encoded matrix has 4 pixels",
        ),
        (header(nz=4), r"4 pixels along z, and no line has a kspace_encode_step_2"),
        (header(trajectory="spiral"), r"'spiral', and the lines have none"),
        (header(fov=(0, 200, 5)), r"field of view \[0.0, 200.0, 5.0\] mm"),
        (b"<ismrmrdHeader><encoding>", r"XML header is damaged"),
        (b"<other/>", r"header is <other>"),
        (header().replace(b"<x>16</x>", b"<x>many</x>"), r"<x> of the header is 'many'"),
        (header().replace(b"matrixSize", b"matrix"), r"no <encodedSpace/matrixSize/x>"),
    ],
)
def test_headers_that_contradict_the_data(tmp_path: Path, xml: bytes, told: str) -> None:
    path = written(tmp_path / "a.h5", xml, cartesian(kspace(COILS, NY, NX)))
    with pytest.raises(ReaderError, match=told):
        READER.read(path)


def test_no_acquisitions(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", header(), cartesian(kspace(COILS, NY, NX)))
    with h5py.File(path, "a") as file:
        file["dataset/data"].resize(0, axis=0)
    with pytest.raises(ReaderError, match="no acquisitions"):
        READER.read(path)
    with h5py.File(path, "a") as file:
        del file["dataset/data"]
    assert not READER.matches(path)
    with pytest.raises(ReaderError, match="no group has both 'xml' and 'data'"):
        READER.read(path)


def test_samples_that_are_fewer_than_the_header_says(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", header(), cartesian(kspace(COILS, NY, NX)))
    with h5py.File(path, "a") as file:
        row = file["dataset/data"][3]
        row["head"]["number_of_samples"] = 17
        file["dataset/data"][3] = row
    with pytest.raises(ReaderError, match=r"acquisition 3 holds 48 samples.*3 channels of 17"):
        READER.read(path)


# -- written by labrecon ---------------------------------------------------------------------------

TILTED = ((1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (0.0, -0.8, 0.6))
LINES = torch.tensor([1, 0, 1, 1, 1, 0, 1, 0], dtype=torch.float32)[:, None]
GEOMETRIES = {
    "mask and maps": {
        "mask": LINES, "maps": torch.randn(COILS, NY, NX, dtype=torch.complex64), "sigma": 0.02,
    },
    "frames in an order of their own": {
        "frames": {"contrast": 2, "average": 1, "slice": 3}, "position": (1.0, -2.0, 3.5),
        "directions": TILTED, "spacing": 0.0033, "mask": LINES,
    },
    "mask along x": {"mask": (torch.arange(NX) % 2).float()},
    "volume": {"matrix": (4, NY, NX), "fov": (0.1, 0.2, 0.2345678), "dwell": 4.2e-6},
    "spokes": {
        "trajectory": 40 * torch.rand(5, 20, 2, dtype=torch.float64) - 20, "dwell": 1e-5,
        "frames": {"repetition": 2},
    },
    "spokes that differ": {
        "trajectory": 30 * torch.rand(2, 5, 20, 2) - 15, "frames": {"contrast": 2},
        "times": torch.rand(20), "field_map": torch.rand(NY, NX),
    },
}  # fmt: skip


def a_scan(**fields: Any) -> Scan:
    geometry = MRIGeometry(**({"matrix": (NY, NX), "fov": (0.2, 0.4), "coils": COILS} | fields))
    frames = tuple(geometry.frames.values())
    if geometry.trajectory is not None:
        shape = (*frames, COILS, *geometry.trajectory.shape[-3:-1])
        return Scan(torch.from_numpy(kspace(*shape)), geometry)
    data = torch.from_numpy(kspace(*frames, COILS, *geometry.matrix))
    if geometry.mask is not None:
        data = data * geometry.mask.tensor()
    return Scan(data, geometry)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_what_was_written_is_read(tmp_path: Path, name: str) -> None:
    scan = a_scan(**GEOMETRIES[name])
    path = tmp_path / f"a{READER.suffix}"
    READER.write(scan, path)
    assert READER.matches(path)
    again = READER.read(path)
    assert again.geometry == scan.geometry
    assert torch.equal(again.data, scan.data)
    # Other programs read it, too: headers that the schema knows, lines where they belong.
    with ismrmrd.Dataset(str(path), "dataset", mode="r") as dataset:
        told = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
        assert told.encoding[0].encodedSpace.matrixSize.x == NX
        first = dataset.read_acquisition(0)
    assert first.active_channels == COILS
    if scan.geometry.directions is not None:
        # Slice 0 lies below the middle of the stack, along its normal.
        expected = np.array([1, -2, 3.5]) - 3.3 * np.array(TILTED[2])
        np.testing.assert_allclose(np.array(first.position), expected, rtol=1e-6)


def test_without_labrecons_record_the_mrd_part_says_the_same(tmp_path: Path) -> None:
    fields = {"mask": LINES, "frames": {"slice": 3}, "position": (1.0, -2.0, 3.5),
              "directions": TILTED, "spacing": 0.0033, "dwell": 4.2e-6}  # fmt: skip
    scan = a_scan(**fields)
    path = tmp_path / "a.mrd.h5"
    READER.write(scan, path)
    with h5py.File(path, "a") as file:
        del file["labrecon"]
    again = READER.read(path)
    assert torch.equal(again.data, scan.data)
    assert again.geometry.mask == scan.geometry.mask
    for name in ("fov", "position", "spacing", "dwell"):
        assert getattr(again.geometry, name) == pytest.approx(getattr(scan.geometry, name))
    np.testing.assert_allclose(again.geometry.directions, TILTED, atol=1e-7)


def test_a_trajectory_without_labrecons_record(tmp_path: Path) -> None:
    edge = np.array([NY / (2 * 0.2), NX / (2 * 0.4)])
    k = (rng().uniform(-1, 1, (5, 20, 2)) * edge).astype(np.float32)
    scan = a_scan(trajectory=k, frames={"phase": 2})
    back = torch.tensor([0, 1, 0, 1, 1], dtype=torch.uint8)
    path = tmp_path / "a.mrd.h5"
    READER.write(scan.replace(calibration={"reversed": back}), path)
    with h5py.File(path, "a") as file:
        del file["labrecon"]
    again = READER.read(path)
    assert torch.equal(again.data, scan.data)
    np.testing.assert_allclose(again.geometry.trajectory.values, k, rtol=1e-5, atol=1e-5)
    assert torch.equal(again.calibration["reversed"], back)


def test_calibration_is_written_and_read(tmp_path: Path) -> None:
    grid = torch.zeros(COILS, NY, NX, dtype=torch.complex64)
    grid[:, 3:6] = torch.from_numpy(kspace(COILS, 3, NX))
    calibration = {
        "noise": torch.from_numpy(kspace(COILS, 70000)),
        "noise_scale": torch.tensor(0.37),
        "calibration": grid,
        "navigator": torch.from_numpy(kspace(COILS, 3, NX)),
        "navigator_reversed": torch.tensor([0, 1, 0], dtype=torch.uint8),
    }
    truth = torch.ones(NY, NX)
    scan = a_scan(mask=LINES).replace(calibration=calibration, truth=truth)
    path = tmp_path / "a.mrd.h5"
    READER.write(scan, path)
    again = READER.read(path)
    assert torch.equal(again.data, scan.data)
    assert torch.equal(again.truth, truth)
    assert again.calibration.keys() == calibration.keys()
    for name, values in calibration.items():
        torch.testing.assert_close(again.calibration[name], values, rtol=1e-6, atol=0)


def test_an_edited_record_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.mrd.h5"
    READER.write(a_scan(mask=LINES), path)
    with h5py.File(path, "a") as file:
        file["labrecon/geometry/fov"][0] = 0.3
    with pytest.raises(ReaderError, match=r"disagree: fov \(0.3, 0.4\) and \(0.2, 0.4\)"):
        READER.read(path)


def test_frames_without_a_counter_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no counter for the frames echo"):
        READER.write(a_scan(frames={"echo": 2}), tmp_path / "a.mrd.h5")


# -- measured --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "matrix", "fov"),
    [
        ("epi128_4ch", (4, 128, 152), 128, 0.256),
        ("epi128_4ch_single_adc", (4, 71, 300), 128, 0.256),
        ("epi96_ramp_1ch", (1, 96, 136), 96, 0.22),
        ("gre256_1ch", (1, 256, 256), 256, 0.256),
    ],
)
def test_measured_scans_agree_with_their_npz(
    lab_data: Path, name: str, data: tuple[int, ...], matrix: int, fov: float
) -> None:
    path = lab_data / PULSEQ / f"{name}_ismrmrd.h5"
    scan = READER.read(path)
    geometry = scan.geometry
    assert tuple(scan.data.shape) == data
    assert geometry.matrix == (matrix, matrix)
    assert geometry.fov == (fov, fov)
    assert scan.assumed["trajectory unit"].startswith("cycles/pixel")
    assert ("header says cartesian" in scan.assumed.get("trajectory", "")) == ("gre" in name)
    other = NumpyReader().read(path.with_name(f"{name}.npz"))
    assert other.geometry.matrix == geometry.matrix
    assert other.geometry.fov == pytest.approx(geometry.fov)
    assert other.geometry.dwell == pytest.approx(geometry.dwell, rel=1e-9)
    assert torch.equal(scan.data, other.data)
    # In the file they are float32 in cycles/pixel: rounded at 1e-7 of the edge of k-space.
    difference = geometry.trajectory.values - other.geometry.trajectory.values
    assert np.abs(difference).max() < 1e-6 * geometry.nyquist[0]
    shared = scan.calibration.keys() & other.calibration.keys()
    assert ("reversed" in shared) == (name in ("epi128_4ch", "epi96_ramp_1ch"))
    for key in shared:
        assert torch.equal(scan.calibration[key], other.calibration[key])


def test_what_the_ismrmrd_package_reads(lab_data: Path) -> None:
    path = lab_data / "mri/pulseq_flash16/flash128_16ch_ismrmrd.h5"
    scan = READER.read(path)
    assert scan.geometry.trajectory is None
    assert scan.geometry.mask is None
    assert scan.data.shape == (16, 128, 128)
    with ismrmrd.Dataset(str(path), "dataset", mode="r") as dataset:
        for i in range(0, 128, 17):
            acquisition = dataset.read_acquisition(i)
            row = acquisition.idx.kspace_encode_step_1
            np.testing.assert_array_equal(scan.data[:, row].numpy(), acquisition.data)


def test_a_navigator_is_no_scan(lab_data: Path) -> None:
    with pytest.raises(ReaderError, match=r"no phase encoding.*Give epi128_4ch_ismrmrd.h5"):
        READER.read(lab_data / PULSEQ / "epi128_4ch_noPE_ismrmrd.h5")
