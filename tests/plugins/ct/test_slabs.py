"""CT volumes in slabs: rows read apart, the volume of the whole, and the memory of a slab."""

import json
import math
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from labrecon.errors import RecipeError, ScanError
from labrecon.instrument import ReaderError, Scan
from labrecon.io.volumes import read_volume
from labrecon.recon import reconstruct
from labrecon.slabs import reconstruct_in_slabs
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.instrument import CTInstrument
from labrecon_ct.readers.exchange import DataExchangeReader
from labrecon_ct.readers.nxtomo import NXtomoReader

pytest.importorskip("zarr")
CT = CTInstrument()
READERS = [DataExchangeReader(), NXtomoReader()]


def geometry(**changes: object) -> CTGeometry:
    values: dict[str, object] = {
        "angles": tuple(math.pi * i / 60 for i in range(60)),
        "columns": 48,
        "column_pitch": 0.5,
        "rows": 10,
        "centre_offset": 1.5,
        "open_beam": 3e4,
    }
    return CTGeometry.model_validate(values | changes)


def written(folder: Path, reader=READERS[1], **changes: object) -> Path:
    path = folder / f"scan{reader.suffix}"
    reader.write(CT.simulate(geometry(**changes), torch.Generator().manual_seed(0)), path)
    return path


@pytest.mark.parametrize("reader", READERS)
def test_rows_read_apart_are_those_of_the_whole(reader, tmp_path: Path) -> None:
    path = written(tmp_path, reader)
    whole = reader.read(path)
    assert reader.parts(path) == 10
    for start, stop in ((0, 4), (3, 4), (6, 10)):
        part = reader.read_part(path, start, stop)
        assert torch.equal(part.data, whole.data[start:stop])
        for name in ("flats", "darks"):
            assert torch.equal(part.calibration[name], whole.calibration[name][:, start:stop])
        assert part.geometry.rows == stop - start
        assert part.geometry.volume_shape == (stop - start, 48, 48)
        assert part.geometry.slicewise
        assert part.geometry.angles == whole.geometry.angles
        assert part.geometry.centre_offset == whole.geometry.centre_offset


@pytest.mark.parametrize("reader", READERS)
def test_rows_that_are_no_slices(reader, tmp_path: Path) -> None:
    assert reader.parts(written(tmp_path, reader, rows=None)) is None
    other = {"volume_shape": (7, 48, 48)}
    assert reader.parts(written(tmp_path, reader, **other)) is None
    path = written(tmp_path, reader, slice_thickness=0.3)
    with pytest.raises(ReaderError, match="they can not be read apart"):
        reader.read_part(path, 0, 4)


#: Without what looks at all rows at once: medians, and the centre of the strongest rows.
PREPARE = [{"step": "flat_field"}, {"step": "centre", "column": 25.0}]
FBP = {"prepare": PREPARE, "solver": {"name": "direct"}}
TV = {
    "prepare": PREPARE,
    "solver": {"name": "fista", "iterations": 15, "step_size": 2e-8, "start": "initial"},
    "prior": {"name": "tv", "weight": 20.0, "nonneg": True, "iterations": 5},
}


def difference(path: Path, recipe: dict[str, object], folder: Path) -> float:
    """Largest difference of slabs and whole, in parts of the largest value."""
    whole = reconstruct("ct", path, folder / "whole", recipe=recipe, device="cpu").volume
    reconstruct_in_slabs("ct", path, folder / "out", slabs=4, recipe=recipe, device="cpu")
    found = read_volume(folder / "out" / "volume.zarr")
    assert float(whole.max()) > 0.01, "there is an object"
    return float((found - whole).abs().max() / whole.abs().max())


@pytest.mark.parametrize("recipe", [FBP, TV], ids=["fbp", "tv"])
@pytest.mark.parametrize("reader", READERS)
def test_slabs_give_what_the_whole_gives(reader, recipe, tmp_path: Path) -> None:
    model = geometry()
    truth = CT.objects(model, 1, torch.Generator().manual_seed(1))[0]
    with torch.no_grad():
        lines = CT.noise(model).sample(CT.operator(model)(truth), torch.Generator().manual_seed(3))
    path = tmp_path / f"scan{reader.suffix}"
    reader.write(Scan(lines, model), path)
    assert difference(path, recipe, tmp_path) < 1e-6


