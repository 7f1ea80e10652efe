"""The MR scanner: what it hands over, recipes that run, networks that build on its physics."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from labrecon.instrument import ReaderError
from labrecon.plugins import Host, host, resolve
from labrecon.problem import Problem
from labrecon.recipe import load_recipe
from labrecon.recon import reconstruct
from labrecon.testing import check_operator
from labrecon_mri.forward_model import forward_model
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.gradient_slew import GradientSlew
from labrecon_mri.instrument import MRIInstrument
from labrecon_mri.noise import CoilNoise
from labrecon_mri.phantoms import birdcage_maps, random_objects
from labrecon_mri.readers.mrd import MRDReader
from labrecon_mri.trajectories import radial

MRI = MRIInstrument()
FOV = (0.22, 0.22)
#: Networks that refuse this physics, or need more than a problem to be made from.
OF_OTHERS = {"alista", "calibrated", "dcea", "detnet", "lista", "lucas-kanade", "reused"}


def radial_geometry(n: int = 32, coils: int = 4, spokes: int = 20, **more: object) -> MRIGeometry:
    fields = {
        "matrix": (n, n),
        "fov": FOV,
        "coils": coils,
        "maps": birdcage_maps(coils, (n, n)),
        "trajectory": radial(spokes, 2 * n, (n, n), FOV),
        "dwell": 10e-6,
        "sigma": 0.01,
    }
    return MRIGeometry.model_validate(fields | more)


def prepared(scan, **options):
    for name in MRI.recipes()["recon"]["prepare"]:
        scan = resolve(MRI.steps[name["step"]])(scan, **options.get(name["step"], {}))
    MRI.check(scan)
    return scan


def test_announcing_the_plugin_loads_nothing_heavy() -> None:
    code = (
        "import sys, labrecon_mri as p; p.labrecon_instruments(); p.labrecon_operators();"
        "print([m for m in ('torch', 'finufft', 'sigpy', 'ismrmrd', 'scipy') if m in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert told.stdout.strip() == "[]"


def test_every_dotted_path_leads_somewhere() -> None:
    import labrecon_mri

    for table in (MRI.readers, MRI.steps, MRI.exporters):
        assert all(callable(resolve(path)) for path in table.values())
    for hook in ("operators", "feasible_sets", "writers", "instruments"):
        assert all(
            callable(resolve(p)) for p in getattr(labrecon_mri, f"labrecon_{hook}")().values()
        )
    found = Host(discover=False)
    found.add("mri", labrecon_mri)
    assert found.get("instruments", "mri") is MRIInstrument


@pytest.mark.parametrize("name", [name for name in MRI.recipes() if name != "design"])
def test_recipes_are_valid(name: str) -> None:
    assert load_recipe(name, MRI).prepare[0].step in MRI.steps


def test_objects_fit_every_geometry() -> None:
    generator = torch.Generator().manual_seed(0)
    volume = MRIGeometry(matrix=(6, 10, 12), fov=(0.1, 0.2, 0.2))
    sets = radial_geometry().changed(maps=birdcage_maps(4, (32, 32))[None].repeat(2, 1, 1, 1))
    slices = radial_geometry(frames={"slice": 3})
    for geometry in (MRI.example(), volume, sets, slices):
        objects = MRI.objects(geometry, 2, generator)
        assert objects.shape == (2, *MRI.operator(geometry).domain.shape)
        assert not torch.equal(objects[0], objects[1])
        assert 0.5 < float(objects.abs().max()) < 2


def test_a_raw_scan_goes_through_the_default_recipe() -> None:
    """Correlated noise and no maps: found, taken out, and the residual is at the noise level."""
    n, coils = 64, 6
    generator = torch.Generator().manual_seed(3)
    maps = birdcage_maps(coils, (n, n))
    truth = random_objects(MRIGeometry(matrix=(n, n), fov=FOV), 1, generator)[0]
    mix = torch.randn(coils, coils, dtype=torch.complex64, generator=generator)
    psi = (0.02**2) * (torch.eye(coils) + 0.1 * mix @ mix.mH)
    mask = (torch.arange(n) % 2 == 0).float()[:, None].clone()
    mask[n // 2 - 12 : n // 2 + 12] = 1
    geometry = MRIGeometry.model_validate(
        {"matrix": (n, n), "fov": FOV, "coils": coils, "mask": mask}
    )
    clean = forward_model(geometry.changed(maps=maps))(truth)
    noise = CoilNoise(psi)
    data = noise.sample(clean, generator) * mask
    samples = noise.sample(torch.zeros(coils, 400, 10, dtype=torch.complex64), generator).flatten(1)
    scan = MRI.simulate(MRI.example(), generator).replace(
        data=data,
        geometry=geometry,
        calibration={"noise": samples, "noise_scale": torch.tensor(1.0)},
        truth=truth,
    )
    ready = prepared(scan)
    operator = MRI.operator(ready.geometry)
    from labrecon.solver import solve
    from labrecon.solvers import CG

    problem = Problem(operator, ready.data, ready.noise, ready.weights)
    x = solve(CG(), problem, iterations=12).x
    counted = ready.weights.expand(ready.data.shape) > 0
    residual = ((operator(x) - ready.data).abs().square() * counted).sum() / (2 * counted.sum())
    # Unknowns take their share of the residual: 4096 of some 6 · 44 · 64 samples.
    assert 0.65 < float(residual) < 1.1
    inside = truth.abs() > 0.1
    scale = (x.abs() * truth.abs())[inside].sum() / x.abs().square()[inside].sum()
    error = (scale * x.abs() - truth.abs())[inside].norm() / truth.abs()[inside].norm()
    assert float(error) < 0.08


def test_several_coils_without_maps_are_refused_before_any_work() -> None:
    bare = radial_geometry().changed(maps=None)
    scan = MRI.simulate(radial_geometry(), torch.Generator().manual_seed(0)).replace(geometry=bare)
    with pytest.raises(ReaderError, match="put the step sensitivities"):
        MRI.check(scan)
    with pytest.raises(ValueError, match="4 coils have no sensitivities"):
        MRI.operator(bare)


def test_designs_have_the_limits_of_the_hardware() -> None:
    operator = MRI.operator(radial_geometry(), system="prisma")
    limits = operator.designs["sampling.trajectory"]
    assert isinstance(limits, GradientSlew)
    assert limits.violations(operator.get_parameter("sampling.trajectory")) == {}
    with pytest.raises(ValueError, match="dwell time"):
        MRI.operator(radial_geometry().changed(dwell=None), system="prisma")
    lines = MRI.operator(MRI.example(), acceleration=2.0, centre=12).designs["sampling.mask"]
    assert int(lines.harden(torch.rand(64, 1)).sum()) == 32


def test_conformance_of_the_radial_model() -> None:
    """In double precision: in single precision the sums have a tolerance of their own."""
    check_operator(
        lambda: forward_model(radial_geometry(16), dtype=torch.complex128),
        calls=20,
        skip=("memory",),
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::labrecon.networks.fixed_point.ConvergenceWarning")
@pytest.mark.parametrize("name", sorted(set(host().names("networks")) - OF_OTHERS))
@pytest.mark.parametrize("kind", ["cartesian", "radial"])
def test_every_network_builds_on_the_physics(name: str, kind: str) -> None:
    """All but those of one other kind of operator, and those that `labrecon adapt` alone makes."""
    geometry = MRI.example() if kind == "cartesian" else radial_geometry()
    scan = MRI.simulate(geometry, torch.Generator().manual_seed(0))
    problem = Problem(MRI.operator(geometry), scan.data[None], scan.noise)
    make = host().get("networks", name)
    wanted = {"host": host()} if "host" in inspect.signature(make).parameters else {}
    network = make(problem, scale=1.0, seed=0, **wanted)
    x = network(problem)
    assert x.dtype == torch.complex64
    assert bool(torch.isfinite(torch.view_as_real(x)).all())
    (x - scan.truth).abs().square().mean().backward()
    learned = [p.grad for p in network.parameters() if p.grad is not None]
    assert any(bool(grad.any()) for grad in learned)


@pytest.mark.slow
def test_a_network_trains_and_reconstructs_a_file(tmp_path: Path) -> None:
    from labrecon.train.run import train

    told = train(
        "mri",
        tmp_path / "run",
        network="modl",
        overrides=["data.count=16", "data.validation=0.25", "fit.epochs=2", "classical.skip=true"],
        device="cpu",
    )
    assert told.summary["status"] == "finished"
    scan = MRI.simulate(MRI.example(), torch.Generator().manual_seed(9))
    MRDReader().write(scan, tmp_path / "scan.mrd.h5")
    reconstruct("mri", tmp_path / "scan.mrd.h5", tmp_path / "out", model=tmp_path / "run")
    assert (tmp_path / "out" / "report.html").is_file()
