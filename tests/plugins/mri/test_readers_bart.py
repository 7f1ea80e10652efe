"""BART arrays, written here byte by byte."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sigpy
import torch
from opened_files import check_told

from labrecon import Array, Scan
from labrecon.errors import OutputError, ScanError
from labrecon.instrument import ReaderError
from labrecon.recon import reconstruct
from labrecon.reproduce import reproduce
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.nufft import NUFFT
from labrecon_mri.readers.bart import BARTReader

READER = BARTReader()
X, Y, COILS = 16, 12, 3


def values(*shape: int, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng(seed)
    return (r.normal(size=shape) + 1j * r.normal(size=shape)).astype(np.complex64)


def written(path: Path, array: np.ndarray, dims: list[int] | None = None) -> Path:
    """``path.cfl`` and ``path.hdr``, by the description of the format."""
    shape = dims or [*array.shape, *[1] * (16 - array.ndim)]
    path.with_suffix(".hdr").write_text(
        f"# Dimensions\n{' '.join(map(str, shape))} \n# Command\nphantom -k\n# Creator\nBART\n"
    )
    path.with_suffix(".cfl").write_bytes(array.astype("<c8").tobytes(order="F"))
    return path.with_suffix(".cfl")


@pytest.mark.parametrize("suffix", [".cfl", ".hdr"])
def test_cartesian(tmp_path: Path, suffix: str) -> None:
    array = values(X, Y, 1, COILS)
    array[:, [1, 5]] = 0
    path = written(tmp_path / "a", array).with_suffix(suffix)
    assert READER.matches(path)
    scan = READER.read(path)
    np.testing.assert_array_equal(scan.data.numpy(), array[:, :, 0].transpose(2, 1, 0))
    assert scan.geometry.matrix == (Y, X)
    assert scan.geometry.fov == (0.012, 0.016)
    assert "1 px = 1 mm" in scan.assumed["field of view"]
    mask = scan.geometry.mask.tensor()
    assert mask.shape == (Y, 1)
    assert (mask[:, 0] == 0).nonzero().flatten().tolist() == [1, 5]


def test_a_dead_coil_is_no_gap_in_kspace(tmp_path: Path) -> None:
    array = values(X, Y, 1, COILS)
    array[..., 1] = 0
    assert READER.read(written(tmp_path / "a", array)).geometry.mask is None


def test_frames_of_a_volume(tmp_path: Path) -> None:
    array = values(X, Y, 4, COILS, 1, 2, 1, 1, 1, 1, 5, 1, 1, 3)
    scan = READER.read(written(tmp_path / "a", array))
    assert scan.geometry.frames == {"slice": 3, "contrast": 2, "repetition": 5}
    assert scan.geometry.matrix == (4, Y, X)
    for s, c, r, coil, z, y, x in [
        (0, 0, 0, 0, 0, 0, 0),
        (2, 1, 4, 2, 3, 11, 15),
        (1, 0, 3, 1, 2, 5, 7),
    ]:
        expected = array[x, y, z, coil, 0, c, 0, 0, 0, 0, r, 0, 0, s]
        assert scan.data[s, c, r, coil, z, y, x].item() == expected


def test_a_plane_of_phase_encoding(tmp_path: Path) -> None:
    """After a Fourier transform along the readout: (1, y, z, coil)."""
    array = values(1, 8, 6, COILS)
    scan = READER.read(written(tmp_path / "a", array))
    assert scan.geometry.matrix == (6, 8)
    np.testing.assert_array_equal(scan.data.numpy(), array[0].transpose(2, 1, 0))
    assert "z and y" in scan.found["image axes"]


def spokes(count: int, samples: int, edge: float) -> np.ndarray:
    """(3, sample, spoke) in cycles/FOV."""
    angle = np.arange(count) * math.pi / count
    radius = np.linspace(-edge, edge, samples)
    k = radius[:, None] * np.stack([np.cos(angle), np.sin(angle), 0 * angle])[:, None]
    return k.astype(np.complex64)


@pytest.mark.parametrize("name", ["a_traj", "traj"])
def test_along_a_trajectory(tmp_path: Path, name: str) -> None:
    """The scan of a known image by SigPy is predicted by labrecon's operator."""
    n, k = 16, spokes(7, 40, 8)
    image = values(n, n)
    coords = k.real.transpose(2, 1, 0)[..., [1, 0]]
    data = sigpy.nufft(image, coords, oversamp=2, width=6)
    path = written(tmp_path / "a", data.T[None, :, :, None])
    written(tmp_path / name, k)
    scan = READER.read(path)
    geometry = scan.geometry
    assert geometry.matrix == (n, n)
    assert scan.data.shape == (1, 7, 40)
    nufft = NUFFT(geometry.matrix, geometry.fov, geometry.trajectory.tensor(torch.float64))
    predicted = nufft(torch.from_numpy(image))
    torch.testing.assert_close(predicted, scan.data[0], rtol=0, atol=1e-3)


