"""A single scan: some of its samples are never trained on, and judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from self_supervised_cases import QUICK, Scale, generators, stage
from toy_instrument import write_toy

from labrecon import Gaussian, Problem
from labrecon.errors import RecipeError
from labrecon.io.model import load_model
from labrecon.learners.self_supervised import (
    Consistency,
    Dealing,
    HeldOutMisfit,
    MeasuredScan,
    Noise2Inverse,
    Pass,
    ScanSamples,
    SelfSupervised,
)
from labrecon.learners.self_supervised.dealing import part_of
from labrecon.networks import Unrolled
from labrecon.reconstructor import Reconstruction
from labrecon.solvers import FISTA, Direct
from labrecon.train import train


def test_one_scan_is_split_inside(run, tmp_path, monkeypatch):
    """The rows that judge are never seen, nor trained on."""
    folder = tmp_path / "one"
    folder.mkdir()
    write_toy(folder / "only.toy")
    kept = []

    def watched(self, batch, old=SelfSupervised.loss):
        kept.append([scan.held for scan, _ in batch.scans])
        return old(self, batch)

    monkeypatch.setattr(SelfSupervised, "loss", watched)
    result = run(scans=folder)
    told = result.summary["data"]
    assert (told["trained_on"], told["held_out"]) == (1, 1)
    rows = {tuple(held[0, :, 0].nonzero().flatten().tolist()) for one in kept for held in one}
    assert len(rows) == 1
    assert len(rows.pop()) == 6
    assert set(result.summary["methods"][0]["metrics"]) == {"held_out_chi2", "chi2"}


def test_samples_that_are_held_out_for_good_never_change_a_gradient():
    operator = stage(8)
    x = torch.randn(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = Problem(operator, operator(x), Gaussian(0.5))
    part = Dealing(("view",)).held_out(problem, 0.25, generators(1))
    held = part.held

    class OfMean(Scale):
        def reconstruct(self, problem, x0=None, *, trace=False):
            return Reconstruction(self.a * problem.data.sum(-2))

    found = []
    for value in (0.0, 1e9):
        data = torch.where(held > 0, value, problem.data)
        scan = MeasuredScan(replace(problem, data=data), part.gain)
        network = OfMean()
        terms = {"ssdu": (1.0, HeldOutMisfit(Dealing(("view",))))}
        learner = SelfSupervised(network, operator, terms)
        learner.loss(ScanSamples([scan]).batch([0], 0))[0].backward()
        found.append(network.a.grad)
    assert torch.equal(*found)
    judged = SelfSupervised(OfMean(), operator, terms)
    batch = ScanSamples([MeasuredScan(problem, part.gain)], fixed=True).batch([0], 0)
    seen = part_of(problem, 1 - held).data.sum(-2)
    exact = ((operator(seen) - problem.data).square() * held).sum() / (held.sum() * 6 * 0.25)
    assert judged.validate(batch)["loss"] == pytest.approx(float(exact))


@pytest.mark.parametrize("data_term", ["unit", "noise"])
def test_what_is_left_of_one_scan_is_as_strong_as_all_of_it(data_term):
    """Three of four equal looks, or some of these, invert to the object, not to a part of it."""
    operator = stage(8)
    x = torch.randn(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = Problem(operator, operator(x), Gaussian(0.5))
    gain = Dealing(("view",)).held_out(problem, 0.25, generators(1)).gain
    batch = ScanSamples([MeasuredScan(problem, gain)], fixed=True).batch([0], 0)
    views = Dealing(("view",))
    direct = Unrolled(Direct(), 1)
    steps = Unrolled(FISTA(step_size=1 / 8), 1, start="adjoint")
    for term in (HeldOutMisfit(views), Noise2Inverse(views, splits=2), Consistency()):
        learner = SelfSupervised(direct, operator, {"one": (1.0, term)}, data_term=data_term)
        assert float(learner.loss(batch)[0]) == pytest.approx(0, abs=1e-12)
        assert learner.validate(batch)["loss"] == pytest.approx(0, abs=1e-12)
    runs = [
        Pass(steps, MeasuredScan(problem, gain).trained_on, generators(1), data_term, gain),
        Pass(steps, problem, generators(1), data_term),
    ]
    torch.testing.assert_close(runs[0].estimate, runs[1].estimate)
    torch.testing.assert_close(runs[0].reconstruct(problem.data), runs[1].estimate)
    some = [run.reconstruct_part(views.sections(run.problem, 2, [0])) for run in runs]
    torch.testing.assert_close(*some)


def test_samples_held_out_for_good_decide_neither_scale_nor_classical_weight(
    toy_host, tmp_path, monkeypatch
):
    """Whatever they are: the network's scale and the weight beside it are the same."""
    told = []
    monkeypatch.setattr("labrecon.train.run.render_training", lambda report: "<p>no report")
    rows = None
    for value in (0.0, 3.0):
        folder = tmp_path / f"scans{value:g}"
        folder.mkdir()
        generator = torch.Generator().manual_seed(0)
        data = torch.rand(24, 24, generator=generator)
        if rows is not None:
            data[rows] = value
        with (folder / "only.toy").open("wb") as stream:
            np.savez(stream, toy=data.numpy(), sigma=0.05)
        classical = {
            "solver": {"name": "fista", "iterations": 5},
            "prior": {"name": "l1", "weight": 1.0},
        }
        recipe = {**QUICK, "classical": classical}
        out = tmp_path / f"run{value:g}"
        kept = []

        def watched(self, batch, old=SelfSupervised.loss, kept=kept):
            kept.append([scan.held for scan, _ in batch.scans])
            return old(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(SelfSupervised, "loss", watched)
            made = train("toy", out, scans=folder, recipe=recipe, host=toy_host, device="cpu")
        rows = kept[0][0][0, :, 0] > 0
        told.append((load_model(out).card.scale, made.summary["methods"][2]["note"]))
    assert told[0] == told[1]
    assert "held-out samples of 1 scans" in told[0][1]


def test_one_scan_that_is_too_small_once_split_is_refused_before_training(run, tmp_path):
    """Two of 24 rows can be dealt; one of them judges for good."""
    folder = tmp_path / "one"
    folder.mkdir()
    write_toy(folder / "only.toy")
    with pytest.raises(RecipeError, match=r"have \d+ along row .*need 2"):
        run("run", "learner={name='ssdu', axes='row', keep=22}", scans=folder)
