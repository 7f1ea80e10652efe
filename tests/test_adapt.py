"""`labrecon adapt`: run folders that recon takes, what is recovered, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from drifting_instrument import BlurGeometry, Drifting, GaussianBlur, plugin, write_scan
from typer.testing import CliRunner

from labrecon.adapt import adapt, load_adapt_recipe
from labrecon.adapt.checks import calibrated_named
from labrecon.cli import app
from labrecon.errors import (
    LabreconError,
    ModelError,
    ObjectsError,
    OutputError,
    RecipeError,
    ScanError,
    TrainingError,
)
from labrecon.io.model import load_model
from labrecon.metrics import psnr
from labrecon.plugins import Host
from labrecon.recon import reconstruct
from labrecon.train import train

NETWORK = {"name": "fbp-convnet", "depth": 1, "features": 6, "normalise": False}
TRAINING = {
    "network": NETWORK,
    "data": {"count": 80},
    "fit": {"epochs": 8, "batch_size": 8, "learning_rate": 1e-2, "schedule": "cosine"},
    "classical": {"skip": True},
}
#: The blur in training, and after the drift.
THEN, NOW = 1.2, 1.8


@pytest.fixture(scope="module")
def host() -> Host:
    made = Host(discover=False)
    made.add("drifting", plugin)
    return made


@pytest.fixture(autouse=True)
def _hosted(host, monkeypatch):
    monkeypatch.setattr("labrecon.plugins.host", lambda: host)


@pytest.fixture(scope="module")
def parent(tmp_path_factory, host) -> Path:
    """A network that was trained for the sharp camera."""
    folder = tmp_path_factory.mktemp("parent") / "run"
    train("drifting", folder, recipe=TRAINING, host=host, device="cpu")
    return folder


@pytest.fixture(scope="module")
def truths(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Objects of the scans."""
    return {}


@pytest.fixture(scope="module")
def scans(tmp_path_factory, truths) -> Path:
    """Six scans of the camera out of focus, which their files tell."""
    folder = tmp_path_factory.mktemp("night") / "scans"
    objects = folder.parent / "truth"
    objects.mkdir()
    for i in range(6):
        truths[f"s{i}"] = write_scan(folder / f"s{i}.blur", 100 + i, NOW)
        np.save(objects / f"s{i}.npy", truths[f"s{i}"].numpy())
    return folder


@pytest.fixture
def carry_out(parent, scans, tmp_path, host):
    def run(out: str = "adapted", *overrides: str, **options):
        given = {"host": host, "device": "cpu", **options}
        return adapt(
            given.pop("run", parent),
            given.pop("scans", scans),
            tmp_path / out,
            overrides=overrides,
            **given,
        )

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# -- what comes out --------------------------------------------------------------------------------


def test_the_folder_is_complete_and_the_parent_untouched(carry_out, parent, tmp_path, scans):
    before = files(parent)
    made = carry_out()
    folder = tmp_path / "adapted"
    names = {path.name for path in folder.iterdir()}
    expected = {"recipe.toml", "run.json", "model.json", "model.safetensors"}
    assert expected | {"provenance.json", "report.html"} <= names
    assert files(parent) == before
    told = json.loads((folder / "provenance.json").read_text())
    assert told["parent"] == {
        "run": str(parent.absolute()),
        "sha256": load_model(parent).card.sha256,
    }
    assert told["method"] == "rr"
    assert told["differences"] == ["width: trained with 1.2, the scan has 1.8"]
    assert [one["path"] for one in told["inputs"]] == [str(p) for p in sorted(scans.iterdir())]
    assert [way["title"] for way in told["ways"]] == ["adapted (rr)", "not adapted", "old operator"]
    assert json.loads(json.dumps(made.summary)) == made.summary
    page = (folder / "report.html").read_text()
    for words in ("Reuse and regularise", "Before and after", "s0.blur", "width"):
        assert words in page
    assert made.warnings == []


