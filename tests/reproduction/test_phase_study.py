"""`labrecon design phase` as a lab runs it: one to four exposures, three starts, two doses.

Judged with the nonlinear model on cells that were not learned from, at equal light, by Gauss–Newton
with a Tikhonov weight found for each design (another reconstruction than the unrolled descent that
patterns were learned through).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from labrecon.study import design
from labrecon_phase.instrument import PhaseInstrument

pytestmark = pytest.mark.nightly


@pytest.mark.parametrize("electrons", [30_000.0, 3_000.0])
@pytest.mark.parametrize("exposures", [1, 2, 3, 4])
def test_learned_patterns_beat_half_circles_and_random_ones(
    exposures: int, electrons: float, tmp_path: Path
) -> None:
    geometry = tmp_path / "geometry.json"
    made = PhaseInstrument().example().changed(electrons=electrons)
    geometry.write_text(made.model_dump_json())
    small = ("design.control=false", "data.count=30", "evaluation.random=3")
    (told,) = design(
        "phase", tmp_path / "study", exposures=[exposures], geometry=geometry, overrides=small
    ).summary["designs"]
    for method in told["methods"]:
        print(exposures, electrons, method["title"], method["intervals"]["psnr"])
    for title in ("half circles (DPC)", "random"):
        margin = told["margins"][title]
        print(exposures, electrons, "over", title, margin["text"])
        assert margin["mean"] > 1.0
        # The interval of three starts lies above zero.
        assert margin["mean"] - margin["half"] > 0
