"""Files that the CT readers write, read again, and by the layout of their formats."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from ct_scans import simulated

from labrecon.errors import OutputError
from labrecon.instrument import Scan
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.instrument import CTInstrument
from labrecon_ct.readers.exchange import DataExchangeReader
from labrecon_ct.readers.nxtomo import NXtomoReader
from labrecon_ct.steps.flat_field import flat_field, flat_groups

READERS = [DataExchangeReader(), NXtomoReader()]
CT = CTInstrument()


def geometry(**changes: object) -> CTGeometry:
    """A parallel 3D scan off centre, with pixels that are not square."""
    values: dict[str, object] = {
        "angles": tuple(math.pi * i / 40 for i in range(40)),
        "columns": 32,
        "column_pitch": 0.4,
        "rows": 3,
        "row_pitch": 0.7,
        "centre_offset": 2.3,
        "open_beam": 3e4,
    }
    return CTGeometry.model_validate(values | changes)


def counts(**changes: object) -> Scan:
    return CT.simulate(geometry(**changes), torch.Generator().manual_seed(2))


def again(reader, scan: Scan, folder: Path) -> Scan:
    path = folder / f"scan{reader.suffix}"
    reader.write(scan, path)
    assert [file.name for file in folder.iterdir()] == [path.name]
    assert reader.matches(path)
    return reader.read(path)


def plain(model: CTGeometry) -> list[float]:
    return [
        *model.angles,
        model.columns,
        model.column_pitch,
        model.rows or 0,
        model.row_pitch or 0,
        model.centre_offset,
        model.open_beam or 0,
        *model.volume_shape,
        *model.voxel,
    ]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rows": None, "row_pitch": None},
        {"volume_shape": (3, 20, 24), "voxel_size": 0.9, "slice_thickness": 0.2},
        {"centre_offset": -14.5},
        {"centre_offset": 15.0, "angles": tuple(2 * math.pi * i / 40 for i in range(40))},
        {"open_beam": None, "row_pitch": 0.4, "centre_offset": 0.0},
    ],
)
def test_round_trip_of_counts(reader, changes: dict[str, object], tmp_path: Path) -> None:
    scan = counts(**changes)
    read = again(reader, scan, tmp_path)
    assert torch.equal(read.data, scan.data)
    for name in ("flats", "darks"):
        assert torch.equal(read.calibration[name], scan.calibration[name])
    assert plain(read.geometry) == pytest.approx(plain(scan.geometry), rel=1e-12, abs=1e-13)
    assert read.provenance["quantity"] == "counts"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("rows", [None, 3])
def test_line_integrals_come_back_through_flat_field(reader, rows, tmp_path: Path) -> None:
    model = geometry(rows=rows, row_pitch=rows and 0.7)
    truth = CT.objects(model, 1, torch.Generator().manual_seed(1))[0]
    operator = CT.operator(model)
    with torch.no_grad():
        lines = operator(truth)
        noisy = CT.noise(model).sample(lines, torch.Generator().manual_seed(3))
    for values in (lines, noisy):
        scan = Scan(values, model, provenance={"quantity": "line integrals"})
        read = flat_field(again(reader, scan, tmp_path))
        # log N₀ and log N are 10, and kept to 24 bits.
        assert float((read.data - values).abs().max()) < 4e-6
        # Counts are photons, so that weights are the photons themselves.
        told = read.steps[-1]
        assert told["counts_per_photon"] == 1
        assert told["electronic_noise_photons"] == 0
        photons = model.open_beam * torch.exp(-values)
        precision = read.weights / read.noise.sigma**2
        assert torch.allclose(precision.float(), photons, rtol=1e-4)


def test_nxtomo_keeps_the_order_of_frames(tmp_path: Path) -> None:
    """Keys and units by the NXtomo definition of NeXus, read without labrecon."""
    scan = counts()
    read = again(NXtomoReader(), scan, tmp_path)
    assert [len(group) for group in flat_groups(read)] == [10, 10]
    with h5py.File(tmp_path / "scan.nxs") as file:
        assert file["entry/definition"][()] == b"NXtomo"
        assert file["entry"].attrs["NX_class"] == "NXentry"
        keys = file["entry/instrument/detector/image_key"][()]
        assert keys.tolist() == [2] * 10 + [1] * 10 + [0] * 40 + [1] * 10
        data = file["entry/instrument/detector/data"]
        assert data.dtype == np.uint16
        assert data.shape == (70, 3, 32)
        assert np.array_equal(data[20:60], scan.data.transpose(0, 1).numpy())
        angles = file["entry/sample/rotation_angle"]
        assert angles.attrs["units"] == "degree"
        assert angles[20:60] == pytest.approx(np.arange(40) * 4.5)
        assert file["entry/instrument/detector/x_pixel_size"][()] == 0.4
        assert file["entry/instrument/detector/x_rotation_axis_pixel_position"][()] == 17.8


def test_data_exchange_layout(tmp_path: Path) -> None:
    """As dxchange and TomoPy look for it."""
    again(DataExchangeReader(), counts(), tmp_path)
    with h5py.File(tmp_path / "scan.h5") as file:
        assert file["implements"][()] == b"exchange:measurement"
        assert file["exchange/data"].shape == (40, 3, 32)
        assert file["exchange/data"].dtype == np.uint16
        assert file["exchange/data_white"].shape == (20, 3, 32)
        assert file["exchange/theta"][-1] == pytest.approx(175.5)
        size = file["measurement/instrument/detection_system/objective/resolution"]
        assert (size[()], size.attrs["units"]) == (0.4, "mm")


def test_flats_between_projections(tmp_path: Path) -> None:
    scan = counts()
    times = torch.tensor([0.0] * 7 + [0.5] * 6 + [1.0] * 7, dtype=torch.float64)
    scan = scan.replace(calibration={**scan.calibration, "flat_time": times})
    groups = flat_groups(again(NXtomoReader(), scan, tmp_path))
    assert [len(group) for group in groups] == [7, 6, 7]


FAN = {"beam": "cone", "source_origin": 100.0, "origin_detector": 50.0}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (FAN, "no place for a fan or cone beam"),
        ({**FAN, "rows": None, "row_pitch": None}, "no place for a fan or cone beam"),
        ({"detector_tilt": 0.01}, "no place for a detector tilt"),
        ({"dose": (0.5,) * 40}, "no place for a dose per view"),
        ({"rows": 1}, "a 3D scan of one row"),
    ],
)
def test_what_the_formats_can_not_say(reader, changes, message: str, tmp_path: Path) -> None:
    model = geometry(**changes)
    scan = Scan(torch.ones(model.data_shape), model)
    with pytest.raises(OutputError, match=message):
        reader.write(scan, tmp_path / "scan.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_scan(reader, tmp_path: Path) -> None:
    model = geometry()
    lines = torch.ones(model.data_shape)
    bad = {
        r"above 10\.3, where less than one photon": Scan(12 * lines, model),
        "needs the open_beam": Scan(lines, geometry(open_beam=None)),
        r"has data \(3, 40, 32\), got": Scan(lines[:2], model),
        "NaN, infinite or below 0": Scan(torch.nan * lines, model),
        "which samples are bad": Scan(lines, model, weights=(lines > 2).float()),
    }
    for message, scan in bad.items():
        with pytest.raises(OutputError, match=message):
            reader.write(scan, tmp_path / "scan.h5")
    negative = Scan(-lines, model, provenance={"quantity": "counts"})
    with pytest.raises(OutputError, match="below 0"):
        reader.write(negative, tmp_path / "scan.h5")
    assert not list(tmp_path.iterdir())


def test_zingers_beyond_16_bits_are_kept(tmp_path: Path) -> None:
    scan = simulated(columns=48, views=30, zingers=20)
    scan = scan.replace(data=scan.data.round())
    assert float(scan.data.max()) > 2**16
    read = again(NXtomoReader(), scan, tmp_path)
    assert torch.equal(read.data, scan.data)


@pytest.mark.parametrize("suffix", [".h5", ".nxs"])
def test_simulate_and_recon(suffix: str, tmp_path: Path) -> None:
    """By the two commands, as a reader of the documentation types them."""
    from typer.testing import CliRunner

    from labrecon.cli import app

    scan, out = str(tmp_path / f"scan{suffix}"), tmp_path / "out"
    for line in (["simulate", "ct", scan], ["recon", "ct", scan, "-o", str(out)]):
        told = CliRunner().invoke(app, line)
        assert told.exit_code == 0, told.output
    truth = CT.simulate(CT.example(), torch.Generator().manual_seed(0)).truth
    with h5py.File(out / "volume.h5") as file:
        volume = torch.from_numpy(file["entry/data/data"][()])
    assert float((volume - truth).norm() / truth.norm()) < 0.25
