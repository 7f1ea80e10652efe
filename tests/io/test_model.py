"""Model files: what they keep, and what they refuse."""

from __future__ import annotations

import json
import math
import pickle

import pytest
import torch
from pydantic import BaseModel
from torch import nn

from labrecon import Problem, Space, hookimpl
from labrecon.design import Box
from labrecon.errors import ModelError
from labrecon.io.model import CARD, WEIGHTS, ModelCard, SpaceCard, load_model, save_model
from labrecon.operators import Identity
from labrecon.plugins import Host
from labrecon.reconstructor import Reconstruction, Reconstructor


class Affine(Reconstructor):
    """``(w ⊙ y + b) s``; one tensor has the shape of the object."""

    def __init__(self, shape, scale, width) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(shape))
        self.b = nn.Parameter(torch.zeros(width, dtype=torch.complex64))
        self.register_buffer("count", torch.tensor(0))
        self.scale = scale

    def reconstruct(self, problem, x0=None, *, trace=False):
        return Reconstruction(self.scale * (self.w * problem.data + self.b.real.sum()))


def make_affine(problem, *, width: int = 2, scale: float = 1.0, seed: int = 0) -> Affine:
    if width < 1:
        raise ValueError("width must be at least 1")
    return Affine(problem.operator.domain.shape, scale, width)


class Networks:
    @hookimpl
    def labrecon_networks(self):
        return {"affine": make_affine}


class Geometry(BaseModel):
    angles: tuple[float, ...] = (0.0, 0.5)
    size: int = 4
    beam: str = "parallel"
    tilt: float | None = None


class Dosed(Identity):
    def __init__(self, dose: float) -> None:
        super().__init__(Space((4, 5)))
        self.design("dose", torch.tensor([dose, 1.0]), Box(0.0, 2.0))


@pytest.fixture
def host() -> Host:
    host = Host(discover=False)
    host.add("networks", Networks())
    return host


def problem(*shape: int) -> Problem:
    space = Space(shape)
    return Problem(Identity(space), torch.ones(3, *shape))


def card(**changes) -> ModelCard:
    space = SpaceCard.of(Space((4, 5)))
    told = {
        "network": "affine",
        "options": {"width": 3},
        "scale": 2.5,
        "seed": 1,
        "instrument": "toy",
        "geometry": Geometry().model_dump(mode="json"),
        "domain": space,
        "range": space,
        "parameters": 23,
    }
    return ModelCard(**{**told, **changes})


@pytest.fixture
def run(tmp_path):
    network = make_affine(problem(4, 5), width=3, scale=2.5)
    with torch.no_grad():
        network.w.normal_()
        network.b.normal_()
    network.count += 7
    save_model(tmp_path, card(), network, {"dose": torch.tensor([0.25, 1.0])})
    return tmp_path, network


def edited(folder, **changes) -> None:
    told = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**told, **changes}))


def test_a_network_comes_back_with_all_its_bits(run, host):
    folder, network = run
    model = load_model(folder)
    again = model.build(problem(4, 5), host)
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert again.scale == 2.5
    assert not again.training
    assert torch.equal(again(problem(4, 5)), network(problem(4, 5)))
    assert torch.equal(model.designs["dose"], torch.tensor([0.25, 1.0]))
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]


def test_the_geometry_is_compared_field_by_field(run):
    folder, _ = run
    model = load_model(folder)
    operator = Dosed(0.25)
    assert model.differences(Geometry(), operator) == []
    # As a file in single precision would give it back.
    assert model.differences(Geometry(angles=(0.0, 0.50000001)), operator) == []
    other = Geometry(angles=(0.0, 0.6), size=5, beam="cone", tilt=0.1)
    told = model.differences(other, operator)
    assert told == [
        "angles: trained with 0, 0.5, the scan has 0, 0.6",
        "size: trained with 4, the scan has 5",
        "beam: trained with parallel, the scan has cone",
        "tilt: trained with none, the scan has 0.1",
    ]
    free = dict.fromkeys(("size", "beam", "tilt"), math.inf)
    assert model.differences(other, operator, {**free, "angles": 0.2}) == []
    assert len(model.differences(other, operator, {**free, "angles": 0.1})) == 1
    (found,) = model.differences(Geometry(angles=(0.0, 0.5, 1.0)), operator)
    assert found == "angles: trained with 0, 0.5, the scan has 0, 0.5, 1"


def test_spaces_and_designs_are_compared(run):
    model = load_model(run[0])
    (found,) = model.differences(Geometry(), Dosed(0.5))
    assert found == "design 'dose': trained with 0.25, 1, the scan's operator has 0.5, 1"
    told = model.differences(Geometry(), Identity(Space((4, 6), torch.complex64)))
    assert told == [
        "object: trained with axis0 4 × axis1 5 float32, the scan has axis0 4 × axis1 6 complex64",
        "data: trained with axis0 4 × axis1 5 float32, the scan has axis0 4 × axis1 6 complex64",
        "design 'dose': trained with it, the scan's operator has none",
    ]


def test_another_instrument_is_refused(run):
    load_model(run[0]).require_instrument("toy")
    with pytest.raises(ModelError, match="trained for the instrument 'toy', and this is 'ct'"):
        load_model(run[0]).require_instrument("ct")


def test_tensors_that_do_not_fit_are_named(run, host):
    folder, _ = run
    with pytest.raises(ModelError, match=r"on this geometry: w \(4, 5\), here \(4, 6\)"):
        load_model(folder).build(problem(4, 6), host)
    edited(folder, options={"width": 4})
    with pytest.raises(ModelError, match=r"b \(3,\), here \(4,\)"):
        load_model(folder).build(problem(4, 5), host)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"network": "afine"}, "no network is called 'afine' .*did you mean 'affine'"),
        ({"network": "os:system"}, "no network is called 'os:system'"),
        ({"options": {"widht": 3}}, r"can not be built with \{'widht': 3\}"),
        ({"options": {"width": 0}}, "width must be at least 1"),
        ({"sha256": "0" * 64}, "is not the file that model.json speaks of"),
        ({"format": "labrecon model 9"}, "damaged: format"),
        ({"extra": 1}, "damaged: extra"),
        ({"scale": "large"}, "damaged: scale"),
        ({"contract": [9, 0]}, r"written for contract \(9, 0\)"),
    ],
)
def test_a_card_that_was_changed_is_refused(run, host, changes, told):
    folder, _ = run
    edited(folder, **changes)
    with pytest.raises(ModelError, match=told):
        load_model(folder).build(problem(4, 5), host)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_card_is_told(run, content):
    (run[0] / CARD).write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.json (is damaged|can not be read)"):
        load_model(run[0])


def test_truncated_and_foreign_weights_are_refused(run):
    folder, _ = run
    whole = (folder / WEIGHTS).read_bytes()
    for content in (whole[:-8], whole[:4], b"", pickle.dumps(print)):
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(ModelError, match="SHA-256 differs"):
            load_model(folder)
        # Whoever changes both files gets no further.
        import hashlib

        edited(folder, sha256=hashlib.sha256(content).hexdigest())
        with pytest.raises(ModelError, match=r"safetensors can not be read"):
            load_model(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="can not be read"):
        load_model(folder)


def test_no_run_and_an_unfinished_one(tmp_path):
    with pytest.raises(ModelError, match="there is no run folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"holds no model\.json: .* the same command goes on"):
        load_model(tmp_path)


def test_a_full_disk_leaves_the_old_model(run, monkeypatch):
    folder, network = run
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("labrecon.io.model.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(folder, card(scale=9.0), network)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
