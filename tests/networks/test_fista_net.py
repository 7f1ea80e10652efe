"""FISTA-Net: its laws, FISTA inside, one prior for any depth, any operator."""

from __future__ import annotations

import math

import pytest
import torch
from learned_iteration_cases import CASES, blur_1d, fall_of_loss, sampled_fourier
from torch import Tensor, nn

from labrecon.networks.alista import analytic_weights
from labrecon.networks.fista_net import make_fista_net
from labrecon.networks.softplus_law import MomentumLaw, SoftplusLaw
from labrecon.noise import Gaussian
from labrecon.operators import Identity, Matrix
from labrecon.plugins import host
from labrecon.prior import PriorError
from labrecon.priors import L1
from labrecon.problem import Problem
from labrecon.schedule import Schedule
from labrecon.solver import SolverError, solve
from labrecon.solvers import FISTA
from labrecon.space import Space

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# -- laws ----------------------------------------------------------------------------------------


def test_the_laws_as_published() -> None:
    step, momentum = SoftplusLaw(-0.2, 0.1, factor=2.0), MomentumLaw(0.5, 0.3)
    for k in range(9):
        assert float(step(k).detach()) == pytest.approx(2 * softplus(0.1 - 0.2 * k), rel=1e-5)
        first, here = softplus(0.3), softplus(0.5 * k + 0.3)
        assert float(momentum(k).detach()) == pytest.approx((here - first) / here, abs=1e-6)
    torch.testing.assert_close(step.values().detach(), torch.tensor([-0.2, 0.1]))


