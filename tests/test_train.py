"""`labrecon train`: run folders, continuations, and what is refused."""

from __future__ import annotations

import csv
import errno
import inspect
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_instrument import Toy, ToyGeometry, write_toy
from typer.testing import CliRunner

from labrecon import Poisson, hookimpl
from labrecon.cli import app
from labrecon.errors import (
    Interrupted,
    LabreconError,
    ObjectsError,
    OutputError,
    RecipeError,
    ScanError,
    TrainingError,
)
from labrecon.io.model import load_model
from labrecon.learners import Supervised
from labrecon.plugins import Host
from labrecon.recon import reconstruct_scan
from labrecon.train import load_train_recipe, train
from labrecon.train.classical import classical_plan, tuned

QUICK = {
    "network": {"name": "unrolled", "prior": "l1", "depth": 2, "start": "zero"},
    "data": {"count": 12, "validation": 0.25},
    "fit": {"epochs": 2, "batch_size": 4, "learning_rate": 0.05},
    "classical": {"skip": True},
}


@pytest.fixture
def run(tmp_path, toy_host, monkeypatch):
    """Train on the toy, quickly: without drawing, unless asked for."""

    def carry_out(out: str | Path = "run", *overrides: str, drawn: bool = False, **options):
        if not drawn:
            monkeypatch.setattr("labrecon.train.run.render_training", lambda report: "<p>no report")
        given = {"recipe": QUICK, "host": toy_host, "device": "cpu", **options}
        return train("toy", tmp_path / out, overrides=overrides, **given)

    return carry_out


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# -- the run folder --------------------------------------------------------------------------------


def test_the_run_is_complete(run, tmp_path):
    result = run()
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    expected = {"recipe.toml", "run.json", "model.json", "model.safetensors", "checkpoints"}
    assert expected | {"log.csv", "tensorboard", "provenance.json", "report.html"} <= names
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert [int(row["step"]) for row in log(folder)] == list(range(1, 7))
    assert [bool(row["validation/psnr"]) for row in log(folder)] == [False, False, True] * 2
    told = json.loads((folder / "provenance.json").read_text())
    assert told["data"] == {
        "objects": "simulated by toy",
        "trained_on": 9,
        "held_out": 3,
        "scale": pytest.approx(told["data"]["scale"]),
    }
    # The brightest pixel of a toy object is between 1 and 1.5.
    assert 1 < told["data"]["scale"] < 1.5
    assert told["training"]["steps"] == 6
    assert told["model"]["sha256"] == load_model(folder).card.sha256
    assert [m["title"] for m in told["methods"]] == ["unrolled (trained)", "before training"]
    assert result.summary["methods"] == told["methods"]
    assert result.summary["status"] == "finished"
    assert json.loads(json.dumps(result.summary)) == result.summary
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_the_recipe_in_the_folder_gives_the_same_run(run, tmp_path):
    run("first", "seed=3")
    again = run("second", recipe=tmp_path / "first" / "recipe.toml")
    assert weights(tmp_path / "first") == weights(tmp_path / "second")
    assert again.summary["training"]["steps"] == 6
    run("other", "seed=4")
    assert weights(tmp_path / "first") != weights(tmp_path / "other")


def test_global_state_is_left_alone(run):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_a_run_that_is_done_says_so(run, tmp_path):
    first = run()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir() if p.is_file()}
    again = run()
    assert again.already_done
    assert not first.already_done
    assert again.summary == first.summary
    before.pop(".lock", None)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir() if p.is_file()}
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["fit.epochs=3"], r"fit\.epochs: was 2, is now 3"),
        (["network.depth=3"], r"network\.depth: was 2, is now 3"),
        (["learner.loss='l1'"], r"learner\.loss: was not given, is now l1"),
        (["seed=1"], r"seed: was 0, is now 1"),
    ],
)
def test_a_changed_recipe_is_refused_by_its_key(run, overrides, told):
    run()
    with pytest.raises(RecipeError, match=told):
        run("run", *overrides)


def test_changed_objects_and_geometry_are_refused(run, tmp_path):
    path = tmp_path / "geometry.json"
    path.write_text('{"size": 20}')
    run(geometry=path)
    path.write_text('{"size": 20, "offset": 1.5}')
    with pytest.raises(RecipeError, match=r"geometry\.offset: was 0, is now 1\.5"):
        run(geometry=path)
    folder = objects_folder(tmp_path)
    run("files", objects=folder)
    np.save(folder / "object0.npy", np.ones((24, 24), np.float32))
    with pytest.raises(RecipeError, match="objects: was"):
        run("files", objects=folder)


