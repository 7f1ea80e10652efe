"""`labrecon reproduce`: outputs made again from their provenance."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import torch
from toy_instrument import Toy, write_toy
from typer.testing import CliRunner

from labrecon.batch.bench import SetupError
from labrecon.batch.tasks import Setup
from labrecon.cli import app
from labrecon.errors import OutputError, RecipeError, ReconstructionError, ScanError
from labrecon.io.call import called
from labrecon.io.hdf5 import write_hdf5
from labrecon.io.provenance import hash_options, hash_volume
from labrecon.io.tiff import write_tiff
from labrecon.io.volumes import read_volume
from labrecon.io.zarr import write_zarr
from labrecon.recon import reconstruct, reconstruct_scan
from labrecon.reproduce import compare, finished_scans, reproduce
from labrecon.reproduce.circumstances import differences
from labrecon.reproduce.located import locate, scan_among, with_options
from labrecon.reproduce.record import Record, SlabCut
from labrecon.reproduce.slab_rerun import rerun_in_slabs

INFO = {"axes": ("z", "y", "x"), "voxel_size": None, "unit": "", "provenance": {}}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr("labrecon.results.render", lambda data, host: "<p>no report")


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary files go, to see that none is left."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def worker(monkeypatch, toy_environment, scratch):
    """Worker processes find the toy."""
    for name in ("PYTHONPATH", "TMPDIR"):
        monkeypatch.setenv(name, {**toy_environment, "TMPDIR": str(scratch)}[name])


@pytest.fixture
def no_worker(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a worker was started")

    monkeypatch.setattr("labrecon.reproduce.run.rerun", refuse)


@pytest.fixture
def out(toy_host, toy_scan, tmp_path):
    folder = tmp_path / "out"
    reconstruct("toy", toy_scan, folder, host=toy_host, device="cpu", overrides=["seed=3"])
    return folder


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def workers_of(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children()
    return [child for child in children if "labrecon.batch.worker" in child.cmdline()]


def change(folder: Path, **keys) -> dict:
    """Change what provenance says; None takes a key away."""
    path = folder / "provenance.json"
    told = {**json.loads(path.read_text()), **keys}
    path.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    return told


# -- the whole ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_output_is_made_again_bit_by_bit(out, worker, scratch, tmp_path):
    before = content(out)
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    kept = tmp_path / "kept" / "again"
    told = reproduce(out, keep=kept)
    assert told.status == "bit-identical"
    assert told.reproduced
    assert content(out) == before
    assert list(scratch.iterdir()) == []
    assert [path.name for path in kept.parent.iterdir()] == ["again"]
    assert torch.equal(read_volume(kept / "volume.h5"), read_volume(out / "volume.h5"))
    assert json.loads((kept / "provenance.json").read_text())["seed"] == 3
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_ct_by_the_command_line(tmp_path, scratch):
    run = CliRunner().invoke
    scan, out = tmp_path / "scan.h5", tmp_path / "out"
    assert run(app, ["simulate", "ct", str(scan)]).exit_code == 0
    reconstruct("ct", scan, out, recipe="tv", device="cpu", overrides=["output.format=tiff",
                "solver.iterations=10"])  # fmt: skip
    made = run(app, ["reproduce", str(out), "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["status"] == "bit-identical"
    told = json.loads((out / "provenance.json").read_text())
    assert told["call"]["instrument"] == "ct"
    assert Path(told["call"]["code"]["path"]).name == "labrecon_ct"


@pytest.mark.slow
def test_a_tampered_volume(out, worker, scratch):
    with h5py.File(out / "volume.h5", "r+") as file:
        largest = np.abs(file["entry/data/data"][()]).max()
        file["entry/data/data"][4, 7] += 0.5
    made = CliRunner().invoke(app, ["reproduce", str(out), "--json"])
    assert made.exit_code == 8
    told = json.loads(made.stdout)
    assert told["status"] == "different"
    assert told["comparison"]["where"] == [4, 7]
    assert told["comparison"]["largest"] == pytest.approx(0.5 / largest, rel=0.3)
    [note] = told["notes"]
    assert "changed after it was made" in note
    assert "as it was" in note
    # A tolerance that admits it makes it equal.
    assert reproduce(out, tolerance=1.0).status == "within tolerance"


@pytest.mark.slow
def test_a_volume_that_is_gone_is_compared_by_its_hash(out, worker, scratch):
    (out / "volume.h5").unlink()
    told = reproduce(out)
    assert told.status == "bit-identical"
    assert "SHA-256 only" in told.notes[0]
    change(out, volume_sha256="0" * 64)
    assert reproduce(out).status == "different"


@pytest.mark.slow
def test_an_older_provenance(out, worker, scratch, monkeypatch, tmp_path):
    versions = json.loads((out / "provenance.json").read_text())["versions"]
    del versions["packages"]
    machine = {"device": "cpu (x86_64)", "threads": 1, "processors": 7}
    # It had the scan's path as it was given, and no more than these.
    change(out, call=None, volume_sha256=None, option_files=None, scan="scan.toy",
           versions={**versions, "torch": "2.5.0"}, machine=machine)  # fmt: skip
    monkeypatch.chdir(tmp_path / "site")
    told = reproduce(out)
    assert told.comparison.within(1e-6)
    assert "an older labrecon made it" in told.notes[0]
    assert f"torch 2.5.0 then, {torch.__version__} now" in told.differences
    assert f"processors 7 then, {os.cpu_count()} now" in told.differences
    (out / "volume.h5").unlink()
    lost = reproduce(out)
    assert not lost.reproduced
    assert "nothing to compare with" in lost.comparison.why


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_the_threads_of_then(out, worker, threads, tmp_path):
    machine = json.loads((out / "provenance.json").read_text())["machine"]
    change(out, machine={**machine, "threads": threads})
    kept = tmp_path / "kept"
    assert reproduce(out, keep=kept).comparison.within(1e-5)
    assert json.loads((kept / "provenance.json").read_text())["machine"]["threads"] == threads


@pytest.mark.slow
def test_moved_file_and_instrument_by_its_path(toy_host, toy_scan, worker, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    reconstruct("toy_instrument:Toy", "scan.toy", out, host=toy_host, device="cpu")
    call = json.loads((out / "provenance.json").read_text())["call"]
    assert call["instrument"] == "toy_instrument:Toy"
    assert call["scan"] == str(toy_scan)
    assert call["folder"] == str(tmp_path)
    archive = tmp_path / "archive" / "2026"
    archive.mkdir(parents=True)
    toy_scan.rename(archive / "renamed.toy")
    assert reproduce(out, searched=tmp_path / "archive").status == "bit-identical"


@pytest.mark.slow
def test_a_solve_that_its_time_limit_ended(toy_host, toy_scan, worker, tmp_path):
    out = tmp_path / "out"
    limits = ["solver.seconds=0.05", "solver.iterations=100000", "solver.check_every=1"]
    result = reconstruct("toy", toy_scan, out, host=toy_host, device="cpu", overrides=limits)
    assert result.summary["status"] == "time"
    told = reproduce(out)
    assert told.status == "bit-identical"
    assert f"after {result.summary['iterations']} iterations" in told.notes[0]


@pytest.mark.slow
def test_nothing_is_left_by_a_worker_that_is_killed(toy_host, toy_scan, worker, scratch, tmp_path):
    out, keep = tmp_path / "out", tmp_path / "keep"
    reconstruct("toy", toy_scan, out, host=toy_host, device="cpu")
    told = json.loads((out / "provenance.json").read_text())
    change(out, recipe={**told["recipe"], "operator": {"delay": 0.5}})
    before, listed = content(out), sorted(path.name for path in tmp_path.iterdir())

    class Killer:
        def stage(self, name):
            if name == "solve":
                [child] = workers_of(os.getpid())
                threading.Timer(1.0, child.send_signal, (signal.SIGKILL,)).start()

    with pytest.raises(ReconstructionError, match=r"repeated: the worker was killed \(SIGKILL\)"):
        reproduce(out, keep=keep, watcher=Killer())
    assert sorted(path.name for path in tmp_path.iterdir()) == listed
    assert list(scratch.iterdir()) == []
    assert content(out) == before


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(
    toy_host, toy_scan, toy_environment, labrecon_command, scratch, tmp_path
):
    out = tmp_path / "out"
    reconstruct("toy", toy_scan, out, host=toy_host, device="cpu")
    told = json.loads((out / "provenance.json").read_text())
    change(out, recipe={**told["recipe"], "operator": {"delay": 0.5}})
    process = subprocess.Popen(
        [*labrecon_command, "reproduce", str(out)],
        env={**toy_environment, "TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(scratch.rglob("worker-1.log")) and time.monotonic() < deadline:
        time.sleep(0.1)
    [worker] = workers_of(process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; nothing was written" in said
    assert list(scratch.iterdir()) == []
    assert psutil.wait_procs([worker], timeout=10)[1] == []


@pytest.mark.slow
def test_what_can_not_be_had_here(out, worker):
    with pytest.raises(SetupError, match="device 'abacus' is not available"):
        reproduce(out, device="abacus")
    with pytest.raises(SetupError, match=f"toi.*was called in {Path.cwd()}") as caught:
        reproduce(out, instrument="toi")
    assert caught.value.exit_code == 2


@pytest.mark.slow
def test_a_sample_of_a_batch(toy_host, worker, scratch, tmp_path):
    batch = tmp_path / "batch"
    for i in range(5):
        scan = write_toy(tmp_path / f"scan_{i}.toy", seed=i)
        reconstruct("toy", scan, batch / "scans" / "night" / f"scan_{i}", host=toy_host,
                    device="cpu", overrides=["solver.iterations=3"])  # fmt: skip
    drawn = finished_scans(batch, 2, seed=1)
    assert drawn == finished_scans(batch, 2, seed=1)
    assert len({tuple(finished_scans(batch, 2, seed)) for seed in range(20)}) > 3
    assert len(finished_scans(batch, 50)) == 5
    with h5py.File(drawn[0] / "volume.h5", "r+") as file:
        file["entry/data/data"][0, 0] = 9.0
    source = Path(json.loads((drawn[1] / "provenance.json").read_text())["call"]["scan"])
    source.write_bytes(b"other")
    run = CliRunner().invoke
    made = run(app, ["reproduce", str(batch), "--sample", "2", "--seed", "1", "--json"])
    assert made.exit_code == 8
    told = json.loads(made.stdout)
    assert [each["status"] for each in told["scans"]] == ["different"]
    assert "has changed" in told["failed"][0]
    assert run(app, ["reproduce", str(batch)]).exit_code == 2
    with pytest.raises(RecipeError, match="no batch with finished scans"):
        finished_scans(tmp_path, 2)


# -- what is refused, and what is found --------------------------------------------------------


def test_a_changed_input_is_refused(out, toy_scan, no_worker):
    write_toy(toy_scan, seed=1)
    with pytest.raises(ScanError, match=r"scan\.toy has changed: its SHA-256"):
        reproduce(out)


def test_a_missing_input_is_refused(out, toy_scan, no_worker, tmp_path):
    toy_scan.unlink()
    write_toy(tmp_path / "other.toy", seed=1)
    with pytest.raises(ScanError, match=r"scan\.toy is not there\n.*--inputs FOLDER"):
        reproduce(out)
    with pytest.raises(ScanError, match=f"nothing in {tmp_path} has its SHA-256"):
        reproduce(out, searched=tmp_path)
    with pytest.raises(RecipeError, match="no folder"):
        reproduce(out, searched=tmp_path / "nowhere")
    with pytest.raises(ScanError, match=r"/a/b has a new name, but was not read"):
        reproduce(out, renamed={"/a/b": tmp_path})


def test_moved_files(out, toy_scan, tmp_path):
    record = Record.read(out)
    moved = tmp_path / "moved" / "deep" / "scan.toy"
    moved.parent.mkdir(parents=True)
    toy_scan.rename(moved)
    for renamed in ({str(toy_scan): moved}, {str(tmp_path): moved.parent}):
        found = locate(record, renamed)
        assert found == {str(toy_scan): moved}
        assert scan_among(record, found) == moved
    assert locate(record, searched=tmp_path / "moved") == {str(toy_scan): moved}
    # A file that stayed, but was changed, is looked for as well.
    toy_scan.write_bytes(b"other")
    assert locate(record, searched=tmp_path / "moved") == {str(toy_scan): moved}


def folder_record(tmp_path: Path, names: list[str]) -> Record:
    scan = tmp_path / "then" / "stack"
    inputs = [{"path": str(scan / name), "sha256": name} for name in names]
    told = {"inputs": inputs, "call": {"scan": str(scan)}, "scan": "stack"}
    return Record(tmp_path, told)


def test_a_folder_that_was_moved(tmp_path):
    names = ["a.tif", "deep/b.tif"]
    record = folder_record(tmp_path, names)
    scan = record.scan
    now = {str(scan / name): Path("/new/place") / name for name in names}
    assert scan_among(record, now) == Path("/new/place")
    apart = {**now, str(scan / "a.tif"): Path("/other/a.tif")}
    with pytest.raises(ScanError, match="lie apart now"):
        scan_among(record, apart)
    with pytest.raises(ScanError, match="other names"):
        scan_among(record, {**now, str(scan / "a.tif"): Path("/new/place/c.tif")})
    # The path of an older labrecon was as it was given.
    old = Record(tmp_path, {**record.told, "call": None, "scan": "then/stack"})
    assert old.scan == scan
    with pytest.raises(RecipeError, match="does not say where the scan"):
        _ = Record(tmp_path, {**record.told, "call": None, "scan": "else/stack"}).scan


def test_what_is_no_output(tmp_path, out, no_worker, toy_host):
    with pytest.raises(RecipeError, match=r"no provenance\.json"):
        reproduce(tmp_path)
    scan = Toy().simulate(Toy().example(), torch.Generator().manual_seed(0))
    reconstruct_scan(Toy(), scan, tmp_path / "memory", host=toy_host)
    told = json.loads((tmp_path / "memory" / "provenance.json").read_text())
    assert told["call"]["instrument"] == "toy_instrument:Toy"
    assert told["call"]["scan"] is None
    with pytest.raises(RecipeError, match="a scan in memory"):
        reproduce(tmp_path / "memory")
    with pytest.raises(RecipeError, match="0 or more, not -1"):
        reproduce(out, tolerance=-1)
    with pytest.raises(RecipeError, match="not nan"):
        reproduce(out, tolerance=float("nan"))
    with pytest.raises(OutputError, match="exists; name another"):
        reproduce(out, keep=out)
    change(out, call={"instrument": "__main__:Toy"}, scan="scan.toy")
    with pytest.raises(RecipeError, match="Toy of a script or notebook"):
        reproduce(out)
    change(out, recipe=None)
    with pytest.raises(RecipeError, match="does not say recipe"):
        reproduce(out)


def test_other_inputs_in_the_new_run_are_told(out, monkeypatch, scratch):
    """A companion file that the reader took then, and does not take now."""

    def rerun(setup, scan, new, *args):
        shutil.copytree(out, new)
        told = json.loads((new / "provenance.json").read_text())
        change(new, inputs=[{**told["inputs"][0], "sha256": "0" * 64}])
        return 1.0

    monkeypatch.setattr("labrecon.reproduce.run.rerun", rerun)
    with pytest.raises(ScanError, match="took other files than then: 1 of 1"):
        reproduce(out)
    assert list(scratch.iterdir()) == []


def test_the_model_is_one_of_the_files(out, tmp_path, monkeypatch, scratch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    change(out, model={"run": str(run), "sha256": digest})
    asked = {}

    def rerun(setup, scan, new, *args):
        asked.update(model=setup.model, other=setup.other_geometry)
        shutil.copytree(out, new)
        return 1.0

    monkeypatch.setattr("labrecon.reproduce.run.rerun", rerun)
    assert reproduce(out).status == "bit-identical"
    assert asked == {"model": str(run), "other": False}
    run.rename(tmp_path / "moved")
    with pytest.raises(ScanError, match=r"model\.safetensors is not there"):
        reproduce(out)
    reproduce(out, searched=tmp_path / "moved")
    assert asked["model"] == str(tmp_path / "moved")
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(ScanError, match=r"model\.safetensors has changed"):
        reproduce(out, renamed={str(run): tmp_path / "moved"})


# -- what provenance holds ---------------------------------------------------------------------


def test_the_hash_is_that_of_the_content(out):
    told = json.loads((out / "provenance.json").read_text())
    values = read_volume(out / "volume.h5").numpy()
    by_hand = hashlib.sha256(b"float32 [24, 24]" + values.astype("<f4").tobytes("C"))
    assert told["volume_sha256"] == by_hand.hexdigest()
    with h5py.File(out / "volume.h5") as file:
        inside = json.loads(file["entry/reconstruction/provenance/data"][()])
    assert inside["volume_sha256"] == by_hand.hexdigest()


def test_the_hash_of_any_layout(monkeypatch):
    x = torch.randn(5, 6, 7, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    expected = hashlib.sha256(b"complex64 [5, 6, 7]" + x.numpy().tobytes()).hexdigest()
    turned = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not turned.is_contiguous()
    assert (
        hash_volume(x) == hash_volume(turned) == hash_volume(x.conj_physical().conj()) == expected
    )
    monkeypatch.setattr("labrecon.io.provenance._SLAB", 100)
    assert hash_volume(x) == expected
    assert hash_volume(x.reshape(6, 5, 7)) != expected
    assert hash_volume(torch.tensor(1.0)) == hashlib.sha256(
        b"float32 []" + np.float32(1).tobytes()
    ).hexdigest()  # fmt: skip


def test_files_that_options_name_are_hashed_and_put_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mask.npy").write_bytes(b"mask")
    Path("name.npy").write_bytes(b"other")
    Path("tv").write_bytes(b"no option: it has no suffix")
    recipe = {
        "prepare": [{"step": "bad_pixels", "mask": "mask.npy", "more": ["missing.npy", 3]}],
        "solver": {"name": "name.npy", "of": "x" * 5000 + ".npy", "zero": "a\0b.npy"},
        "prior": {"name": "tv", "kind": "tv"},
    }
    [entry] = hash_options(recipe)
    assert entry["option"] == "mask.npy"
    assert entry["path"] == str(tmp_path / "mask.npy")
    assert entry["sha256"] == hashlib.sha256(b"mask").hexdigest()
    record = Record(tmp_path, {"option_files": [entry]})
    new = with_options(recipe, record, {entry["path"]: Path("/new/mask.npy")})
    assert new["prepare"][0]["mask"] == "/new/mask.npy"
    assert new["solver"] == recipe["solver"]


def test_the_code_of_the_instrument(tmp_path, monkeypatch):
    package = tmp_path / "mylab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "steps.py").write_text("FACTOR = 1\n")
    (package / "instrument.py").write_text("class Mine:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    from mylab.instrument import Mine  # type: ignore[import-not-found]

    from labrecon.io.call import _code

    one = called("mylab.instrument:Mine", Mine(), None, other_geometry=False)["code"]
    assert one["path"] == str(package)
    _code.cache_clear()
    (package / "steps.py").write_text("FACTOR = 2\n")
    other = called("mylab.instrument:Mine", Mine(), None, other_geometry=False)["code"]
    assert one["sha256"] != other["sha256"]
    then, now = ({"call": {"code": code}} for code in (one, other))
    assert differences(then, now) == [f"the instrument's code has changed: {package}"]
    assert differences(then, then) == []


def test_differences():
    then = {
        "versions": {"torch": "2.5", "plugins": {"ct": "labrecon 0.1"}, "packages": {"astra": "2"}},
        "machine": {"threads": 4, "vector_unit": "AVX2"},
        "steps": [{"step": "centre", "column": 512.5}],
    }
    now = {
        "versions": {"torch": "2.5", "plugins": {"ct": "labrecon 0.2"}, "packages": {"numba": "1"}},
        "machine": {"threads": 4, "vector_unit": "AVX512"},
        "steps": [{"step": "centre", "column": 512.0}],
    }
    assert differences(then, now) == [
        "ct labrecon 0.1 then, labrecon 0.2 now",
        "vector unit AVX2 then, AVX512 now",
        "preparation step 1 (centre) found {'step': 'centre', 'column': 512.5} then, "
        "{'step': 'centre', 'column': 512.0} now",
    ]


def test_the_recipe_of_a_record(tmp_path):
    told = {
        "status": "iterations",
        "recipe": {"prior": {"upper": "inf"}, "solver": {"seconds": 9}, "compare": [1]},
    }
    recipe, notes = Record(tmp_path, told).recipe()
    assert recipe == {"prior": {"upper": float("inf")}, "solver": {"seconds": 9}}
    assert notes == []


# -- volumes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_hdf5, write_tiff, write_zarr])
@pytest.mark.parametrize("shape", [(3, 8, 10), (1, 8, 10), (8, 10), (2, 3, 8, 10)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_volumes_come_back(tmp_path, write, shape, dtype):
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    path = write(tmp_path / "volume", x, {**INFO, "axes": ("t", "z", "y", "x")[-len(shape) :]})
    back = read_volume(path, shape)
    assert back.dtype == dtype
    assert torch.equal(back, x)
    assert hash_volume(back) == hash_volume(x)


@pytest.mark.parametrize("write", [write_hdf5, write_zarr])
def test_complex_volumes_come_back(tmp_path, write):
    x = torch.randn(3, 4, 5, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read_volume(write(tmp_path / "volume", x.conj(), INFO)), x.conj())


def test_a_volume_of_a_plugins_writer(tmp_path):
    pytest.importorskip("nibabel")
    from labrecon_mri.writers.nifti import write_nifti

    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    back = read_volume(write_nifti(tmp_path / "volume", x, INFO))
    assert torch.equal(back, x.permute(2, 1, 0))


@pytest.mark.parametrize(
    ("name", "bytes_", "told"),
    [
        ("volume.h5", b"\x89HDF\r\n\x1a\n", "can not be read"),
        ("volume.h5", None, "does not exist"),
        ("volume.tif", b"II*\x00", "can not be read"),
        ("volume.cfl", b"1", "can be written, but not read back"),
    ],
)
def test_a_volume_that_can_not_be_read(tmp_path, name, bytes_, told):
    if bytes_ is not None:
        (tmp_path / name).write_bytes(bytes_)
    with pytest.raises(OutputError, match=told):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("part", [7, 10**6])
def test_compared_as_numpy_does(monkeypatch, dtype, part):
    monkeypatch.setattr("labrecon.reproduce.comparison._PART", part)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, 6, dtype=dtype, generator=generator)
    y = x + 1e-3 * torch.randn(4, 5, 6, dtype=dtype, generator=generator)
    told = compare(x, y)
    a, b = x.numpy().astype(complex), y.numpy().astype(complex)
    assert told.largest == pytest.approx(np.abs(a - b).max() / np.abs(a).max(), rel=1e-12)
    assert told.rms == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-12)
    assert told.where == np.unravel_index(np.abs(a - b).argmax(), a.shape)
    assert not told.within(0.9 * max(told.largest, told.rms))
    assert told.within(1.1 * max(told.largest, told.rms))


def test_a_weak_volume_with_a_bright_sample_must_agree_in_the_rms_too():
    x = torch.ones(1000)
    y = x.clone()
    y[:500] = 1.1
    x[0] = y[0] = 100.0
    told = compare(x, y)
    assert told.largest == pytest.approx(1e-3, rel=1e-3)
    assert told.rms > 1.5e-2
    assert not told.within(1e-2)


def test_what_can_not_be_compared():
    x = torch.ones(3, 4)
    assert compare(x, x.double()).why == "the dtype was float32, and is float64 now"
    assert compare(x, x.T).why == "the shape was 3 × 4, and is 4 × 3 now"
    nan = x.clone()
    nan[1, 2] = torch.nan
    assert compare(x, nan).why == "0 samples were not finite, 1 are now"
    assert not compare(x, nan).within(1e9)
    assert compare(nan, nan.clone()).identical
    assert compare(torch.zeros(3), x[0, :3]).largest == float("inf")
    signed = compare(torch.zeros(3), -torch.zeros(3))
    assert not signed.identical
    assert signed.within(0.0)


# -- in slabs ----------------------------------------------------------------------------------


def rerun_of(folder: Path, recipe: dict) -> None:
    setup = Setup("toy", recipe, device="cpu", threads=1)
    rerun_in_slabs(setup, SlabCut(2, "auto"), folder / "scan.toy", folder / "out", folder)


def test_a_process_for_slabs_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ReconstructionError, match="its process was killed"):
        rerun_of(tmp_path, {})


@pytest.mark.slow
def test_slabs_that_can_not_be_made_again(worker, toy_scan, tmp_path):
    with pytest.raises(SetupError, match="no solver is called 'nope'"):
        rerun_of(tmp_path, {"solver": {"name": "nope"}})
    with pytest.raises(ScanError, match=r"could not be repeated: .*can not be read in parts"):
        rerun_of(tmp_path, {})


@pytest.mark.parametrize(("told", "cut"), [
    ({}, None),
    ({"slabs": []}, None),
    ({"slabs": [{"start": 0, "stop": 4}, {"start": 4, "stop": 6}]}, SlabCut(4, "auto")),
    ({"slabs": [{"start": 0, "stop": 4}], "halo": 3}, SlabCut(4, 3)),
])  # fmt: skip
def test_how_slabs_were_cut(told, cut):
    assert Record(Path(), told).slabs == cut