def test_a_gain_measured_in_each_slab_shows_a_little(tmp_path: Path) -> None:
    """Photon gain and dark noise come from the flats and darks of a slab: 20 and 10 of 3 rows."""
    assert difference(written(tmp_path), TV, tmp_path) < 2e-3


def test_the_default_recipe_finds_one_centre(tmp_path: Path) -> None:
    path = written(tmp_path, columns=96)
    out = tmp_path / "out"
    made = reconstruct_in_slabs("ct", path, out, slabs=3, device="cpu")
    told = json.loads((out / "provenance.json").read_text())
    found = told["found_by_the_middle_slab"]["centre_offset"]
    assert found == pytest.approx(1.5, abs=0.5)
    steps = [{s["step"]: s for s in slab["steps"]} for slab in told["slabs"]]
    assert steps[1]["centre"]["column"] == pytest.approx(found + 47.5)
    assert made.summary["chi2"] is not None
    assert told["geometry"]["centre_offset"] == found


def test_paganin_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    step = {"step": "paganin", "delta_beta": 100.0, "energy_kev": 20.0, "distance_mm": 10.0}
    with pytest.raises(RecipeError, match="'paganin' looks at neighbouring slices"):
        reconstruct_in_slabs("ct", path, tmp_path / "out", recipe={"prepare": [*PREPARE, step]})


def test_images_of_one_row_have_no_slabs(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for i in range(4):
        tifffile.imwrite(tmp_path / f"p{i}.tif", np.full((1, 8), 9.0, np.float32))
    (tmp_path / "angles.txt").write_text("0 90 180 270")
    with pytest.raises(ScanError, match="no slices that can be reconstructed apart"):
        reconstruct_in_slabs("ct", tmp_path, tmp_path.with_name("out"))


PEAK = """
import json, sys
from pathlib import Path
import torch
import astra, h5py, zarr, scipy.ndimage, matplotlib.figure
import labrecon_ct.projector
from labrecon.recon import reconstruct
from labrecon.slabs import reconstruct_in_slabs
torch.set_num_threads(1)
path, out, slabs, small = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
# Not getrusage, which begins with the peak of the parent.
status = Path("/proc/self/status").read_text
peak = lambda: 1024 * int(status().split("VmHWM:")[1].split()[0])
recipe = {"prepare": [{"step": "flat_field"}], "solver": {"name": "fista", "iterations": 2},
          "prior": {"name": "tv", "weight": 1.0, "iterations": 1}}
given = {"recipe": recipe, "device": "cpu"}
# Everything is loaded, and the matrix is made, before the count begins.
reconstruct_in_slabs("ct", small, out.with_name(out.name + "-first"), slabs=1, **given)
before = peak()
if slabs:
    reconstruct_in_slabs("ct", path, out, slabs=slabs, **given)
else:
    reconstruct("ct", path, out, **given)
print(json.dumps(peak() - before))
"""


@pytest.mark.slow
def test_memory_is_that_of_a_slab(tmp_path: Path) -> None:
    """96 slices of 128²: peak of the process above what it holds with everything loaded."""
    model = geometry(rows=96, columns=128, angles=tuple(math.pi * i / 90 for i in range(90)))
    lines = torch.full((96, 90, 128), 0.5)
    lines += 0.1 * torch.rand(lines.shape, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "big.nxs"
    NXtomoReader().write(Scan(lines, model), path)
    small = tmp_path / "small.nxs"
    few = model.model_copy(update={"rows": 4, "volume_shape": (4, 128, 128)})
    NXtomoReader().write(Scan(lines[:4], few), small)

    def measured(slabs: int) -> float:
        out = str(tmp_path / f"out{slabs}")
        given = [sys.executable, "-c", PEAK, str(path), out, str(slabs), str(small)]
        told = subprocess.run(given, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        return float(json.loads(told.stdout))

    volume = 96 * 128 * 128 * 4
    whole, slab = measured(0), measured(24)
    assert whole > 5 * volume
    # Most often 1; a busy machine keeps more slabs on their way to the disk.
    assert slab < 2.5 * volume
    with h5py.File(path) as file:
        assert file["entry/instrument/detector/data"].shape == (92, 96, 128)
