"""FastMRI files, written here by h5py."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from labrecon.instrument import ReaderError
from labrecon.operators.fourier import centred_ifft
from labrecon_mri.readers.fastmri import FastMRIReader
from labrecon_mri.readers.mrd import MRDReader
from labrecon_mri.steps.remove_oversampling import remove_oversampling

READER = FastMRIReader()
SLICES, COILS, READOUT, PHASE = 3, 2, 32, 20
HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
 <acquisitionSystemInformation><systemFieldStrength_T>2.8936</systemFieldStrength_T>
 </acquisitionSystemInformation>
 <experimentalConditions><H1resonanceFrequency_Hz>123251815</H1resonanceFrequency_Hz>
 </experimentalConditions>
 <encoding>
  <encodedSpace><matrixSize><x>32</x><y>20</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>280</x><y>175</y><z>4.5</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>16</x><y>16</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>140</x><y>140</y><z>4.5</z></fieldOfView_mm></reconSpace>
  <encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>19</maximum>
   <center>10</center></kspace_encoding_step_1></encodingLimits>
  <trajectory>cartesian</trajectory>
 </encoding>
</ismrmrdHeader>"""


def kspace(*shape: int) -> np.ndarray:
    r = np.random.default_rng(0)
    return (r.normal(size=shape) + 1j * r.normal(size=shape)).astype(np.complex64)


def written(path: Path, **changes: Any) -> Path:
    """A file; a dataset given as None is left out."""
    content: dict[str, Any] = {
        "kspace": kspace(SLICES, COILS, READOUT, PHASE),
        "ismrmrd_header": HEADER,
        "reconstruction_rss": np.ones((SLICES, 16, 16), np.float32),
    } | changes
    with h5py.File(path, "w") as file:
        file.attrs["acquisition"] = "CORPD_FBK"
        for name, values in content.items():
            if values is not None:
                file[name] = values
    return path


@pytest.mark.parametrize("header", [HEADER, HEADER.encode()])
def test_multicoil_slices(tmp_path: Path, header: str | bytes) -> None:
    path = written(tmp_path / "a.h5", ismrmrd_header=header)
    assert READER.matches(path)
    assert not MRDReader().matches(path)
    scan = READER.read(path)
    np.testing.assert_array_equal(scan.data.numpy(), kspace(SLICES, COILS, READOUT, PHASE))
    geometry = scan.geometry
    assert geometry.frames == {"slice": SLICES}
    assert geometry.coils == COILS
    # y is the readout, of which x of the header tells.
    assert geometry.matrix == (READOUT, PHASE)
    assert geometry.fov == (0.28, 0.175)
    assert geometry.mask is None
    assert scan.provenance["recon_matrix"] == [16, 16]
    assert scan.truth is None
    assert "magnitude" in scan.ignored["reconstruction_rss"]
    assert "no noise scan" in scan.assumed["noise"]
    assert scan.found["acquisition"] == "CORPD_FBK"


def test_single_coil_and_one_slice(tmp_path: Path) -> None:
    data = kspace(1, READOUT, PHASE)
    scan = READER.read(written(tmp_path / "a.h5", kspace=data))
    assert scan.geometry.frames == {}
    assert scan.geometry.coils == 1
    np.testing.assert_array_equal(scan.data.numpy(), data)


def test_readout_oversampling_goes_along_y(tmp_path: Path) -> None:
    """The cropped image is what fastMRI crops: the middle of the stored axes."""
    scan = READER.read(written(tmp_path / "a.h5"))
    cropped = remove_oversampling(scan)
    assert cropped.geometry.matrix == (16, 16)
    assert cropped.geometry.fov == pytest.approx((0.14, 0.14))
    full = np.fft.fftshift(
        np.fft.ifft2(np.fft.ifftshift(scan.data.numpy(), axes=(-2, -1)), norm="ortho"),
        axes=(-2, -1),
    )
    image = centred_ifft(cropped.data, (-2, -1)).numpy()
    np.testing.assert_allclose(image, full[..., 8:24, 2:18], atol=1e-5)


def test_masked_lines(tmp_path: Path) -> None:
    mask = np.zeros(PHASE, bool)
    mask[[1, 4, 8, 9, 10, 11, 12, 18]] = True
    data = kspace(SLICES, COILS, READOUT, PHASE) * mask
    # The outermost sampled line is zero padding: it was never measured.
    data[..., 18] = 0
    scan = READER.read(written(tmp_path / "a.h5", kspace=data, mask=mask))
    got = scan.geometry.mask.tensor()
    mask[18] = False
    assert got.shape == (1, PHASE)
    assert got[0].tolist() == mask.tolist()
    # Without the dataset, the zeros tell the same.
    again = READER.read(written(tmp_path / "b.h5", kspace=data))
    assert again.geometry == scan.geometry


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mask": np.arange(PHASE) % 2}, r"samples where mask is 0 \(first at x = 0\)"),
        ({"mask": np.ones(READOUT)}, r"mask has 32 entries, expected one for each of the 20"),
        ({"kspace": kspace(SLICES, COILS, PHASE, READOUT)}, r"\(20, 32\) samples, the header's"),
        ({"kspace": kspace(READOUT, PHASE)}, r"kspace is \(32, 20\), expected"),
        ({"kspace": np.ones((SLICES, READOUT, PHASE), np.float32)}, r"float32 numbers, expected"),
        ({"kspace": np.zeros((SLICES, READOUT, PHASE), np.complex64)}, r"exactly zero"),
        ({"kspace": kspace(SLICES, READOUT, PHASE) * np.nan}, r"1920 of 1920 samples of kspace"),
        ({"ismrmrd_header": HEADER[:400]}, r"XML header is damaged"),
        ({"ismrmrd_header": None}, r"ismrmrd_header missing"),
        ({"ismrmrd_header": np.ones(3)}, r"expected text"),
    ],
)
def test_broken_files(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = written(tmp_path / "a.h5", **changes)
    with pytest.raises(ReaderError, match=told):
        READER.read(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ReaderError, match="5000 bytes and it is truncated"):
        READER.read(path)
    path.write_bytes(b"")
    assert not READER.matches(path)
    assert not READER.matches(tmp_path)


def test_single_precision_is_said(tmp_path: Path) -> None:
    data = kspace(SLICES, READOUT, PHASE).astype(np.complex128)
    scan = READER.read(written(tmp_path / "a.h5", kspace=data))
    assert scan.data.dtype == torch.complex64
    assert "rounded to complex64" in scan.found["precision"]
