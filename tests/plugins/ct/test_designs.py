"""Views that a lab would take, and views computed alone."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from labrecon import FitConfig, Operator, Space, fit
from labrecon.learners import FisherDesign, ObjectSamples
from labrecon.operators import SubsetDesign
from labrecon_ct.designs import golden_angles, usual_members
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.instrument import CTInstrument, export_angles
from labrecon_ct.noise import TransmissionNoise
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


class Rays(Operator):
    """Line integrals that are the unknowns themselves."""

    def __init__(self, views: int, columns: int) -> None:
        space = Space((views, columns), torch.float64, ("angle", "column"))
        super().__init__(space, space)
        self.linear = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1.0 * x

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return 1.0 * y


def test_dose_goes_as_the_root_of_attenuation() -> None:
    """Gies et al. 1999: ``Σ e^p / d`` is least at ``d ∝ e^(p/2)``, where ``Σ d`` is given."""
    attenuation = torch.linspace(0.5, 4.0, 6, dtype=torch.float64)
    lines = attenuation[:, None].expand(6, 3)
    noise = TransmissionNoise(1e5, 0.0, torch.ones(6))
    learner = FisherDesign(Rays(6, 3), noise, designs=["dose"], rho=1e-9, probes=1)
    config = FitConfig(steps=200, batch_size=1, learning_rate=3000.0, optimiser="sgd")
    fit(learner, ObjectSamples(lines[None]), config)
    dose = noise.get_parameter("dose").detach()
    expected = torch.exp(attenuation / 2)
    torch.testing.assert_close(dose, 6 * expected / expected.sum(), rtol=1e-3, atol=0)


@pytest.mark.slow
def test_dose_of_an_elongated_body() -> None:
    """More light along the long axis; the mean variance of the image falls, the dose does not."""
    scan = CTGeometry(
        angles=tuple(math.pi * i / 24 for i in range(24)), columns=32, column_pitch=1.0
    )
    projector = CTProjector(scan)
    y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, 32)], indexing="ij")
    body = 0.16 * ((x / 0.9) ** 2 + (y / 0.3) ** 2 < 1).float()
    noise = TransmissionNoise(1e4, 5.0, torch.ones(24))
    learner = FisherDesign(projector, noise, designs=["dose"], rho=10.0, probes=4)
    samples = ObjectSamples(body[None], fixed=True)
    before = float(learner.loss(samples.batch([0], 0))[0].detach())
    config = FitConfig(steps=60, batch_size=1, learning_rate=600.0, optimiser="sgd")
    fit(learner, samples, config)
    after = float(learner.loss(samples.batch([0], 0))[0].detach())
    dose = noise.get_parameter("dose").detach()
    assert float(dose.sum()) == pytest.approx(24, abs=1e-6)
    # Rays of views 10 to 14 have three times the attenuation of those of view 0.
    assert float(dose[10:15].mean()) > 1.15
    assert after < 0.95 * before


def test_usual_doses_have_one_sum_and_a_learned_one_goes_out(
    tmp_path: Path,
) -> None:
    usual = CT.baselines(geometry(), "dose", torch.Generator().manual_seed(0))
    noise = CT.noise(geometry())
    for dose in usual.values():
        assert not noise.designs["dose"].violations(dose)
        assert float(dose.sum()) == pytest.approx(30)
    made = CT.designed(geometry(), {"dose": usual["random"]})
    torch.testing.assert_close(torch.tensor(made.dose).double(), usual["random"])
    assert CT.budget(geometry(), usual | {"dose": usual["random"]})["dose"].startswith("30 times")
    export_angles(made, {}, tmp_path / "angles.csv")
    rows = list(csv.DictReader((tmp_path / "angles.csv").read_text().splitlines()))
    assert float(rows[3]["dose"]) == pytest.approx(float(usual["random"][3]), rel=1e-5)
