"""Volumes made slab by slab: the same as all at once, whatever stops the process in between."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_instrument import Toy, ToyGeometry, ToyReader

from labrecon import Gaussian, hookimpl
from labrecon.errors import (
    Interrupted,
    OutputError,
    RecipeError,
    ReconstructionError,
    ScanError,
)
from labrecon.instrument import ReaderError
from labrecon.io.provenance import hash_volume
from labrecon.io.volumes import read_volume
from labrecon.plugins import Host
from labrecon.recon import reconstruct
from labrecon.slabs import reconstruct_in_slabs
from labrecon.slabs import size as slab_size
from labrecon.slabs import volume as partial_volume
from labrecon.slabs.volume import Slices

pytest.importorskip("zarr")
SLICES = 11
TV = {"name": "tv", "weight": 0.5, "nonneg": True, "iterations": 5}
RECIPE = {"solver": {"name": "fista", "iterations": 8}, "prior": TV}


class StackReader(ToyReader):
    """A stack of toy images, of which some can be read."""

    reads: list[tuple[int, int]]

    def parts(self, path):
        count = len(self.read(path).data)
        return count if count > 1 else None

    def read_part(self, path, start, stop):
        type(self).reads.append((start, stop))
        scan = self.read(path)
        return scan.replace(data=scan.data[start:stop])


def find_offset(scan):
    """As a rotation centre: found in the data, and put into the geometry."""
    found = float(scan.data.mean())
    geometry = scan.geometry.model_copy(update={"offset": found})
    return scan.replace(geometry=geometry).with_step("find_offset", offset=found)


def smooth(scan):
    return scan


smooth.joins_slices = True


def drop(scan):
    return scan.replace(data=scan.data[1:])


class Stack(Toy):
    """Toy images one upon the other; notes the geometries of its operators."""

    name = "stack"
    offsets: list[float]

    @property
    def readers(self):
        return {"npz": StackReader}

    @property
    def steps(self):
        return {**super().steps, "find_offset": find_offset, "smooth": smooth, "drop": drop}

    def operator(self, geometry, *, delay: float = 0.0):
        type(self).offsets.append(geometry.offset)
        return super().operator(geometry, delay=delay)


class Plugin:
    @hookimpl
    def labrecon_instruments(self):
        return {"stack": Stack, "toy": Toy}


@pytest.fixture
def host() -> Host:
    Stack.offsets, StackReader.reads = [], []
    made = Host(discover=False)
    made.add("stack", Plugin())
    return made


def write_stack(path: Path, count: int = SLICES, seed: int = 0) -> Path:
    toy, generator = Toy(), torch.Generator().manual_seed(seed)
    truth = toy.objects(toy.example(), count, generator)
    with torch.no_grad():
        data = Gaussian(0.05).sample(toy.operator(toy.example())(truth), generator)
    with path.open("wb") as stream:
        np.savez(stream, toy=data.numpy(), sigma=0.05)
    return path


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_stack(tmp_path / "scan.toy")


def volume(out: Path) -> torch.Tensor:
    return read_volume(out / "volume.zarr")


def test_slices_are_cut_without_a_rest() -> None:
    for total in (1, 7, 96, 257, 1000):
        for size in (1, 3, 100, 129, 300, 5000):
            slices = Slices.of(total, size)
            covered = [i for start, stop, _ in slices for i in range(start, stop)]
            assert covered == list(range(total))
            assert all(stop - low == slices.size for _, stop, low in slices), "one geometry"
            assert all(0 <= low <= start for start, _, low in slices)
            assert slices.chunk <= 128
            assert all(start % slices.chunk == 0 for start, _, _ in slices), "no chunk in two"
            assert Slices.of(total, slices.size) == slices
            assert slices.middle() in list(slices)


@pytest.mark.parametrize("slabs", [1, 3, 4, 11])
def test_slabs_give_what_the_whole_gives(slabs: int, host: Host, scan: Path, tmp_path) -> None:
    whole = reconstruct("stack", scan, tmp_path / "whole", recipe=RECIPE, host=host)
    out = tmp_path / "out"
    made = reconstruct_in_slabs("stack", scan, out, slabs=slabs, recipe=RECIPE, host=host)
    found = volume(out)
    assert float((found - whole.volume).abs().max()) < 1e-6
    assert sorted(path.name for path in out.iterdir()) == [
        "provenance.json",
        "report.html",
        "volume.zarr",
    ]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    told = json.loads((out / "provenance.json").read_text())
    assert len(told["slabs"]) == slabs
    assert told["volume_sha256"] == hash_volume(found)
    assert told["recipe"]["output"]["format"] == "zarr"
    assert made.summary["iterations"] == 8
    assert made.summary["reconstructions"][0]["shape"] == [SLICES, 24, 24]
    if slabs in (1, 11):  # without slices that two slabs have read
        assert made.summary["chi2"] == pytest.approx(whole.summary["chi2"], rel=1e-4)
    page = (out / "report.html").read_text()
    assert page.index("<h2>Slabs</h2>") < page.index("<h2>Reconstruction</h2>")
    assert all(f"<td>{s['start']} to {s['stop'] - 1}</td>" in page for s in told["slabs"])
    assert max(stop - start for start, stop in StackReader.reads) == -(-SLICES // slabs)


def test_the_middle_slab_decides_for_all(host: Host, scan: Path, tmp_path) -> None:
    recipe = {
        "prepare": [{"step": "find_offset"}],
        "solver": RECIPE["solver"],
        "prior": {"name": "tv", "relative_weight": 1e-3, "iterations": 5},
    }
    out = tmp_path / "out"
    reconstruct_in_slabs("stack", scan, out, slabs=4, recipe=recipe, host=host)
    told = json.loads((out / "provenance.json").read_text())
    offsets = [slab["steps"][0]["offset"] for slab in told["slabs"]]
    assert len(set(offsets)) == 4
    middle = told["slabs"][2]
    assert told["found_by_the_middle_slab"] == {"offset": middle["steps"][0]["offset"]}
    assert set(Stack.offsets) == {offsets[2]}, "one operator for all"
    weight = told["reconstructions"][0]["prior_weight"]
    part = reconstruct(
        "stack",
        write_part(scan, tmp_path / "part.toy", middle["start"], middle["stop"]),
        tmp_path / "part",
        recipe=recipe,
        host=host,
    )
    assert part.summary["reconstructions"][0]["prior_weight"] == pytest.approx(weight, rel=1e-6)
    # The same weight as a number, so that the whole agrees.
    fixed = {**recipe, "prior": {"name": "tv", "weight": weight, "iterations": 5}}
    whole = reconstruct("stack", scan, tmp_path / "whole", recipe=fixed, host=host)
    assert float((volume(out) - whole.volume).abs().max()) < 1e-6


def write_part(scan: Path, path: Path, start: int, stop: int) -> Path:
    with np.load(scan) as file, path.open("wb") as stream:
        np.savez(stream, toy=file["toy"][start:stop], sigma=0.05)
    return path


def test_goes_on_where_it_was_stopped(host: Host, scan: Path, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    given = {"slabs": 4, "recipe": RECIPE, "host": host}
    add, added = partial_volume.PartialVolume.add, []

    def stop_at_third(self, start, rows, told):
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(start)
        add(self, start, rows, told)

    monkeypatch.setattr(partial_volume.PartialVolume, "add", stop_at_third)
    with pytest.raises(Interrupted, match=r"2 of 4 slabs are done; .* --resume"):
        reconstruct_in_slabs("stack", scan, out, **given)
    monkeypatch.undo()
    assert not out.exists()
    assert added == [6, 0], "the middle first"
    with pytest.raises(OutputError, match=r"an unfinished run in slabs waits .* --resume"):
        reconstruct_in_slabs("stack", scan, out, **given)
    changed = ["solver.iterations=9"]
    with pytest.raises(RecipeError, match="another recipe: leave out --set"):
        reconstruct_in_slabs("stack", scan, out, host=host, overrides=changed, resume=True)
    StackReader.reads = []
    # Neither recipe nor slabs matter then: they are those of the beginning.
    reconstruct_in_slabs("stack", scan, out, slabs=2, host=host, resume=True)
    assert [r for r in StackReader.reads if r[1] - r[0] == 3] == [(3, 6), (8, 11), (6, 9)]
    whole = reconstruct("stack", scan, tmp_path / "whole", recipe=RECIPE, host=host)
    assert float((volume(out) - whole.volume).abs().max()) < 1e-6
    with pytest.raises(RecipeError, match="nothing to resume"):
        reconstruct_in_slabs("stack", scan, tmp_path / "other", host=host, resume=True)


def test_force_starts_again(host: Host, scan: Path, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    given = {"slabs": 4, "recipe": RECIPE, "host": host}
    stopped(monkeypatch, lambda: reconstruct_in_slabs("stack", scan, out, **given))
    other = {**RECIPE, "solver": {"name": "fista", "iterations": 2}}
    made = reconstruct_in_slabs("stack", scan, out, slabs=3, recipe=other, host=host, force=True)
    assert made.summary["iterations"] == 2
    again = reconstruct_in_slabs("stack", scan, out, slabs=1, recipe=RECIPE, host=host, force=True)
    assert again.summary["iterations"] == 8
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes.txt"):
        reconstruct_in_slabs("stack", scan, out, recipe=RECIPE, host=host, force=True)


def stopped(monkeypatch, call) -> None:
    """Stop at the second slab, before it is written."""
    add = partial_volume.PartialVolume.add
    count = iter(range(100))

    def once(self, *given):
        if next(count) == 1:
            raise KeyboardInterrupt
        add(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(partial_volume.PartialVolume, "add", once)
        with pytest.raises(Interrupted):
            call()


def test_another_scan_is_not_gone_on_with(host: Host, scan: Path, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    stopped(
        monkeypatch,
        lambda: reconstruct_in_slabs("stack", scan, out, slabs=4, recipe=RECIPE, host=host),
    )
    write_stack(scan, seed=1)
    with pytest.raises(RecipeError, match="of another scan"):
        reconstruct_in_slabs("stack", scan, out, host=host, resume=True)
    (tmp_path / ".out.slabs" / "run.json").write_text("{")
    with pytest.raises(RecipeError, match="damaged"):
        reconstruct_in_slabs("stack", scan, out, host=host, resume=True)


def test_a_full_disk_keeps_what_is_done(host: Host, scan: Path, tmp_path, monkeypatch) -> None:
    out, write, count = tmp_path / "out", partial_volume.write_file, []

    def full(path, *given, **named):
        count.append(path.name)
        if len(count) == 4:
            raise OSError(28, "No space left on device")
        write(path, *given, **named)

    monkeypatch.setattr(partial_volume, "write_file", full)
    with pytest.raises(OutputError, match="free some space"):
        reconstruct_in_slabs("stack", scan, out, slabs=4, recipe=RECIPE, host=host)
    monkeypatch.undo()
    assert not out.exists()
    # Its rows were written, its marker not: it is made again.
    made = reconstruct_in_slabs("stack", scan, out, host=host, resume=True)
    assert made.summary["reconstructions"][0]["slabs"] == 4


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_slabs import RECIPE, Plugin, Stack, StackReader
from labrecon.plugins import Host
from labrecon.slabs import reconstruct_in_slabs
from labrecon.slabs import volume as partial_volume
Stack.offsets, StackReader.reads = [], []
host = Host(discover=False)
host.add("stack", Plugin())
write, count = partial_volume.write_file, []
def killed(path, *given, **named):
    count.append(path)
    if len(count) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, *given, **named)
partial_volume.write_file = killed
reconstruct_in_slabs("stack", sys.argv[1], sys.argv[2], slabs=4, recipe=RECIPE, host=host)
"""


