"""`labrecon train` with scans alone: what is held out, what is told, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from self_supervised_cases import QUICK
from toy_instrument import Toy, ToyReader

from labrecon import Gaussian, hookimpl
from labrecon.errors import ObjectsError, RecipeError, ScanError
from labrecon.io.model import load_model
from labrecon.learners.self_supervised import ScanSamples
from labrecon.recon import reconstruct
from labrecon.train import train

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


def test_of_one_stack_slices_are_held_out(run, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    data = torch.randn(5, 24, 24, generator=torch.Generator().manual_seed(0)).numpy()
    with (folder / "stack.toy").open("wb") as stream:
        np.savez(stream, toy=data, sigma=0.05)
    told = run(scans=folder).summary["data"]
    assert (told["trained_on"], told["held_out"]) == (4, 1)


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
