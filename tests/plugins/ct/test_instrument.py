"""The CT instrument: what it hands over, its noise, and recipes that run."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ct_scans import simulated

from labrecon.instrument import ReaderError
from labrecon.noise import NoiseError
from labrecon.plugins import Host, resolve
from labrecon.problem import Problem
from labrecon.recipe import load_recipe
from labrecon.recon import reconstruct
from labrecon.simulate import simulate_file
from labrecon.study.recipe import DesignRecipe
from labrecon.train import load_train_recipe, train
from labrecon.train.order import place_order
from labrecon.uncertainty import calibrate_intervals
from labrecon_ct import instrument as module
from labrecon_ct.instrument import CTInstrument, export_angles
from labrecon_ct.noise import TransmissionNoise, statistical_weights
from labrecon_ct.phantoms import shepp_logan
from labrecon_ct.projector import CTProjector
from labrecon_ct.transmission import Transmission, count_model

CT = CTInstrument()


def test_announcing_the_plugin_loads_nothing_heavy() -> None:
    code = (
        "import sys, labrecon_ct; labrecon_ct.labrecon_instruments();"
        "print([m for m in ('torch', 'astra', 'h5py', 'scipy', 'tifffile') if m in sys.modules])"
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
    for table in (CT.readers, CT.steps):
        assert all(callable(resolve(path)) for path in table.values())


def test_objects_are_plausible() -> None:
    geometry = CT.example()
    generator = torch.Generator().manual_seed(0)
    objects = CT.objects(geometry, 3, generator)
    assert objects.shape == (3, 128, 128)
    assert float(objects.min()) >= 0
    lines = CT.operator(geometry)(objects)
    assert 0.8 < float(lines.amax()) < 5
    assert not torch.equal(objects[0], objects[1])
    head = CT.operator(geometry)(shepp_logan(geometry))
    assert 0.5 < float(head.max()) < 5
    solid = geometry.model_copy(update={"rows": 4, "row_pitch": 0.5, "slice_thickness": 0.5})
    solid = solid.model_copy(update={"volume_shape": (4, 128, 128)})
    assert CT.objects(solid, 1, generator).shape == (1, 4, 128, 128)


def test_simulated_counts_reconstruct_with_the_default_recipe() -> None:
    scan = CT.simulate(CT.example(), torch.Generator().manual_seed(1))
    with pytest.raises(ReaderError, match="flat_field"):
        CT.check(scan)
    for step in CT.recipes()["recon"]["prepare"]:
        scan = resolve(CT.steps[step["step"]])(scan)
    CT.check(scan)
    x = CT.operator(scan.geometry).initial(scan.data)
    assert float((x - scan.truth).norm() / scan.truth.norm()) < 0.25
    assert [step["step"] for step in scan.steps] == list(module.PREPARE)


@pytest.mark.parametrize("name", ["recon", "tv", "compare"])
def test_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(name, CT)
    assert recipe.prepare[0].step in CT.steps


@pytest.mark.parametrize("source", ["train", {"network": {"name": "lpd"}}])
def test_networks_are_trained_with_the_backend_for_many_projections(
    source: str | dict[str, Any],
) -> None:
    # An inversion needs one projection, a step of training some forty for each object.
    once = load_recipe("recon", CT)
    assert CT.operator(CT.example(), **once.operator).backend == "astra"
    often = load_train_recipe(source, CT)
    assert CT.operator(CT.example(), **often.operator).backend == "matrix"
    assert [step.step for step in often.prepare] == [step.step for step in once.prepare]


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({}, {"threshold": 1e-3}),
        ({"network": "unrolled"}, {"threshold": 1e-3}),
        ({"overrides": ["network.depth=3"]}, {"threshold": 1e-3, "depth": 3}),
        ({"overrides": ["network.name='unrolled'"]}, {"threshold": 1e-3}),
        ({"network": "lpd"}, {}),
        ({"overrides": ["network.name=lpd", "network.depth=3"]}, {"depth": 3}),
        ({"recipe": {"network": {"name": "unrolled"}}}, {}),
        ({"recipe": {"network": {"name": "unrolled", "threshold": 0.1}}}, {"threshold": 0.1}),
    ],
)
def test_options_of_the_usual_network_are_for_it_alone(asked, options) -> None:
    order = place_order(CT, device="cpu", host=Host(discover=False), **asked)
    assert order.recipe.network.options == options


def test_a_design_study_without_a_network_of_its_own_takes_any() -> None:
    """The usual network is that of trainings."""
    asked = {"recipe": {"design": {"names": ["angles"]}}, "network": "lpd"}
    order = place_order(
        CT, device="cpu", host=Host(discover=False), task="design", kind=DesignRecipe, **asked
    )
    assert (order.recipe.network.name, order.recipe.network.options) == ("lpd", {})


@pytest.mark.slow
def test_one_geometry_file_serves_training_and_simulated_scans(tmp_path: Path) -> None:
    """The file leaves out the open beam, which scans state."""
    angles = [math.pi * i / 40 for i in range(40)]
    (tmp_path / "geometry.json").write_text(json.dumps({"angles": angles, "columns": 64}))
    small = ["data.count=4", "fit.steps=1", "classical.skip=true"]
    given = {"network": "fbp-convnet", "geometry": tmp_path / "geometry.json", "device": "cpu"}
    small += ["network.depth=2", "network.features=4"]
    train("ct", tmp_path / "run", overrides=small, **given)
    simulate_file(CT, tmp_path / "scan.nxs", host=Host(), geometry=tmp_path / "geometry.json")
    made = reconstruct("ct", tmp_path / "scan.nxs", tmp_path / "out", model=tmp_path / "run")
    assert not [told for told in made.warnings if "acquisition" in told]


def test_error_bars_are_for_the_open_beam_that_a_scan_states(tmp_path: Path) -> None:
    geometry = {"angles": [0.0, 0.5, 1.0, 1.5, 2.0, 2.5], "columns": 16}
    (tmp_path / "geometry.json").write_text(json.dumps(geometry))
    quick = {"prepare": [], "solver": {"name": "direct"}, "uncertainty": {"draws": 2, "level": 0.5}}
    made = calibrate_intervals(
        CT, tmp_path / "i.json", recipe=quick, geometry=tmp_path / "geometry.json", count=6
    )
    assert made.card.geometry["open_beam"] == module.OPEN_BEAM


def test_the_host_finds_the_instrument() -> None:
    import labrecon_ct

    host = Host(discover=False)
    host.add("ct", labrecon_ct)
    assert host.get("instruments", "ct") is CTInstrument


def test_exported_angles(tmp_path: Path) -> None:
    geometry = CT.example()
    export_angles(
        geometry,
        {"angles": torch.tensor([0.0, torch.pi / 2], dtype=torch.float64)},
        tmp_path / "a.csv",
    )
    assert (tmp_path / "a.csv").read_text() == "view,angle_deg\n0,0.000000\n1,90.000000\n"


def test_transmission_gradients() -> None:
    from labrecon.space import Space

    space = Space((3, 4), torch.float64)
    generator = torch.Generator().manual_seed(0)
    beam = 50 + torch.rand(3, 1, dtype=torch.float64, generator=generator)
    operator = Transmission(space, beam, scatter=2.0)
    p = torch.rand(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(operator, p)
    assert torch.autograd.gradgradcheck(operator, p)
    v = torch.ones(3, 4, dtype=torch.float64)
    assert torch.allclose(operator.vjp(p, v), -beam * torch.exp(-p) * v)
    with pytest.raises(ValueError, match="negative"):
        Transmission(space, -1.0)


def test_counts_as_they_are_measured() -> None:
    scan = simulated(columns=48, views=60, beam=200.0)
    projector = CTProjector(scan.geometry)
    transmission, photons, noise = count_model(scan, projector.range)
    problem = Problem(transmission @ projector, photons, noise)
    with torch.no_grad():
        loss, gradient = problem.loss_and_gradient(scan.truth)
    # Deviance of n Poisson counts is about n/2 for the true object.
    assert float(loss) / scan.data.numel() == pytest.approx(0.5, abs=0.15)
    step = 1e-3 * scan.truth
    change = float(problem.loss(scan.truth + step) - problem.loss(scan.truth - step)) / 2
    assert change == pytest.approx(float((gradient * step).sum()), rel=0.05, abs=0.05)


def test_noise_of_line_integrals() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = TransmissionNoise(1000.0, 5.0)
    clean = torch.full((200_000,), 1.2)
    y = noise.sample(clean, generator)
    assert float(y.var() / noise.variance(clean)[0]) == pytest.approx(1, abs=0.03)
    photons = torch.tensor(1000.0) * torch.exp(torch.tensor(-1.2))
    weight = statistical_weights(photons, 5.0)
    assert float(weight) == pytest.approx(float(photons**2 / (photons + 25)))
    p = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: noise.density(q, torch.ones(5).double()), p)
    dose = torch.tensor(500.0, requires_grad=True)
    dosed = TransmissionNoise(1.0)
    dosed.open_beam = dose
    dosed.sample(clean[:100], generator).square().sum().backward()
    assert dose.grad is not None
    assert float(dose.grad) != 0
    with pytest.raises(NoiseError, match="open_beam"):
        TransmissionNoise(0.0)
    for dose in ([1.0, 0.0], [1.0, 1e-4], [1.0, float("nan")]):
        with pytest.raises(NoiseError, match="less than 1 photon"):
            TransmissionNoise(1000.0, 5.0, torch.tensor(dose))
