"""Error bars of networks that were adapted, and of batches."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from drifting_instrument import Drifting, plugin, write_scan

from labrecon.adapt import adapt
from labrecon.batch.run import reconstruct_batch
from labrecon.batch.tasks import Event
from labrecon.batch.told import summary_of
from labrecon.errors import ObjectsError, RecipeError
from labrecon.io.model import load_model
from labrecon.job import assemble_job
from labrecon.plugins import Host
from labrecon.recon import reconstruct
from labrecon.train import train
from labrecon.uncertainty import calibrate_intervals
from labrecon.uncertainty.card import fingerprint

TRAINING = {
    "network": {"name": "fbp-convnet", "depth": 1, "features": 2, "normalise": False},
    "fit": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
    "classical": {"skip": True},
}
FEW = ["uncertainty.draws=2", "uncertainty.level=0.5"]
SHIFT = 0.8


@pytest.fixture(scope="module")
def host() -> Host:
    made = Host(discover=False)
    made.add("drifting", plugin)
    return made


@pytest.fixture(autouse=True)
def _hosted(host, monkeypatch):
    monkeypatch.setattr("labrecon.plugins.host", lambda: host)


def write_objects(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    camera = Drifting()
    for i, x in enumerate(camera.objects(camera.example(), count, generator)):
        np.save(folder / f"s{i}.npy", x.numpy())
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory, host) -> Path:
    """A network trained on files, adapted to a wider blur, and one with a shift beside it."""
    folder = tmp_path_factory.mktemp("lab")
    objects = write_objects(folder / "objects", 8, 0)
    given = {"host": host, "device": "cpu"}
    train("drifting", folder / "run", recipe=TRAINING, objects=objects, **given)
    (folder / "truths").mkdir()
    for i in range(3):
        truth = write_scan(folder / "wide" / f"s{i}.blur", i, 1.8)
        np.save(folder / "truths" / f"s{i}.npy", truth.numpy())
        write_scan(folder / "shifted" / f"s{i}.blur", 10 + i, 1.2, shift=SHIFT)
    options = {"overrides": ["iterations=2"], **given}
    adapt(folder / "run", folder / "wide", folder / "adapted", **options)
    more = {"overrides": ["iterations=3"], **given}
    adapt(folder / "run", folder / "wide", folder / "longer", **more)
    settings = ["iterations=2", "coupling=0.01", "fit.steps=60", "fit.nuisance_rate=0.04"]
    adapt(
        folder / "run",
        folder / "shifted",
        folder / "calibrated",
        calibrate=["shift"],
        overrides=settings,
        **given,
    )
    return folder


def intervals(lab, host, run="adapted", **options):
    given = {"count": 6, "overrides": FEW, "host": host, "device": "cpu", "force": True, **options}
    return calibrate_intervals("drifting", model=lab / run, **given)


def test_an_adapted_run_does_not_inherit_intervals(lab, host, tmp_path):
    intervals(lab, host, "run")
    given = {"overrides": ["iterations=2"], "host": host, "device": "cpu"}
    made = adapt(lab / "run", lab / "wide", tmp_path / "again", **given)
    assert not (made.output / "intervals.json").exists()
    result = reconstruct(
        "drifting", lab / "wide/s0.blur", tmp_path / "o", model=made.output, host=host, device="cpu"
    )
    assert "uncertainty" not in result.summary["reconstructions"][0]


def test_the_same_weights_in_another_network_are_another_reconstruction(lab, host, tmp_path):
    """More iterations of R&R change no tensor."""
    few, many = (load_model(lab / name).card for name in ("adapted", "longer"))
    assert few.sha256 == many.sha256
    jobs = [
        assemble_job("drifting", recipe="recon", host=host, model=lab / name)
        for name in ("adapted", "longer")
    ]
    assert fingerprint(jobs[0].plans[0]) != fingerprint(jobs[1].plans[0])
    made = intervals(lab, host)
    with pytest.raises(RecipeError, match="not for this reconstruction"):
        reconstruct(
            "drifting",
            lab / "wide/s0.blur",
            tmp_path / "o",
            model=lab / "longer",
            overrides=[f"uncertainty.calibration={made.path}"],
            host=host,
            device="cpu",
        )


def test_objects_that_the_parent_was_trained_on_are_refused(lab, host, tmp_path):
    with pytest.raises(ObjectsError, match="8 of 8 files were in the training"):
        intervals(lab, host, objects=lab / "objects")
    own = write_objects(tmp_path / "own", 6, 1)
    assert intervals(lab, host, objects=own).card.calibrated_on == 4


def test_objects_of_a_transfer_are_refused(lab, host, tmp_path):
    options = {"method": "transfer", "objects": lab / "truths", "host": host, "device": "cpu"}
    overrides = ["fit.steps=2"]
    made = adapt(lab / "run", lab / "wide", tmp_path / "few", overrides=overrides, **options)
    told = json.loads((made.output / "provenance.json").read_text())
    assert {Path(one["path"]).suffix for one in told["inputs"]} == {".blur", ".npy"}
    assert "trained on" in told["ways"][0]["note"]
    given = {"count": 6, "overrides": FEW, "host": host, "device": "cpu"}
    with pytest.raises(ObjectsError, match="3 of 3 files were in the training"):
        calibrate_intervals("drifting", model=made.output, objects=lab / "truths", **given)


def test_simulated_objects_are_not_those_of_the_training(lab, host):
    [warning] = intervals(lab, host).warnings
    assert f"trained on {lab / 'objects'}" in warning
    assert "what drifting simulates" in warning


def test_a_calibrated_run_is_judged_by_the_operator_that_was_found(lab, host, tmp_path):
    """Residuals, the data of the bootstrap, and those that intervals are calibrated on."""
    given = {"model": lab / "calibrated", "host": host, "device": "cpu"}
    made = [
        reconstruct("drifting", lab / f"shifted/s{i}.blur", tmp_path / str(i), **given)
        for i in range(3)
    ]
    told = json.loads((lab / "calibrated/provenance.json").read_text())
    assert told["calibrated"]["shift"] == pytest.approx(SHIFT, abs=0.2)
    # As the adaptation itself judged it, which knew the operator.
    chi2 = sum(result.summary["chi2"] for result in made) / 3
    assert chi2 == pytest.approx(told["ways"][0]["chi2"], rel=1e-4)
    made, calm = intervals(lab, host, "calibrated"), intervals(lab, host, "run")
    assert made.card.at(0.5).half_width < 5 * calm.card.at(0.5).half_width


class Here:
    """A crew that reconstructs in this process."""

    def __init__(self, setup, host) -> None:
        self.setup, self.host, self.made = setup, host, []

    def accepts(self, *, alone: bool = False) -> bool:
        return not self.made

    def submit(self, task) -> None:
        result = reconstruct(
            self.setup.instrument,
            task.path,
            task.out,
            recipe=self.setup.recipe,
            model=self.setup.model,
            device="cpu",
            host=self.host,
        )
        told = {**summary_of(result, []), "seen": {}, "first": False, "seconds": 1.0}
        self.made.append(Event("done", task.scan, told))

    def events(self, timeout: float):
        made, self.made = self.made, []
        return made

    def close(self) -> None:
        pass


def test_a_batch_has_error_bars_of_each_scan(lab, host, tmp_path):
    made = intervals(lab, host)
    given = {"model": lab / "adapted", "device": "cpu", "host": host}
    given["crew"] = lambda setup, means, out: Here(setup, host)
    scans, out = [str(lab / "wide/*.blur")], tmp_path / "night"
    result = reconstruct_batch("drifting", scans, out, **given)
    assert result.counts["done"] == 3
    for i in range(3):
        with h5py.File(out / f"scans/s{i}/half_width.h5") as file:
            assert (file["entry/data/data"][()] > 0).all()
        told = json.loads((out / f"scans/s{i}/provenance.json").read_text())
        assert told["timings_seconds"]["uncertainty"] > 0
    # Calibrated anew, the error bars would not be those of the scans before.
    made.path.write_text(made.card.model_copy(update={"draws": 3}).model_dump_json())
    with pytest.raises(RecipeError, match=r"the model's intervals\.json"):
        reconstruct_batch("drifting", scans, out, **given)


def test_a_calibration_of_something_else_stops_a_batch_before_its_first_scan(lab, host, tmp_path):
    made = intervals(lab, host)
    given = {"model": lab / "longer", "device": "cpu", "host": host}
    settings = [f"uncertainty.calibration={made.path}"]
    with pytest.raises(RecipeError, match="not for this reconstruction"):
        reconstruct_batch(
            "drifting", [str(lab / "wide/*.blur")], tmp_path / "n", overrides=settings, **given
        )
    assert not (tmp_path / "n").exists()
