"""One denoiser, unchanged, in every registered instrument, and in a file of its own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from labrecon.errors import LabreconError
from labrecon.instrument import Instrument
from labrecon.networks.denoiser_file import denoiser_from_file, read_denoiser, write_denoiser
from labrecon.networks.limited import Limited
from labrecon.networks.plug_and_play import make_pnp
from labrecon.operators import Convolution, Identity
from labrecon.plugins import host
from labrecon.prior import ImplicitPriorError, Prior, PriorError
from labrecon.priors import L1
from labrecon.priors.denoisers import Denoiser, DnCNN
from labrecon.priors.drunet import DRUNet
from labrecon.priors.spectral import spectral_normalised
from labrecon.problem import Problem
from labrecon.schedule import Schedule
from labrecon.solver import SolverError, solve
from labrecon.solvers import ISTA
from labrecon.space import Space

INSTRUMENTS = sorted(host().names("instruments"))


class Smooth(nn.Module):
    """``[1, 2, 1] / 4`` along both axes, of one real channel: a denoiser that needs no training."""

    channels = 1

    def forward(self, x: Tensor) -> Tensor:
        for axis in (-2, -1):
            ends = [x.narrow(axis, 0, 1), x, x.narrow(axis, x.shape[axis] - 1, 1)]
            wide = torch.cat(ends, axis)
            n = x.shape[axis]
            x = (wide.narrow(axis, 0, n) + 2 * x + wide.narrow(axis, 2, n)) / 4
        return x


def instrument(name: str) -> Instrument:
    made = host().get("instruments", name)
    return made() if isinstance(made, type) else made


def measured(name: str) -> tuple[Problem, Tensor]:
    """A sample object of the example geometry and its noisy data, with a quadratic data term."""
    lab = instrument(name)
    geometry = lab.example()
    operator, noise = lab.operator(geometry), lab.noise(geometry)
    truth = lab.objects(geometry, 1, torch.Generator().manual_seed(3))[0]
    with torch.no_grad():
        data = noise.sample(operator(truth), torch.Generator().manual_seed(4))
    if not operator.linear:
        return Problem(operator, data, noise), truth
    weights = torch.as_tensor(noise.curvature(data), dtype=data.real.dtype)
    return Problem(operator, data, weights=weights.expand(data.shape)), truth


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTRUMENTS)
def test_every_instrument_takes_the_same_denoiser(name: str) -> None:
    """Finite, the same each time, nearer to data and object than nothing is."""
    problem, truth = measured(name)
    scale = float(truth.abs().max())
    options = (
        {"solver": "hqs", "inner": 3, "coupling": 1e-3}
        if problem.operator.linear
        else {"solver": "ista", "backtracking": True, "step_size": scale**2}
    )
    low = instrument(name).limits[0]
    pnp = make_pnp(
        problem, denoiser=Smooth(), depth=3, low=low, scale=scale, start="zero", **options
    )
    with torch.no_grad():
        x, again = pnp(problem), pnp(problem)
        nothing = problem.operator.domain.zeros()
        assert torch.equal(x, again)
        assert bool(torch.isfinite(torch.view_as_real(x) if x.is_complex() else x).all())
        assert float(problem.loss(x)) < float(problem.loss(nothing))
        assert float((x - truth).norm()) < float(truth.norm())
    if low is not None:
        assert float(x.min()) >= low


# -- options that fit a denoiser to an object ----------------------------------------------------


def test_complex_objects_go_through_a_network_of_one_channel_in_parts() -> None:
    space = Space((6, 5), torch.complex64)
    generator = torch.Generator().manual_seed(0)
    data = space.random(2, generator=generator)
    problem = Problem(Identity(space), data)
    pnp = make_pnp(problem, solver="ista", denoiser=Smooth(), depth=1, step_size=1.0, start="zero")
    smooth = Smooth()
    expected = torch.complex(smooth(data.real[:, None]), smooth(data.imag[:, None]))[:, 0]
    torch.testing.assert_close(pnp(problem), expected)
    modulus = make_pnp(
        problem, solver="ista", denoiser=Smooth(), depth=1, step_size=1.0, complex_as="modulus"
    )
    torch.testing.assert_close(modulus(problem).abs(), smooth(data.abs()[:, None])[:, 0])


def test_with_a_weight_the_noise_level_follows_the_coupling() -> None:
    """``σ² = weight / μ``, and ``μ`` grows."""
    levels: list[float] = []

    class Told(nn.Module):
        noise_channel = True
        channels = 1

        def forward(self, x: Tensor) -> Tensor:
            levels.append(float(x[0, 1, 0, 0]))
            return x[:, :1]

    problem = Problem(Identity(Space((4, 4))), torch.ones(4, 4))
    pnp = make_pnp(
        problem, solver="hqs", denoiser=Told(), depth=3, weight=0.5, mu=2.0, growth=4.0, scale=10.0
    )
    pnp(problem)
    assert levels == pytest.approx([0.05, 0.025, 0.0125])


@pytest.mark.parametrize("option", [{"weight": 1.0}, {"complex_as": "parts"}, {"low": 0.0}])
def test_a_prior_of_ones_own_comes_with_its_options(option: dict) -> None:
    problem = Problem(Identity(Space((4, 4))), torch.ones(4, 4))
    with pytest.raises(SolverError, match=next(iter(option))):
        make_pnp(problem, denoiser=L1(0.1), **option)


def test_limits_cut_what_the_prior_makes() -> None:
    x = torch.tensor([[-2.0, -0.3, 0.4, 3.0]])
    prior = Limited(L1(0.1), low=0.0, high=1.0)
    torch.testing.assert_close(prior.prox(x, 1.0), torch.tensor([[0.0, 0.0, 0.3, 1.0]]))
    torch.testing.assert_close(prior.prox_and_losses(x, 1.0)[0], prior.prox(x, 1.0))
    with pytest.raises(ImplicitPriorError):
        prior.penalty(x)


def test_limits_keep_the_schedule_of_the_denoiser() -> None:
    class Level(nn.Module):
        noise_channel = True

        def forward(self, x: Tensor) -> Tensor:
            return x[:, 1:]

    denoiser = Denoiser(Level(), noise_level=Schedule([0.3, 0.2]))
    prior = Limited(denoiser, low=0.0)
    found = [float(prior.layer(k).prox(torch.zeros(2, 2), 1.0)[0, 0]) for k in range(2)]
    assert found == pytest.approx([0.3, 0.2])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "low, high or both"),
        ({"low": 1.0, "high": 0.5}, "not below"),
        ({"low": float("nan")}, "low"),
    ],
)
def test_wrong_limits(options: dict, told: str) -> None:
    with pytest.raises(PriorError, match=told):
        Limited(L1(0.1), **options)


def test_complex_objects_have_no_limits() -> None:
    with pytest.raises(PriorError, match="complex"):
        Limited(L1(0.1), low=0.0).prox(torch.zeros(3, dtype=torch.complex64), 1.0)


# -- files -------------------------------------------------------------------------------------


class Adding(DnCNN):
    """Another network of the same arrays."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def half_bound() -> DnCNN:
    return spectral_normalised(DnCNN(features=3, depth=3, batch_norm=False), bound=0.5)


