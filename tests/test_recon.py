from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import h5py
import pytest
import torch
from toy_instrument import Toy, ToyOperator, write_toy

import labrecon
from labrecon import hookimpl
from labrecon.errors import (
    Interrupted,
    LabreconError,
    OutputError,
    RecipeError,
    ReconstructionError,
    ScanError,
)
from labrecon.interruption import Checkpoint, saved_folder
from labrecon.io import atomic
from labrecon.recon import reconstruct, reconstruct_scan
from labrecon.solver import Solution
from labrecon.solvers.gradient import GradientDescent, GradientState


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results" / "out"


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_output_is_complete(toy_host, toy_scan, out):
    result = reconstruct("toy", toy_scan, out, host=toy_host, device="cpu")
    assert files_in(out) == ["provenance.json", "report.html", "volume.h5"]
    assert files_in(out.parent) == ["out"]
    with h5py.File(out / "volume.h5") as file:
        stored = torch.from_numpy(file["entry/data/data"][()])
    assert torch.equal(stored, result.volume)
    assert result.summary["status"] == "iterations"
    assert result.summary["iterations"] == 40
    assert json.loads(json.dumps(result.summary)) == result.summary


def test_provenance(toy_host, toy_scan, out):
    reconstruct("toy", toy_scan, out, host=toy_host, device="cpu", overrides=["seed=5"])
    told = json.loads((out / "provenance.json").read_text())
    [entry] = told["inputs"]
    assert entry["sha256"] == hashlib.sha256(toy_scan.read_bytes()).hexdigest()
    assert entry["bytes"] == toy_scan.stat().st_size
    assert told["versions"]["labrecon"] == labrecon.__version__
    assert told["versions"]["torch"] == torch.__version__
    assert set(told["versions"]["plugins"]) == {"builtin", "toy"}
    assert told["seed"] == told["recipe"]["seed"] == 5
    assert told["recipe"]["solver"]["iterations"] == 40
    assert told["geometry"]["size"] == 24
    assert told["steps"] == [{"step": "add", "value": 0.25}]
    assert told["machine"]["device"].startswith("cpu")
    assert told["machine"]["threads"] == torch.get_num_threads()
    stages = {"read", "hash", "prepare", "operator", "solve", "write", "report"}
    assert stages <= set(told["timings_seconds"])
    assert told["status"] == "iterations"
    assert told["chi2"] == pytest.approx(told["reconstructions"][0]["quality"]["chi2"])


def test_stack_and_relative_weight(toy_host, tmp_path, out):
    scan = write_toy(tmp_path / "stack.toy", stack=3)
    result = reconstruct("toy", scan, out, recipe="compare", host=toy_host)
    assert result.volume.shape == (3, 24, 24)
    with h5py.File(out / "volume.h5") as file:
        assert list(file["entry/data"].attrs["axes"]) == ["slice", "y", "x"]
        assert file["entry/data/y"].attrs["units"] == "mm"
        assert file["entry/data/slice"].attrs["units"] == ""
    assert [r["title"] for r in result.summary["reconstructions"]] == [
        "FISTA with TV",
        "direct",
        "half the rows",
    ]
    # The same fraction of the same gradient, whatever the unit of the data.
    weight = result.summary["reconstructions"][0]["prior_weight"]
    doubled = Toy().simulate(Toy().example(), torch.Generator().manual_seed(0))
    data = torch.stack([2 * doubled.data] * 3)
    noise = labrecon.Gaussian(0.1)
    twice = reconstruct_scan(
        Toy(),
        doubled.replace(data=data, noise=noise, truth=None),
        out.with_name("twice"),
        recipe="compare",
        host=toy_host,
    )
    assert twice.summary["reconstructions"][0]["prior_weight"] == pytest.approx(weight / 2)


