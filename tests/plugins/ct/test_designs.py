"""Views that a lab would take, and views computed alone."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from labrecon.operators import SubsetDesign
from labrecon_ct.designs import golden_angles, usual_members
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.instrument import CTInstrument, export_angles
from labrecon_ct.projector import CTProjector

CT = CTInstrument()


def geometry(views: int = 30) -> CTGeometry:
    angles = tuple(math.pi * i / views for i in range(views))
    return CTGeometry(angles=angles, columns=24, column_pitch=1.0, centre_offset=0.7)


def test_chosen_views_alone_are_those_of_the_whole_projector() -> None:
    whole = CTProjector(geometry())
    subset = SubsetDesign(CTProjector(geometry()), 4, "angle")
    subset.choose(torch.tensor([2, 9, 17, 28]))
    generator = torch.Generator().manual_seed(0)
    x, y = whole.domain.random(2, generator=generator), whole.range.random(2, generator=generator)
    mask = subset.weights.detach()
    torch.testing.assert_close(subset(x), mask * whole(x))
    torch.testing.assert_close(subset.adjoint(y), whole.adjoint(mask * y))
    torch.testing.assert_close(subset.normal(x), whole.adjoint(mask * whole(x)))
    # With gradients on, all candidates are computed.
    subset.learn("members")
    torch.testing.assert_close(subset(x).detach(), mask * whole(x), atol=0.1, rtol=0)


def test_golden_angles_fill_the_largest_gap() -> None:
    """Winkelmann et al. 2007: of 111.25 degrees modulo 180, none nearer than the golden ratio."""
    degrees = torch.rad2deg(golden_angles(3))
    assert degrees[1] == pytest.approx(111.246, abs=1e-3)
    for count in (5, 8, 13):
        gaps = golden_angles(count).sort().values.diff()
        assert float(gaps.max() / gaps.min()) < 2.7


def test_usual_designs_have_equal_budget() -> None:
    few = CT.with_acquisitions(geometry(), 7)
    assert len(few.angles) == 7
    found = CT.baselines(few, "angles", torch.Generator().manual_seed(0))
    assert {len(v) for v in found.values()} == {7}
    torch.testing.assert_close(found["equispaced"], torch.tensor(few.angles).double())
    assert int(usual_members(geometry(), 7)["golden angle"].sum()) == 7
    vectors = ((1.0, 0.0, 0.0, 0.0, 0.0, 1.0),) * 2
    posed = CTGeometry(angles=(0.0, 1.0), columns=8, column_pitch=1.0, vectors=vectors)
    with pytest.raises(ValueError, match="vectors"):
        CT.with_acquisitions(posed, 2)


def test_a_choice_of_views_is_a_geometry_and_a_table(tmp_path: Path) -> None:
    mask = torch.zeros(30).scatter(0, torch.tensor([1, 5, 20]), 1.0)
    chosen = CT.designed(geometry(), {"members": mask})
    torch.testing.assert_close(
        torch.tensor(chosen.angles), math.pi / 30 * torch.tensor([1.0, 5.0, 20.0])
    )
    assert CT.budget(geometry(), {"members": mask})["views"] == "3"
    export_angles(chosen, {}, tmp_path / "angles")
    with (tmp_path / "angles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["angle_deg"]) for row in rows] == pytest.approx([6.0, 30.0, 120.0])