def test_reuse_keeps_the_weights_and_recon_takes_the_run(
    carry_out, parent, scans, truths, tmp_path, host
):
    made = carry_out("adapted", "iterations=4")
    old, new = load_model(parent), load_model(made.output)
    assert new.card.network == "reused"
    assert new.card.options["network"] == "fbp-convnet"
    assert new.card.options["geometry"]["width"] == THEN
    assert new.card.geometry["width"] == NOW
    inner = "solver.prior.network."
    kept = {k.removeprefix(inner): v for k, v in new.tensors.items() if k.startswith(inner)}
    assert kept.keys() == old.tensors.keys()
    assert all(torch.equal(kept[name], old.tensors[name]) for name in kept)
    # Neither operator is in the file.
    assert all(k.startswith(inner) or "coupling" in k for k in new.tensors)

    result = reconstruct(
        "drifting", scans / "s0.blur", tmp_path / "out", model=made.output, host=host, device="cpu"
    )
    with pytest.raises(ModelError, match=r"width: trained with 1\.2, the scan has 1\.8"):
        reconstruct("drifting", scans / "s0.blur", tmp_path / "no", model=parent, host=host)
    kept_on = reconstruct(
        "drifting",
        scans / "s0.blur",
        tmp_path / "swapped",
        model=parent,
        other_geometry=True,
        host=host,
        device="cpu",
    )
    # What recon makes is what the report of the adaptation shows.
    assert result.summary["chi2"] < kept_on.summary["chi2"]
    assert result.volume.shape == truths["s0"].shape


@pytest.fixture
def volumes(scans, truths, tmp_path, host):
    def made(name: str, model: Path, **options) -> dict[str, torch.Tensor]:
        given = {"model": model, "host": host, "device": "cpu", **options}
        out = tmp_path / "volumes" / name
        return {
            key: reconstruct("drifting", scans / f"{key}.blur", out / key, **given).volume
            for key in truths
        }

    return made


@pytest.mark.slow
def test_few_pairs_are_better_than_not_adapting(carry_out, volumes, parent, scans, truths):
    before = volumes("before", parent, other_geometry=True)
    options = {"method": "transfer", "objects": scans.parent / "truth"}
    made = carry_out("adapted", "fit.steps=100", **options)
    after = volumes("after", made.output)
    gains = [psnr(after[key], truth) - psnr(before[key], truth) for key, truth in truths.items()]
    assert sum(gains) / len(gains) > 0.5
    metrics = [way["metrics"]["psnr"] for way in made.summary["ways"]]
    assert metrics[0] > metrics[1] + 0.5


