"""Masks have the lines they promise; what is exported is what the scanner would sample."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from labrecon.errors import OutputError
from labrecon_mri.exporters.mrd import export_mrd
from labrecon_mri.exporters.npy import export_npy
from labrecon_mri.exporters.pulseq import PulseqExporter, export_pulseq, read_pulseq_trajectory
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.gradient_slew import GradientSlew
from labrecon_mri.instrument import MRIInstrument
from labrecon_mri.masks import equispaced, line_set, poisson_disc, variable_density
from labrecon_mri.trajectories import radial_3d, spiral

MATRIX, FOV = (96, 96), (0.22, 0.22)


@pytest.mark.parametrize("lines", [64, 95, 230])
@pytest.mark.parametrize("acceleration", [2.0, 4.0, 7.3])
def test_masks_have_their_lines(lines: int, acceleration: float) -> None:
    generator = torch.Generator().manual_seed(0)
    centre = lines // 16
    low = lines // 2 - centre // 2
    masks = {
        "even": equispaced(lines, acceleration, centre),
        "random": variable_density(lines, acceleration, centre, generator=generator),
    }
    for mask in masks.values():
        assert mask.shape == (lines, 1)
        assert int(mask.sum()) == round(lines / acceleration)
        assert bool((mask[low : low + centre] == 1).all())
        assert bool((mask * (1 - mask) == 0).all())
    gaps = masks["even"][:, 0].nonzero().diff(dim=0)
    assert int(gaps.max()) <= math.ceil(1.5 * acceleration * (1 + centre / lines)) + 1
    with pytest.raises(ValueError, match="smaller centre"):
        equispaced(lines, acceleration, lines)


def test_variable_density_is_denser_in_the_middle() -> None:
    generator = torch.Generator().manual_seed(1)
    drawn = sum(variable_density(128, 4, 8, generator=generator)[:, 0] for _ in range(200))
    assert float(drawn[36:56].mean()) > 3 * float(drawn[:20].mean())


def test_poisson_disc_keeps_its_distance() -> None:
    mask = poisson_disc((48, 64), 6, 8, generator=torch.Generator().manual_seed(0))[..., 0]
    assert int(mask.sum()) == 48 * 64 // 6
    assert bool((mask[20:28, 28:36] == 1).all())
    outside = mask.clone()
    outside[18:30, 26:38] = 0
    places = outside.nonzero().double()
    nearest = (torch.cdist(places, places) + 1e9 * torch.eye(len(places))).amin(1)
    drawn = torch.randperm(48 * 64, generator=torch.Generator().manual_seed(0))[: len(places)]
    random = torch.stack([drawn // 64, drawn % 64], -1).double()
    apart = (torch.cdist(random, random) + 1e9 * torch.eye(len(random))).amin(1)
    # Points thrown at random often touch; these do not.
    assert float((nearest < 1.4).double().mean()) < 0.05
    assert float((apart < 1.4).double().mean()) > 0.2
    assert float(nearest.mean()) > 1.2 * float(apart.mean())
    with pytest.raises(ValueError, match="smaller centre"):
        poisson_disc((8, 8), 16, 4, generator=torch.Generator())


def test_a_learned_mask_keeps_its_centre_and_its_count() -> None:
    feasible = line_set(64, 16, 6)
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 10.0):
        relaxed = feasible.project(scale * torch.randn(64, 1, generator=generator))
        assert float(relaxed.sum()) == pytest.approx(16, abs=1e-3)
        assert bool((relaxed[29:35] > 1 - 1e-5).all())
        hard = feasible.harden(relaxed)
        assert int(hard.sum()) == 16
        assert bool((hard[29:35] == 1).all())


def planned(trajectory: torch.Tensor, dwell: float, **more: object) -> MRIGeometry:
    n = trajectory.shape[-1]
    return MRIGeometry.model_validate(
        {"matrix": MATRIX[:1] * n, "fov": FOV[:1] * n, "trajectory": trajectory, "dwell": dwell}
        | more
    )


@pytest.mark.parametrize("dwell", [10e-6, 5e-6, 20e-6])
def test_pulseq_samples_where_the_design_is(dwell: float, tmp_path: Path) -> None:
    """pypulseq integrates the gradients of the file: within 3 % of 1/fov, 1.5 % on average."""
    # Well within the limits, since interpolation onto the raster bends the curve a little more.
    limits = GradientSlew(36, 150 if dwell == 10e-6 else 110, dwell=dwell)
    k = limits.project(spiral(3, int(8e-3 / dwell), MATRIX, FOV, turns=8))
    export_pulseq(planned(k, dwell), {}, tmp_path / "spiral")
    played = read_pulseq_trajectory(tmp_path / "spiral.seq", 3)
    error = (played[..., [1, 0]] - k).norm(dim=-1) * FOV[0]
    assert float(error.max()) < 0.03
    assert float(error.mean()) < 0.015
    told = (tmp_path / "spiral.limits.txt").read_text()
    assert "Prisma" in told
    assert told.count("100.00 % within") == 2


@pytest.mark.parametrize("samples", range(100, 104))
def test_every_length_of_readout_has_sound_timing(samples: int, tmp_path: Path) -> None:
    """Slow at the end, so that the ramp down is shorter than the dead time of the ADC."""
    k = torch.zeros(1, samples, 2, dtype=torch.float64)
    k[0, :, 1] = 100 * torch.sin(torch.linspace(0, math.pi / 2, samples))
    export_pulseq(planned(k, 10e-6), {}, tmp_path / "slow")
    played = read_pulseq_trajectory(tmp_path / "slow.seq", 1)
    assert float((played[..., [1, 0]] - k).norm(dim=-1).max()) * FOV[0] < 0.03


def test_pulseq_in_3d_and_with_a_repetition_time(tmp_path: Path) -> None:
    import pypulseq

    k = radial_3d(4, 200, (96,) * 3, (0.22,) * 3)
    export = PulseqExporter(system="terra-x", repetition=20e-3)
    export(planned(k, 10e-6), {"sampling.trajectory": k}, tmp_path / "ball")
    played = read_pulseq_trajectory(tmp_path / "ball.seq", 4)
    assert float((played.flip(-1) - k).norm(dim=-1).max()) * 0.22 < 0.03
    sequence = pypulseq.Sequence()
    sequence.read(str(tmp_path / "ball.seq"))
    assert sequence.duration()[0] == pytest.approx(4 * 20e-3, abs=1e-4)


def test_pulseq_of_a_mask_measures_its_lines(tmp_path: Path) -> None:
    geometry = MRIInstrument().example()
    mask = equispaced(64, 4, 8)
    export_pulseq(geometry, {"sampling.mask": mask}, tmp_path / "lines")
    played = read_pulseq_trajectory(tmp_path / "lines.seq", 16) * 0.22
    rows = mask[:, 0].nonzero()[:, 0] - 32
    assert torch.allclose(played[..., 1], rows[:, None].expand(-1, 64).double(), atol=0.02)
    columns = torch.arange(64, dtype=torch.float64) - 32
    assert torch.allclose(played[..., 0], columns.expand(16, -1), atol=0.02)


def test_what_can_not_be_played_is_refused(tmp_path: Path) -> None:
    wild = spiral(3, 800, MATRIX, FOV, turns=60)
    with pytest.raises(ValueError, match=r"beyond the limits of Siemens Prisma.*slew"):
        export_pulseq(planned(wild, 10e-6), {}, tmp_path / "wild")
    assert list(tmp_path.iterdir()) == []
    geometry = MRIInstrument().example()
    with pytest.raises(ValueError, match="harden it first"):
        export_pulseq(geometry, {"mask": torch.full((64, 1), 0.25)}, tmp_path / "relaxed")
    with pytest.raises(ValueError, match="nothing to export"):
        export_npy(MRIGeometry(matrix=MATRIX, fov=FOV), {}, tmp_path / "none")
    k = GradientSlew.of("prisma", dwell=10e-6).project(spiral(2, 800, MATRIX, FOV, turns=6))
    with pytest.raises(ValueError, match="longer than TR"):
        PulseqExporter(repetition=5e-3)(planned(k, 10e-6), {}, tmp_path / "slow")


def test_mrd_trajectory_as_ismrmrd_reads_it(tmp_path: Path) -> None:
    import ismrmrd

    k = spiral(3, 100, MATRIX, FOV)
    export_mrd(planned(k, 4e-6), {"trajectory": k}, tmp_path / "plan")
    file = ismrmrd.Dataset(str(tmp_path / "plan.h5"), "dataset", create_if_needed=False)
    assert file.number_of_acquisitions() == 3
    line = file.read_acquisition(1)
    assert line.sample_time_us == pytest.approx(4.0)
    expected = k[1].flip(-1) * FOV[0] / MATRIX[0]  # (kx, ky) in cycles/pixel
    assert np.allclose(line.traj, expected.numpy(), atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.h5"]


def test_npy_gives_back_what_it_was_given(tmp_path: Path) -> None:
    k = spiral(3, 100, MATRIX, FOV)
    export_npy(planned(k, 4e-6), {"sampling.trajectory": k}, tmp_path / "k")
    for name in ("k.npy", "k.json"):
        assert torch.equal(export_npy.read(tmp_path / name)["sampling.trajectory"], k)
    assert np.load(tmp_path / "k.npy").dtype == np.float64


def test_names_with_dots_and_folders_that_are_not_there(tmp_path: Path) -> None:
    k = GradientSlew.of("prisma", dwell=10e-6).project(spiral(2, 300, MATRIX, FOV, turns=3))
    geometry = planned(k, 10e-6)
    for export, ending in ((export_pulseq, ".seq"), (export_npy, ".npy"), (export_mrd, ".h5")):
        export(geometry, {}, tmp_path / "new" / "scan_1.5T")
        assert (tmp_path / "new" / f"scan_1.5T{ending}").is_file()
    assert torch.equal(export_npy.read(tmp_path / "new" / "scan_1.5T.npy")["trajectory"], k)
    (tmp_path / "file").write_text("no folder")
    for export in (export_pulseq, export_npy, export_mrd):
        with pytest.raises(OutputError, match="file"):
            export(geometry, {}, tmp_path / "file" / "scan")


def test_a_design_in_single_precision_at_its_limits_is_played(tmp_path: Path) -> None:
    limits = GradientSlew.of("prisma", dwell=10e-6)
    k = limits.project(spiral(2, 600, MATRIX, FOV, turns=12).float())
    assert float(limits.slew(k.double()).norm(dim=-1).max()) > 200
    export_pulseq(planned(k, 10e-6), {}, tmp_path / "fast")
    played = read_pulseq_trajectory(tmp_path / "fast.seq", 2)
    assert float((played[..., [1, 0]] - k).norm(dim=-1).max()) * FOV[0] < 0.03
