"""DE-Grad and DE-Prox over any operator: what their fixed points satisfy, and that they learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labrecon.networks.deep_equilibrium import RegularisedGradient, make_de_grad, make_de_prox
from labrecon.networks.equilibrium import Equilibrium
from labrecon.operator import Operator
from labrecon.operators import Convolution, Fourier, Matrix
from labrecon.plugins import host
from labrecon.priors import Tikhonov
from labrecon.problem import Problem
from labrecon.solver import SolverError
from labrecon.space import Space

SMALL = {"layers": 3, "features": 4, "iterations": 300, "find": "broyden"}
NETS = {"de-grad": make_de_grad, "de-prox": make_de_prox}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)


def line() -> Operator:
    kernel = torch.tensor([0.2, 0.5, 0.2], dtype=torch.float64)
    return 3 * Convolution(Space((16,), torch.float64), kernel)


def image() -> Operator:
    generator = torch.Generator().manual_seed(1)
    return Matrix(torch.randn(40, 30, generator=generator), Space((5, 6)), Space((40,)))


def volume() -> Operator:
    # Untrained denoisers leave what an operator does not see to itself: all is seen here.
    return Fourier(Space((3, 6, 6), torch.complex64))


OPERATORS = {"line": line, "image": image, "volume": volume}
every_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def example(operator: Operator, batch: int = 2, size: float = 1.0) -> Problem:
    generator = torch.Generator().manual_seed(2)
    x = size * operator.domain.random(batch, generator=generator)
    return Problem(operator, operator(x))


def test_they_are_registered() -> None:
    for name, make in NETS.items():
        assert host().get("networks", name) is make


@every_net
@every_operator
def test_over_any_operator(make, operator) -> None:
    problem = example(operator())
    net = make(problem, **SMALL)
    found = net.reconstruct(problem)
    assert found.status == "done"
    domain = problem.operator.domain
    domain.check(found.x, "estimate")
    found.x.abs().square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


@every_operator
def test_fixed_point_of_de_grad(operator) -> None:
    """``∇D(x) = L R(x)``, whatever the step."""
    problem = example(operator())
    net = make_de_grad(problem, tolerance=1e-5, **SMALL).eval()
    x = net(problem).detach()
    solver = net.solver
    with torch.no_grad():
        balance = problem.gradient(x) + problem.lipschitz() * (x - solver.prior.prox(x, 1.0))
        size = float(problem.gradient(0 * x).norm())
    assert float(balance.norm()) < 1e-3 * size


@every_operator
def test_fixed_point_of_de_prox(operator) -> None:
    problem = example(operator())
    net = make_de_prox(problem, tolerance=1e-5, **SMALL).eval()
    x = net(problem).detach()
    with torch.no_grad():
        g = x - problem.gradient(x) / problem.lipschitz()
        again = net.solver.prior.prox(g, 1.0)
    assert float((again - x).norm() / x.norm()) < 1e-4


@every_net
@pytest.mark.parametrize("factor", [1e-3, 50.0])
def test_scale_of_object_and_operator_drop_out(make, factor: float) -> None:
    """Ten times the object gives ten times the image; ten times the operator the same one."""
    problem = example(line())
    options = {**SMALL, "tolerance": 1e-5}
    expected = make(problem, **options)(problem).detach()
    larger = example(line(), size=factor)
    ours = make(larger, scale=factor, **options)(larger).detach()
    torch.testing.assert_close(ours / factor, expected, rtol=1e-3, atol=1e-3)
    gained = example(factor * line())
    ours = make(gained, **options)(gained).detach()
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


@every_net
def test_weights_depend_on_the_seed_alone(make) -> None:
    problem = example(image())

    def weights(seed: int) -> Tensor:
        return torch.cat([p.flatten() for p in make(problem, seed=seed, **SMALL).parameters()])

    before = torch.get_rng_state()
    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_with_a_true_prox_the_fixed_point_is_known() -> None:
    """Tikhonov's prox is ``x/(1 + w)``: regularised least squares with weight ``λ w/(1 + w)``."""
    problem = example(image())
    weight, share = 3.0, 0.5
    solver = RegularisedGradient(
        prior=Tikhonov(share), step_size=0.9 / problem.lipschitz(), weight=weight
    )
    x = Equilibrium(solver, tolerance=1e-6, iterations=300)(problem)
    matrix = problem.operator.matrix.detach()
    taken = 1 - Tikhonov(share).prox(torch.ones(1), 1.0)
    system = matrix.mT @ matrix + weight * taken * torch.eye(30)
    expected = torch.linalg.solve(system, (problem.data @ matrix).mT).mT.reshape(x.shape)
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-4)


@every_net
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"step": 0.0}, "step"),
        ({"layers": 1}, "depth"),
        ({"features": 0}, "features"),
        ({"scale": -1.0}, "scale"),
        ({"find": "newton"}, "find"),
        ({"backward": "no"}, "backward"),
    ],
)
def test_wrong_options_are_refused_by_name(make, options, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make(example(line()), **{**SMALL, **options})


@pytest.mark.parametrize("options", [{"step_size": 0.0}, {"step_size": 1.0, "weight": -1.0}])
def test_wrong_numbers_are_refused(options) -> None:
    with pytest.raises(SolverError):
        RegularisedGradient(prior=Tikhonov(1.0), **options)
