"""`labrecon train` with scans alone: what is held out, what is told, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from self_supervised_cases import Scale, generators, stage
from toy_instrument import Toy, ToyReader, write_toy

from labrecon import Gaussian, Problem, hookimpl
from labrecon.errors import ObjectsError, RecipeError, ScanError
from labrecon.io.model import load_model
from labrecon.learners.self_supervised import (
    Dealing,
    HeldOutMisfit,
    MeasuredScan,
    ScanSamples,
    SelfSupervised,
)
from labrecon.learners.self_supervised.dealing import part_of
from labrecon.recon import reconstruct
from labrecon.train import train

QUICK = {
    "prepare": [],
    "network": {"name": "unrolled", "prior": "l1", "depth": 2, "start": "zero"},
    "data": {"count": 8, "validation": 0.25},
    "learner": {"name": "ssdu", "axes": "row"},
    "fit": {"epochs": 2, "batch_size": 4, "learning_rate": 0.05},
    "classical": {"skip": True},
}


@pytest.fixture
def run(tmp_path, toy_host, monkeypatch):
    """Train on the toy, quickly: without drawing, unless asked for."""

    def carry_out(out: str = "run", *overrides: str, drawn: bool = False, **options):
        with monkeypatch.context() as patch:
            if not drawn:
                patch.setattr("labrecon.train.run.render_training", lambda report: "<p>no report")
            given = {"recipe": QUICK, "host": toy_host, "device": "cpu", **options}
            return train("toy", tmp_path / out, overrides=overrides, **given)

    return carry_out


@pytest.fixture
def scans(tmp_path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(4):
        write_toy(folder / f"scan{i}.toy", seed=i)
    return folder


# -- what is trained on ----------------------------------------------------------------------------


def test_scans_alone_make_a_model_that_reconstructs(run, scans, tmp_path, toy_host):
    result = run(scans=scans)
    told = result.summary["data"]
    assert told["objects"] is None
    assert (told["trained_on"], told["held_out"], len(told["held_out_files"])) == (3, 1, 1)
    names = [set(method["metrics"]) for method in result.summary["methods"]]
    assert names == [{"held_out_chi2", "chi2"}] * 2
    assert load_model(tmp_path / "run").card.network == "unrolled"
    made = reconstruct(
        "toy", scans / "scan0.toy", tmp_path / "out", model=tmp_path / "run", host=toy_host
    )
    assert bool(torch.isfinite(made.volume).all())


def test_the_report_tells_no_truth_and_compares_by_held_out_samples(run, scans, tmp_path):
    given = ["classical.skip=false", "classical.solver={name='fista', iterations=10}"]
    result = run("run", *given, "classical.prior={name='l1', weight=1.0}", scans=scans, drawn=True)
    page = (tmp_path / "run" / "report.html").read_text()
    for text in ("Held-out scans", "held-out χ²", "Held-out scan 1", "held-out samples of 3 scans"):
        assert text in page, text
    for text in ("PSNR", "truth</", "error of"):
        assert text not in page, text
    assert not result.warnings


def test_objects_are_measured_once_and_their_truths_only_told(run, monkeypatch):
    seen: dict[int, set[bytes]] = {}

    def watched(self, indices, epoch, old=ScanSamples.batch):
        batch = old(self, indices, epoch)
        for scan, _ in batch.scans:
            values = {y.numpy().tobytes() for y in scan.problem.data}
            seen.setdefault(id(self), set()).update(values)
        return batch

    monkeypatch.setattr(ScanSamples, "batch", watched)
    result = run()
    # 6 and 2 objects in two epochs.
    assert sorted(map(len, seen.values())) == [2, 6]
    assert {"psnr", "held_out_chi2", "chi2"} <= set(result.summary["methods"][0]["metrics"])


def test_objects_beside_scans_are_only_told(run, scans, tmp_path):
    objects = tmp_path / "objects"
    objects.mkdir()
    generator = torch.Generator().manual_seed(5)
    for i in range(4):
        np.save(objects / f"scan{i}.npy", torch.rand(24, 24, generator=generator).numpy())
    with_truth = run("a", scans=scans, objects=objects)
    run("b", scans=scans)
    assert "psnr" in with_truth.summary["methods"][0]["metrics"]
    one, two = (load_model(tmp_path / name).tensors for name in ("a", "b"))
    for name, tensor in one.items():
        assert torch.equal(two[name], tensor)


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


def test_of_one_stack_slices_are_held_out(run, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    data = torch.randn(5, 24, 24, generator=torch.Generator().manual_seed(0)).numpy()
    with (folder / "stack.toy").open("wb") as stream:
        np.savez(stream, toy=data, sigma=0.05)
    told = run(scans=folder).summary["data"]
    assert (told["trained_on"], told["held_out"]) == (4, 1)


def test_samples_that_are_held_out_for_good_never_change_a_gradient():
    operator = stage(8)
    x = torch.randn(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = Problem(operator, operator(x), Gaussian(0.5))
    held = Dealing(("view",)).held_out(problem, 0.25, generators(1)).held

    class OfMean(Scale):
        def reconstruct(self, problem, x0=None, *, trace=False):
            from labrecon.reconstructor import Reconstruction

            return Reconstruction(self.a * problem.data.sum(-2))

    found = []
    for value in (0.0, 1e9):
        data = torch.where(held > 0, value, problem.data)
        scan = MeasuredScan(replace(problem, data=data), held)
        network = OfMean()
        terms = {"ssdu": (1.0, HeldOutMisfit(Dealing(("view",))))}
        learner = SelfSupervised(network, operator, terms)
        learner.loss(ScanSamples([scan]).batch([0], 0))[0].backward()
        found.append(network.a.grad)
    assert torch.equal(*found)
    judged = SelfSupervised(OfMean(), operator, terms)
    batch = ScanSamples([MeasuredScan(problem, held)], fixed=True).batch([0], 0)
    seen = part_of(problem, 1 - held).data.sum(-2)
    exact = ((operator(seen) - problem.data).square() * held).sum() / (held.sum() * 6 * 0.25)
    assert judged.validate(batch)["loss"] == pytest.approx(float(exact))


def test_the_seed_decides_everything(run, scans, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(name, f"seed={seed}", scans=scans)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    "learner",
    [
        "{name='ssdu', axes=['row', 'column'], keep=2, equivariance=0.1, transforms=['flips']}",
        "{name='sure', data_term='noise'}",
        "{name='equivariant', transforms=['quarter-turns']}",
        "{name='robust-equivariant', transforms=['shifts', 'rotations']}",
    ],
)
def test_every_learner_is_there_by_name(run, scans, learner):
    result = run("run", f"learner={learner}", scans=scans)
    assert result.summary["training"]["steps"] == 2


def test_noise2inverse_by_name(tmp_path, toy_host):
    """For an operator with a linear inversion of its own."""

    class Plain(Toy):
        name = "plain"
        acquisitions = "row"

        def operator(self, geometry, **options):
            made = super().operator(geometry, **options)
            made.initial = lambda y: y
            return made

    class Plugin:
        @hookimpl
        def labrecon_instruments(self):
            return {"plain": Plain}

    toy_host.add("plain", Plugin())
    recipe = {**QUICK, "learner": {"name": "noise2inverse", "splits": 3}}
    made = train("plain", tmp_path / "run", recipe=recipe, host=toy_host, device="cpu")
    assert made.summary["training"]["steps"] == 4


# -- what is refused -------------------------------------------------------------------------------


def test_a_supervised_learner_needs_objects(run, scans):
    with pytest.raises(RecipeError, match=r"'supervised' needs the truth .*learner\.name=ssdu"):
        run("run", "learner={name='supervised'}", scans=scans)


@pytest.mark.parametrize(
    ("learner", "told"),
    [
        ("{name='ssdu'}", "which axes of the data are dealt .*the data have row, column"),
        ("{name='ssdu', axes='angle'}", "no axis 'angle' to be dealt; they have row, column"),
        ("{name='ssdu', axes='row', keep=23}", r"1 along row outside the middle .*need 2"),
        ("{name='noise2inverse', axes='row'}", "no linear direct inversion"),
        ("{name='equivariant', transforms=['mirrors']}", "got 'mirrors'"),
        ("{name='sure', where='image'}", "where is one of"),
        ("{name='ssdu', axes='row', masks=0}", "masks"),
        ("{name='ssdu', axes='row', data_term='poisson'}", "data_term is"),
        ("{name='ssdu', axes='row', fractoin=0.3}", "did you mean 'fraction'"),
    ],
)
def test_what_can_not_be_learned_is_refused(run, scans, learner, told):
    with pytest.raises(RecipeError, match=told):
        run("run", f"learner={learner}", scans=scans)


def test_sure_without_a_noise_level_is_refused(run, scans, monkeypatch):
    def unit(self, path, old=ToyReader.read):
        return replace(old(self, path), noise=Gaussian())

    monkeypatch.setattr(ToyReader, "read", unit)
    with pytest.raises(RecipeError, match=r"'sure': sure needs the level of the noise"):
        run("run", "learner={name='sure'}", scans=scans)
    result = run("other", scans=scans)
    assert set(result.summary["methods"][0]["metrics"]) == {"held_out_error"}


def test_bad_scans_are_named(run, scans, tmp_path):
    with pytest.raises(RecipeError, match=r"data\.flips|flips"):
        run("run", "data.flips=true", scans=scans)
    data = np.full((24, 24), np.nan, np.float32)
    with (scans / "scan1.toy").open("wb") as stream:
        np.savez(stream, toy=data, sigma=0.05)
    with pytest.raises(ScanError, match=r"scan1\.toy.*NaN"):
        run("run", scans=scans)
    for path in scans.iterdir():
        with path.open("wb") as stream:
            np.savez(stream, toy=np.zeros((24, 24), np.float32), sigma=0.05)
    with pytest.raises(ObjectsError, match=r"can not be split"):
        run("run", scans=scans)
    (tmp_path / "none").mkdir()
    with pytest.raises(ObjectsError, match="empty"):
        run("run", scans=tmp_path / "none")


def test_a_learner_needs_a_term():
    with pytest.raises(ValueError, match="there is none"):
        SelfSupervised(Scale(), stage(), {})
    with pytest.raises(ValueError, match="weight of ssdu"):
        SelfSupervised(Scale(), stage(), {"ssdu": (0.0, HeldOutMisfit(Dealing(("view",))))})


def test_noise_per_slice_is_refused():
    operator = stage()
    noise = Gaussian(torch.ones(2, 1, 1, dtype=torch.float64))
    problem = Problem(operator, operator.range.zeros(2), noise)
    with pytest.raises(ValueError, match="sigma for each slice"):
        ScanSamples([MeasuredScan(problem)])
