"""Cone beams in slabs: which rows see which slices, and the volume of the whole."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from labrecon.errors import Interrupted, RecipeError, ReconstructionError, ScanError
from labrecon.instrument import ReaderError
from labrecon.io.volumes import read_volume
from labrecon.recon import reconstruct
from labrecon.reproduce import reproduce
from labrecon.slabs import reconstruct_in_slabs
from labrecon.slabs import volume as partial_volume
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.instrument import CTInstrument
from labrecon_ct.parts import halo, part, rows_within
from labrecon_ct.poses import poses
from labrecon_ct.projector import CTProjector
from labrecon_ct.readers.tiff import TiffReader

zarr = pytest.importorskip("zarr")
tifffile = pytest.importorskip("tifffile")
CT = CTInstrument()
READER = TiffReader()


def cone(**changes: object) -> CTGeometry:
    """Grid of 12² columns and 24 slices of 1 mm; rays spread by 40 % of their height across it."""
    values: dict[str, object] = {
        "beam": "cone",
        "angles": tuple(2 * math.pi * i / 16 for i in range(16)),
        "columns": 12,
        "column_pitch": 1.5,
        "rows": 24,
        "source_origin": 50.0,
        "origin_detector": 25.0,
    }
    return CTGeometry.model_validate(values | changes)


def parallel(rows: int) -> CTGeometry:
    return CTGeometry(angles=cone().angles, columns=12, column_pitch=1.5, rows=rows)


GEOMETRIES = {
    "cone": cone(),
    "odd, wide": cone(rows=23, source_origin=25.0, origin_detector=0.0, column_pitch=1.0),
    "more slices than rows": cone(volume_shape=(30, 12, 12)),
    "fewer slices": cone(volume_shape=(14, 12, 12)),
    "thin slices": cone(volume_shape=(30, 12, 12), slice_thickness=0.8),
    "shifted": cone(row_offset=3.25, slice_offset=-2.0),
    "coarse rows": cone(rows=12, row_pitch=3.0),
    "tilted": cone(detector_tilt=0.15),
    "tilted the other way, shifted": cone(detector_tilt=-0.1, row_offset=3.25, slice_offset=-2.0),
}
SLABS = [(0, 3), (2, 9), (6, 8), (9, 12), (10, 14)]


def projected(geometry: CTGeometry, x: Tensor) -> Tensor:
    """``(row,)``: the largest modulus that a row sees of a volume."""
    with torch.no_grad():
        return CTProjector(geometry, backend="rays")(x).abs().amax((1, 2))


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("slices", SLABS)
def test_rows_within_a_slab_see_nothing_else(name: str, slices: tuple[int, int]) -> None:
    geometry = GEOMETRIES[name]
    start, stop = slices
    before, after = halo(geometry, start, stop)
    read = start - before, stop + after
    rows = rows_within(geometry, *read)
    outside = torch.ones(geometry.volume_shape)
    outside[read[0] : read[1]] = 0
    assert float(projected(geometry, outside)[rows].max()) == 0
    # And all that the slab is seen on is among them.
    inside = torch.zeros(geometry.volume_shape)
    inside[start:stop] = 1
    seen = projected(geometry, inside)
    seen[rows] = 0
    assert float(seen.max()) == 0


def test_a_smaller_halo_would_not_do() -> None:
    """The halo is that of the geometry, up to the slices by which projectors interpolate."""
    geometry = cone()
    before, after = halo(geometry, 4, 8)
    rows = rows_within(geometry, 4 - before + 2, 8 + after)
    inside = torch.zeros(geometry.volume_shape)
    inside[4:8] = 1
    seen = projected(geometry, inside)
    seen[rows] = 0
    assert float(seen.max()) > 0
    # Across the grid, R = 6 √2, a ray at height −8 from the edge of the slab changes by 2 · 8 R/D.
    spread = 2 * 8 * 6 * math.sqrt(2) / 50
    assert spread < before < spread + 4


def test_rows_of_parallel_rays_are_slices() -> None:
    geometry = parallel(24)
    assert geometry.slicewise
    assert rows_within(geometry, 3, 7) == slice(3, 7)
    cut = part(geometry, 3, 7)
    assert cut.slicewise
    assert cut.rows == 4


@pytest.mark.parametrize("tilt", [0.0, 0.1])
def test_a_part_is_projected_as_in_the_whole(tilt: float) -> None:
    """A smooth ball within the slab, by the operators of both, whose rays are sampled elsewhere."""
    geometry = cone(columns=24, column_pitch=0.75, rows=48, detector_tilt=tilt)
    z, y, x = (torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in geometry.volume_shape)
    radius = ((z[:, None, None] + 9) ** 2 + y[:, None] ** 2 + x**2).sqrt()
    ball = torch.exp(-((radius / 3) ** 2))
    low, high = 2, 30
    rows = rows_within(geometry, low, high)
    cut = part(geometry, low, high)
    assert cut.data_shape == (rows.stop - rows.start, 16, 24)
    with torch.no_grad():
        whole = CTProjector(geometry, backend="rays")(ball)[rows]
        found = CTProjector(cut, backend="rays")(ball[low:high])
    assert float((found - whole).abs().max()) < 4e-3 * float(whole.max())


def test_offsets_are_those_of_shifted_vectors() -> None:
    geometry = cone(row_offset=2.5, slice_offset=-4.0, centre_offset=1.0)
    angles = torch.tensor(geometry.angles, dtype=torch.float64)
    plain = poses(cone(), angles, torch.tensor(1.0, dtype=torch.float64))
    plain[:, 2] += 4.0  # the source, in the frame of the volume
    plain[:, 5] += 4.0 - 2.5 * 1.5  # the detector's middle
    made = poses(geometry, angles, torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(made, plain)


def test_filtered_back_projection_of_a_shifted_detector() -> None:
    """Rows of zeros beneath the detector move its middle, and nothing else."""
    geometry = cone()
    lines = torch.rand(geometry.data_shape, generator=torch.Generator().manual_seed(0))
    taller = cone(rows=30, row_offset=3.0, volume_shape=(24, 12, 12))
    padded = torch.cat([torch.zeros(0, 16, 12), lines, torch.zeros(6, 16, 12)])
    with torch.no_grad():
        whole = CTProjector(geometry, backend="rays").initial(lines)
        wrong = CTProjector(taller, backend="rays").initial(padded)
        moved = cone(rows=30, row_offset=-3.0, volume_shape=(24, 12, 12))
        found = CTProjector(moved, backend="rays").initial(padded)
    torch.testing.assert_close(found, whole)
    assert float((wrong - whole).abs().max()) > 0.1 * float(whole.abs().max())


def test_offsets_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="need detector rows"):
        CTGeometry(angles=(0.0,), columns=4, row_offset=1.0)
    pose = (0.0, -9.0, 0.0, 0.0, 9.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    given = {"vectors": (pose,), "rows": 4}
    with pytest.raises(ValueError, match="vectors say where the detector is"):
        CTGeometry(angles=(0.0,), columns=4, slice_offset=1.0, **given)


# -- a scan on disk --------------------------------------------------------------------------------


def written(folder: Path, geometry: CTGeometry, lines: Tensor, flats: float | None = None) -> Path:
    """A folder of TIFF images: line integrals, or counts with flats and darks."""
    folder.mkdir()
    settings = [f"pixel_size = {geometry.column_pitch}"]
    if geometry.beam == "cone":
        settings += [f"{n} = {getattr(geometry, n)}" for n in ("source_origin", "origin_detector")]
    frames = lines
    if flats is None:
        settings.append('quantity = "line integrals"')
    else:
        frames = flats * torch.exp(-lines)
        shape = (geometry.rows or 1, geometry.columns)
        for name, value in (("flats", flats), ("darks", 0.0)):
            (folder / name).mkdir()
            for i in range(2):
                tifffile.imwrite(folder / name / f"{i}.tif", np.full(shape, value, np.float32))
    for i in range(lines.shape[1]):
        tifffile.imwrite(folder / f"p{i:03d}.tif", frames[:, i].numpy().astype(np.float32))
    angles = " ".join(f"{math.degrees(a):.12g}" for a in geometry.angles)
    (folder / "angles.txt").write_text(angles)
    (folder / "scan.toml").write_text("\n".join(settings))
    return folder


def measured(geometry: CTGeometry, noise: float = 0.01) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = CT.objects(geometry, 1, generator)[0]
    with torch.no_grad():
        lines = CT.operator(geometry)(truth)
    return truth, lines + noise * torch.randn(lines.shape, generator=generator)


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("cone") / "scan", cone(), measured(cone())[1])


def test_a_part_holds_the_rows_of_its_slices(scan: Path) -> None:
    whole = READER.read(scan)
    assert READER.parts(scan) == 24
    before, after = READER.halo(scan, 3, 8)
    assert (before, after) == halo(cone(), 3, 8)
    cut = READER.read_part(scan, 3 - before, 8 + after)
    rows = rows_within(cone(), 3 - before, 8 + after)
    assert torch.equal(cut.data, whole.data[rows])
    assert cut.geometry == part(whole.geometry, 3 - before, 8 + after)
    assert cut.geometry.slice_offset == -6.5 + 0.5 * (after - before)
    with pytest.raises(ReaderError, match=r"no detector row sees slices 2 to 3 only.*larger halo"):
        READER.read_part(scan, 2, 4)


def difference(path: Path, folder: Path, recipe: dict[str, object], **options: object) -> float:
    """RMS of slabs minus whole, in parts of the whole's."""
    whole = reconstruct("ct", path, folder / "whole", recipe=recipe, device="cpu").volume
    out = folder / "slabs"
    reconstruct_in_slabs("ct", path, out, recipe=recipe, device="cpu", **options)
    found = read_volume(out / "volume.zarr")
    assert float(whole.max()) > 0.01, "there is an object"
    return float((found - whole).norm() / whole.norm())