def poisoned() -> DnCNN:
    network = DnCNN(features=3, depth=3)
    nn.init.constant_(network.residual[0].weight, math.nan)
    return network


NETWORKS = {
    "drunet": lambda: DRUNet(features=3, levels=2, blocks=1),
    "drunet 1D": lambda: DRUNet(2, axes=1, features=4, levels=3, blocks=2),
    "dncnn": lambda: DnCNN(features=3, depth=4),
    "dncnn, complex": lambda: DnCNN(2, features=3, depth=3, batch_norm=False),
    "dncnn, spectral": lambda: DnCNN(features=3, depth=3, batch_norm=False, spectral=True),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_denoiser_comes_back_from_its_file(make, tmp_path: Path) -> None:
    network = make().eval()
    path = tmp_path / "one.safetensors"
    write_denoiser(path, network)
    read = read_denoiser(path)
    assert type(read) is type(network)
    assert not read.training
    axes = network.axes if isinstance(network, DRUNet) else 2
    channels = network.channels + getattr(network, "noise_channel", False)
    x = torch.rand(2, channels, *[8] * axes, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read(x), network(x))


@pytest.mark.parametrize("name", ["drunet", "dncnn"])
def test_the_order_in_memory_is_no_matter(name: str, tmp_path: Path) -> None:
    """As networks are trained on a GPU; their sums are rounded otherwise, by as little as that."""
    torch.manual_seed(0)
    network = DRUNet() if name == "drunet" else DnCNN()
    network = network.to(memory_format=torch.channels_last).eval()
    write_denoiser(tmp_path / "one.safetensors", network)
    read = read_denoiser(tmp_path / "one.safetensors")
    x = torch.rand(1, 2 if name == "drunet" else 1, 8, 8)
    torch.testing.assert_close(read(x), network(x))


def test_files_that_are_no_denoiser(tmp_path: Path) -> None:
    damaged, other = tmp_path / "damaged.safetensors", tmp_path / "other.safetensors"
    write_denoiser(damaged, NETWORKS["dncnn"]())
    damaged.write_bytes(damaged.read_bytes()[:-20])
    save_file({"x": torch.zeros(3)}, other)
    for path in (damaged, other, tmp_path):
        with pytest.raises(PriorError, match=path.name):
            read_denoiser(path)


@pytest.mark.parametrize(
    "told",
    [
        "no JSON",
        "3",
        "null",
        '"dncnn"',
        "[]",
        '{"kind": ["dncnn"]}',
        '{"kind": "os"}',
        '{"kind": "dncnn", "depth": 1}',
        '{"kind": "dncnn", "code": "x"}',
        '{"kind": "dncnn", "features": 3, "depth": 3}',
    ],
)
def test_files_that_tell_nonsense(told: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    for tensors in ({}, {"x": torch.zeros(3)}):
        save_file(tensors, path, {"labrecon denoiser": told})
        with pytest.raises(PriorError, match=r"odd.* holds no denoiser"):
            read_denoiser(path)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(PriorError, match="there is no denoiser"):
        read_denoiser(tmp_path / "none.safetensors")


def test_what_is_there_is_not_overwritten_and_not_every_network_is_written(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    write_denoiser(path, NETWORKS["dncnn"]())
    with pytest.raises(LabreconError, match="exists"):
        write_denoiser(path, NETWORKS["dncnn"]())
    with pytest.raises(PriorError, match="Smooth"):
        write_denoiser(tmp_path / "two.safetensors", Smooth())


@pytest.mark.parametrize("make", [half_bound, poisoned, lambda: Adding(features=3, depth=3)])
def test_networks_that_would_come_back_as_others_are_not_written(make, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    with pytest.raises(PriorError, match="is not this one"):
        write_denoiser(path, make())
    assert not path.exists()


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kind", [DnCNN, DRUNet])
def test_the_network_of_a_file_says_how_many_axes_it_has(kind, axes: int, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    network = kind(axes=axes, features=3).eval()
    write_denoiser(path, network)
    level = {"noise_level": 0.1} if kind is DRUNet else {}
    prior = denoiser_from_file(file=str(path), **level)
    x = torch.rand(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = Denoiser(network, axes=axes, **level).prox(x, 1.0)
    assert torch.equal(prior.prox(x, 1.0), expected)
    pnp = make_pnp(
        Problem(Identity(Space((8, 8, 8))), x),
        solver="ista",
        denoiser=str(path),
        depth=1,
        start="zero",
        step_size=1.0,
        **level,
    )
    torch.testing.assert_close(pnp(Problem(Identity(Space((8, 8, 8))), x)), expected)


def test_a_file_is_a_prior_of_recipes_and_a_denoiser_of_make_pnp(tmp_path: Path) -> None:
    assert host().get("priors", "denoiser") is denoiser_from_file
    path = tmp_path / "one.safetensors"
    write_denoiser(path, NETWORKS["drunet"]())
    prior: Prior = denoiser_from_file(file=str(path), noise_level=0.1, low=0.0)
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    kernel = torch.tensor([[0.1, 0.8, 0.1]])
    operator = Convolution(Space((8, 8)), kernel)
    problem = Problem(operator, operator(torch.rand(8, 8)))
    step = 1 / float(problem.lipschitz())
    expected = solve(ISTA(prior=prior, step_size=step), problem, iterations=3).x
    pnp = make_pnp(
        problem,
        solver="ista",
        denoiser=str(path),
        noise_level=0.1,
        low=0.0,
        depth=3,
        step_size=step,
        start="zero",
    )
    torch.testing.assert_close(pnp(problem).detach(), expected)
    with pytest.raises(PriorError, match="needs noise_level or weight"):
        denoiser_from_file(file=str(path))
