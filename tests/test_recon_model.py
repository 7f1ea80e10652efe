"""`labrecon recon --model`: trained networks on measured files."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import h5py
import pytest
import torch
from toy_instrument import Toy, ToyGeometry, write_toy
from typer.testing import CliRunner

from labrecon import Gaussian, Problem, Scan
from labrecon.cli import app
from labrecon.design import Box
from labrecon.errors import ModelError, RecipeError
from labrecon.io.model import load_model, save_model
from labrecon.networks.by_name import make_unrolled
from labrecon.operators import Identity
from labrecon.recon import reconstruct, reconstruct_scan
from labrecon.reconstructor import Reconstruction, Reconstructor
from labrecon.solver import solve
from labrecon.solvers.trained import Trained, with_unit_noise
from labrecon.space import Space
from labrecon.train import train

RECIPE = {
    "network": {"name": "unrolled", "prior": "l1", "depth": 3},
    "data": {"count": 8},
    "fit": {"epochs": 3, "batch_size": 4, "learning_rate": 0.1},
    "classical": {"skip": True},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the toy with 24 pixels, made once."""
    from toy_instrument import plugin

    from labrecon.plugins import Host

    host = Host(discover=False)
    host.add("toy", plugin)
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labrecon.train.run.render_training", lambda report: "<p>no report")
        train("toy", folder, recipe=RECIPE, host=host, device="cpu")
    return folder