FDK = {"prepare": [], "solver": {"name": "direct"}}


@pytest.mark.parametrize("slabs", [2, 5, 8])
def test_fdk_in_slabs_is_that_of_the_whole(slabs: int, scan: Path, tmp_path: Path) -> None:
    assert difference(scan, tmp_path, FDK, slabs=slabs) < 1e-5
    told = json.loads((tmp_path / "slabs" / "provenance.json").read_text())
    size = -(-24 // slabs)
    places = [(s["start"], s["stop"]) for s in told["slabs"]]
    assert places == [(i, min(i + size, 24)) for i in range(0, 24, size)]
    for slab in told["slabs"]:
        assert tuple(slab["halo"]) == halo(cone(), slab["start"], slab["stop"])
    assert told["slabs"][0]["halo"][0] == 0
    assert told["slabs"][0]["halo"][1] > 1
    assert told["halo"] == "auto"
    page = (tmp_path / "slabs" / "report.html").read_text()
    before, after = told["slabs"][0]["halo"]
    assert f"<td>{before} + {after}</td>" in page


def test_fdk_of_counts_in_slabs(tmp_path: Path) -> None:
    path = written(tmp_path / "scan", cone(), measured(cone())[1], flats=4e4)
    recipe = {
        "prepare": [{"step": "flat_field", "gain": 1.0}, {"step": "centre", "column": 5.0}],
        "solver": {"name": "direct"},
    }
    assert difference(path, tmp_path, recipe, slabs=4) < 1e-5
    told = json.loads((tmp_path / "slabs" / "provenance.json").read_text())
    assert told["found_by_the_middle_slab"]["centre_offset"] == -0.5


def test_tiff_stacks_of_parallel_rays_in_slabs(tmp_path: Path) -> None:
    geometry = parallel(10)
    path = written(tmp_path / "scan", geometry, measured(geometry)[1])
    assert READER.halo(path, 0, 3) is None
    assert difference(path, tmp_path, FDK, slabs=3) < 1e-6
    with pytest.raises(RecipeError, match="do not see each other: leave out the halo"):
        reconstruct_in_slabs("ct", path, tmp_path / "new", recipe=FDK, slabs=3, halo=2)


CG = {"prepare": [], "solver": {"name": "cg", "iterations": 4}}


@pytest.mark.slow
def test_iterations_differ_less_with_a_larger_halo(scan: Path, tmp_path: Path) -> None:
    """What is approximated: slices of the halo have fewer data than in the whole."""
    errors = []
    for size in (1, 3, 6, "auto"):
        folder = tmp_path / str(size)
        folder.mkdir()
        errors.append(difference(scan, folder, CG, slabs=4, halo=size))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[3] < 0.06


def test_what_cones_in_slabs_can_not_do(scan: Path, tmp_path: Path) -> None:
    def tried(recipe=CG, path=scan, **given: object) -> None:
        reconstruct_in_slabs("ct", path, tmp_path / "out", recipe=recipe, device="cpu", **given)

    with pytest.raises(ReconstructionError, match=r"direct inversion .* leave out the halo"):
        tried(FDK, slabs=3, halo=1)
    with pytest.raises(RecipeError, match="0 or more"):
        tried(slabs=3, halo=-1)
    with pytest.raises(RecipeError, match=r"slices 8 to 15 need a halo .* the whole volume of 24"):
        tried(slabs=3, halo=8)
    with pytest.raises(ScanError, match="no detector row sees slices 12 to 12 only"):
        tried(slabs=24, halo=0)
    binned = {**FDK, "prepare": [{"step": "bin", "columns": 1, "rows": 2}]}
    with pytest.raises((ScanError, ReconstructionError), match="bin"):
        tried(binned, slabs=2)
    near = written(
        tmp_path / "near", cone(source_origin=9.0, origin_detector=0.0), torch.ones(24, 16, 12)
    )
    with pytest.raises(RecipeError, match="rays cross too many slices"):
        tried(path=near, slabs=2)
    assert not (tmp_path / "out").exists()


def test_a_cone_goes_on_where_it_was_stopped(scan: Path, tmp_path: Path, monkeypatch) -> None:
    out, add, added = tmp_path / "out", partial_volume.PartialVolume.add, []

    def stop_at_third(self, start, rows, told):
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(start)
        add(self, start, rows, told)

    monkeypatch.setattr(partial_volume.PartialVolume, "add", stop_at_third)
    with pytest.raises(Interrupted, match=r"2 of 4 slabs are done"):
        reconstruct_in_slabs("ct", scan, out, slabs=4, recipe=FDK, device="cpu")
    monkeypatch.undo()
    reconstruct_in_slabs("ct", scan, out, device="cpu", resume=True)
    whole = reconstruct("ct", scan, tmp_path / "whole", recipe=FDK, device="cpu").volume
    assert float((read_volume(out / "volume.zarr") - whole).abs().max()) < 1e-5 * float(whole.max())


def test_auto_counts_the_halo(scan: Path, tmp_path: Path) -> None:
    """Memory for so many slices is memory for a slab with its halo."""
    each = 24 * 4 * (12 * 12 + 16 * 12) / 2**30  # of a slice, and about a row
    tight = {**FDK, "solver": {"name": "direct", "memory": 14 * each}}
    out = tmp_path / "out"
    reconstruct_in_slabs("ct", scan, out, recipe=tight, device="cpu")
    told = json.loads((out / "provenance.json").read_text())
    widest = max(s["stop"] - s["start"] + sum(s["halo"]) for s in told["slabs"])
    assert 10 <= widest <= 18
    assert len(told["slabs"]) > 1
    with pytest.raises(RecipeError, match="0 or more"):
        reconstruct_in_slabs("ct", scan, tmp_path / "new", recipe=tight, halo=-1, device="cpu")
    none = {**FDK, "solver": {"name": "direct", "memory": 2 * each}}
    with pytest.raises(ReconstructionError, match="even one of them needs more with its halo"):
        reconstruct_in_slabs("ct", scan, tmp_path / "new", recipe=none, device="cpu")


@pytest.mark.slow
def test_slabs_are_made_again_in_the_same_slabs(scan: Path, tmp_path: Path) -> None:
    """Bit for bit, where the whole volume at once would differ."""
    out, kept = tmp_path / "out", tmp_path / "kept"
    reconstruct_in_slabs("ct", scan, out, recipe=CG, slabs=5, halo=4, device="cpu")
    again = reproduce(out, keep=kept)
    assert again.status == "bit-identical"
    then, now = (json.loads((f / "provenance.json").read_text()) for f in (out, kept))
    for name in ("start", "stop", "halo", "iterations"):
        assert [s[name] for s in now["slabs"]] == [s[name] for s in then["slabs"]]
    stored = zarr.open_group(str(out / "volume.zarr"), mode="r+")["data"]
    stored[7, 4, 5] += 0.5
    changed = reproduce(out)
    assert changed.status == "different"
    assert changed.comparison.where == (7, 4, 5)
    assert "changed after it was made" in changed.notes[0]
