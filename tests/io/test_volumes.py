from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import tifffile
import torch

from labrecon.io.hdf5 import write_hdf5
from labrecon.io.plain import dumps, plain
from labrecon.io.provenance import hash_inputs
from labrecon.io.tiff import write_tiff

INFO = {
    "title": "ct: tooth",
    "axes": ("z", "y", "x"),
    "voxel_size": (0.2, 0.1, 0.1),
    "unit": "1/mm",
    "provenance": {"recipe": {"seed": 1}, "created": "2026-01-01"},
}


@pytest.fixture
def volume():
    return torch.randn(3, 8, 10, generator=torch.Generator().manual_seed(0))


def test_hdf5(tmp_path, volume):
    path = write_hdf5(tmp_path / "volume", volume, INFO)
    with h5py.File(path) as file:
        entry = file[file.attrs["default"]]
        data = entry[entry.attrs["default"]]
        values = data[data.attrs["signal"]]
        assert values.dtype == np.float32
        assert np.array_equal(values[()], volume.numpy())
        assert values.attrs["units"] == "1/mm"
        assert entry["definition"][()] == b"NXtomoproc"
        assert list(data.attrs["voxel_size"]) == [0.2, 0.1, 0.1]
        assert data["x"][()] == pytest.approx((np.arange(10) - 4.5) * 0.1)
        note = json.loads(entry["reconstruction/provenance/data"][()])
        assert note == INFO["provenance"]


def test_hdf5_complex_and_compressed(tmp_path, volume):
    values = torch.complex(volume, 2 * volume)
    info = {**INFO, "voxel_size": None}
    path = write_hdf5(tmp_path / "volume.1", values, info, compression="gzip")
    assert path.name == "volume.1.h5"
    with h5py.File(path) as file:
        assert np.array_equal(file["entry/data/data"][()], values.numpy())
        assert file["entry/data/data"].compression == "gzip"


def test_tiff(tmp_path, volume):
    path = write_tiff(tmp_path / "volume", volume, INFO)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 3
        page = file.pages[0]
        assert page.dtype == np.float32
        told = json.loads(page.description)
        assert told["voxel_size"] == [0.2, 0.1, 0.1]
        assert told["provenance"] == INFO["provenance"]
        numerator, denominator = page.tags["XResolution"].value
        assert numerator / denominator == pytest.approx(100)
    assert np.array_equal(tifffile.imread(path), volume.numpy())


def test_tiff_refuses_complex(tmp_path, volume):
    with pytest.raises(ValueError, match="'hdf5' or 'zarr'"):
        write_tiff(tmp_path / "volume", torch.complex(volume, volume), INFO)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_zarr(tmp_path, volume, dtype):
    zarr = pytest.importorskip("zarr")
    from labrecon.io.zarr import write_zarr

    values = volume.to(dtype) * (1 + 2j if dtype.is_complex else 1)
    path = write_zarr(tmp_path / "volume", values, INFO)
    group = zarr.open_group(str(path), mode="r")
    assert np.array_equal(group["data"][...], values.numpy())
    assert group["data"].dtype == values.numpy().dtype
    assert group.attrs["voxel_size"] == [0.2, 0.1, 0.1]
    assert group.attrs["provenance"] == INFO["provenance"]


def test_plain_values():
    told = plain(
        {
            "t": torch.tensor([1.0, float("nan")]),
            "big": np.zeros((10, 10)),
            "n": np.float32(2),
            1: (True, None),
            "inf": float("inf"),
        }
    )
    assert told == {
        "t": [1.0, "nan"],
        "big": "array (10, 10) float64, 0 to 0",
        "n": 2.0,
        "1": [True, None],
        "inf": "inf",
    }
    assert json.loads(dumps(told)) == told


def test_hash_of_a_folder(tmp_path):
    (tmp_path / "b").write_text("2")
    (tmp_path / "a").write_text("1")
    names = [entry["path"] for entry in hash_inputs([tmp_path])]
    assert names == [str(tmp_path / "a"), str(tmp_path / "b")]