def test_global_state_is_left_alone(toy_host, toy_scan, out):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    reconstruct("toy", toy_scan, out, recipe="compare", host=toy_host)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_existing_output_is_never_touched(toy_host, toy_scan, out):
    out.mkdir(parents=True)
    (out / "precious.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError, match="exists"):
            reconstruct("toy", toy_scan, out, host=toy_host, force=force)
    assert files_in(out) == ["precious.txt"]


def test_force_replaces_an_earlier_output(toy_host, toy_scan, out):
    reconstruct("toy", toy_scan, out, host=toy_host)
    before = (out / "provenance.json").stat().st_ino
    with pytest.raises(OutputError, match="--force"):
        reconstruct("toy", toy_scan, out, host=toy_host)
    reconstruct("toy", toy_scan, out, host=toy_host, force=True)
    assert (out / "provenance.json").stat().st_ino != before
    assert files_in(out.parent) == ["out"]


def test_force_spares_what_a_user_put_there(toy_host, toy_scan, out):
    reconstruct("toy", toy_scan, out, host=toy_host)
    (out / "notes.txt").write_text("the sample slipped at view 90")
    with pytest.raises(OutputError, match=r"notes\.txt, which labrecon did not make"):
        reconstruct("toy", toy_scan, out, host=toy_host, force=True)
    assert (out / "notes.txt").exists()


def test_report_that_can_not_be_drawn_costs_no_volume(monkeypatch, toy_host, toy_scan, out):
    def broken(*args):
        raise ZeroDivisionError("an empty picture")

    monkeypatch.setattr("labrecon.results.render", broken)
    result = reconstruct("toy", toy_scan, out, host=toy_host)
    assert (out / "volume.h5").exists()
    assert "an empty picture" in result.warnings[-1]
    assert "an empty picture" in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), MemoryError()]
)
def test_a_long_solve_outlives_what_fails_after_it(monkeypatch, toy_host, toy_scan, out, failure):
    whole = reconstruct("toy", toy_scan, out.with_name("whole"), host=toy_host)

    def fails(*args):
        raise failure

    monkeypatch.setattr("labrecon.recon.WORTH_KEEPING", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("labrecon.results.dumps", fails)
        with pytest.raises((LabreconError, MemoryError)) as caught:
            reconstruct("toy", toy_scan, out, host=toy_host)
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "--resume goes on" in told
    assert not out.exists()
    resumed = reconstruct("toy", toy_scan, out, host=toy_host, resume=True)
    assert torch.equal(resumed.volume, whole.volume)
    assert files_in(out.parent) == ["out", "whole"]


def test_an_infinite_objective_survives_a_resume(out):
    solver = GradientDescent(step_size=1.0)
    state = GradientState(3, torch.ones(2), torch.ones(2), 1.0)
    history = [{"iteration": 3.0, "objective": float("inf")}]
    solution = Solution(state.x, state, "interrupted", history, 1.0)
    Checkpoint.save(out, solution, instrument="toy", inputs=[], recipe={})
    assert Checkpoint.load(out).solution(solver, torch.device("cpu")).history == history


def test_options_of_the_writer_are_tried_before_the_solve(toy_host, toy_scan, out):
    recipe = {"output": {"format": "hdf5", "compression": "zlibb"}}
    with pytest.raises(RecipeError, match="zlibb"):
        reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)


@pytest.mark.parametrize("name", ["labrecon.io.hdf5.dumps", "labrecon.results.write_text"])
def test_full_disk_leaves_nothing(monkeypatch, toy_host, toy_scan, out, name):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(name, full)
    with pytest.raises(OutputError, match=r"disk is full .* nothing partial"):
        reconstruct("toy", toy_scan, out, host=toy_host)
    assert files_in(out.parent) == []


def test_full_disk_while_replacing_keeps_the_old(monkeypatch, toy_host, toy_scan, out):
    reconstruct("toy", toy_scan, out, host=toy_host)
    before = (out / "volume.h5").read_bytes()
    rename = Path.rename

    def full(self, target):
        if self.suffix == ".part":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OutputError, match="disk is full"):
        reconstruct("toy", toy_scan, out, host=toy_host, force=True)
    assert (out / "volume.h5").read_bytes() == before
    assert files_in(out.parent) == ["out"]


