"""A trained network and a scanner that has changed: what needs adaptation, and what does not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from labrecon import plugins
from labrecon.adapt import adapt
from labrecon.errors import ModelError, RecipeError
from labrecon.recon import reconstruct
from labrecon.simulate import simulate_file
from labrecon.train import train
from labrecon_ct.instrument import CTInstrument

COLUMNS, VIEWS = 32, 40
#: A network of one weight: the smoothed data fit.
NETWORK = {"name": "tikhonov", "rho": 1.0, "iterations": 15}
PREPARE = [{"step": name} for name in ("zingers", "flat_field", "centre")]


def geometry(path: Path, *, views: int = VIEWS, centre: float = 0.0) -> Path:
    told = {"angles": [math.pi * i / views for i in range(views)], "columns": COLUMNS}
    path.write_text(json.dumps({**told, "centre_offset": centre, "volume_shape": [COLUMNS] * 2}))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ct")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """Trained for a centre at 0, whose preparation finds it."""
    return trained(folder, "run", PREPARE)


@pytest.fixture(scope="module")
def blind(folder: Path) -> Path:
    """The same without a search for the centre."""
    return trained(folder, "blind", PREPARE[:2])


def trained(folder: Path, name: str, prepare: list[dict[str, str]]) -> Path:
    recipe = {
        "network": NETWORK,
        "data": {"count": 4},
        "fit": {"steps": 1},
        "classical": {"skip": True},
        "prepare": prepare,
    }
    told = geometry(folder / f"{name}.json")
    train("ct", folder / name, recipe=recipe, geometry=told, device="cpu")
    return folder / name


@pytest.fixture(scope="module")
def moved(folder: Path) -> Path:
    """Two scans whose axis projects two columns off the middle."""
    return scans(folder / "moved", geometry(folder / "moved.json", centre=2.0))


def scans(folder: Path, told: Path, nuisances: Mapping[str, list[float]] | None = None) -> Path:
    folder.mkdir()
    for i in range(2):
        simulate_file(
            CTInstrument(),
            folder / f"scan_{i}.h5",
            host=plugins.host(),
            seed=10 + i,
            geometry=told,
            nuisances=nuisances,
        )
    return folder


@pytest.mark.slow
def test_a_moved_centre_needs_no_adaptation(run: Path, moved: Path, tmp_path: Path) -> None:
    """The preparation finds it, and the network is given the operator that has it."""
    with pytest.raises(RecipeError, match=r"nothing to adapt.* no adaptation.*centre_offset") as e:
        adapt(run, moved, tmp_path / "new", device="cpu")
    assert f"`labrecon recon ct SCAN -o OUT --model {run}`" in str(e.value)
    assert "--calibrate, of centre" in str(e.value)
    made = reconstruct("ct", moved / "scan_0.h5", tmp_path / "out", model=run, device="cpu")
    assert made.summary["chi2"] < 1.5


@pytest.mark.slow
def test_changed_views_need_it(run: Path, tmp_path: Path) -> None:
    fewer = scans(tmp_path / "fewer", geometry(tmp_path / "fewer.json", views=30))
    with pytest.raises(ModelError, match="angles: trained with 40 values"):
        reconstruct("ct", fewer / "scan_0.h5", tmp_path / "no", model=run, device="cpu")
    made = adapt(run, fewer, tmp_path / "new", overrides=["iterations=2"], device="cpu")
    assert [line.partition(":")[0] for line in made.summary["differences"]] == ["angles", "data"]
    reconstruct("ct", fewer / "scan_0.h5", tmp_path / "out", model=made.output, device="cpu")


@pytest.mark.slow
def test_centres_that_differ_by_a_little_are_one(run: Path, moved: Path, tmp_path: Path) -> None:
    """Those that the preparation finds in two scans of one instrument."""
    settings = ["iterations=2", "fit.steps=3", "fit.nuisance_rate=0.01"]
    made = adapt(
        run, moved, tmp_path / "new", calibrate=["centre"], overrides=settings, device="cpu"
    )
    [found] = made.summary["calibration"]
    assert found["unit"] == "columns"
    assert found["start"] != 2.0
    assert found["value"] == pytest.approx(2.0, abs=0.2)


@pytest.mark.slow
def test_a_centre_that_nothing_tells(blind: Path, folder: Path, tmp_path: Path) -> None:
    """No file and no step: found beside the network, from two columns off."""
    hidden = scans(tmp_path / "hidden", geometry(tmp_path / "told.json"), {"centre": [2.0]})
    settings = ["iterations=2", "fit.steps=25", "fit.nuisance_rate=0.15", "coupling=0.01"]
    made = adapt(
        blind, hidden, tmp_path / "new", calibrate=["centre"], overrides=settings, device="cpu"
    )
    [found] = made.summary["calibration"]
    assert found["start"] == 0.0
    assert found["value"] == pytest.approx(2.0, abs=0.4)