def test_a_folder_of_somebody_is_left_alone(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    with pytest.raises(OutputError, match=r"is no run of labrecon: it is left alone"):
        run("mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes"]
    (tmp_path / "empty").mkdir()
    run("empty")


def test_two_trainings_do_not_share_a_folder(run, tmp_path, monkeypatch):
    import fcntl

    def taken(self, *args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Supervised, "loss", taken)
        with pytest.raises(Interrupted):
            run()
    with (tmp_path / "run" / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(OutputError, match=r"process \d+ is training in"):
            run()
    run()


# -- going on --------------------------------------------------------------------------------------


def stop_after(monkeypatch, steps: int, error: BaseException) -> None:
    loss = Supervised.loss
    left = [steps]

    def counted(self, batch):
        if left[0] == 0:
            raise error
        left[0] -= 1
        return loss(self, batch)

    monkeypatch.setattr(Supervised, "loss", counted)


def test_ctrl_c_and_the_same_command_go_on_to_the_same_bits(run, tmp_path, monkeypatch):
    run("whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 4, KeyboardInterrupt())
        with pytest.raises(Interrupted, match="the same command goes on") as caught:
            run("run")
    assert caught.value.exit_code == 130
    assert not (tmp_path / "run" / "model.json").exists()
    run("run")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    kept = [{k: v for k, v in row.items() if k != "seconds"} for row in log(tmp_path / "run")]
    whole = [{k: v for k, v in row.items() if k != "seconds"} for row in log(tmp_path / "whole")]
    assert kept == whole


def test_a_damaged_checkpoint_falls_back_and_is_told(run, tmp_path, monkeypatch):
    run("whole")
    monkeypatch.setattr(
        "labrecon.train.run.CheckpointFolder",
        lambda folder, **options: _EveryStep(folder, steps=1, **options),
    )
    with monkeypatch.context() as patch:
        stop_after(patch, 4, KeyboardInterrupt())
        with pytest.raises(Interrupted):
            run("run")
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-20])
    result = run("run")
    assert any("damaged" in warning for warning in result.warnings)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def _EveryStep(folder, **options):
    from labrecon.io.checkpoints import CheckpointFolder

    return CheckpointFolder(folder, **options)


@pytest.mark.slow
def test_kill_9_and_the_same_command_end_with_the_same_bits(
    toy_environment, labrecon_command, tmp_path
):
    settings = ["network.prior=l1", "network.depth=3", "data.count=30", "fit.epochs=50"]
    words = ["train", "toy", "--json", "--set", "classical.skip=true", "--device", "cpu"]
    for each in settings:
        words += ["--set", each]
    # A checkpoint is written each minute: here, sooner.
    site = Path(toy_environment["PYTHONPATH"].split(":")[0]) / "sitecustomize.py"
    site.write_text(
        "import labrecon.io.checkpoints as c\nold = c.CheckpointFolder.__init__\n"
        "c.CheckpointFolder.__init__ = lambda self, folder, **o: old(self, folder, steps=20, **o)\n"
    )

    def command(out: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*labrecon_command, *words, "-o", str(tmp_path / out)],
            env={**toy_environment, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    whole = command("whole")
    out, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    killed = 0
    for steps in (40, 120):
        process = command("run")
        while process.poll() is None:
            done = [int(f.stem[5:]) for f in (tmp_path / "run").glob("checkpoints/step-*.safet*")]
            if max(done, default=0) >= steps:
                process.send_signal(signal.SIGKILL)
                killed += 1
                break
        process.wait()
        process.communicate()
    assert killed == 2
    last = command("run")
    out, err = last.communicate(timeout=300)
    assert last.returncode == 0, err
    assert json.loads(out)["training"]["steps"] == 50 * 4
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_train_as_one(toy_environment, labrecon_command, tmp_path):
    script = tmp_path / "labrecon_script.py"
    script.write_text("from labrecon.cli import main\nmain()\n")
    words = ["train", "toy", "--device", "cpu", "--json", "--set", "classical.skip=true"]
    for each in ("network.prior=l1", "network.depth=3", "data.count=21", "fit.epochs=4"):
        words += ["--set", each]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    together = [*launcher, "--nproc-per-node", "2", str(script)]
    environment = {**toy_environment, "OMP_NUM_THREADS": "1"}
    for out, start in (("one", labrecon_command), ("two", together), ("two", together)):
        done = subprocess.run(
            [*start, *words, "-o", str(tmp_path / out)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        # Only the first process tells.
        told = json.loads(done.stdout)
    assert told["already_done"]
    one, two = (load_model(tmp_path / out).tensors for out in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.cuda
def test_a_run_on_a_gpu_is_that_on_the_cpu(run, tmp_path):
    run("cpu", "classical.skip=false", "fit.learning_rate=0.005")
    run("cuda", "classical.skip=false", "fit.learning_rate=0.005", device="cuda")
    on_cpu, on_cuda = (load_model(tmp_path / name).tensors for name in ("cpu", "cuda"))
    for name, tensor in on_cpu.items():
        torch.testing.assert_close(on_cuda[name], tensor, rtol=1e-3, atol=1e-5)


# -- objects and scans -----------------------------------------------------------------------------


def objects_folder(tmp_path: Path, n: int = 6) -> Path:
    folder = tmp_path / "objects"
    folder.mkdir()
    objects = Toy().objects(ToyGeometry(), n, torch.Generator().manual_seed(0))
    for i, x in enumerate(objects):
        np.save(folder / f"object{i}.npy", x.numpy())
    return folder


def test_held_out_objects_are_never_trained_on(run, tmp_path, monkeypatch):
    """Nor are their copies, nor slices of the same file."""
    folder = objects_folder(tmp_path, 8)
    for i in range(4):
        (folder / f"copy{i}.npy").write_bytes((folder / f"object{i}.npy").read_bytes())
    stack = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(1))
    np.save(folder / "volume.npy", stack.numpy())
    seen: dict[str, set[bytes]] = {"loss": set(), "validate": set()}
    for name in seen:
        method = getattr(Supervised, name)

        def watched(self, batch, name=name, method=method):
            seen[name] |= {x.numpy().tobytes() for x in batch.objects}
            return method(self, batch)

        monkeypatch.setattr(Supervised, name, watched)
    for seed in range(3):
        result = run(f"run{seed}", f"seed={seed}", objects=folder)
        assert seen["loss"]
        assert seen["validate"]
        assert not seen["loss"] & seen["validate"]
        slices = {x.numpy().tobytes() for x in stack}
        assert slices <= seen["loss"] or slices <= seen["validate"]
        told = result.summary["data"]
        assert told["trained_on"] + told["held_out"] == 15
        seen["loss"].clear()
        seen["validate"].clear()


def test_inputs_are_hashed_and_what_is_ignored_is_told(run, tmp_path):
    folder = objects_folder(tmp_path)
    (folder / "README.txt").write_text("")
    result = run(objects=folder)
    told = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert len(told["inputs"]) == 6
    assert result.warnings == [f"{folder} also holds README.txt"]


def paired(tmp_path: Path, n: int = 4) -> tuple[Path, Path]:
    folder, scans = objects_folder(tmp_path, n), tmp_path / "scans"
    scans.mkdir()
    for i in range(n):
        write_toy(scans / f"object{i}.toy", seed=i)
    return folder, scans


def test_measured_scans_are_paired_with_objects_by_name(run, tmp_path):
    objects, scans = paired(tmp_path)
    result = run(objects=objects, scans=scans)
    told = result.summary["data"]
    assert (told["trained_on"], told["held_out"]) == (3, 1)
    assert told["held_out_files"][0].startswith("object")
    card = load_model(tmp_path / "run").card
    # Prepared as the instrument's recipe "recon" does.
    assert card.prepare == [{"step": "add", "value": 0.25}]
    assert len(json.loads((tmp_path / "run" / "provenance.json").read_text())["inputs"]) == 8


def test_what_a_recipe_leaves_out_is_that_of_training(tmp_path):
    class Announced(Toy):
        def recipes(self):
            usual = super().recipes()
            recon = {**usual["recon"], "operator": {"uses": 2}}
            return {**usual, "recon": recon, "train": {"operator": {}, "fit": {"epochs": 3}}}

    written = tmp_path / "mine.toml"
    written.write_text("[fit]\nepochs = 5\n")
    for source, epochs in (("train", 3), ({"network": {"name": "lpd"}}, 50), (written, 5)):
        recipe = load_train_recipe(source, Announced())
        assert recipe.operator == {}
        assert recipe.config.epochs == epochs
        assert [step.step for step in recipe.prepare] == ["add"]
    assert load_train_recipe({"operator": {"uses": 7}}, Announced()).operator == {"uses": 7}


def test_a_few_numbers_take_few_large_steps(run, tmp_path):
    plain = load_train_recipe({}, Toy())
    assert (plain.config.epochs, plain.config.learning_rate) == (4, 2e-2)
    # As much with the defaults written out.
    for network in ({"prior": "tv"}, {"learn": ["step_size"]}):
        assert load_train_recipe({"network": network}, Toy()).config == plain.config
    # What is written holds, and filters are trained as ever.
    asked = load_train_recipe({"fit": {"steps": 9, "learning_rate": 0.1}}, Toy())
    assert (asked.config.epochs, asked.config.steps, asked.config.learning_rate) == (None, 9, 0.1)
    filters = ({"name": "lpd"}, {"prior": "drunet"}, {"learn": ["prior"], "prior": "drunet"})
    for network in filters:
        recipe = load_train_recipe({"network": network}, Toy())
        assert (recipe.config.epochs, recipe.config.learning_rate) == (50, 1e-3)
    shallow = {**QUICK, "network": {"depth": 1}, "fit": {}}
    run(recipe=shallow, network="unrolled")
    written = load_train_recipe(tmp_path / "run" / "recipe.toml", Toy())
    assert written.config == plain.config
    assert written.fit["epochs"] == 4


def test_pairs_that_do_not_match_are_named(run, tmp_path):
    objects, scans = paired(tmp_path)
    with pytest.raises(RecipeError, match="give the folder of objects"):
        run(scans=scans)
    write_toy(scans / "extra.toy")
    with pytest.raises(ScanError, match=r"extra\.toy in .* have no object of the same name"):
        run(objects=objects, scans=scans)
    (scans / "extra.toy").unlink()
    write_toy(scans / "object1.toy", stack=3)
    with pytest.raises(ScanError, match=r"object1\.toy has 3 slices, .*object1\.npy has 1"):
        run(objects=objects, scans=scans)
    (scans / "object2.toy").write_bytes(b"broken")
    with pytest.raises(ScanError, match=r"object2\.toy"):
        run(objects=objects, scans=scans)
    write_toy(scans / "object2.toy")
    with pytest.raises(ScanError, match=r"preparation step 'refuse'"):
        run("b", "prepare=[{step='refuse'}]", objects=objects, scans=scans)


def test_the_geometry_of_a_scan_is_taken(run, tmp_path, toy_scan):
    run("run", "prepare=[{step='subset', every=2}]", scan=toy_scan)
    assert load_model(tmp_path / "run").card.geometry["every"] == 2
    with pytest.raises(RecipeError, match="--geometry and --scan each give a geometry"):
        run("b", scan=toy_scan, geometry=tmp_path / "g.json")


# -- what it is worth ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_classical_weight_is_the_best_there_is(toy_host, tmp_path):
    from labrecon import Problem, solve
    from labrecon.metrics import nrmse

    recipe = load_train_recipe({}, Toy())
    plan = classical_plan(recipe, Toy(), toy_host)
    assert plan.title == "FISTA with TV"
    geometry, generator = ToyGeometry(), torch.Generator().manual_seed(0)
    operator, noise = Toy().operator(geometry), Toy().noise(geometry)
    x = Toy().objects(geometry, 2, generator)
    problem = Problem(operator, noise.sample(operator(x), generator), noise)
    found = tuned(plan, [(problem, x)], [(problem, x)])

    def error(weight: float) -> float:
        made = solve(plan.build(weight, None), problem, iterations=40).x
        return sum(nrmse(a, b) for a, b in zip(made, x, strict=True)) / 2

    dense = [error(float(w)) for w in torch.logspace(0, 2.5, 16)]
    assert dict(found.tried)[found.weight] <= 1.03 * min(dense)
    assert dict(found.tried)[found.weight] == pytest.approx(error(found.weight), rel=1e-4)


@pytest.mark.parametrize(
    ("solver", "prior"),
    [("fista", "tv"), ("admm", "tv"), ("cg", "zero")],
)
def test_a_classical_solver_without_a_prior_is_given_one_it_takes(toy_host, solver, prior):
    recipe = load_train_recipe({"classical": {"solver": {"name": solver}}}, Toy())
    plan = classical_plan(recipe, Toy(), toy_host)
    assert (plan.solver.name, plan.prior.name) == (solver, prior)


def test_a_network_that_training_made_worse_is_told(run):
    result = run("run", "fit.learning_rate=5.0", "fit.keep=last")
    assert any("worse than before training" in warning for warning in result.warnings)


def test_the_report_compares_and_is_self_contained(run, tmp_path):
    solver, prior = "{name='fista', iterations=10}", "{name='l1', weight=1.0}"
    given = [f"classical.solver={solver}", f"classical.prior={prior}"]
    run("run", "classical.skip=false", *given, drawn=True)
    page = (tmp_path / "run" / "report.html").read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Held-out objects",
        "Held-out object 1",
        "Held-out object 2",
        "Held-out object 3",
        "Training",
        "Learned numbers",
        "Provenance",
    ]
    for text in (
        "FISTA with L1",
        "before training",
        "direct inversion",
        "truth",
        "step_size",
        "PSNR",
        "SSIM",
        "NRMSE",
        "best of",
        "error of unrolled",
    ):
        assert text in page, text
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"data:image/png;base64,[^\"]+", "", page))


def test_a_comparison_that_fails_costs_no_network(run, tmp_path):
    solver, prior = "{name='ista', step_size=1e9}", "{name='zero'}"
    given = [f"classical.solver={solver}", f"classical.prior={prior}"]
    result = run("run", "classical.skip=false", *given)
    assert any("ISTA" in w and "not finite" in w for w in result.warnings)
    assert (tmp_path / "run" / "model.json").exists()
    again = run("run", "classical.skip=false", *given)
    assert again.already_done
    assert again.warnings == result.warnings


def test_a_denoiser_is_trained_without_the_instrument(run, tmp_path, toy_host):
    class Plugin:
        @hookimpl
        def labrecon_networks(self):
            return {"tiny-pnp": make_tiny}

    toy_host.add("tiny", Plugin())
    recipe = {key: value for key, value in QUICK.items() if key != "network"}
    run("run", "learner={name='denoising', sigma=0.1}", network="tiny-pnp", recipe=recipe)
    assert load_model(tmp_path / "run").card.network == "tiny-pnp"


def make_tiny(problem, *, scale=1.0, seed=0):
    from labrecon.networks import Unrolled
    from labrecon.priors.denoisers import Denoiser, DnCNN
    from labrecon.seeds import seeded
    from labrecon.solvers import ISTA

    with seeded(seed):
        network = DnCNN(features=4, depth=2)
    return Unrolled(ISTA(prior=Denoiser(network, scale=scale)), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(Host(discover=False).names("networks")))
def test_every_bundled_network_is_trained_saved_and_used(run, tmp_path, toy_host, name):
    """Those of one kind of operator refuse any other; `labrecon adapt` alone makes two."""
    known = inspect.signature(toy_host.get("networks", name)).parameters
    small = {key: n for key, n in {"depth": 2, "features": 4}.items() if key in known}
    recipe = {
        "network": {"name": name, **small},
        "data": {"count": 5},
        "fit": {"steps": 2, "batch_size": 2},
        "classical": {"skip": True},
    }
    refused = {
        "alista": "takes a Matrix",
        "calibrated": "needs network, nuisances: add",
        "dcea": "denoises counts",
        "lista": "takes a Matrix",
        "lucas-kanade": "motions of a Burst",
        "reused": "needs network, instrument, geometry: add",
    }
    if name in refused:
        with pytest.raises(RecipeError, match=refused[name]):
            run(recipe=recipe)
        return
    run(recipe=recipe)
    scan = Toy().simulate(ToyGeometry(), torch.Generator().manual_seed(0))
    made = reconstruct_scan(
        Toy(), scan, tmp_path / "out", model=tmp_path / "run", recipe={}, host=toy_host
    )
    assert bool(torch.isfinite(made.volume).all())


def test_the_mode_of_memory_changes_no_result(run, tmp_path):
    """Also of networks whose factories know no modes; it is no option of the model."""
    recipe = {key: value for key, value in QUICK.items() if key != "network"}
    small = ["network.depth=3", "network.features=2"]
    for mode in ("store", "checkpoint"):
        given = [*small, f"network.memory={mode!r}"]
        run(mode, *given, network="ista-net", recipe=recipe)
    store, checkpoint = (load_model(tmp_path / mode) for mode in ("store", "checkpoint"))
    assert (store.card.options["depth"], store.card.options["features"]) == (3, 2)
    assert "memory" not in store.card.options
    for name, tensor in store.tensors.items():
        torch.testing.assert_close(checkpoint.tensors[name], tensor)
    with pytest.raises(RecipeError, match=r"network\.memory: the prox of .* has no inverse"):
        run("c", *small, "network.memory='invert'", network="ista-net", recipe=recipe)
    with pytest.raises(RecipeError, match="is one of store, checkpoint, invert, for an unrolled"):
        run("c", *small, "network.memory='much'", network="ista-net", recipe=recipe)


def test_short_memory_tells_which_mode_would_fit(run, monkeypatch):
    def short(self, batch):
        raise MemoryError

    monkeypatch.setattr(Supervised, "loss", short)
    with pytest.raises(TrainingError, match=r"memory does not suffice .*memory='store'") as caught:
        run()
    assert caught.value.exit_code == 4


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["network.name='unroled'"], "no network is called 'unroled' .*did you mean 'unrolled'"),
        (["network.dept=3"], r"\[network\] has no option 'dept' .*did you mean 'depth'"),
        (["network.depth=0"], "the network 'unrolled': depth must be a whole number"),
        (["network.solver='istaa'"], "no solver is called 'istaa' .*did you mean"),
        (["network.learn=['steps']"], "has no number 'steps' to learn"),
        (["learner.name='superwised'"], "no learner is called .*did you mean 'supervised'"),
        (["learner.los='l1'"], r"\[learner\] has no option 'los' .*did you mean 'loss'"),
        (["learner.loss='mae'"], "the learner 'supervised': a loss is one of .*got 'mae'"),
        (["learner.name='denoising'"], "holds no denoisers"),
        (["fit.epoch=3"], r"\[fit\] has no key 'epoch' .*did you mean 'epochs'"),
        (["fit.epochs='many'"], r"fit\.epochs: .*'many'"),
        (["fit.epochs=0"], "fit: epochs must be a whole number"),
        (["data.valdation=0.2"], r"\[data\] has no key 'valdation' .*did you mean 'validation'"),
        (["data.validation=1.0"], r"data\.validation: .*less than 1"),
        (["clasical.skip=true"], "no key 'clasical' .*did you mean 'classical'"),
        (["classical.solver={name='fisata'}"], "no solver is called 'fisata'"),
        (["prepare=[{step='ad'}]"], "has no step 'ad' .*did you mean 'add'"),
        (["operator.dely=1"], r"\[operator\] has no option 'dely' .*did you mean 'delay'"),
    ],
)
def test_a_wrong_recipe_is_refused_before_any_work(run, tmp_path, overrides, told):
    with pytest.raises(RecipeError, match=told):
        run("run", *overrides)
    assert not (tmp_path / "run").exists()