@pytest.mark.slow
def test_a_killed_process_costs_one_slab(host: Host, scan: Path, tmp_path) -> None:
    out = tmp_path / "out"
    here = [str(Path(__file__).parent)]
    told = subprocess.run(
        [sys.executable, "-c", KILLED, str(scan), str(out), *here], capture_output=True, text=True
    )
    assert told.returncode == -signal.SIGKILL, told.stderr
    reconstruct_in_slabs("stack", scan, out, host=host, resume=True)
    assert [r for r in StackReader.reads if r[1] - r[0] == 3] == [(3, 6), (8, 11), (6, 9)]
    whole = reconstruct("stack", scan, tmp_path / "whole", recipe=RECIPE, host=host)
    assert float((volume(out) - whole.volume).abs().max()) < 1e-6


TV_3D = {**TV, "ndim": 3}


@pytest.mark.parametrize(
    ("recipe", "error", "message"),
    [
        ({"prior": TV_3D}, ReconstructionError, r"ndim = 3 joins .* set prior.ndim"),
        ({"prepare": [{"step": "smooth"}]}, RecipeError, "'smooth' looks at neighbouring slices"),
        ({"prepare": [{"step": "drop"}]}, ReconstructionError, r"4 slices were read.* crop or bin"),
        ({"compare": [{"title": "x"}]}, RecipeError, "slabs are not compared"),
        ({"output": {"format": "tiff"}}, RecipeError, "written as Zarr"),
        ({"output": {"format": "hdf5"}}, RecipeError, "written as Zarr"),
        ({"quality": {"split": "row"}}, RecipeError, "not split in halves"),
        ({"uncertainty": {"method": "bootstrap"}}, RecipeError, "no error bars"),
        ({"uncertainty": {"calibration": "i.json"}}, RecipeError, "no error bars"),
    ],
)
def test_what_slabs_can_not_do(recipe, error, message: str, host: Host, scan, tmp_path) -> None:
    with pytest.raises(error, match=message):
        reconstruct_in_slabs("stack", scan, tmp_path / "out", slabs=3, recipe=recipe, host=host)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.toy"]


