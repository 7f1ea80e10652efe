"""Error bars of trained networks: beside their run folder, and of ensembles."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from toy_instrument import Toy, ToyGeometry, plugin

from labrecon.errors import ModelError, ObjectsError, RecipeError
from labrecon.io.model import load_model
from labrecon.plugins import Host
from labrecon.recon import reconstruct
from labrecon.train import train
from labrecon.uncertainty import calibrate_intervals

RECIPE = {
    "network": {"name": "unrolled", "prior": "l1", "depth": 3},
    "fit": {"epochs": 2, "batch_size": 4, "learning_rate": 0.1},
    "classical": {"skip": True},
}


def make_host() -> Host:
    host = Host(discover=False)
    host.add("toy", plugin)
    return host


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three networks of other seeds, trained on the same eight objects, which lie in files."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "objects").mkdir()
    generator = torch.Generator().manual_seed(0)
    for i, x in enumerate(Toy().objects(ToyGeometry(), 8, generator)):
        np.save(folder / "objects" / f"{i}.npy", x.numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labrecon.train.run.render_training", lambda report: "<p>no report")
        for seed in range(3):
            recipe = {**RECIPE, "seed": seed}
            # The steps of a network with so few weights hardly differ by their seed alone.
            recipe["fit"] = {**RECIPE["fit"], "learning_rate": 0.05 * (1 + seed)}
            train(
                "toy",
                folder / f"run{seed}",
                recipe=recipe,
                objects=folder / "objects",
                host=make_host(),
                device="cpu",
            )
    return folder


@pytest.fixture
def models(runs, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(runs, tmp_path / "runs")


def calibrated(models, **options):
    overrides = options.pop("overrides", ["uncertainty.draws=3", "uncertainty.level=0.8"])
    return calibrate_intervals(
        "toy",
        model=models / "run0",
        count=options.pop("count", 18),
        overrides=overrides,
        host=make_host(),
        **options,
    )


def asked(result) -> dict:
    return result.summary["reconstructions"][0]["uncertainty"]


def test_recon_with_a_calibrated_model_has_error_bars(models, toy_host, toy_scan, tmp_path):
    model, out = models / "run0", tmp_path / "out"
    before = reconstruct("toy", toy_scan, tmp_path / "a", model=model, host=toy_host)
    assert "uncertainty" not in before.summary["reconstructions"][0]
    made = calibrated(models)
    assert made.path == model / "intervals.json"
    # The level is that of the calibration, unless another is asked for.
    result = reconstruct("toy", toy_scan, out, model=model, host=toy_host)
    assert asked(result)["factor"] == made.card.at(0.8).factor
    assert asked(result)["draws"] == 3
    assert torch.equal(result.volume, before.volume)
    off = ["uncertainty.method=none"]
    result = reconstruct("toy", toy_scan, tmp_path / "b", model=model, overrides=off, host=toy_host)
    assert "uncertainty" not in result.summary["reconstructions"][0]


def test_what_else_is_not_as_it_was_has_no_list(models, toy_host, toy_scan, tmp_path):
    """A later labrecon may hash what it had no name for."""
    made = calibrated(models)
    card = made.card.model_copy(update={"fingerprint": "0" * 64})
    made.path.write_text(card.model_dump_json())
    given = {"model": models / "run0", "host": toy_host}
    result = reconstruct("toy", toy_scan, tmp_path / "a", **given)
    assert "as it is now: calibrate again with `labrecon intervals`" in result.warnings[0]


def test_intervals_of_another_network_are_not_used(models, toy_host, toy_scan, tmp_path):
    """A run that was trained anew: in its own folder a warning, where it was named a refusal."""
    made = calibrated(models)
    shutil.copy(made.path, models / "run1" / "intervals.json")
    setting = ["uncertainty.level=0.8"]
    result = reconstruct(
        "toy",
        toy_scan,
        tmp_path / "a",
        model=models / "run1",
        overrides=setting,
        host=toy_host,
    )
    assert result.warnings[0].startswith(f"{models / 'run1' / 'intervals.json'}: the intervals")
    assert "not for this reconstruction as it is now:\n" in result.warnings[0]
    old, new = (load_model(models / name).card.sha256[:12] for name in ("run0", "run1"))
    assert f"\n  model.sha256: {old} → {new}\n" in result.warnings[0]
    assert "uncertainty" not in result.summary["reconstructions"][0]
    setting = [f"uncertainty.calibration={made.path}", *setting]
    with pytest.raises(RecipeError, match="not for this reconstruction as it is now"):
        reconstruct(
            "toy",
            toy_scan,
            tmp_path / "b",
            model=models / "run1",
            overrides=setting,
            host=toy_host,
        )


def test_objects_of_the_training_are_refused(models):
    with pytest.raises(ObjectsError, match=r"0\.npy, .*8 of 8 files were in the training"):
        calibrated(models, objects=models / "objects")
    (models / "run0" / "provenance.json").unlink()
    with pytest.raises(RecipeError, match="does not say what the model was trained on"):
        calibrated(models, objects=models / "objects")


def test_a_model_brings_its_geometry(models):
    with pytest.raises(RecipeError, match="--geometry and --model each give a geometry"):
        calibrated(models, geometry="g.json")


ENSEMBLE = ["uncertainty.method=ensemble", "uncertainty.level=0.8"]


def with_members(models) -> list[str]:
    members = [str(models / "run1"), str(models / "run2")]
    return [*ENSEMBLE, f"uncertainty.members={json.dumps(members)}"]


def test_an_ensemble(models, toy_host, toy_scan, tmp_path):
    """Its deviation is that of its networks, and the calibration remembers which they are."""
    estimates = [
        reconstruct("toy", toy_scan, tmp_path / str(i), model=models / f"run{i}", host=toy_host)
        for i in range(3)
    ]
    expected = torch.stack([each.volume for each in estimates]).std(0)
    result = reconstruct(
        "toy",
        toy_scan,
        tmp_path / "a",
        model=models / "run0",
        overrides=with_members(models),
        host=toy_host,
    )
    told = asked(result)
    assert told["networks"] == 3
    width = told["factor"] * float(expected.double().mean())
    assert told["mean_half_width"] == pytest.approx(width, rel=1e-4)
    made = calibrated(models, overrides=with_members(models))
    assert [member.run for member in made.card.members] == [
        str(models / "run1"),
        str(models / "run2"),
    ]
    again = reconstruct(
        "toy",
        toy_scan,
        tmp_path / "b",
        model=models / "run0",
        overrides=["uncertainty.level=0.8"],
        host=toy_host,
    )
    assert asked(again)["calibrated"]
    assert asked(again)["method"] == "ensemble"
    # A member that was trained again is another.
    shutil.copytree(models / "run0", models / "run2", dirs_exist_ok=True)
    with pytest.raises(ModelError, match="run2 holds another network"):
        reconstruct(
            "toy",
            toy_scan,
            tmp_path / "c",
            model=models / "run0",
            overrides=["uncertainty.level=0.8"],
            host=toy_host,
        )


def test_a_member_for_another_acquisition_is_refused(models, toy_host, toy_scan, tmp_path):
    path = models / "run1" / "model.json"
    card = load_model(models / "run1").card
    changed = card.model_copy(update={"geometry": {**card.geometry, "pixel": 0.7}})
    path.write_text(changed.model_dump_json())
    with pytest.raises(ModelError, match="run1 was trained for another acquisition: pixel"):
        reconstruct(
            "toy",
            toy_scan,
            tmp_path / "a",
            model=models / "run0",
            overrides=with_members(models),
            host=toy_host,
        )


@pytest.mark.slow
def test_coverage_of_a_trained_ct_network_on_held_out_objects(tmp_path):
    """Within 4.5 standard errors of both sets, and up to ``2/(n+1)`` above."""
    ct = pytest.importorskip("labrecon_ct.instrument").CTInstrument()
    geometry = {
        "angles": [math.pi * i / 16 for i in range(16)],
        "columns": 24,
        "column_pitch": 1.0,
        "voxel_size": 1.0,
        "volume_shape": [24, 24],
        "open_beam": 2e4,
    }
    (tmp_path / "g.json").write_text(json.dumps(geometry))
    recipe = {
        "network": {"name": "unrolled", "prior": "l1", "depth": 4},
        "data": {"count": 24},
        "fit": {"epochs": 2, "batch_size": 8, "learning_rate": 0.02},
        "classical": {"skip": True},
        "prepare": [],
    }
    train(ct, tmp_path / "run", recipe=recipe, geometry=tmp_path / "g.json", device="cpu")
    made = calibrate_intervals(
        ct,
        model=tmp_path / "run",
        count=60,
        overrides=["uncertainty.draws=8", "prepare=[]"],
        device="cpu",
    )
    card = made.card
    assert {0.8, 0.9, 0.95} <= {row.level for row in card.levels}
    for row in card.levels:
        spread = row.error * math.sqrt(card.measured_on)
        error = 4.5 * spread * math.sqrt(1 / card.calibrated_on + 1 / card.measured_on)
        assert row.level - error <= row.coverage <= row.level + 2 / 41 + error, row
