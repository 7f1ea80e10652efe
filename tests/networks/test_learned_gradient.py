"""Learned gradient descent: what its network sees, and what it may be made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from learned_iteration_cases import CASES, blur_1d, fall_of_loss
from scipy.signal import correlate2d
from torch import Tensor, nn

from labrecon.networks.equilibrium import Equilibrium
from labrecon.networks.learned_gradient import LearnedGradientDescent, make_lgd
from labrecon.networks.published_gradient import read_learned_gradient
from labrecon.networks.unrolled import Unrolled
from labrecon.operator import Operator
from labrecon.operators import Convolution, FiniteDifference, Identity
from labrecon.plugins import host
from labrecon.priors import Tikhonov
from labrecon.problem import Problem
from labrecon.solver import SolverError, solve
from labrecon.solvers import GradientDescent
from labrecon.space import Space

F64 = torch.float64


class Descent(nn.Module):
    """``Δx = −∇D − weight ∇R``, and a count of calls as memory."""

    def __init__(self, weight: float = 0.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, channels: Tensor) -> Tensor:
        _, gradient, roughness, memory = channels.split(1, 1)
        return torch.cat([-gradient - self.weight * roughness, memory + 1], 1)


def test_a_network_that_returns_the_gradient_is_gradient_descent() -> None:
    problem, _ = blur_1d(F64)
    solver = LearnedGradientDescent(Descent(), memory_images=1, axes=1, step_size=0.7, scale=3.0)
    expected = solve(GradientDescent(step_size=0.7), problem, iterations=6)
    reached = solve(solver, problem, iterations=6)
    torch.testing.assert_close(reached.x, expected.x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reached.state.memory, torch.full((3, 1, 21), 6.0, dtype=F64))


def test_the_roughness_is_that_of_the_dirichlet_energy() -> None:
    space = Space((6, 5), F64)
    problem = Problem(Identity(space), space.random(generator=torch.Generator().manual_seed(1)))
    x0 = space.random(generator=torch.Generator().manual_seed(2)).requires_grad_()
    energy = 0.5 * (x0.diff(dim=0).square().sum() + x0.diff(dim=1).square().sum())
    (slope,) = torch.autograd.grad(energy, x0)
    solver = LearnedGradientDescent(Descent(0.3), memory_images=1)
    x = solve(solver, problem, x0=x0.detach(), iterations=1).x
    torch.testing.assert_close(x, problem.data - 0.3 * slope)


@pytest.mark.parametrize("name", CASES)
def test_any_operator_will_do_and_a_step_down_the_gradient_helps(name: str) -> None:
    problem, truth = CASES[name]()
    network = make_lgd(problem, depth=3, features=8, memory_images=2, scale=2.0)
    assert network(problem).dtype == truth.dtype
    before, after = fall_of_loss(network, problem, truth)
    assert after < before


def test_the_data_term_may_be_nonlinear_with_a_step_size() -> None:
    class Square(Operator):
        linear = False

        def forward(self, x: Tensor) -> Tensor:
            return x * x

    operator = Square(Space((9,)), Space((9,)))
    problem = Problem(operator, torch.ones(9))
    with pytest.raises(SolverError, match="give the network a step_size"):
        make_lgd(problem)
    assert make_lgd(problem, depth=2, step_size=0.1)(problem).isfinite().all()


def test_layers_may_differ() -> None:
    problem, _ = blur_1d()
    one, each = (make_lgd(problem, depth=4, tied=tied) for tied in (True, False))
    sizes = [sum(p.numel() for p in network.parameters()) for network in (one, each)]
    assert sizes[1] == 4 * sizes[0]


def test_weights_come_from_the_seed_alone() -> None:
    problem, _ = blur_1d()
    torch.manual_seed(0)
    first = make_lgd(problem, seed=3)(problem)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(first, make_lgd(problem, seed=3)(problem))
    assert not torch.equal(first, make_lgd(problem, seed=4)(problem))


def test_estimates_scale_with_the_object() -> None:
    problem, _ = blur_1d()
    small = make_lgd(problem, depth=3)(problem)
    large = Problem(problem.operator, 1000 * problem.data)
    torch.testing.assert_close(
        make_lgd(large, depth=3, scale=1000.0)(large), 1000 * small, rtol=1e-4, atol=1e-2
    )


def test_a_network_with_other_outputs_is_refused() -> None:
    problem, _ = blur_1d()
    solver = LearnedGradientDescent(nn.Conv1d(8, 5, 3, padding=1), axes=1)
    with pytest.raises(SolverError, match=r"returned \(5, 21\) .* expected 6 channels"):
        Unrolled(solver, 1)(problem)
    with pytest.raises(SolverError, match="3 image axes of an object with 1"):
        Unrolled(LearnedGradientDescent(nn.Identity(), axes=3), 1)(problem)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_layers_that_are_computed_again(name: str) -> None:
    problem, truth = CASES[name]()
    network = make_lgd(problem, depth=4, features=4, memory_images=2)
    gradients = []
    for memory in ("store", "checkpoint"):
        other = Unrolled(network.solver, 4, start="initial", memory=memory)
        loss = (other(problem) - truth).abs().square().sum()
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    for stored, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, stored)


def test_its_fixed_point_is_found_with_the_memory() -> None:
    """Descent on ``½‖x − y‖² + ½ · 0.3 ‖∇x‖²`` whose memory converges as well."""

    class Settling(nn.Module):
        def forward(self, channels: Tensor) -> Tensor:
            _, gradient, roughness, memory = channels.split(2, 1)
            return torch.cat([-0.5 * (gradient + 0.3 * roughness), 0.5 * memory + 1], 1)

    space = Space((6, 5), torch.complex128)
    y = space.random(2, generator=torch.Generator().manual_seed(0))
    solver = LearnedGradientDescent(Settling(), memory_images=1)
    found = Equilibrium(solver, find="picard", iterations=200, tolerance=1e-11)
    expected = Tikhonov(0.3, operator=FiniteDifference(space)).prox(y, 1.0)
    torch.testing.assert_close(found(Problem(Identity(space), y)), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [{"memory_images": 0}, {"scale": 0.0}, {"step_size": -1.0}, {"depth": 0}, {"features": 0}],
    ids=lambda options: next(iter(options)),
)
def test_numbers_that_make_no_sense(options: dict) -> None:
    problem, _ = blur_1d()
    with pytest.raises(SolverError, match=next(iter(options))):
        make_lgd(problem, **options)


def test_it_is_registered() -> None:
    make = host().get("networks", "lgd")
    problem, truth = blur_1d()
    assert make(problem)(problem).shape == truth.shape


class Released:
    """A file as the authors' (kernels for x, y images), and its first steps in NumPy."""

    def __init__(self, folder: Path, memory: int = 2, features: int = 4) -> None:
        rng = np.random.default_rng(0)
        shapes = [(memory + 3, features), (features, features), (features, memory + 1)]
        self.path = folder / "parameters.npz"
        self.arrays = {}
        for k, shape in enumerate(shapes, 1):
            self.arrays[f"w{k}"] = 0.2 * rng.standard_normal((3, 3, *shape))
            self.arrays[f"b{k}"] = 0.1 * rng.standard_normal((1, 1, 1, shape[1]))
        self.memory = memory
        np.savez(self.path, **self.arrays)

    def step(self, x: np.ndarray, y: np.ndarray, memory: list[np.ndarray]):
        """For the identity operator, images ``[x, y]``."""
        roughness = np.zeros_like(x)
        for axis in (0, 1):
            d = np.diff(x, axis=axis)
            pad = [(1, 1) if a == axis else (0, 0) for a in (0, 1)]
            roughness -= np.diff(np.pad(d, pad), axis=axis)
        channels = [x, x - y, roughness, *memory]
        for k in (1, 2, 3):
            w, b = self.arrays[f"w{k}"], self.arrays[f"b{k}"].ravel()
            made = [
                sum(correlate2d(c, w[:, :, i, o], mode="same") for i, c in enumerate(channels))
                + b[o]
                for o in range(w.shape[-1])
            ]
            channels = [np.maximum(c, 0) for c in made] if k < 3 else made
        return x + channels[0], [np.maximum(c, 0) for c in channels[1:]]