def test_scans_that_have_no_slabs(host: Host, scan: Path, tmp_path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ScanError, match="can not be read in parts"):
        reconstruct_in_slabs("toy", scan, out, recipe=RECIPE, host=host)
    with pytest.raises(ScanError, match="no slices that can be reconstructed apart"):
        reconstruct_in_slabs("stack", write_stack(tmp_path / "one.toy", 1), out, host=host)
    for wrong in (0, 12):
        with pytest.raises(RecipeError, match="give 1 to 11"):
            reconstruct_in_slabs("stack", scan, out, slabs=wrong, recipe=RECIPE, host=host)
    with pytest.raises(RecipeError, match="slabs of 12 of 11 slices: give 1 to 11"):
        reconstruct_in_slabs("stack", scan, out, size=12, recipe=RECIPE, host=host)
    with pytest.raises(RecipeError, match="leave out --slabs, or --model"):
        reconstruct_in_slabs("stack", scan, out, model=tmp_path, host=host)
    (tmp_path / "bad.toy").write_bytes(scan.read_bytes()[:2000])
    with pytest.raises(ScanError, match=r"bad.toy can not be read as npz"):
        reconstruct_in_slabs("stack", tmp_path / "bad.toy", out, recipe=RECIPE, host=host)


def test_slabs_of_different_geometries(host: Host, scan: Path, tmp_path, monkeypatch) -> None:
    read = StackReader.read_part

    def other(self, path, start, stop):
        made = read(self, path, start, stop)
        return made.replace(geometry=ToyGeometry(pixel=0.5 if start else 0.6))

    monkeypatch.setattr(StackReader, "read_part", other)
    with pytest.raises(ScanError, match="slices 0 to 2 have another geometry"):
        reconstruct_in_slabs("stack", scan, tmp_path / "out", slabs=4, recipe=RECIPE, host=host)

    def broken(self, path, start, stop):
        raise ReaderError("row 5 is gone")

    monkeypatch.setattr(StackReader, "read_part", broken)
    with pytest.raises(ScanError, match=r"scan.toy: row 5 is gone"):
        reconstruct_in_slabs("stack", scan, tmp_path / "new", slabs=4, recipe=RECIPE, host=host)


def test_auto_takes_as_few_as_memory_allows(host: Host, scan: Path, tmp_path, monkeypatch) -> None:
    given = {"recipe": RECIPE, "host": host}
    made = reconstruct_in_slabs("stack", scan, tmp_path / "one", **given)
    assert made.summary["reconstructions"][0]["slabs"] == 1
    each = slab_size.COPIES * 2 * 24 * 24 * 4
    monkeypatch.setattr(slab_size, "free", lambda _: int(4.5 * each / slab_size.SHARE))
    made = reconstruct_in_slabs("stack", scan, tmp_path / "three", **given)
    assert made.summary["reconstructions"][0]["slabs"] == 3
    tight = {**RECIPE, "solver": {**RECIPE["solver"], "memory": 2.5 * each / slab_size.GIB}}
    made = reconstruct_in_slabs("stack", scan, tmp_path / "six", recipe=tight, host=host)
    assert made.summary["reconstructions"][0]["slabs"] == 6