@pytest.mark.slow
def test_imitation_keeps_the_network_and_learns(carry_out):
    """At the speed of the network: no operator of the training is in it any more."""
    made = carry_out("pp", "iterations=4", "fit.steps=60", "fit.learning_rate=3e-3", method="pp")
    assert load_model(made.output).card.network == "fbp-convnet"
    with (made.output / "log.csv").open(newline="") as file:
        losses = [float(row["misfit"]) for row in csv.DictReader(file)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rr", "pp"])
def test_a_shift_that_no_file_tells_is_calibrated(carry_out, tmp_path, host, method):
    folder = tmp_path / "hidden"
    for i in range(4):
        write_scan(folder / f"s{i}.blur", 200 + i, THEN, shift=0.8)
    settings = ("fit.steps=60", "fit.nuisance_rate=0.04", "iterations=2")
    made = carry_out("found", *settings, scans=folder, method=method, calibrate=["shift"])
    assert made.summary["calibrated"]["shift"] == pytest.approx(0.8, abs=0.05)
    assert made.summary["ways"][0]["chi2"] == pytest.approx(1.0, abs=0.2)
    card = load_model(made.output).card
    assert card.network == "calibrated"
    # Scans of the same files fit: their geometry is the one that they tell.
    assert card.geometry["width"] == THEN
    assert made.summary["differences"] == []
    given = {"model": made.output, "host": host, "device": "cpu"}
    reconstruct("drifting", folder / "s0.blur", tmp_path / "out", **given)


def test_what_is_calibrated_goes_by_the_names_that_describe_lists():
    """Of a dotted name the last part suffices, as in `labrecon recon`."""
    scaled = 2.0 * GaussianBlur(BlurGeometry())
    (full,) = (name for name in scaled.nuisances if name.endswith("shift"))
    assert "." in full
    for given in ("shift", full):
        asked = load_adapt_recipe({}, calibrate=[given])
        named = calibrated_named(asked, scaled)
        assert named.calibrate == [full]
        assert named.where("calibrate") == f"--calibrate {given}"


@pytest.mark.slow
def test_a_width_is_not_found_so(carry_out, tmp_path):
    """A blur that becomes narrower lets an image fit the noise: no calibration at all."""
    folder = tmp_path / "hidden"
    for i in range(4):
        write_scan(folder / f"s{i}.blur", 200 + i, 1.6, told=THEN)
    settings = ("fit.steps=60", "fit.nuisance_rate=0.05", "iterations=2")
    with pytest.raises(TrainingError, match=r"width.* fits the noise"):
        carry_out("lost", *settings, scans=folder, method="rr", calibrate=["width"])
    assert not (tmp_path / "lost" / "model.json").exists()


@pytest.mark.slow
def test_the_same_command_goes_on(carry_out, tmp_path, monkeypatch):
    settings = ("fit.steps=6", "fit.validate_every=3")
    whole = carry_out("whole", *settings, method="pp")
    weights = (whole.output / "model.safetensors").read_bytes()
    assert (tmp_path / "whole" / "checkpoints").is_dir()
    again = carry_out("whole", *settings, method="pp")
    assert again.already_done
    assert again.summary == whole.summary
    other = carry_out("other", *settings, method="pp")
    assert (other.output / "model.safetensors").read_bytes() == weights
    with pytest.raises(RecipeError, match=r"fit\.steps: was 6, is now 7"):
        carry_out("whole", "fit.steps=7", "fit.validate_every=3", method="pp")


# -- what is known of the trained network before -------------------------------------------------


class Loose(Drifting):
    """One whose files tell a width of each scan, to which a network is indifferent."""

    tolerances: ClassVar[dict[str, float]] = {"width": math.inf}


@pytest.fixture
def doubtful(parent, tmp_path) -> Path:
    """The trained network, of which its training had warned."""
    folder = tmp_path / "doubtful"
    shutil.copytree(parent, folder)
    told = json.loads((folder / "provenance.json").read_text())
    told["warnings"] = ["worse than before training"]
    told["methods"][0]["metrics"]["chi2"] = 5108.0
    (folder / "provenance.json").write_text(json.dumps(told))
    return folder


def test_the_warnings_of_the_training_are_carried_along(carry_out, doubtful, tmp_path):
    told: list[str] = []
    with pytest.raises(ScanError):
        carry_out(run=doubtful, scans=tmp_path / "gone.blur", tell=told.append)
    expected = [
        f"{doubtful} itself: worse than before training",
        f"{doubtful} itself fits the scans of its own training with χ² 5.11e+03 only, expected "
        "about 1",
    ]
    assert told == [f"warning: {line}" for line in expected], "before anything is read"
    write_scan(tmp_path / "other" / "s0.blur", 1, NOW, shift=3.0)
    made = carry_out("bad", "iterations=1", run=doubtful, scans=tmp_path / "other")
    assert made.warnings[:2] == expected
    assert "worse than before training" in (made.output / "report.html").read_text()
    advice = f"), expected about 1: first see to {doubtful} itself, which has warnings of its own"
    assert any(advice in line for line in made.warnings[2:])
    (doubtful / "provenance.json").unlink()
    assert not any("itself" in line for line in carry_out("bare", run=doubtful).warnings)


def test_the_command_says_it_once_and_first(doubtful, tmp_path):
    write_scan(tmp_path / "hidden" / "s0.blur", 200, THEN, shift=0.1)
    words = ["adapt", str(doubtful), "--scans", str(tmp_path / "hidden"), "-o"]
    words += [str(tmp_path / "new"), "--calibrate", "shift", "--set", "fit.steps=1"]
    result = CliRunner().invoke(app, [*words, "--set", "iterations=1", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert result.stderr.count("worse than before training") == 1
    first, second, begin = result.stderr.splitlines()[:3]
    assert "worse than before" in first
    assert "χ² 5.11e+03" in second
    expected = "adapting (rr): shift fitted to 1 scan, 1 step at most; log.csv gets a line per step"
    assert begin == expected
    assert re.search(r"calibrated: shift -?0\.01\d* \(before: 0\); no error", result.stdout)


# -- what is calibrated ----------------------------------------------------------------------------


def test_scans_that_differ_in_what_is_calibrated_share_it(carry_out, tmp_path):
    """As where a preparation step finds a slightly different centre in each scan."""
    folder = tmp_path / "spread"
    for i, width in enumerate((1.2, 1.21, 1.19)):
        write_scan(folder / f"s{i}.blur", 200 + i, THEN, told=width)
    settings = ("fit.steps=2", "iterations=1", "fit.nuisance_rate=0.001")
    made = carry_out("one", *settings, scans=folder, instrument=Loose(), calibrate=["width"])
    assert made.summary["calibrated"]["width"] == pytest.approx(1.2, abs=0.01)
    [found] = made.summary["calibration"]
    assert (found["label"], found["start"]) == ("width", pytest.approx(1.2))
    match = (
        r"s1\.blur has another operator .*not in shift alone \(width: the first has 1\.2, .*--scans"
    )
    with pytest.raises(ScanError, match=match):
        carry_out("no", scans=folder, instrument=Loose(), calibrate=["shift"])
    only = {"scans": folder / "s0.blur", "instrument": Loose(), "calibrate": ["shift"]}
    carry_out("led", "fit.steps=1", "iterations=1", **only)


def test_a_calibration_that_explains_nothing_is_not_kept(carry_out, tmp_path):
    write_scan(tmp_path / "hidden" / "s0.blur", 200, THEN, shift=5.0)
    settings = ("fit.steps=1", "iterations=1")
    with pytest.raises(
        TrainingError, match=r"calibrating shift came to χ² = .* no solution .*: st"
    ):
        carry_out("far", *settings, scans=tmp_path / "hidden", calibrate=["shift"])
    assert not (tmp_path / "far" / "model.json").exists()


# -- what is refused -------------------------------------------------------------------------------


def test_nothing_to_adapt(carry_out, tmp_path):
    write_scan(tmp_path / "same" / "s0.blur", 1, THEN)
    match = r"nothing to adapt: the geometry.*recon drifting SCAN .*--calibrate, of width, shift"
    with pytest.raises(RecipeError, match=match) as error:
        carry_out(scans=tmp_path / "same")
    assert "What differs" not in str(error.value)
    assert not (tmp_path / "adapted").exists()
    write_scan(tmp_path / "free" / "s0.blur", 1, NOW)
    match = r"What differs needs no adaptation, .*: width: trained with 1\.2, the scan has 1\.8\."
    with pytest.raises(RecipeError, match=match):
        carry_out(scans=tmp_path / "free", instrument=Loose())


def test_an_unfinished_run(carry_out, tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds no model\.json: .*training is not done"):
        carry_out(run=tmp_path / "half")
    with pytest.raises(ModelError, match="there is no run folder"):
        carry_out(run=tmp_path / "none")


def test_an_adapted_run_is_not_adapted_again(carry_out):
    first = carry_out("first", "iterations=1")
    with pytest.raises(ModelError, match="adapt the run that it came from"):
        carry_out("second", run=first.output)


def test_another_instrument(carry_out, parent, tmp_path, host):
    class Other(Drifting):
        name = "other"

    with pytest.raises(ModelError, match=r"trained for the instrument 'drifting', and this is"):
        carry_out(instrument=Other())
    empty = Host(discover=False)
    with pytest.raises(RecipeError, match="--instrument module:Class"):
        carry_out(host=empty)


def test_scans_that_do_not_fit(carry_out, tmp_path):
    folder = tmp_path / "mixed"
    write_scan(folder / "a.blur", 1, NOW)
    write_scan(folder / "b.blur", 2, 2.2)
    with pytest.raises(ScanError, match=r"b\.blur is of another acquisition than .*a\.blur .*2\.2"):
        carry_out(scans=folder)
    write_scan(tmp_path / "large" / "a.blur", 1, NOW, size=24)
    with pytest.raises(ModelError, match=r"trained for objects \(16, 16\).*\(24, 24\)"):
        carry_out(scans=tmp_path / "large")
    (tmp_path / "none").mkdir()
    with pytest.raises(ScanError, match="there are no scans in"):
        carry_out(scans=tmp_path / "none")
    with pytest.raises(ScanError, match="does not exist"):
        carry_out(scans=tmp_path / "gone.blur")
    write_scan(tmp_path / "bad" / "a.blur", 1, NOW)
    (tmp_path / "bad" / "a.blur").write_bytes(b"broken")
    with pytest.raises(ScanError, match=r"a\.blur"):
        carry_out(scans=tmp_path / "bad")


def test_data_with_nan_are_refused_by_file(carry_out, tmp_path):
    write_scan(tmp_path / "nan" / "a.blur", 1, NOW)
    data = np.full((2, 16, 16), np.nan, np.float32)
    with (tmp_path / "nan" / "a.blur").open("wb") as stream:
        np.savez(stream, blurred=data, width=NOW)
    with pytest.raises(ScanError, match=r"a\.blur: 512 of 512 measured samples are NaN"):
        carry_out(scans=tmp_path / "nan")


@pytest.mark.parametrize(
    ("overrides", "options", "told"),
    [
        (["method='best'"], {}, "method: Input should be 'rr'"),
        (["couplin=1.0"], {}, "did you mean 'coupling'"),
        (["coupling=-1.0"], {}, "coupling: Input should be greater than 0"),
        ([], {"calibrate": ["tilt"]}, "has no nuisance 'tilt'; it has width, shift"),
        ([], {"calibrate": ["shift", "shift"]}, "--calibrate shift shift: .*: one is there twice"),
        ([], {"method": "transfer"}, "--objects FOLDER together"),
        ([], {"objects": "truth"}, "--objects FOLDER together"),
        (["misfit='reused'"], {"method": "rr+"}, "it is for method pp"),
        (
            [],
            {"method": "transfer", "objects": "truth", "calibrate": ["width"]},
            "transfer learning calibrates nothing",
        ),
    ],
)
def test_recipes_that_make_no_sense(carry_out, overrides, options, told, tmp_path):
    with pytest.raises(RecipeError, match=told):
        carry_out("adapted", *overrides, **options)
    assert not (tmp_path / "adapted").exists()


def test_objects_that_do_not_fit(carry_out, tmp_path):
    (tmp_path / "few").mkdir()
    np.save(tmp_path / "few" / "s0.npy", np.zeros((16, 16), np.float32))
    with pytest.raises(ScanError, match=r"s1\.blur has no object of the same name"):
        carry_out(method="transfer", objects=tmp_path / "few")
    for i in range(6):
        np.save(tmp_path / "few" / f"s{i}.npy", np.zeros((2, 16, 16), np.float32))
    with pytest.raises(ObjectsError, match=r"s0\.npy has 2 objects"):
        carry_out(method="transfer", objects=tmp_path / "few")


def test_a_folder_of_somebody_is_left_alone(carry_out, tmp_path):
    (tmp_path / "adapted").mkdir()
    (tmp_path / "adapted" / "notes").write_text("mine")
    with pytest.raises(OutputError, match="left alone"):
        carry_out()
    assert files(tmp_path / "adapted") == {"notes": b"mine"}


def test_the_parent_is_no_output(carry_out, parent, host, scans):
    before = files(parent)
    with pytest.raises(LabreconError):
        adapt(parent, scans, parent, host=host, device="cpu")
    assert files(parent) == before


# -- the command -----------------------------------------------------------------------------------


def test_the_command(parent, scans, tmp_path):
    words = ["adapt", str(parent), "--scans", str(scans), "-o", str(tmp_path / "new")]
    result = CliRunner().invoke(app, [*words, "--set", "iterations=2", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "changed: width: trained with 1.2, the scan has 1.8" in result.output
    assert "adapted (rr)" in result.output
    assert f"model   {tmp_path / 'new'}" in result.output
    again = CliRunner().invoke(app, [*words, "--set", "iterations=2", "--json"])
    assert json.loads(again.stdout)["already_done"] is True
    wrong = CliRunner().invoke(app, [*words, "--method", "best"])
    assert wrong.exit_code == 2
    assert "--method best" in wrong.output


def test_the_recipe_of_the_command_line_wins():
    recipe = load_adapt_recipe({"method": "pp"}, ["fit.steps=3"], method="rr+")
    assert (recipe.method, recipe.measure, recipe.config.steps) == ("rr+", "sure", 3)
    assert load_adapt_recipe({"method": "pp"}).measure == "reused"
    assert load_adapt_recipe({"method": "pp", "calibrate": ["width"]}).measure == "sure"
    assert not load_adapt_recipe(None).trains
    assert load_adapt_recipe(None, calibrate=["width"]).trains
    assert load_adapt_recipe({"method": "pp", "misfit": "chi2"}).config.keep == "last"