def test_released_parameters_give_the_published_iteration(tmp_path: Path) -> None:
    released = Released(tmp_path)
    data = Space((7, 6), F64).random(generator=torch.Generator().manual_seed(0))
    problem = Problem(Identity(Space((7, 6), F64)), data)
    network = read_learned_gradient(released.path, problem, depth=2, step_size=1.0)
    x0 = 0.5 * data
    # Columns are x, rows run down: turned so that the first axis is x and the second y, upwards.
    x, y = (np.rot90(a.numpy(), -1) for a in (x0, data))
    memory = [np.zeros_like(x)] * released.memory
    for _ in range(2):
        x, memory = released.step(x, y, memory)
    np.testing.assert_allclose(network(problem, x0).detach().numpy(), np.rot90(x), atol=1e-12)


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    problem = Problem(Identity(Space((7, 6))), torch.zeros(7, 6))
    released = Released(tmp_path)
    np.savez(released.path, **{**released.arrays, "w1": released.arrays["w1"][:, :, 1:]})
    with pytest.raises(SolverError, match="an ablation"):
        read_learned_gradient(released.path, problem)
    np.savez(released.path, **{**released.arrays, "w2": released.arrays["w2"][..., 1:]})
    with pytest.raises(SolverError, match="do not fit each other"):
        read_learned_gradient(released.path, problem)
    np.savez(released.path, w1=released.arrays["w1"])
    with pytest.raises(SolverError, match="expected arrays w1, b1"):
        read_learned_gradient(released.path, problem)
    line = Problem(Identity(Space((7,))), torch.zeros(7))
    with pytest.raises(SolverError, match="for real images"):
        read_learned_gradient(released.path, line)


def test_a_scaled_operator_keeps_its_first_estimate() -> None:
    class Inverted(Convolution):
        def initial(self, y: Tensor) -> Tensor:
            return y + 1

    operator = Inverted(Space((9,)), torch.ones(3))
    data = torch.arange(9.0)
    torch.testing.assert_close((4 * operator).initial(4 * data), data + 1)
    assert not (0 * operator).initial(data).any()
    factor = torch.tensor(0.3, requires_grad=True)
    (factor * operator).initial(data).sum().backward()
    assert factor.grad is not None