def test_a_file_is_named_with_its_line(run, tmp_path):
    path = tmp_path / "train.toml"
    path.write_text("seed = 1\n\n[network]\ndept = 3\n")
    with pytest.raises(RecipeError, match=r"train\.toml, line 4: \[network\] has no option 'dept'"):
        run(recipe=path)
    with pytest.raises(RecipeError, match=r"--network unroled: no network is called"):
        run(network="unroled")
    with pytest.raises(RecipeError, match="there is no recipe 'trian': it is neither a file"):
        run(recipe="trian")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "it is empty"),
        ({"a.npy": np.ones((24, 24)), "b.npy": np.ones((24, 20))}, "mixed shapes: .*a.npy.*b.npy"),
        ({"a.npy": np.ones((9, 9)), "b.npy": np.ones((9, 9))}, "have shape 9 × 9 .*y=24, x=24"),
        ({"a.npy": np.ones((24, 24)), "b.npy": np.full((24, 24), np.inf)}, "b.npy hold .*infinite"),
        ({"a.npy": 1j * np.ones((2, 24, 24))}, "a.npy hold complex values"),
        ({"a.npy": np.ones((24, 24))}, "can not be split"),
        ({"a.npy": np.ones((24, 24)), "b.npy": np.ones((24, 24))}, "all alike or of one file"),
        ({"a.npy": np.zeros((24, 24)), "b.npy": 0 * np.eye(24)}, "all alike|typical value of 0"),
    ],
)
def test_wrong_objects_are_named_before_any_work(run, tmp_path, files, told):
    folder = tmp_path / "objects"
    folder.mkdir()
    for name, array in files.items():
        np.save(folder / name, array)
    with pytest.raises(ObjectsError, match=told):
        run(objects=folder)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_one(run, tmp_path):
    with pytest.raises(
        TrainingError, match=r"at step \d+ \(epoch \d+, samples .*learning rate"
    ) as e:
        run("run", "fit.learning_rate=1e30")
    assert e.value.exit_code == 4
    assert "checkpoint stays" in str(e.value)
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert not (tmp_path / "run" / "model.json").exists()


