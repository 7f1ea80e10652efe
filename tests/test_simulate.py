"""`labrecon simulate`: geometries of a user, and instruments that are not as believed."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from labrecon.cli import app
from labrecon.errors import RecipeError
from labrecon.misset import misset, parse_nuisances
from labrecon.plan import find_instrument
from labrecon.plugins import host
from labrecon.simulate import simulate_file
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.instrument import CTInstrument
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.instrument import MRIInstrument
from labrecon_mri.readers.mrd import MRDReader
from labrecon_mri.trajectories import radial

FOV = (0.2, 0.2)


def written(path: Path, **fields: Any) -> Path:
    path.write_text(json.dumps(fields))
    return path


def spokes(path: Path, coils: int) -> Path:
    lines = radial(8, 32, (16, 16), FOV).tolist()
    return written(path, matrix=(16, 16), fov=FOV, coils=coils, trajectory=lines)


def cli(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_what_is_simulated_is_off_and_its_geometry_does_not_tell() -> None:
    """As if the operator had the value, seen through the same object and noise."""
    ct, geometry = CTInstrument(), CTGeometry(angles=(0.0, 0.7), columns=24)
    off = misset(ct, {"centre": (2.0,)})
    made, plain = (one.simulate(geometry, torch.Generator().manual_seed(1)) for one in (off, ct))
    told = CTGeometry(angles=(0.0, 0.7), columns=24, centre_offset=2.0)
    expected = ct.simulate(told, torch.Generator().manual_seed(1))
    assert made.geometry == geometry
    torch.testing.assert_close(made.truth, plain.truth)
    torch.testing.assert_close(made.data, expected.data, rtol=0.02, atol=0)
    assert float((made.data - plain.data).abs().max()) > 0.1 * float(plain.data.max())
    assert float(ct.operator(geometry).centre) == 0.0


@pytest.mark.parametrize("name", host().names("instruments"))
def test_what_every_instrument_simulates_is_off(name: str) -> None:
    """Also of those that add a star, counts or maps to what their operator predicts."""
    lab = find_instrument(name, host())
    for geometry in lab.examples().values():
        known = lab.operator(geometry)
        for nuisance in known.nuisances:
            value = known.get_parameter(nuisance).detach()
            values = {nuisance: (value.flatten() + 0.5).tolist()}
            plain, off = (
                each.simulate(geometry, torch.Generator().manual_seed(3)).data
                for each in (lab, misset(lab, values))
            )
            assert not torch.allclose(plain, off, rtol=1e-3), nuisance


def test_a_simulation_without_the_operator_is_not_taken_for_one_that_is_off() -> None:
    class Own(CTInstrument):
        def simulate(self, geometry: Any, generator: torch.Generator) -> Any:
            return CTInstrument().simulate(geometry, generator)

    off = misset(Own(), {"centre": (2.0,)})
    with pytest.raises(RecipeError, match=r"--nuisance centre: 'ct' simulates without"):
        off.simulate(CTGeometry(angles=(0.0,), columns=8), torch.Generator())


def test_delays_reach_the_file(tmp_path: Path) -> None:
    known = spokes(tmp_path / "spokes.json", coils=4)
    scans = [
        simulate_file(
            MRIInstrument(), tmp_path / f"{i}.mrd.h5", host=host(), geometry=known, nuisances=off
        )
        for i, off in enumerate(({}, {"delay": (-0.5, 0.3)}))
    ]
    reader = MRDReader()
    read = [reader.read(tmp_path / f"{i}.mrd.h5").data for i in range(2)]
    assert float((read[1] - read[0]).norm() / read[0].norm()) > 0.1
    assert torch.equal(scans[0].geometry.trajectory.tensor(), scans[1].geometry.trajectory.tensor())


def test_coils_without_sensitivities_are_those_of_a_birdcage(tmp_path: Path) -> None:
    """As a scanner's file: four different coils, whose maps it does not state."""
    known = spokes(tmp_path / "spokes.json", coils=4)
    scan = simulate_file(MRIInstrument(), tmp_path / "a.mrd.h5", host=host(), geometry=known)
    assert isinstance(scan.geometry, MRIGeometry)
    assert scan.geometry.maps is None
    power = scan.data.abs().square().mean((1, 2))
    assert scan.data.shape[0] == 4
    assert float(power.min()) > 0.05 * float(power.max())
    ratio = scan.data[0] / scan.data[1]
    assert float((ratio - ratio.mean()).abs().median()) > 0.1


def test_a_geometry_that_can_not_be_simulated_is_a_wrong_input(tmp_path: Path) -> None:
    class Refusing(MRIInstrument):
        def objects(self, geometry: Any, n: int, generator: torch.Generator) -> torch.Tensor:
            raise ValueError("no objects of that size")

    known = spokes(tmp_path / "spokes.json", coils=1)
    path = tmp_path / "a.mrd.h5"
    with pytest.raises(RecipeError, match=r"spokes.json: 'mri' can not simulate it: no objects"):
        simulate_file(Refusing(), path, host=host(), geometry=known)
    # Of its own example it is the instrument's fault.
    with pytest.raises(ValueError, match=r"^no objects"):
        simulate_file(Refusing(), path, host=host())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tilt=1", "no nuisance 'tilt'; it has centre"),
        ("centre=1,2", "2 numbers, expected 1: centre"),
        ("centre", "expected NAME=NUMBER"),
        ("centre=two", "expected NAME=NUMBER"),
        ("centre=nan", "expected NAME=NUMBER"),
        ("=2", "expected NAME=NUMBER"),
    ],
)
def test_a_wrong_nuisance_is_told(tmp_path: Path, given: str, message: str) -> None:
    known = written(tmp_path / "g.json", angles=[0.0, 0.5], columns=16)
    done = cli("simulate", "ct", tmp_path / "a.h5", "--geometry", known, "--nuisance", given)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not (tmp_path / "a.h5").exists()


def test_a_nuisance_twice_is_told() -> None:
    with pytest.raises(RecipeError, match="centre is given twice"):
        parse_nuisances(["centre=1", "centre=2"])


@pytest.mark.slow
def test_a_rehearsed_centre_is_found(tmp_path: Path) -> None:
    """From the lines of the page: simulate two columns off, calibrate, read it in the terminal."""
    angles = [math.pi * i / 48 for i in range(48)]
    known = written(tmp_path / "g.json", angles=angles, columns=48)
    scan = tmp_path / "scan.h5"
    assert cli("simulate", "ct", scan, "--geometry", known, "--nuisance", "centre=2").exit_code == 0
    done = cli(
        "recon", "ct", scan, "-o", tmp_path / "out", "--set", 'calibrate.nuisances=["centre"]',
        "--set", "operator.kernel=strip", "--set", "prepare.centre.skip=true",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    found = told["reconstructions"][0]["calibration"]
    assert found["estimates"]["centre"]["value"] == pytest.approx(2.0, abs=0.1)
    assert found["estimates"]["centre"]["start"] == 0.0
    assert (
        f"χ² of the best object of a quadratic prior {found['chi2']:.3g} per degree of freedom, "
        f"{found['chi2_before']:.3g} with the values before; that of the image is "
        f"{told['chi2']:.3g} per sample"
    ) in done.stdout
    assert f"χ² {told['chi2']:.3g} per sample" in done.stdout