def test_a_trajectory_that_does_not_fit(tmp_path: Path) -> None:
    path = written(tmp_path / "a", values(1, 40, 7, COILS))
    written(tmp_path / "a_traj", spokes(6, 40, 12))
    with pytest.raises(ReaderError, match=r"a_traj.cfl is \(3, 40, 6\), expected \(3, 40, 7\)"):
        READER.read(path)
    written(tmp_path / "a_traj", 1j * spokes(7, 40, 12))
    with pytest.raises(ReaderError, match="imaginary parts"):
        READER.read(path)


@pytest.mark.parametrize(
    ("dims", "told"),
    [
        ([X, Y, 1, COILS + 1], r"4608 bytes and is truncated.*16 × 12 × 4 complex64"),
        ([X, Y, 1, COILS - 1], r"4608 bytes and is too long"),
        ([0, 1], r"dimensions '0 1 '"),
        ([X, Y, 1, 1, COILS], r"has 3 maps \(dimensions of BART\)"),
        ([X * Y * COILS], r"at least two axes"),
    ],
)
def test_headers_that_contradict_the_data(tmp_path: Path, dims: list[int], told: str) -> None:
    path = written(tmp_path / "a", values(X, Y, 1, COILS), dims)
    with pytest.raises(ReaderError, match=told):
        READER.read(path)


def test_broken_files(tmp_path: Path) -> None:
    array = values(X, Y, 1, COILS)
    array[3, 4, 0, 1] = np.inf
    path = written(tmp_path / "a", array)
    with pytest.raises(ReaderError, match=r"1 of 576 samples.*first at \(3, 4, 0, 1,"):
        READER.read(path)
    path.with_suffix(".hdr").unlink()
    assert not READER.matches(path)
    with pytest.raises(ReaderError, match=r"a.hdr is missing beside a.cfl"):
        READER.read(path)
    path.with_suffix(".hdr").write_bytes(b"\xff\xfe\x00")
    assert not READER.matches(path)
    with pytest.raises(ReaderError, match="no text header"):
        READER.read(path)
    path = written(tmp_path / "b", np.zeros((X, Y), np.complex64))
    with pytest.raises(ReaderError, match="exactly zero"):
        READER.read(path)


