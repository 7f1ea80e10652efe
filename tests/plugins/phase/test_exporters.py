"""What an LED controller loads has the light that was designed."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from labrecon_phase.exporters.led_csv import export_led_csv
from labrecon_phase.exporters.led_json import export_led_json
from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.instrument import PhaseInstrument
from labrecon_phase.led_patterns import LEDPatterns
from labrecon_phase.readers.tiff_leds import TiffLedReader


@pytest.fixture
def geometry() -> PhaseGeometry:
    return PhaseInstrument().example().changed(levels=16, led_shift=(0.5, 0.0))


@pytest.fixture
def pattern(geometry: PhaseGeometry) -> torch.Tensor:
    drawn = torch.rand(3, geometry.leds.shape[0], generator=torch.Generator().manual_seed(0))
    drawn = drawn.square().double()
    return drawn / drawn.sum(1, keepdim=True)


def test_json_holds_the_rounded_pattern(
    tmp_path: Path, geometry: PhaseGeometry, pattern: torch.Tensor
) -> None:
    export_led_json(geometry, {"patterns": pattern}, tmp_path / "dpc_0.25")
    path = tmp_path / "dpc_0.25.json"
    hard = LEDPatterns(torch.ones(1, pattern.shape[1]), geometry.levels).harden(pattern)
    torch.testing.assert_close(export_led_json.read(path)["patterns"], hard)
    assert not torch.allclose(hard, pattern)
    told = json.loads(path.read_text())
    for shot in told["exposures"]:
        codes = [led["code"] for led in shot["leds"]]
        assert max(codes) == 15
        assert min(codes) > 0
        light = sum(led["brightness"] for led in shot["leds"]) * shot["relative_time"]
        assert light == pytest.approx(1)


def test_exported_json_describes_the_images_that_follow(
    tmp_path: Path, geometry: PhaseGeometry, pattern: torch.Tensor
) -> None:
    designed = geometry.changed(quantity="contrast", sigma=0.01)
    export_led_json(designed, {"operator.patterns": pattern}, tmp_path / "scan.json")
    data = np.full((3, 20, 20), 100, np.uint16)
    tifffile.imwrite(tmp_path / "scan.tif", data, photometric="minisblack", metadata=None)
    read = TiffLedReader().read(tmp_path / "scan.tif").geometry
    hard = LEDPatterns(torch.ones(1, pattern.shape[1]), geometry.levels).harden(pattern)
    assert read.quantity == "intensity"
    assert read.leds == geometry.leds
    assert read.led_shift == geometry.led_shift
    torch.testing.assert_close(read.patterns.tensor(), hard)


def test_designs_of_a_model_are_in_single_precision(
    tmp_path: Path, geometry: PhaseGeometry
) -> None:
    model = PhaseInstrument().operator(geometry)
    design = model.get_parameter("patterns").detach()
    assert design.dtype == torch.float32
    export_led_json(geometry, {"patterns": design}, tmp_path / "a.json")
    again = export_led_json.read(tmp_path / "a.json")["patterns"]
    torch.testing.assert_close(again.float(), design)


def test_csv_is_a_row_per_led(
    tmp_path: Path, geometry: PhaseGeometry, pattern: torch.Tensor
) -> None:
    export_led_csv(geometry, {"patterns": pattern}, tmp_path / "design")
    with (tmp_path / "design.csv").open() as file:
        rows = list(csv.DictReader(file))
    codes = LEDPatterns(torch.ones(1, pattern.shape[1]), geometry.levels).codes(pattern)
    made = torch.zeros_like(codes)
    for row in rows:
        led = int(row["led"])
        made[int(row["exposure"]), led] = int(row["code"])
        place = [float(row[f"{axis}_mm"]) for axis in "xyz"]
        assert place == geometry.leds.values[led].tolist()
    assert torch.equal(made, codes)
    assert len(rows) == int((codes > 0).sum())


def test_without_a_design_the_geometry_is_exported(tmp_path: Path, geometry: PhaseGeometry) -> None:
    export_led_json(geometry, {}, tmp_path / "a.json")
    again = export_led_json.read(tmp_path / "a.json")["patterns"]
    torch.testing.assert_close(again, geometry.patterns.tensor())


@pytest.mark.parametrize("export", [export_led_json, export_led_csv])
def test_what_can_not_be_shown_is_refused(tmp_path: Path, geometry: PhaseGeometry, export) -> None:
    leds = geometry.leds.shape[0]
    good = torch.full((2, leds), 1 / leds)
    wrong = good.clone()
    wrong[0, 0] = -0.1
    for bad, match in (
        (wrong, "negative"),
        (2 * good, "sum"),
        (good * torch.nan, "can not be shown"),
        (good[:, 1:], r"patterns are \(exposure, led\)"),
        (good[0], r"patterns are \(exposure, led\)"),
    ):
        with pytest.raises(ValueError, match=match):
            export(geometry, {"patterns": bad}, tmp_path / "design")
    assert not list(tmp_path.iterdir())