def test_unwritable_parent(toy_host, toy_scan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can not be written"):
        reconstruct("toy", toy_scan, tmp_path / "file" / "out", host=toy_host)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("missing.toy", None, "does not exist"),
        ("other.xyz", b"1", "none of the formats that 'toy' reads"),
        ("cut.toy", b"PK\x03\x04cut", "can not be read as npz: BadZipFile"),
        ("text.toy", b"1 2 3", "is damaged"),
    ],
)
def test_bad_scan(toy_host, tmp_path, out, name, content, told):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScanError, match=told):
        reconstruct("toy", path, out, host=toy_host)
    assert not out.exists()


def test_a_folder_is_told_from_a_scan_that_is_damaged(toy_host, toy_scan, out):
    with pytest.raises(ScanError, match=r"is a folder.* give a pattern in quotes.*\*\*/\*\.h5"):
        reconstruct("toy", toy_scan.parent, out, host=toy_host)


def test_an_image_that_misses_its_data_is_told(toy_host, toy_scan, out):
    short = {"solver": {"name": "ista", "iterations": 1}, "prior": {"name": "l1", "weight": 1e6}}
    result = reconstruct("toy", toy_scan, out, recipe=short, host=toy_host)
    assert result.summary["chi2"] > 10
    [warning] = result.warnings
    assert f"χ² {result.summary['chi2']:.3g} per sample, and about 1 where noise is all" in warning


def test_step_that_refuses_is_named(toy_host, toy_scan, out):
    with pytest.raises(ScanError, match=r"step 'refuse': all flats are zero"):
        reconstruct("toy", toy_scan, out, recipe={"prepare": [{"step": "refuse"}]}, host=toy_host)


def test_nan_data(toy_host, out):
    scan = Toy().simulate(Toy().example(), torch.Generator().manual_seed(0))
    scan.data[0, 0] = torch.nan
    with pytest.raises(ReconstructionError, match="1 of 576 measured samples are NaN"):
        reconstruct_scan(Toy(), scan, out, host=toy_host)


def test_divergence(toy_host, toy_scan, out):
    recipe = {"solver": {"name": "ista", "step_size": 1e6, "iterations": 400}}
    with pytest.raises(ReconstructionError, match="not finite after iteration"):
        reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)


def test_memory_error_of_the_operator(monkeypatch, toy_host, toy_scan, out):
    def refuse(self, geometry, **options):
        raise MemoryError("needs 4000 GiB, 8 GiB are free")

    monkeypatch.setattr(Toy, "operator", refuse)
    with pytest.raises(ReconstructionError, match="out of memory: needs 4000 GiB"):
        reconstruct("toy", toy_scan, out, recipe={}, host=toy_host)


def test_unknown_device(toy_host, toy_scan, out):
    with pytest.raises(ReconstructionError, match="device 'abacus' is not available"):
        reconstruct("toy", toy_scan, out, host=toy_host, device="abacus")


def test_unknown_instrument(toy_host, toy_scan, out):
    with pytest.raises(RecipeError, match=r"did you mean 'toy'"):
        reconstruct("toi", toy_scan, out, host=toy_host)


def test_failed_comparison_is_told_not_fatal(toy_host, toy_scan, out):
    recipe = {
        "solver": {"iterations": 5},
        "compare": [{"title": "no", "prepare": [{"step": "refuse"}]}],
    }
    result = reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)
    assert "all flats are zero" in result.warnings[0]
    assert "all flats are zero" in (out / "report.html").read_text()


class Listener:
    def __init__(self):
        self.heard = []

    @hookimpl
    def labrecon_scan_started(self, path, recipe):
        self.heard.append("started")

    @hookimpl
    def labrecon_scan_finished(self, output, summary):
        self.heard.append(("finished", output, summary["status"]))

    @hookimpl
    def labrecon_scan_failed(self, error):
        self.heard.append(("failed", type(error).__name__))
        raise RuntimeError("a listener may fail")


