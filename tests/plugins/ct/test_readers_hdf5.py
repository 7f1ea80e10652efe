"""NXtomo and Data Exchange files, whole and broken."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from labrecon.instrument import ReaderError
from labrecon.noise import PoissonGaussian
from labrecon_ct.readers.exchange import DataExchangeReader
from labrecon_ct.readers.nxtomo import NXtomoReader

VIEWS, ROWS, COLUMNS = 12, 3, 16


def frames(count: int, level: float = 1000.0) -> np.ndarray:
    return np.random.default_rng(0).poisson(level, (count, ROWS, COLUMNS)).astype(np.uint16)


def exchange(path: Path, **changes: object) -> Path:
    """A Data Exchange file; a dataset given as None is left out."""
    content: dict[str, object] = {
        "data": frames(VIEWS),
        "data_white": frames(4, 2000),
        "data_dark": frames(4, 20),
        "theta": np.linspace(0, 165, VIEWS),
    } | changes
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            if values is not None:
                file[f"exchange/{name}"] = values
        if content["theta"] is not None:
            file["exchange/theta"].attrs["units"] = "degrees"
    return path


def nxtomo(path: Path, **changes: object) -> Path:
    """2 flats, 1 dark, projections, an invalid one, an alignment frame, 2 flats."""
    keys = np.array([1, 1, 2] + [0] * VIEWS + [3, -1, 1, 1])
    stack = frames(len(keys))
    stack[keys == 1] *= 2
    stack[keys == 2] = 20
    angles = np.zeros(len(keys))
    angles[keys == 0] = np.linspace(0, 165, VIEWS)
    content: dict[str, object] = {
        "instrument/detector/data": stack,
        "instrument/detector/image_key": keys,
        "instrument/detector/x_pixel_size": 6.5e-6,
        "instrument/detector/y_pixel_size": 13e-6,
        "instrument/detector/distance": 0.4,
        "instrument/detector/field_of_view": "Half",
        "instrument/detector/x_rotation_axis_pixel_position": 9.0,
        "instrument/beam/incident_energy": 25.0,
        "sample/rotation_angle": angles,
        "sample/z_translation": np.linspace(0, 1e-3, len(keys)),
    } | changes
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            if values is not None:
                file[f"entry/{name}"] = values
        if content["sample/rotation_angle"] is not None:
            file["entry/sample/rotation_angle"].attrs["units"] = "deg"
    return path


def test_exchange(tmp_path: Path) -> None:
    path = exchange(tmp_path / "scan.h5")
    reader = DataExchangeReader()
    assert reader.matches(path)
    scan = reader.read(path)
    with h5py.File(path) as file:
        expected = torch.from_numpy(file["exchange/data"][:].astype(np.float32))
    assert torch.equal(scan.data, expected.transpose(0, 1))
    assert scan.geometry.angles[-1] == pytest.approx(math.radians(165))
    assert scan.calibration["flats"].shape == (4, ROWS, COLUMNS)
    assert scan.provenance["quantity"] == "counts"
    assert isinstance(scan.noise, PoissonGaussian)
    assert "not recorded" in scan.assumed["pixel size"]


def test_nxtomo_sorts_frames_by_key_and_reads_units(tmp_path: Path) -> None:
    scan = NXtomoReader().read(nxtomo(tmp_path / "scan.nxs"))
    assert scan.data.shape == (ROWS, VIEWS, COLUMNS)
    assert scan.geometry.column_pitch == pytest.approx(6.5e-3)
    assert scan.geometry.row_pitch == pytest.approx(13e-3)
    assert scan.geometry.centre_column == pytest.approx(9.0)
    assert scan.provenance["energy_kev"] == 25
    assert scan.provenance["distance_mm"] == pytest.approx(400)
    assert scan.found["field of view"] == "Half"
    assert len(scan.calibration["flats"]) == 4
    assert len(scan.calibration["darks"]) == 1
    assert (scan.calibration["flat_time"] < 0).sum() == 2
    assert (scan.calibration["flat_time"] > 1).sum() == 2
    assert "image_key 3" in scan.ignored["invalid frames"]
    assert "image_key -1" in scan.ignored["alignment frames"]
    assert "not corrected" in scan.ignored["z_translation"]
    assert np.allclose(np.rad2deg(scan.geometry.angles), np.linspace(0, 165, VIEWS))


def test_external_links_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    path = nxtomo(tmp_path / "scan.nxs")
    with h5py.File(path, "a") as file, h5py.File(tmp_path / "raw" / "frames.h5", "w") as raw:
        raw["data"] = file["entry/instrument/detector/data"][()]
        del file["entry/instrument/detector/data"]
        file["entry/instrument/detector/data"] = h5py.ExternalLink("raw/frames.h5", "/data")
        file["entry/monitor"] = h5py.ExternalLink("raw/lost.h5", "/data")
    scan = NXtomoReader().read(path)
    assert any("raw/lost.h5 is not there" in reason for reason in scan.ignored)
    assert any(name.endswith("frames.h5") for name in scan.provenance["files"])
    (tmp_path / "raw" / "frames.h5").unlink()
    with pytest.raises(ReaderError, match="link to a file that is missing"):
        NXtomoReader().read(path)


@pytest.mark.parametrize(
    ("make", "reader"), [(exchange, DataExchangeReader), (nxtomo, NXtomoReader)]
)
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.95])
def test_truncated(tmp_path: Path, make, reader, part: float) -> None:
    path = make(tmp_path / "scan.nxs")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    reader().matches(path)
    assert NXtomoReader().matches(path), "someone must explain a damaged HDF5 file"
    with pytest.raises(ReaderError, match=r"truncated|damaged"):
        reader().read(path)


def with_value(value: float, dtype: type = np.float32) -> np.ndarray:
    stack = frames(VIEWS).astype(dtype)
    stack[5, 1, 7] = value
    return stack


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"theta": None}, "no exchange/theta"),
        ({"theta": np.zeros(VIEWS - 1)}, f"{VIEWS - 1} angles for {VIEWS} projections"),
        ({"theta": np.full(VIEWS, np.nan)}, "angles in exchange/theta are NaN"),
        ({"data": with_value(np.nan)}, r"1 of 576 samples .* NaN or infinite"),
        ({"data": with_value(np.inf)}, "NaN or infinite"),
        ({"data": with_value(-3)}, "negative"),
        ({"data": with_value(1, np.complex64)}, "complex numbers"),
        ({"data": np.full((VIEWS, ROWS, COLUMNS), b"x")}, "text"),
        ({"data": np.ones((VIEWS, COLUMNS))}, r"expected \(frame, row, column\)"),
        ({"data_white": np.zeros((4, ROWS, COLUMNS))}, "all 4 flats are zero"),
        ({"data_dark": frames(4, 3000)}, "are they swapped"),
        ({"data_white": np.full((4, ROWS, COLUMNS - 1), 2000.0)}, "flats are"),
    ],
)
def test_bad_content(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ReaderError, match=message):
        DataExchangeReader().read(exchange(tmp_path / "scan.h5", **changes))


def test_radians_called_degrees_and_the_other_way_warn(tmp_path: Path) -> None:
    path = exchange(tmp_path / "a.h5", theta=np.linspace(0, 3.1, VIEWS))
    with pytest.warns(UserWarning, match="radians given as degrees"):
        scan = DataExchangeReader().read(path)
    assert "radians given as degrees" in scan.assumed["angles"]
    with h5py.File(path, "a") as file:
        file["exchange/theta"][...] = np.linspace(0, 180, VIEWS)
        file["exchange/theta"].attrs["units"] = "rad"
    with pytest.warns(UserWarning, match="degrees given as radians"):
        DataExchangeReader().read(path)
    with h5py.File(path, "a") as file:
        file["exchange/theta"].attrs["units"] = "gon"
    with pytest.raises(ReaderError, match="'gon'"):
        DataExchangeReader().read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample/rotation_angle": None}, "no rotation angles"),
        ({"sample/rotation_angle": np.zeros(5)}, "holds 5 angles for 19 frames"),
        ({"instrument/detector/image_key": np.zeros(4, int)}, "4 entries for 19 frames"),
        ({"instrument/detector/image_key": np.ones(19, int)}, "marks no frame as a projection"),
        ({"instrument/detector/image_key": None}, "neither APS Data Exchange"),
    ],
)
def test_bad_nxtomo(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ReaderError, match=message):
        NXtomoReader().read(nxtomo(tmp_path / "scan.nxs", **changes))


def test_readers_keep_to_their_formats(tmp_path: Path) -> None:
    assert not DataExchangeReader().matches(nxtomo(tmp_path / "scan.nxs"))
    text = tmp_path / "notes.txt"
    text.write_text("no scan")
    assert not NXtomoReader().matches(text)
    assert not DataExchangeReader().matches(tmp_path / "absent.h5")
    assert not NXtomoReader().matches(tmp_path)