@pytest.mark.parametrize("seed", range(4))
def test_laws_hold_whatever_the_optimiser_does(seed: int) -> None:
    """200 Adam steps along random gradients, each far longer than any training would take."""
    laws = {
        "step": SoftplusLaw(-0.2, 0.1), "threshold": SoftplusLaw(-0.5, -5.0),
        "rising": SoftplusLaw(0.3, 0.0), "momentum": MomentumLaw(0.5, 0.0),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    parameters = [law.double().raw for law in laws.values()]
    start = torch.stack(parameters).detach()
    optimiser = torch.optim.Adam(parameters, lr=0.05)
    drift = [torch.randn(2, dtype=F64, generator=generator) for _ in parameters]
    for _ in range(200):
        for p, d in zip(parameters, drift, strict=True):
            p.grad = d + torch.randn(2, dtype=F64, generator=generator)
        optimiser.step()
    assert float((torch.stack(parameters).detach() - start).abs().amax(1).min()) > 0.5
    values = {n: [float(law(k).detach()) for k in range(12)] for n, law in laws.items()}
    for name, numbers in values.items():
        falling = name in ("step", "threshold")
        ordered = sorted(numbers, reverse=falling)
        assert numbers == ordered, name
        assert len(set(numbers)) == 12, name
        assert all(math.isfinite(v) and v >= 0 for v in numbers)
    assert values["momentum"][0] == 0.0
    assert values["momentum"][-1] < 1
    assert min(values["step"]) > 0


def test_wrong_laws() -> None:
    with pytest.raises(SolverError, match="slope 0"):
        SoftplusLaw(0.0, 1.0)
    with pytest.raises(SolverError, match="factor"):
        SoftplusLaw(1.0, 1.0, factor=0.0)
    with pytest.raises(SolverError, match="slope"):
        MomentumLaw(-1.0, 0.0)
    assert not SoftplusLaw(1.0, 0.0, learn=False).raw.requires_grad


# -- the algorithm inside ------------------------------------------------------------------------


class Transposed(nn.Module):
    def __init__(self, matrix: Tensor, by: float) -> None:
        super().__init__()
        self.matrix, self.by = matrix, by

    def forward(self, residual: Tensor) -> Tensor:
        return self.by * residual @ self.matrix


def test_with_an_exact_prox_and_nesterovs_momentum_it_is_fista() -> None:
    """W = A / L, μ = 1 and ρ_k = (t_k − 1) / t_{k+1}."""
    matrix = draw(20, 50)
    operator = Matrix(matrix)
    x = draw(3, 50, seed=1) * (draw(3, 50, seed=2) > 1)
    problem = Problem(operator, operator(x))
    bound = 1.01 * float(torch.linalg.matrix_norm(matrix, 2)) ** 2

    def nesterov(_: Tensor, k: int) -> Tensor:
        t = 1.0
        for _ in range(k):
            t = (1 + math.sqrt(1 + 4 * t * t)) / 2
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        return torch.tensor((t - 1) / following, dtype=F64)

    network = FISTA(
        prior=L1(0.3 / bound),
        step_size=Schedule(1.0, constraint=None),
        back=Transposed(matrix, 1 / bound),
        extrapolation=Schedule(1.0, constraint=None, law=nesterov),
    ).double()
    for count in (1, 2, 40):
        expected = solve(FISTA(prior=L1(0.3), step_size=1 / bound), problem, iterations=count).x
        found = solve(network, problem, iterations=count).x.detach()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_first_layer_by_its_formula() -> None:
    """x = T(x₀ − μ₀ Wᵀ(A x₀ − y)) with the analytic weights W."""
    matrix = draw(12, 36)
    operator = Matrix(matrix, Space((6, 6), F64))
    x0, y = draw(2, 6, 6, seed=1), draw(2, 12, seed=2)
    weights = analytic_weights(matrix)
    back = Matrix(weights.mT.contiguous(), operator.range, operator.domain)
    problem = Problem(operator, y)
    network = make_fista_net(problem, depth=1, features=3, back=back)
    step = softplus(0.1)
    r = x0 - step * ((x0.flatten(1) @ matrix.mT - y) @ weights).reshape(2, 6, 6)
    expected = network.solver.prior.prox(r, 1.0)
    torch.testing.assert_close(network(problem, x0), expected, rtol=1e-6, atol=1e-6)
    # Data in units of their noise: the same object, as many layers deep.
    sigma = 0.02
    noisy = make_fista_net(Problem(operator, y, Gaussian(sigma)), depth=3, features=3, back=back)
    plain = make_fista_net(problem, depth=3, features=3, back=back)
    torch.testing.assert_close(
        noisy(Problem(operator, y, Gaussian(sigma)), x0), plain(problem, x0), rtol=1e-6, atol=1e-6
    )


# -- the factory ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("features", "count"), [(32, 74_599), (16, 18_871)])
@pytest.mark.parametrize("depth", [3, 7])
def test_published_parameter_counts(features: int, count: int, depth: int) -> None:
    problem = Problem(Identity(Space((16, 16))), torch.zeros(16, 16))
    network = make_fista_net(problem, features=features, depth=depth)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count


def test_first_thresholds_let_features_pass() -> None:
    """Published is softplus(−2) = 0.13, larger than the features of normalised images."""
    problem, _ = blur_1d()
    network = make_fista_net(problem)
    assert float(network.solver.prior.threshold(0).detach()) <= softplus(-5)
    network(problem).sum().backward()
    assert float(network.solver.prior.combine.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("name", CASES)
def test_any_operator_will_do_and_a_step_down_the_gradient_helps(name: str) -> None:
    problem, truth = CASES[name]()
    network = make_fista_net(problem, depth=3, features=4)
    estimate = network(problem)
    assert (estimate.shape, estimate.dtype) == (truth.shape, truth.dtype)
    before, after = fall_of_loss(network, problem, truth)
    assert after < before


def test_trained_at_one_depth_it_runs_at_any() -> None:
    problem, _ = blur_1d()
    network = make_fista_net(problem, depth=7, features=4)
    deeper = make_fista_net(problem, depth=12, features=4)
    deeper.load_state_dict(network.state_dict())
    trace = deeper.reconstruct(problem, trace=True).trace
    torch.testing.assert_close(trace[6], network(problem))
    assert bool(torch.isfinite(trace[11]).all())


def test_losses_in_training_only_with_their_weights() -> None:
    problem, _ = sampled_fourier()
    network = make_fista_net(problem, depth=3, features=4)
    assert network.loss_weights == {"symmetry": 0.01, "sparsity": 0.001}
    assert set(network.reconstruct(problem).losses) == {"symmetry", "sparsity"}
    assert network.eval().reconstruct(problem).losses == {}


def test_real_images_are_cut_at_zero_unless_told_otherwise() -> None:
    problem, _ = blur_1d()
    assert float(make_fista_net(problem, features=4)(problem).min().detach()) >= 0
    free = make_fista_net(problem, features=4, nonneg=False)
    assert float(free(problem).min().detach()) < 0
    complex_problem, _ = sampled_fourier()
    with pytest.raises(PriorError, match="real images"):
        make_fista_net(complex_problem, nonneg=True)(complex_problem)


def test_units_of_data_and_object_do_not_matter() -> None:
    problem, _ = blur_1d()
    loud = Problem(0.5 * problem.operator, 500.0 * problem.data)  # an object 1000 times as bright
    x = make_fista_net(problem, depth=3, features=4)(problem)
    bright = make_fista_net(loud, depth=3, features=4, scale=1000.0)(loud)
    torch.testing.assert_close(bright, 1000 * x, rtol=1e-3, atol=1e-2)


def test_weights_come_from_the_seed_alone_and_it_is_registered() -> None:
    problem, _ = blur_1d()
    before = torch.get_rng_state()
    first, second, third = (make_fista_net(problem, features=4, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(first(problem), second(problem))
    assert bool((first(problem) != third(problem)).any())
    assert host().get("networks", "fista-net") is make_fista_net


def test_wrong_options() -> None:
    problem, _ = blur_1d()
    with pytest.raises(SolverError, match="depth"):
        make_fista_net(problem, depth=0)
    with pytest.raises(SolverError, match="factor"):
        make_fista_net(problem, step_size=-1.0)
    with pytest.raises(ValueError, match="features"):
        make_fista_net(problem, features=0)
