"""`labrecon dark-zone`: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from labrecon.cli import app
from labrecon_coronagraph import dark_zone
from labrecon_coronagraph.learned_zone import learn_dark_zone
from labrecon_coronagraph.optics_fits import export_optics
from labrecon_coronagraph.optics_geometry import OpticsGeometry
from labrecon_coronagraph.wavefront_instrument import WavefrontInstrument
from labrecon_coronagraph.zone_page import zone_page

#: A telescope whose spiders the prolate apodizer does not know: much to be learned in few steps.
SMALL = {"samples": 32, "pupil": "vlt", "pixels": 40, "modes": 6, "aberration": 5.0}


def labrecon_(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def optics(tmp_path: Path) -> Path:
    path = tmp_path / "optics.json"
    path.write_text(json.dumps(SMALL))
    return path


@pytest.mark.slow
def test_darker_at_equal_throughput_on_unseen_draws(tmp_path: Path, optics: Path) -> None:
    out = tmp_path / "out"
    done = labrecon_(
        "dark-zone", "-o", out, "--geometry", optics, "--outer", 5, "--steps", 40, "--draws", 8,
        "--rate", 0.01, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    given, learned = told["results"]["given"], told["results"]["learned"]
    assert learned["contrast"] < 0.5 * given["contrast"]
    assert learned["worst draw"] < given["worst draw"]
    assert learned["throughput"] > 0.98 * given["throughput"]
    assert not told["warnings"]
    made = json.loads((out / "provenance.json").read_text())
    assert made["inputs"][0]["path"] == str(optics)
    assert made["options"]["outer"] == 5
    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page
    # In one file: nothing is fetched from anywhere.
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert f"{learned['contrast']:.3g}" in page
    # What was written is what was judged.
    geometry = OpticsGeometry.model_validate_json((out / "optics.json").read_bytes())
    operator = WavefrontInstrument().operator(geometry)
    written = export_optics.read(out / "optics.fits")["apodizer"]
    torch.testing.assert_close(operator.get_parameter("apodizer").detach(), written)
    zone = dark_zone.dark_zone(operator, 3, 5)
    learner = dark_zone.DarkZone(operator, zone)
    nothing = torch.zeros(1, 1, 6, dtype=torch.float64)
    with torch.no_grad():
        assert float(learner.contrast(nothing)) == pytest.approx(learned["perfect optics"])
    again = labrecon_("dark-zone", "-o", out)
    assert again.exit_code == 5
    assert "exists" in again.stderr


@pytest.mark.slow
def test_the_terminal_compares_and_names_the_report(tmp_path: Path, optics: Path) -> None:
    done = labrecon_(
        "dark-zone", "-o", tmp_path / "out", "--geometry", optics, "--outer", 5, "--steps", 1,
        "--draws", 2, "--learn", "phase", "--learn", "lyot_stop", "--half",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for text in ("given", "learned", "inner working angle", "report.html", "optics.fits"):
        assert text in done.stdout
    assert set(export_optics.read(tmp_path / "out" / "optics.fits")) == {"phase", "lyot_stop"}


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, ["--learn", "dose"], "no design dose; there are apodizer"),
        ({}, ["--learn", "commands"], "no design commands"),
        ({}, ["--inner", 5, "--outer", 5], "inner < outer"),
        ({}, ["--outer", 9], "as far as an image of 40 pixels goes"),
        ({}, ["--inner", 3.0, "--outer", 3.0001], "not empty"),
        ({"diversity": [0.0, 100.0]}, [], '"diversity": \\[0.0\\]'),
        ({}, ["--rate", 0], "learning_rate"),
        ({"wavelength": "red"}, [], "wavelength: .*labrecon describe"),
        ({"colour": 3}, [], "colour"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, changes: dict[str, Any], options: list[object], message: str
) -> None:
    path = tmp_path / "optics.json"
    path.write_text(json.dumps({**SMALL, **changes}))
    base = ["dark-zone", "-o", tmp_path / "out", "--geometry", path, "--draws", 2, "--steps", 1]
    done = labrecon_(*base, *["--outer", 5, *options])
    assert done.exit_code == 2, done.output
    assert re.search(message, done.stderr)
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_geometry(tmp_path: Path) -> None:
    path = tmp_path / "optics.json"
    for content in ("not json", "[]"):
        path.write_text(content)
        done = labrecon_("dark-zone", "-o", tmp_path / "out", "--geometry", path)
        assert done.exit_code == 2
        assert "is no geometry" in done.stderr
    done = labrecon_("dark-zone", "-o", tmp_path / "out", "--geometry", tmp_path / "missing.json")
    assert done.exit_code == 2
    assert "can not be read" in done.stderr


@pytest.mark.slow
def test_what_became_worse_is_told() -> None:
    optics = OpticsGeometry.model_validate(SMALL)
    spoiled = learn_dark_zone(optics, outer=5, steps=2, rate=1.0, draws=2)
    assert any("not darker" in warning for warning in spoiled.warnings)
    assert "not darker" in zone_page(spoiled, {})


def test_designs_by_reconstruction_lead_here(tmp_path: Path) -> None:
    done = labrecon_("design", "wavefront", "-o", tmp_path / "study")
    assert done.exit_code == 2
    assert "labrecon dark-zone" in done.stderr
    assert not (tmp_path / "study").exists()


def test_draws_to_judge_by_are_others_than_those_learned_from() -> None:
    optics = OpticsGeometry.model_validate(SMALL)
    seen: list[float] = []
    learned = learn_dark_zone(
        optics,
        outer=5,
        steps=2,
        draws=4,
        batch=4,
        callbacks=[lambda _, r: seen.append(r["contrast"])],
    )
    # The first step takes all four draws with the optics as given.
    assert seen[0] != pytest.approx(float(learned.before.contrast.mean()), rel=1e-9)
    again = learn_dark_zone(optics, outer=5, steps=2, draws=4, batch=4)
    torch.testing.assert_close(again.after.contrast, learned.after.contrast)
