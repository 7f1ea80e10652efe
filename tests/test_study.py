"""`labrecon design`: what is learned, what is written, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel, Field
from torch import Tensor
from typer.testing import CliRunner

from labrecon import Gaussian, Instrument, Operator, Space, hookimpl
from labrecon.cli import app
from labrecon.design import Box, FeasibleSet, Subset
from labrecon.errors import OutputError, RecipeError
from labrecon.plugins import Host
from labrecon.study import design
from labrecon.study.judging import interval

SIZE = 16


class Geometry(BaseModel):
    rows: list[float] = Field([1.0] * 4 + [0.0] * (SIZE - 4), description="1 where it is measured")
    broken: bool = False


class Tight(Box):
    """A set whose hardened values are not in it."""

    def harden(self, value: Tensor) -> Tensor:
        return value + 3.0


class Spectrometer(Operator):
    """Some coefficients of the cosine transform of a signal, with a gain that may be off."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(Space((SIZE,), axes=("x",)), Space((SIZE,), axes=("order",)))
        n, k = torch.arange(SIZE)[None] + 0.5, torch.arange(SIZE)[:, None]
        basis = torch.cos(math.pi / SIZE * n * k) * math.sqrt(2 / SIZE)
        basis[0] /= math.sqrt(2)
        self.register_buffer("basis", basis)
        rows = torch.tensor(geometry.rows)
        feasible: FeasibleSet = Subset(int(rows.sum()), unit="orders")
        self.design("rows", rows, Tight(0.0, 1.0) if geometry.broken else feasible)
        self.nuisance("gain", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.rows * (x @ self.basis.mT)


def export_rows(geometry: BaseModel, designs, path: Path) -> None:
    rows = designs["rows"].nonzero()[:, 0].tolist()
    path.with_suffix(".txt").write_text(" ".join(map(str, rows)))


class Lab(Instrument):
    """Objects are smooth: the lowest orders are worth most, and everybody would take others."""

    name = "spectrometer"
    title = "Cosine spectrometer"
    Geometry = Geometry

    def example(self) -> Geometry:
        return Geometry()

    def operator(self, geometry: Geometry) -> Operator:
        return Spectrometer(geometry)

    def noise(self, geometry: Geometry) -> Gaussian:
        return Gaussian(0.02)

    def objects(self, geometry: Geometry, n: int, generator: torch.Generator) -> Tensor:
        basis = Spectrometer(Geometry()).basis
        scale = torch.exp(-0.8 * torch.arange(SIZE))
        return (scale * torch.randn(n, SIZE, generator=generator)) @ basis

    def with_acquisitions(self, geometry: Geometry, count: int) -> Geometry:
        if count > SIZE:
            raise ValueError(f"there are {SIZE} orders, not {count}")
        return geometry.model_copy(update={"rows": [1.0] * count + [0.0] * (SIZE - count)})

    def baselines(self, geometry: Geometry, name: str, generator: torch.Generator):
        k = int(sum(geometry.rows))
        spread = torch.zeros(SIZE).scatter(0, torch.arange(k) * SIZE // k, 1.0)
        drawn = torch.zeros(SIZE).scatter(0, torch.randperm(SIZE, generator=generator)[:k], 1.0)
        return {"evenly spread": spread, "random": drawn}

    def budget(self, geometry: Geometry, designs):
        return {"orders": str(int(designs["rows"].sum()))}

    @property
    def exporters(self):
        return {"rows": export_rows}

    def recipes(self):
        return {"design": RECIPE}


RECIPE = {
    "network": {"name": "tikhonov", "rho": 1e-3, "learn": False},
    "data": {"count": 24, "validation": 0.25},
    "design": {"method": "exchange", "rounds": 120, "batch": 12, "starts": 2},
    "evaluation": {"random": 3, "robustness": {"gain": [0.0, 0.3]}},
    "classical": {"solver": {"name": "cg", "iterations": 8, "rho": 1e-3}},
    "fit": {"steps": 40, "batch_size": 8, "learning_rate": 0.05},
}


class Plugin:
    @hookimpl
    def labrecon_instruments(self):
        return {"spectrometer": Lab}


@pytest.fixture
def host() -> Host:
    host = Host(discover=False)
    host.add("lab", Plugin())
    return host


@pytest.fixture
def study(tmp_path, host, monkeypatch):
    """A study of the spectrometer; without drawing, unless asked for."""

    def carry_out(*overrides: str, drawn: bool = False, out: str = "study", **options):
        if not drawn:
            monkeypatch.setattr("labrecon.study.run.render_study", lambda report: "<p>no report")
        given = {"host": host, "device": "cpu", **options}
        return design("spectrometer", tmp_path / out, overrides=overrides, **given)

    return carry_out


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("method", ["exchange", "greedy"])
def test_the_orders_with_most_variance_are_chosen(study, tmp_path, method) -> None:
    """Linear estimation of a signal from k of its uncorrelated coefficients: the k largest."""
    result = study(f'design.method="{method}"')
    told = read(tmp_path / "study/design.json")
    assert told["designs"]["rows"] == [1.0] * 4 + [0.0] * (SIZE - 4)
    assert told["violations"] == {"rows": {}}
    assert told["budget"] == {"orders": "4"}
    assert (tmp_path / "study/rows.txt").read_text() == "0 1 2 3"
    assert read(tmp_path / "study/geometry.json")["rows"] == told["designs"]["rows"]
    (summary,) = result.summary["designs"]
    assert sorted(summary["files"]) == ["design.json", "geometry.json", "rows.txt"]


def test_it_is_compared_on_held_out_objects_and_with_a_control(study, tmp_path) -> None:
    (told,) = study().summary["designs"]
    methods = {one["title"]: one for one in told["methods"]}
    assert list(methods)[:4] == ["learned", "as it is", "evenly spread", "random"]
    assert len(methods["learned"]["draws"]) == 2
    assert len(methods["random"]["draws"]) == 3
    margin = told["margins"]["evenly spread"]
    best = methods["learned"]["metrics"]["psnr"]
    assert margin["mean"] == pytest.approx(best - methods["evenly spread"]["metrics"]["psnr"])
    assert margin["mean"] > 3
    # What is learned from the truths of other objects is worth nothing.
    assert methods["learned from wrong truths"]["metrics"]["psnr"] < best - 3
    series = told["robustness"]["gain"]["psnr"]["learned"]
    assert series[1] < series[0] - 3


def test_a_baseline_that_is_better_is_told(study, tmp_path) -> None:
    geometry = tmp_path / "last.json"
    geometry.write_text(Geometry(rows=[0.0] * (SIZE - 4) + [1.0] * 4).model_dump_json())
    result = study("design.rounds=1", "design.starts=1", geometry=geometry)
    told = [w for w in result.warnings if "'evenly spread' is better than what was learned" in w]
    assert len(told) == 1
    assert not study("design.rounds=40", "design.starts=1", out="long").warnings


def test_the_same_command_does_nothing_more(study, tmp_path) -> None:
    first = study()
    again = study()
    assert again.already_done
    assert again.summary["designs"] == first.summary["designs"]
    with pytest.raises(RecipeError, match="started with something else"):
        study("design.rounds=3")


@pytest.mark.slow
def test_several_numbers_and_the_report(study, tmp_path) -> None:
    result = study("design.starts=1", exposures=[2, 4], drawn=True)
    assert [each["exposures"] for each in result.summary["designs"]] == [2, 4]
    assert sum(read(tmp_path / "study/exposures-2/design.json")["designs"]["rows"]) == 2
    page = (tmp_path / "study/report.html").read_text()
    for heading in ("Quality and number of exposures", "4 exposures: held-out objects"):
        assert heading in page
    assert not result.warnings
    assert "<script src" not in page


@pytest.mark.slow
def test_gradients_learn_with_jitter_and_criteria_without_objects(study, tmp_path) -> None:
    # An option of the learner does not make it another learner.
    options = ('design.method="gradient"', "design.jitter.gain=0.1", 'learner.loss="l1"')
    told = study(*options).summary["designs"][0]
    assert told["starts"][0]["steps"] == 40
    assert sum(read(tmp_path / "study/design.json")["designs"]["rows"]) == 4


@pytest.mark.slow
def test_a_criterion(study, tmp_path) -> None:
    overrides = ('design.method="gradient"', 'learner.name="fisher"', 'fit.optimiser="sgd"')
    told = study(*overrides).summary["designs"][0]
    assert "learned from wrong truths" not in [one["title"] for one in told["methods"]]


def test_a_subset_of_any_axis(study, tmp_path) -> None:
    geometry = tmp_path / "all.json"
    geometry.write_text(Geometry(rows=[1.0] * SIZE).model_dump_json())
    result = study('design.subset="order"', "design.exposures=[3]", geometry=geometry)
    assert read(tmp_path / "study/design.json")["chosen"] == {"order": [0, 1, 2]}
    titles = [one["title"] for one in result.summary["designs"][0]["methods"]]
    assert titles[:3] == ["learned", "equispaced", "random"]


def test_an_infeasible_design_is_not_exported(study, tmp_path) -> None:
    geometry = tmp_path / "broken.json"
    geometry.write_text(Geometry(broken=True).model_dump_json())
    with pytest.raises(OutputError, match=r"can not be realised and is not exported .*above 3"):
        study('design.method="gradient"', "fit.steps=2", geometry=geometry)
    assert not (tmp_path / "study/rows.txt").exists()
    assert read(tmp_path / "study/design.json")["violations"]["rows"]


def test_what_is_refused(study, tmp_path) -> None:
    with pytest.raises(RecipeError, match="has no design dose; it has rows"):
        study('design.names=["dose"]')
    with pytest.raises(RecipeError, match="there are 16 orders, not 17"):
        study("design.exposures=[17]")
    with pytest.raises(RecipeError, match=r"has data along \('order',\), not 'angle'"):
        study('design.subset="angle"', "design.exposures=[3]")
    with pytest.raises(RecipeError, match="say how many along order"):
        study('design.subset="order"')
    with pytest.raises(RecipeError, match="no nuisance 'shift'; it has gain"):
        study('design.method="gradient"', "design.jitter.shift=0.1")
    with pytest.raises(RecipeError, match=r"it states no unit; got '1 mm'"):
        study('design.method="gradient"', 'design.jitter.gain="1 mm"')
    with pytest.raises(RecipeError, match="greater than or equal to 1"):
        study("design.exposures=[0]")
    with pytest.raises(RecipeError, match="no nuisance 'shift'; it has gain"):
        study("evaluation.robustness.shift=[0.1]")
    assert not (tmp_path / "study").exists()


def test_the_command(tmp_path, host, monkeypatch) -> None:
    monkeypatch.setattr("labrecon.plugins.host", lambda: host)
    monkeypatch.setattr("labrecon.train.order.plugins.host", lambda: host)
    out = tmp_path / "study"
    quick = ["--set", "design.rounds=10", "--set", "design.starts=1", "--set"]
    arguments = ["design", "spectrometer", "-o", str(out), *quick, "design.control=false"]
    result = CliRunner().invoke(app, [*arguments, "--exposures", "3", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["designs"][0]["exposures"] == 3
    shown = CliRunner().invoke(app, [*arguments, "--exposures", "3"])
    assert "learned is better by" in shown.output
    wrong = CliRunner().invoke(app, [*arguments, "--jitter", "gain"])
    assert wrong.exit_code == 2
    assert "NAME=NUMBER" in wrong.output
    for count in ("0", "-2", "1,x"):
        wrong = CliRunner().invoke(app, [*arguments, "--exposures", count])
        assert wrong.exit_code == 2
        assert "--exposures is a number of acquisitions" in wrong.output


def test_intervals_are_students() -> None:
    """Against the textbook: n = 4, s = 1.2909944, t = 3.182."""
    found = interval([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.half == pytest.approx(3.182446 * 1.2909944 / 2, rel=1e-6)
    assert str(interval([2.0])) == "2"


@pytest.mark.slow
def test_a_judge_that_calibrates_sees_one_object_at_a_time(study, monkeypatch) -> None:
    """Each object is off by another amount, and a solver finds one for all of a problem."""
    import labrecon.study.judging as judging

    found, sizes = judging.tuned, []

    def note(plan, seen, unseen):
        sizes.extend(len(problem.data) for problem, _ in (*seen, *unseen))
        return found(plan, seen, unseen)

    monkeypatch.setattr(judging, "tuned", note)
    quick = ("design.rounds=2", "design.starts=1", "design.control=false", "evaluation.random=1")
    newton = (
        'classical.solver={name="gauss-newton", iterations=2}',
        'classical.calibrate={nuisances=["gain"], method="alternating"}',
    )
    study(*quick, *newton, 'classical.prior={name="tikhonov", relative_weight=1e-3}')
    assert sizes
    assert set(sizes) == {1}


def test_nothing_is_judged_on_objects_that_were_learned_from(study, monkeypatch) -> None:
    import labrecon.study.judging as judging
    import labrecon.study.learning as learning

    learned, judged, weighed = [], [], []
    fitted, found = learning._by_choice, judging.tuned

    def fit_and_note(recipe, subject, operator, learner, data, *rest):
        learned.append(data.train.objects)
        return fitted(recipe, subject, operator, learner, data, *rest)

    def tune_and_note(plan, seen, unseen):
        weighed.extend(truth for _, truth in seen)
        judged.extend(truth for _, truth in unseen)
        return found(plan, seen, unseen)

    monkeypatch.setattr(learning, "_by_choice", fit_and_note)
    monkeypatch.setattr(judging, "tuned", tune_and_note)
    study("design.rounds=5", "design.starts=1", "design.control=false")
    known = {tuple(x.tolist()) for x in learned[0]}
    assert judged
    assert not known & {tuple(x.tolist()) for truth in judged for x in truth}
    assert {tuple(x.tolist()) for truth in weighed for x in truth} <= known


def test_the_best_start_is_what_is_shown_and_exported(study, tmp_path) -> None:
    """The design as it is sees the highest orders only, where there is nothing."""
    geometry = tmp_path / "worst.json"
    rows = [0.0] * (SIZE - 4) + [1.0] * 4
    geometry.write_text(Geometry(rows=rows).model_dump_json())
    overrides = ('design.method="gradient"', "fit.steps=1", "fit.learning_rate=1e-6")
    (told,) = study(*overrides, "design.control=false", geometry=geometry).summary["designs"]
    assert told["best_start"] == 1
    first, second = (draw["psnr"] for draw in told["methods"][0]["draws"])
    assert first > second
    assert read(tmp_path / "study/design.json")["designs"]["rows"] != rows
    assert told["robustness"]["gain"]["psnr"]["learned"][0] == pytest.approx(first, abs=0.5)