@pytest.mark.parametrize(
    "where",
    [
        "labrecon.io.checkpoints.save_file",
        "labrecon.io.model.save_file",
        "labrecon.train.folder.write_text",
    ],
)
def test_a_full_disk_is_told_and_the_run_goes_on_later(run, tmp_path, monkeypatch, where):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(OutputError, match="disk is full") as caught:
            run()
    assert caught.value.exit_code == 5
    run()
    assert load_model(tmp_path / "run").card.network == "unrolled"


def test_objects_that_can_not_be_measured_are_told(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "noise", lambda self, geometry: Poisson())
    folder = objects_folder(tmp_path)
    np.save(folder / "object1.npy", -np.ones((24, 24), np.float32))
    with pytest.raises(ObjectsError, match="can not be measured: Poisson noise needs non-negative"):
        run(objects=folder)


def test_an_unwritable_place_and_an_unknown_device(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can not be written"):
        run("file/run")
    with pytest.raises(LabreconError, match="device 'abacus' is not available"):
        run(device="abacus")


def test_a_network_that_breaks_is_told(run, toy_host):
    class Plugin:
        @hookimpl
        def labrecon_networks(self):
            return {"broken": broken}

    def broken(problem, *, scale, seed):
        raise ValueError("needs a square operator")

    toy_host.add("broken", Plugin())
    with pytest.raises(RecipeError, match="the network 'broken': needs a square operator"):
        run(network="broken", recipe={"data": {"count": 4}})


# -- the command line ------------------------------------------------------------------------------


@pytest.fixture
def toy(toy_host, monkeypatch):
    for module in ("labrecon.plugins", "labrecon.commands", "labrecon.cli"):
        monkeypatch.setattr(f"{module}.host", lambda: toy_host)


def command(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_command(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("labrecon.train.run.render_training", lambda report: "<p>no report")
    recipe = tmp_path / "quick.toml"
    recipe.write_text(
        "[network]\nname='unrolled'\nprior='l1'\ndepth=2\n[data]\ncount=8\n"
        "[fit]\nepochs=1\n[classical]\nskip=true\n"
    )
    words = ["train", "toy", "-o", tmp_path / "run", "-r", recipe]
    done = command(*words)
    assert done.exit_code == 0, done.output
    assert "unrolled: finished after 1 steps" in done.stdout
    assert "before training" in done.stdout
    assert str(tmp_path / "run" / "report.html") in done.stdout
    again = command(*words, "--json")
    assert json.loads(again.stdout)["already_done"]
    assert "this run is done" in command(*words).stdout
    changed = command(*words, "--set", "fit.epochs=2", "--json")
    assert changed.exit_code == 2
    assert "fit.epochs: was 1, is now 2" in json.loads(changed.stdout)["error"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--network", "unroled"], 2, "did you mean 'unrolled'"),
        (["--recipe", "nothing.toml"], 2, "can not be read"),
        (["--objects", "EMPTY"], 3, "it is empty"),
        (["--geometry", "nothing.json"], 2, "can not be read"),
        (["--scan", "nothing.toy"], 3, "does not exist"),
        (["-o", "TAKEN"], 5, "left alone"),
    ],
)
def test_exit_codes(toy, tmp_path, words, code, told):
    for name in ("empty", "taken"):
        (tmp_path / name).mkdir()
    (tmp_path / "taken" / "mine").write_text("")
    names = {"EMPTY": tmp_path / "empty", "TAKEN": tmp_path / "taken"}
    filled = [names.get(word, word) for word in words]
    done = command("train", "toy", "-o", tmp_path / "run", *filled)
    assert done.exit_code == code, done.output
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