MAPS = torch.from_numpy(values(2, COILS, Y, X))
LINES = (torch.arange(Y) % 3 != 1).float()[:, None]
GEOMETRIES: dict[str, dict[str, Any]] = {
    "mask and maps": {"mask": LINES, "maps": MAPS[0], "sigma": 0.02},
    "two sets of maps": {"maps": MAPS, "position": (1.0, 2.0, 3.0)},
    "volume": {"matrix": (5, Y, X), "fov": (0.1, 0.2, 0.2345678), "dwell": 4.2e-6},
    "frames": {"frames": {"contrast": 2, "average": 1, "slice": 3}, "spacing": 0.003},
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_what_was_written_is_read(tmp_path: Path, name: str) -> None:
    fields = {"matrix": (Y, X), "fov": (0.2, 0.4), "coils": COILS} | GEOMETRIES[name]
    geometry = MRIGeometry(**fields)
    data = torch.from_numpy(values(*geometry.frames.values(), COILS, *geometry.matrix))
    data = data if geometry.mask is None else data * geometry.mask.tensor()
    path = tmp_path / "a.cfl"
    READER.write(Scan(data, geometry), path)
    again = READER.read(path)
    assert torch.equal(again.data, data)
    assert again.geometry == geometry
    assert not again.assumed
    # The header is BART's: dimensions in its second line, 8 bytes for each number.
    dims = path.with_suffix(".hdr").read_text().splitlines()[1].split()
    assert len(dims) == 16
    assert dims[:2] == [str(X), str(Y)]
    assert path.stat().st_size == 8 * math.prod(map(int, dims))


@pytest.mark.parametrize("frames", [{}, {"contrast": 2}])
def test_trajectories_are_written_in_cycles_per_fov(tmp_path: Path, frames: dict[str, int]) -> None:
    fov = (0.2, 0.4)
    k = (
        np.random.default_rng(1).uniform(-0.5, 0.5, (*frames.values(), 5, 30, 2)) * (60, 40)
    ).astype(np.float32)
    geometry = MRIGeometry(matrix=(Y, X), fov=fov, coils=COILS, frames=frames, trajectory=Array(k))
    data = torch.from_numpy(values(*frames.values(), COILS, 5, 30))
    path = tmp_path / "a.cfl"
    READER.write(Scan(data, geometry), path)
    stored = np.fromfile(tmp_path / "a_traj.cfl", "<c8").reshape(3, 30, 5, -1, order="F")
    first = k.reshape(-1, 5, 30, 2)[0]
    np.testing.assert_allclose(stored[0, ..., 0].T, first[..., 1] * fov[1], rtol=1e-6)
    np.testing.assert_allclose(stored[1, ..., 0].T, first[..., 0] * fov[0], rtol=1e-6)
    again = READER.read(path)
    assert torch.equal(again.data, data)
    np.testing.assert_allclose(again.geometry.trajectory.values, k, rtol=1e-6)
    assert again.geometry.changed(trajectory=None) == geometry.changed(trajectory=None)


def test_what_bart_has_no_place_for(tmp_path: Path) -> None:
    geometry = MRIGeometry(matrix=(Y, X), fov=(0.2, 0.2), frames={"set": 2})
    with pytest.raises(OutputError, match=r"no dimension for the frames set"):
        READER.write(Scan(torch.from_numpy(values(2, 1, Y, X)), geometry), tmp_path / "a.cfl")


def test_all_files_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a", values(1, 40, 7, COILS))
    written(tmp_path / "a_traj", spokes(7, 40, 8))
    files = ["a.cfl", "a.hdr", "a_traj.cfl", "a_traj.hdr"]
    check_told(READER, path, *files)
    written(tmp_path / "a_maps", values(16, 16, 1, COILS))
    check_told(READER, path, *files, "a_maps.cfl", "a_maps.hdr")
    (tmp_path / "a_traj.cfl").rename(tmp_path / "traj.cfl")
    (tmp_path / "a_traj.hdr").rename(tmp_path / "traj.hdr")
    check_told(READER, path, *files[:2], "traj.cfl", "traj.hdr", "a_maps.cfl", "a_maps.hdr")


def test_a_changed_trajectory_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "a", values(1, 40, 7, 1))
    written(tmp_path / "a_traj", spokes(7, 40, 8))
    recipe = {"prepare": [], "solver": {"name": "cg", "iterations": 1}}
    reconstruct("mri", path, tmp_path / "out", recipe=recipe, device="cpu")
    written(tmp_path / "a_traj", spokes(7, 40, 8)[:, ::-1])
    with pytest.raises(ScanError, match=r"a_traj.cfl has changed"):
        reproduce(tmp_path / "out")