def test_events(toy_host, toy_scan, tmp_path, out):
    listener = Listener()
    toy_host.add("listener", listener)
    reconstruct("toy", toy_scan, out, host=toy_host)
    with pytest.raises(ScanError):
        reconstruct("toy", tmp_path / "missing.toy", out.with_name("b"), host=toy_host)
    assert listener.heard == [
        "started",
        ("finished", str(out), "iterations"),
        "started",
        ("failed", "ScanError"),
    ]


def interrupt_at(monkeypatch, applications: int) -> None:
    """Ctrl-C in the middle of a step: at the n-th application of the operator."""
    counted = {"left": applications}
    forward = ToyOperator.forward

    def counting(self, x):
        counted["left"] -= 1
        if counted["left"] == 0:
            raise KeyboardInterrupt
        return forward(self, x)

    monkeypatch.setattr(ToyOperator, "forward", counting)


@pytest.mark.slow
def test_interrupt_and_resume(monkeypatch, toy_host, toy_scan, out):
    recipe = {
        "solver": {"name": "fista", "iterations": 300, "restart": True},
        "prior": {"name": "tv", "relative_weight": 0.001},
        "compare": [{"title": "direct", "solver": {"name": "direct"}}],
    }
    whole = reconstruct("toy", toy_scan, out.with_name("whole"), recipe=recipe, host=toy_host)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 400)
        with pytest.raises(Interrupted, match="--resume") as caught:
            reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)
    assert caught.value.saved == saved_folder(out)
    assert not out.exists()
    resumed = reconstruct("toy", toy_scan, out, resume=True, host=toy_host)
    assert torch.equal(resumed.volume, whole.volume)
    assert resumed.summary["iterations"] == 300
    assert not saved_folder(out).exists()
    assert resumed.warnings == []


@pytest.mark.slow
def test_interrupt_in_a_comparison(monkeypatch, toy_host, toy_scan, out):
    recipe = {
        "solver": {"name": "cg", "iterations": 60, "tolerance": 1e-3},
        "compare": [{"title": "slow", "solver": {"name": "fista", "iterations": 2000}}],
    }
    whole = reconstruct("toy", toy_scan, out.with_name("whole"), recipe=recipe, host=toy_host)
    assert whole.summary["status"] == "converged"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2000)
        with pytest.raises(Interrupted, match="'slow'"):
            reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)
    resumed = reconstruct("toy", toy_scan, out, resume=True, host=toy_host)
    assert torch.equal(resumed.volume, whole.volume)
    assert resumed.summary["iterations"] == whole.summary["iterations"]
    assert resumed.summary["status"] == "converged"


def test_resume_refuses_another_scan(monkeypatch, toy_host, toy_scan, tmp_path, out):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 70)
        with pytest.raises(Interrupted):
            reconstruct("toy", toy_scan, out, host=toy_host)
    other = write_toy(tmp_path / "other.toy", seed=1)
    with pytest.raises(RecipeError, match="another scan"):
        reconstruct("toy", other, out, resume=True, host=toy_host)
    with pytest.raises(OutputError, match="--resume"):
        reconstruct("toy", toy_scan, out, host=toy_host)
    assert saved_folder(out).exists()


def test_nothing_to_resume(toy_host, toy_scan, out):
    with pytest.raises(RecipeError, match="nothing to resume"):
        reconstruct("toy", toy_scan, out, resume=True, host=toy_host)


def test_atomic_folder_keeps_permissions_of_the_umask(tmp_path):
    with atomic.new_folder(tmp_path / "new") as folder:
        atomic.write_text(folder / "a", "b")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_force_replaces_the_files_that_an_output_names_and_no_others(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    made = {"versions": {"labrecon": "0.1"}, "files": ["optics.fits"]}
    (out / "provenance.json").write_text(json.dumps(made))
    (out / "optics.fits").touch()
    atomic.check_output(out, force=True)
    (out / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"also holds notes\.txt"):
        atomic.check_output(out, force=True)
