"""Error bars from a recipe to the report, on the toy."""

from __future__ import annotations

import json
import math

import h5py
import pytest
import torch
from toy_instrument import Toy, ToyGeometry, write_toy
from typer.testing import CliRunner

from labrecon import Gaussian, Scan
from labrecon.cli import app
from labrecon.errors import ObjectsError, OutputError, RecipeError
from labrecon.operators import Identity
from labrecon.problem import Problem
from labrecon.recon import reconstruct, reconstruct_scan
from labrecon.space import Space
from labrecon.uncertainty import calibrate_intervals
from labrecon.uncertainty.card import load_intervals
from labrecon.uncertainty.scatter import relative_scatter

RECIPE = {
    "solver": {"name": "cg", "rho": 0.05, "iterations": 4},
    "uncertainty": {"draws": 4, "level": 0.8},
}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A calibration of `RECIPE`, made once."""
    from toy_instrument import plugin

    from labrecon.plugins import Host

    host = Host(discover=False)
    host.add("toy", plugin)
    path = tmp_path_factory.mktemp("intervals") / "i.json"
    return calibrate_intervals("toy", path, recipe=RECIPE, count=45, host=host, device="cpu")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def asked(result) -> dict:
    return result.summary["reconstructions"][0]["uncertainty"]


def half_width(out) -> torch.Tensor:
    with h5py.File(out / "half_width.h5") as file:
        return torch.from_numpy(file["entry/data/data"][()])


def test_calibrated_intervals(toy_host, toy_scan, calibrated, out):
    recipe = {**RECIPE, "uncertainty": {"level": 0.8, "calibration": str(calibrated.path)}}
    result = reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)
    row, told = calibrated.card.at(0.8), asked(result)
    assert result.warnings == []
    assert told["method"] == "bootstrap"
    assert told["draws"] == 4
    assert told["calibrated"]
    assert told["factor"] == row.factor
    assert told["measured_coverage"] == row.coverage
    assert (told["calibrated_on"], told["measured_on"]) == (30, 15)
    width = half_width(out)
    assert width.shape == result.volume.shape
    assert float(width.double().mean()) == pytest.approx(told["mean_half_width"], rel=1e-5)
    assert result.summary["half_width"] == str(out / "half_width.h5")
    page = (out / "report.html").read_text()
    assert "<h2>Uncertainty</h2>" in page
    assert "80 % intervals, calibrated on 30 objects; measured coverage" in page
    assert "half-width" in page
    assert "gradient, highest quarter" in page
    assert "ot calibrated" not in page
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["files"] == ["half_width.h5"]
    # An earlier output with its error bars may be replaced.
    again = reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host, force=True)
    assert asked(again) == told


def test_measured_coverage_is_what_was_asked_for(calibrated):
    """Within 4.5 standard errors of both sets, and up to ``2/(n+1)`` above."""
    card = calibrated.card
    assert [row.level for row in card.levels] == [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    for row in card.levels:
        spread = row.error * math.sqrt(card.measured_on)
        error = 4.5 * spread * math.sqrt(1 / card.calibrated_on + 1 / card.measured_on)
        assert row.level - error <= row.coverage <= row.level + 2 / 31 + error
    widths = [row.half_width for row in card.levels]
    assert widths == sorted(widths)


def test_a_fresh_object_is_covered_as_measured(toy_host, calibrated, tmp_path):
    """Through `reconstruct_scan`, with a truth that the result can be held against."""
    toy, covered = Toy(), []
    recipe = {**RECIPE, "uncertainty": {"level": 0.8, "calibration": str(calibrated.path)}}
    for i in range(4):
        generator = torch.Generator().manual_seed(100 + i)
        scan = toy.simulate(ToyGeometry(), generator)
        result = reconstruct_scan(toy, scan, tmp_path / str(i), recipe=recipe, host=toy_host)
        told = asked(result)
        inside = (result.volume - scan.truth).abs() <= half_width(tmp_path / str(i))
        assert told["covered_of_truth"] == pytest.approx(float(inside.double().mean()), abs=1e-9)
        covered.append(told["covered_of_truth"])
    assert sum(covered) / 4 == pytest.approx(0.8, abs=0.1)


def test_without_calibration_the_report_says_so(toy_host, toy_scan, out):
    recipe = {**RECIPE, "uncertainty": {"method": "bootstrap", "draws": 4}}
    result = reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)
    assert not asked(result)["calibrated"]
    assert asked(result)["factor"] == pytest.approx(1.6449, abs=1e-4)
    assert "ot calibrated" in (out / "report.html").read_text()


def test_without_being_asked_there_are_none(toy_host, toy_scan, out):
    recipe = {"solver": RECIPE["solver"]}
    result = reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)
    assert "uncertainty" not in result.summary["reconstructions"][0]
    assert "half_width" not in result.summary
    assert "Uncertainty" not in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"solver": {"name": "cg", "rho": 0.06, "iterations": 4}},
            r":\n  solver.rho: 0.05 → 0.06\n",
        ),
        ({"solver": {"name": "direct"}}, r"  solver.name: cg → direct\n"),
        ({"uncertainty": {"method": "ensemble"}}, "calibrated for the method 'bootstrap'"),
        ({"uncertainty": {"draws": 5}}, "with 4 draws, not with 5"),
        ({"uncertainty": {"level": 0.85}}, "0.85 was not calibrated; there are 0.5, 0.6"),
        ({"prepare": [{"step": "subset", "every": 2}]}, r"acquisition \(it differs in every, data"),
    ],
)
def test_what_was_not_calibrated_is_refused(toy_host, toy_scan, calibrated, out, change, told):
    table = {"calibration": str(calibrated.path), "level": 0.8, **change.get("uncertainty", {})}
    recipe = {**RECIPE, **change, "uncertainty": table}
    with pytest.raises(RecipeError, match=told):
        reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)
    assert not out.exists()


def test_a_file_without_its_recipe_is_refused_all_the_same(
    toy_host, toy_scan, calibrated, out, tmp_path
):
    """As labrecon wrote them before, with nothing but a hash."""
    told = json.loads(calibrated.path.read_text())
    del told["reconstruction"], told["unit"]
    older = tmp_path / "older.json"
    older.write_text(json.dumps(told))
    table = {"level": 0.8, "calibration": str(older)}
    reconstruct("toy", toy_scan, out, recipe={**RECIPE, "uncertainty": table}, host=toy_host)
    recipe = {"solver": {**RECIPE["solver"], "rho": 0.06}, "uncertainty": table}
    with pytest.raises(RecipeError, match="as it is now: calibrate again"):
        reconstruct("toy", toy_scan, tmp_path / "b", recipe=recipe, host=toy_host)


def test_limits_of_time_and_preparation_do_not_matter(toy_host, toy_scan, calibrated, out):
    recipe = {
        "solver": {**RECIPE["solver"], "check_every": 2, "seconds": 100.0},
        "prepare": [{"step": "add", "value": 0.1}],
        "uncertainty": {"level": 0.8, "calibration": str(calibrated.path)},
    }
    assert asked(reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host))["calibrated"]


def test_a_calibration_that_is_no_file_or_damaged(toy_host, toy_scan, calibrated, out, tmp_path):
    def run(path):
        recipe = {**RECIPE, "uncertainty": {"calibration": str(path)}}
        reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)

    with pytest.raises(RecipeError, match=r"no calibrated intervals in .*labrecon intervals"):
        run(tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text(calibrated.path.read_text()[:-20])
    with pytest.raises(RecipeError, match="damaged"):
        run(broken)
    broken.write_text('{"format": "labrecon intervals 1"}')
    with pytest.raises(RecipeError, match="damaged"):
        run(broken)


def test_an_unknown_noise_level_costs_the_error_bars_only(toy_host, out):
    toy = Toy()
    scan = toy.simulate(ToyGeometry(), torch.Generator().manual_seed(0))
    scan = Scan(scan.data, scan.geometry, Gaussian())
    recipe = {**RECIPE, "uncertainty": {"method": "bootstrap", "draws": 4}}
    result = reconstruct_scan(toy, scan, out, recipe=recipe, host=toy_host)
    assert "no error bars: uncertainty by bootstrap: the scan states no noise" in result.warnings[0]
    assert not (out / "half_width.h5").exists()


def test_a_noisier_scan_than_those_of_the_calibration_is_told(toy_host, calibrated, out):
    toy = Toy()
    scan = toy.simulate(ToyGeometry(), torch.Generator().manual_seed(0))
    low, high = calibrated.card.scatter
    assert 0 < low <= high < 1
    noisy = Scan(scan.data, scan.geometry, Gaussian(5 * float(scan.noise.sigma)))
    recipe = {**RECIPE, "uncertainty": {"level": 0.8, "calibration": str(calibrated.path)}}
    result = reconstruct_scan(toy, noisy, out, recipe=recipe, host=toy_host)
    assert "the noise of this scan is" in result.warnings[0]
    calm = reconstruct_scan(toy, scan, out, recipe=recipe, host=toy_host, force=True)
    assert calm.warnings == []


def test_the_scatter_of_data_is_their_noise_over_their_size():
    data = torch.tensor([3.0 + 4.0j, 5.0, 1e6], dtype=torch.complex128)
    operator = Identity(Space((3,), torch.complex128))
    weights = torch.tensor([1.0, 0.25, 0.0], dtype=torch.float64)
    found = relative_scatter(Problem(operator, data, Gaussian(0.5), weights), data)
    # 2 · 0.25 · (1 + 4) of both parts, over 2 · 25; what has no weight counts nothing.
    assert found == pytest.approx(math.sqrt(2.5 / 50))
    assert relative_scatter(Problem(operator, data), data) is None


def test_a_stack_has_error_bars_of_each_slice(toy_host, calibrated, tmp_path, out):
    scan = write_toy(tmp_path / "stack.toy", stack=3)
    recipe = {**RECIPE, "uncertainty": {"level": 0.8, "calibration": str(calibrated.path)}}
    result = reconstruct("toy", scan, out, recipe=recipe, host=toy_host)
    assert result.volume.shape == (3, 24, 24)
    assert asked(result)["calibrated"]


# -- sampling --------------------------------------------------------------------------------------


def test_langevin_from_a_recipe(toy_host, toy_scan, out):
    """Against the posterior of a circulant blur with a Tikhonov prior, in closed form."""
    recipe = {
        "solver": {"name": "langevin", "iterations": 700, "burn_in": 200, "metropolis": False},
        "prior": {"name": "tikhonov", "weight": 400.0},
    }
    result = reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)
    told = asked(result)
    assert told["method"] == "posterior"
    assert not told["calibrated"]
    assert told["rhat"] < 1.02
    kernel = torch.zeros(24, dtype=torch.float64)
    kernel[[0, 1, -1]] = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    precision = torch.fft.fft(kernel).abs() ** 2 / 0.05**2 + 400.0
    step = 0.25 / (1.01 / 0.05**2 + 400.0)
    variance = (1 / (precision * (1 - step * precision / 2))).mean()
    expected = 1.6449 * math.sqrt(float(variance))
    assert told["mean_half_width"] == pytest.approx(expected, rel=0.02)
    assert "the chains agree" in (out / "report.html").read_text()


def test_samples_by_perturbation_from_a_recipe(toy_host, toy_scan, out):
    """Of the same posterior, without the bias of a step, and however soon the estimate rests."""
    recipe = {
        "solver": {"name": "perturb-optimise", "iterations": 30, "tolerance": 1e-3},
        "prior": {"name": "tikhonov", "weight": 400.0},
    }
    told = asked(reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host))
    assert (told["method"], told["samples"]) == ("posterior", 60)
    kernel = torch.zeros(24, dtype=torch.float64)
    kernel[[0, 1, -1]] = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    precision = torch.fft.fft(kernel).abs() ** 2 / 0.05**2 + 400.0
    expected = 1.6449 * math.sqrt(float((1 / precision).mean()))
    assert told["mean_half_width"] == pytest.approx(expected, rel=0.02)


def test_chains_that_do_not_agree_are_told(toy_host, toy_scan, out):
    """Stopped before they have forgotten where they began: nothing but the prior moves them."""
    solver = {"name": "langevin", "iterations": 60, "burn_in": 20, "step_size": 1e-7}
    recipe = {"solver": solver, "prior": {"name": "tikhonov", "weight": 400.0}}
    result = reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)
    assert asked(result)["rhat"] > 1.05
    assert any("the chains do not agree" in warning for warning in result.warnings)


def test_langevin_with_too_few_iterations_costs_the_error_bars_only(toy_host, toy_scan, out):
    recipe = {"solver": {"name": "langevin", "iterations": 10}}
    result = reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)
    assert "0 samples were kept of 10 iterations" in result.warnings[0]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"method": "posterior"}, "set solver.name = 'perturb-optimise'"),
        ({"method": "ensemble"}, "give one as --model RUN"),
        ({"level": 1.0}, "less than 1"),
        ({"level": 0.0}, "greater than 0"),
        ({"draws": 1}, "greater than or equal to 2"),
        ({"methd": "none"}, "did you mean 'method'"),
    ],
)
def test_wrong_tables_are_refused(toy_host, toy_scan, out, table, told):
    recipe = {**RECIPE, "uncertainty": table}
    with pytest.raises(RecipeError, match=told):
        reconstruct("toy", toy_scan, out, recipe=recipe, host=toy_host)


# -- calibration -----------------------------------------------------------------------------------


def test_too_few_objects_says_how_many(toy_host, tmp_path):
    recipe = {**RECIPE, "uncertainty": {"draws": 2, "level": 0.95}}
    path = tmp_path / "i.json"
    with pytest.raises(ObjectsError, match=r"8 objects .* they need 19: use --count 28 or more"):
        calibrate_intervals("toy", path, recipe=recipe, count=12, host=toy_host)
    with pytest.raises(ObjectsError, match="18 objects to calibrate on are too few"):
        calibrate_intervals("toy", path, recipe=recipe, count=27, host=toy_host)
    made = calibrate_intervals("toy", path, recipe=recipe, count=28, host=toy_host)
    assert (made.card.calibrated_on, made.card.measured_on) == (19, 9)


def test_too_few_objects_of_a_folder(toy_host, tmp_path):
    """There ``--count`` helps nobody."""
    import numpy as np

    for i, x in enumerate(Toy().objects(ToyGeometry(), 6, torch.Generator().manual_seed(2))):
        np.save(tmp_path / f"{i}.npy", x.numpy())
    with pytest.raises(ObjectsError, match="they need 9: give about 13 objects") as raised:
        calibrate_intervals(
            "toy",
            tmp_path / "i.json",
            recipe={"uncertainty": {"draws": 2, "level": 0.9}},
            objects=tmp_path,
            host=toy_host,
        )
    assert "--count" not in str(raised.value)


def test_calibration_refuses_what_makes_no_sense(toy_host, tmp_path, calibrated):
    def run(out=tmp_path / "i.json", table=None, **options):
        recipe = {**RECIPE, "uncertainty": table or RECIPE["uncertainty"]}
        calibrate_intervals("toy", out, recipe=recipe, host=toy_host, **options)

    with pytest.raises(RecipeError, match="name the file"):
        run(out=None)
    with pytest.raises(OutputError, match="exists"):
        run(out=calibrated.path)
    with pytest.raises(RecipeError, match="leaves nothing to calibrate"):
        run(table={"method": "none"})
    with pytest.raises(RecipeError, match="this is what is being made"):
        run(table={"calibration": str(calibrated.path)})
    with pytest.raises(RecipeError, match="--geometry and --scan each give"):
        run(geometry="g.json", scan="s.toy")
    with pytest.raises(ObjectsError, match="can not be listed"):
        run(objects=tmp_path / "nothing")


def test_calibration_on_files_keeps_each_whole(toy_host, tmp_path):
    import numpy as np

    folder = tmp_path / "objects"
    folder.mkdir()
    generator = torch.Generator().manual_seed(9)
    for i in range(8):
        x = Toy().objects(ToyGeometry(), 2, generator)
        np.save(folder / f"{i}.npy", x.numpy())
    recipe = {**RECIPE, "uncertainty": {"draws": 2, "level": 0.5}}
    made = calibrate_intervals(
        "toy", tmp_path / "i.json", recipe=recipe, objects=folder, host=toy_host
    )
    assert (made.card.calibrated_on, made.card.measured_on) == (12, 4)
    assert "16 objects in 8 files" in made.warnings[0]
    assert made.card.objects == str(folder)


def test_command(toy_host, toy_scan, tmp_path, monkeypatch):
    monkeypatch.setattr("labrecon.plugins.host", lambda: toy_host)
    path, out = tmp_path / "i.json", tmp_path / "out"
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[solver]\nname = "cg"\niterations = 3\n[uncertainty]\ndraws = 2\nlevel = 0.6\n'
    )
    words = ["intervals", "toy", "-r", str(recipe), "--count", "6", "-o", str(path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "bootstrap: calibrated on 4 objects (simulated by toy), measured on 2" in done.stdout
    assert load_intervals(path).at(0.5) is not None
    assert load_intervals(path).reconstruction["solver"]["iterations"] == 3
    lines = done.stdout.splitlines()
    assert lines[1].split("  ")[-1].strip() == "mean half-width, 1/mm"
    assert any("4 objects to calibrate on are few" in line for line in lines)
    assert any("± is from 2 objects" in line for line in lines)
    done = CliRunner().invoke(app, [*words, "--force", "--json"])
    assert json.loads(done.stdout)["calibrated_on"] == 4
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 5
    setting = f"uncertainty.calibration={path}"
    words = ["recon", "toy", str(toy_scan), "-r", str(recipe), "--set", setting, "-o", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert (out / "half_width.h5").exists()
    lines = done.stdout.splitlines()
    assert f"half-width  {out / 'half_width.h5'}" in lines
    told = next(line for line in lines if line.startswith("error bars: "))
    assert told.startswith("error bars: 60 % intervals, calibrated on 4 objects; measured coverage")
    assert "note: 4 objects to calibrate on are few" in done.stdout
    page = (out / "report.html").read_text()
    assert "4 objects to calibrate on are few" in page
    assert "± is from 2 objects" in page
    assert "mean half-width, 1/mm" in page


def test_a_recon_without_error_bars_says_nothing_of_them(toy_host, toy_scan, out, monkeypatch):
    monkeypatch.setattr("labrecon.plugins.host", lambda: toy_host)
    done = CliRunner().invoke(app, ["recon", "toy", str(toy_scan), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "error bars" not in done.stdout
    assert "half-width" not in done.stdout