@pytest.fixture
def drawn():
    """Asks for a report with pictures, which takes longer than all the rest."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("labrecon.results.render", lambda data, host: "<p>no report")


@pytest.fixture
def model(trained, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(trained, tmp_path / "model")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def network_of(folder) -> Reconstructor:
    """The trained network, put together by hand."""
    card = load_model(folder).card
    operator = Toy().operator(ToyGeometry())
    problem = Problem(operator, torch.zeros(24, 24))
    network = make_unrolled(problem, scale=card.scale, **card.options)
    network.load_state_dict(dict(load_model(folder).tensors))
    return network


def test_the_volume_is_what_the_network_makes_of_the_prepared_scan(
    toy_host, toy_scan, trained, out, drawn
):
    result = reconstruct("toy", toy_scan, out, model=trained, host=toy_host, device="cpu")
    scan = Toy().readers["npz"].read(toy_scan)
    # The toy's recipe adds 0.25; the network was trained with the plain least-squares data term.
    problem = Problem(Toy().operator(scan.geometry), scan.data + 0.25)
    with torch.no_grad():
        expected = network_of(trained)(problem)
    assert torch.equal(result.volume, expected)
    [told] = result.summary["reconstructions"]
    assert told["title"] == "unrolled (trained)"
    assert told["status"] == "converged"
    # As for any solver, χ² is that of the scan's own noise.
    residual = (scan.data + 0.25 - problem.operator(expected)) / 0.05
    assert result.summary["chi2"] == pytest.approx(float(residual.square().mean()), rel=1e-5)
    with h5py.File(out / "volume.h5") as file:
        assert torch.equal(torch.from_numpy(file["entry/data/data"][()]), expected)
    assert "unrolled (trained)" in (out / "report.html").read_text()


def test_the_provenance_names_the_model(toy_host, toy_scan, trained, out):
    reconstruct("toy", toy_scan, out, model=trained, host=toy_host)
    told = json.loads((out / "provenance.json").read_text())
    assert told["model"]["run"] == str(trained)
    assert told["model"]["sha256"] == load_model(trained).card.sha256
    assert told["model"]["options"]["depth"] == 3
    assert told["steps"] == [{"step": "add", "value": 0.25}]


def test_a_stack_is_its_slices(toy_host, toy_scan, trained, tmp_path, out):
    stack = write_toy(tmp_path / "stack.toy", stack=20)
    made = reconstruct("toy", stack, out, model=trained, host=toy_host).volume
    single = reconstruct("toy", toy_scan, tmp_path / "one", model=trained, host=toy_host).volume
    assert made.shape == (20, 24, 24)
    for image in made:
        torch.testing.assert_close(image, single)


def test_another_recipe_prepares_and_compares(toy_host, toy_scan, trained, tmp_path, out):
    recipe = {"compare": [{"title": "TV", "solver": {"name": "fista", "iterations": 9}}]}
    result = reconstruct("toy", toy_scan, out, model=trained, recipe=recipe, host=toy_host)
    titles = [told["title"] for told in result.summary["reconstructions"]]
    assert titles == ["unrolled (trained)", "TV"]
    told = json.loads((out / "provenance.json").read_text())
    assert told["steps"] == []
    more = reconstruct(
        "toy",
        toy_scan,
        tmp_path / "more",
        model=trained,
        overrides=["prepare.add.value=0.5"],
        host=toy_host,
    )
    assert not torch.equal(more.volume, result.volume)


def scan_of(geometry: ToyGeometry) -> Scan:
    return Toy().simulate(geometry, torch.Generator().manual_seed(0))


def test_another_geometry_is_refused_by_its_fields(toy_host, trained, out):
    scan = scan_of(ToyGeometry(every=2, pixel=0.75))
    with pytest.raises(ModelError) as caught:
        reconstruct_scan(Toy(), scan, out, model=trained, host=toy_host)
    told = str(caught.value)
    assert "pixel: trained with 0.5, the scan has 0.75" in told
    assert "every: trained with 1, the scan has 2" in told
    assert "data: trained with row 24 × column 24 float32, the scan has row 12" in told
    assert "--other-geometry" in told
    assert caught.value.exit_code == 2
    assert not out.exists()
    result = reconstruct_scan(Toy(), scan, out, model=trained, other_geometry=True, host=toy_host)
    assert "every: trained with 1, the scan has 2" in result.warnings[0]
    assert result.volume.shape == (24, 24)


def test_a_field_may_differ_as_far_as_the_instrument_says(toy_host, trained, out):
    class Calibrated(Toy):
        tolerances = {"offset": math.inf}  # noqa: RUF012

    scan = scan_of(ToyGeometry(offset=0.1))
    with pytest.raises(ModelError, match=r"offset: trained with 0, the scan has 0\.1"):
        reconstruct_scan(Toy(), scan, out, model=trained, host=toy_host)
    assert reconstruct_scan(Calibrated(), scan, out, model=trained, host=toy_host).warnings == []


def test_another_instrument_is_refused(toy_host, toy_scan, trained, out):
    class Other(Toy):
        name = "other"

    with pytest.raises(ModelError, match="for the instrument 'toy', and this is 'other'"):
        reconstruct(Other(), toy_scan, out, model=trained, host=toy_host)


def test_a_design_that_is_not_the_trained_one_is_refused(toy_host, toy_scan, model, out):
    class Designed(Toy):
        def operator(self, geometry, **options):
            operator = super().operator(geometry, **options)
            operator.design("shutter", torch.tensor([1.0, 0.0, 1.0]), Box(0.0, 1.0))
            return operator

    card = load_model(model).card
    network = network_of(model)
    save_model(model, card, network, {"shutter": torch.tensor([1.0, 1.0, 0.0])})
    with pytest.raises(ModelError, match=r"design 'shutter': trained with 1, 1, 0, .* has 1, 0, 1"):
        reconstruct(Designed(), toy_scan, out, model=model, host=toy_host)
    save_model(model, card, network, {"shutter": torch.tensor([1.0, 0.0, 1.0])})
    reconstruct(Designed(), toy_scan, out, model=model, host=toy_host)


def test_tensors_that_do_not_fit_are_told_even_if_the_geometry_may_differ(
    toy_host, toy_scan, model, out
):
    card = json.loads((model / "model.json").read_text())
    card["options"]["depth"] = 4
    (model / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"do not fit the network 'unrolled' on this geometry"):
        reconstruct("toy", toy_scan, out, model=model, other_geometry=True, host=toy_host)
    assert not out.exists()


def test_a_card_that_does_not_name_the_solver_is_of_ista(
    toy_host, toy_scan, trained, model, tmp_path
):
    """FISTA, the default since, has the same tensors: the image would be another one, unsaid."""
    written = load_model(trained).card.options
    assert (written["solver"], written["start"]) == ("fista", "initial")
    card = json.loads((model / "model.json").read_text())
    volumes = {}
    for name, options in (
        ("unsaid", {"prior": "l1", "depth": 3}),
        ("ista", {**written, "solver": "ista"}),
        ("fista", {**written, "solver": "fista"}),
    ):
        (model / "model.json").write_text(json.dumps({**card, "options": options}))
        made = reconstruct("toy", toy_scan, tmp_path / name, model=model, host=toy_host)
        volumes[name] = made.volume
    assert torch.equal(volumes["unsaid"], volumes["ista"])
    assert not torch.allclose(volumes["unsaid"], volumes["fista"])


def test_a_solver_that_is_not_named_is_found_inside_adapted_networks(trained):
    saved = load_model(trained)
    bare = {"prior": "l1", "depth": 3}
    reused = {"network": "unrolled", "options": bare, "coupling": 1.0}
    outer = {"network": "reused", "options": reused, "nuisances": {"shift": 0.5}}
    card = saved.card.model_copy(update={"network": "calibrated", "options": outer})
    told = dataclasses.replace(saved, card=card).options
    assert told["options"]["options"] == {"solver": "ista", **bare}
    assert (told["nuisances"], told["options"]["coupling"]) == ({"shift": 0.5}, 1.0)
    assert card.options == outer


def test_an_unknown_step_of_the_training_is_told(toy_host, toy_scan, model, out):
    card = json.loads((model / "model.json").read_text())
    card["prepare"] = [{"step": "ad"}]
    (model / "model.json").write_text(json.dumps(card))
    with pytest.raises(RecipeError, match=r"has no step 'ad' .*did you mean 'add'"):
        reconstruct("toy", toy_scan, out, model=model, host=toy_host)


def test_command(toy_host, toy_scan, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("labrecon.plugins.host", lambda: toy_host)

    def command(*words):
        return CliRunner().invoke(app, ["recon", "toy", str(toy_scan), *map(str, words)])

    done = command("-o", tmp_path / "out", "--model", trained)
    assert done.exit_code == 0, done.output
    assert "unrolled (trained): done, " in done.stdout
    done = command("-o", tmp_path / "b", "--model", tmp_path / "nothing")
    assert done.exit_code == 2
    assert "there is no run folder" in done.stderr


def test_a_network_that_does_not_converge_says_so(toy_host, toy_scan, trained, out, monkeypatch):
    network = network_of(trained)
    reconstructed = type(network).reconstruct

    def unfinished(self, problem, x0=None, *, trace=False):
        made = reconstructed(self, problem, x0, trace=trace)
        return dataclasses.replace(made, status="not converged")

    monkeypatch.setattr(type(network), "reconstruct", unfinished)
    result = reconstruct("toy", toy_scan, out, model=trained, host=toy_host)
    assert result.summary["status"] == "iterations"
    assert "fixed point was not reached" in result.warnings[0]


class Mean(Reconstructor):
    """The weighted mean of the data in each slice; notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def reconstruct(self, problem, x0=None, *, trace=False):
        self.seen.append(problem)
        return Reconstruction(problem.weighted(problem.data))


def test_a_stack_goes_through_in_parts():
    space = Space((3,))
    data = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([1.0, 0.0, 4.0])
    problem = Problem(Identity(space), data, Gaussian(0.5), weights)
    network = Mean()
    made = solve(Trained(network, chunk=4), problem).x
    assert [len(part.data) for part in network.seen] == [4, 4, 2]
    # With the unit data term, weights only say which samples count.
    assert torch.equal(made, data * torch.tensor([1.0, 0.0, 1.0]))
    assert all(part.noise.unit for part in network.seen)
    network.seen.clear()
    made = solve(Trained(network, data_term="noise", chunk=4), problem).x
    assert torch.equal(made, data * weights)
    assert float(network.seen[0].noise.sigma) == 0.5
    assert with_unit_noise(Problem(Identity(space), data, weights=weights + 1)).weights is None
