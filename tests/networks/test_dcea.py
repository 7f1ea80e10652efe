"""DCEA: its layers against the formulas, the problem that they solve, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, elu, pad

from labrecon import solve
from labrecon.networks.dcea import DCEA, make_dcea
from labrecon.networks.published_dcea import read_dcea
from labrecon.noise import LogPoisson, NoiseError
from labrecon.operators import Convolution, ConvolutionalDictionary, Identity
from labrecon.priors import L1
from labrecon.problem import Problem, SolverError
from labrecon.solvers import FISTA
from labrecon.space import Space

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def counts(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.poisson(torch.full(shape, 3.0, dtype=F64), generator=generator)


def denoising(data: Tensor, axes: int = 2) -> Problem:
    return Problem(Identity(Space(tuple(data.shape[-axes:]), data.dtype)), data)


def by_formulas(y: Tensor, h: Tensor, we: Tensor, wd: Tensor, b: Tensor, stride: int) -> Tensor:
    """The released code for one image, alpha 4, five layers: all offsets, mirrored at the rim."""
    logs, (rows, columns), k = [], y.shape, h.shape[-1]
    h, we, wd = (w.unsqueeze(1) for w in (h, we, wd))
    right = (stride - (columns + stride - k) % stride) % stride + stride
    below = (stride - (rows + stride - k) % stride) % stride + stride
    for i, j in itertools.product(range(stride), repeat=2):
        pads = (stride - j, right + j, stride - i, below + i)
        seen = pad(y[None, None], pads, mode="reflect")
        s = torch.zeros_like(conv2d(seen, h, stride=stride))
        for _ in range(5):
            left = elu(seen - conv_transpose2d(s, h, stride=stride).exp(), alpha=4.0)
            s = (s + conv2d(left, we, stride=stride) - b[None, :, None, None]).relu()
        z = conv_transpose2d(s, wd, stride=stride)[0, 0]
        logs.append(z[stride - i : stride - i + rows, stride - j : stride - j + columns])
    return torch.stack(logs).mean(0).exp()


@pytest.mark.parametrize("tied", [True, False])
def test_the_network_is_the_released_formulas(tied: bool) -> None:
    """Biases of either sign."""
    h, we, wd = (0.2 * draw(6, 4, 4, seed=k) for k in range(3))
    bias, y = 0.05 * draw(6, seed=3), counts(2, 13, 11)
    others = {} if tied else {"analysis": we, "decoder": wd}
    network = DCEA(h, bias, depth=5, stride=3, gain=2.0, **others)
    if tied:
        we = wd = h
    expected = torch.stack([by_formulas(2.0 * one, h, we, wd, bias, 3) for one in y]) / 2.0
    made = network.reconstruct(denoising(y), trace=True)
    torch.testing.assert_close(made.x, expected)
    torch.testing.assert_close(made.trace[-1], expected)
    assert len(made.trace) == 5


def test_gradients_reach_all_that_is_learned() -> None:
    atoms = 0.2 * draw(3, 4, 4)
    network = DCEA(atoms, torch.full((3,), 0.01).double(), depth=3, stride=2, analysis=atoms,
                   decoder=atoms)  # fmt: skip
    network(denoising(counts(9, 9))).square().sum().backward()
    assert {name for name, p in network.named_parameters() if bool((p.grad != 0).any())} == {
        "atoms", "analysis", "decoder", "encoder.solver.prior.bias"
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(17,), (9, 10, 8)])
def test_one_and_three_axes_and_leading_ones(shape: tuple[int, ...]) -> None:
    atoms = 0.3 * draw(2, *(3,) * len(shape))
    network = DCEA(atoms, torch.zeros(2).double(), depth=2, stride=2)
    y = counts(2, 2, *shape)
    made = network(denoising(y, len(shape) + 1))
    torch.testing.assert_close(made[1, 0], network(denoising(y[1, 0], len(shape))))


def test_the_gradient_is_that_of_differentiation() -> None:
    """Of the coding problem without a bound on the score, to rounding."""
    operator = ConvolutionalDictionary(Space((30,), F64), 0.3 * draw(3, 7))
    problem = Problem(operator, counts(2, 30), LogPoisson())
    s = draw(2, *operator.domain.shape, seed=1).relu().requires_grad_()
    (expected,) = torch.autograd.grad(problem.loss(s).sum(), s)
    torch.testing.assert_close(problem.gradient(s.detach()), expected, rtol=1e-12, atol=1e-12)


def test_backtracking_meets_the_optimality_conditions_of_sparse_poisson_coding() -> None:
    """``g = −λ`` where a code is on, ``g ≥ −λ`` where it is off."""
    weight = 0.5
    operator = ConvolutionalDictionary(Space((40,), F64), draw(3, 8) / 8**0.5)
    truth = torch.zeros(operator.domain.shape, dtype=F64)
    truth[0, 4], truth[1, 17], truth[2, 25] = 2.0, 1.5, 2.5
    data = LogPoisson().sample(operator(truth), torch.Generator().manual_seed(0))
    problem = Problem(operator, data, LogPoisson())
    solver = FISTA(prior=L1(weight, nonneg=True), step_size=1.0, backtracking=True, restart=True)
    s = solve(solver, problem, iterations=3000, tolerance=1e-10).x
    g = problem.gradient(s)
    on = s > 0
    assert 3 <= int(on.sum()) < 0.4 * on.numel()
    assert float((g[on] + weight).abs().max()) < 1e-3 * weight
    assert float(g[~on].min()) > -weight * (1 + 1e-3)


def test_a_bounded_score_tames_what_the_exact_one_does_not() -> None:
    noise, p = LogPoisson(clip=4.0), torch.tensor([-3.0, 0.0, 20.0], dtype=F64)
    y = torch.tensor([7.0, 1.0, 2.0], dtype=F64)
    exact, bounded = LogPoisson().score(p, y), noise.score(p, y)
    torch.testing.assert_close(bounded[:2], exact[:2])
    assert float(exact[2]) > 1e8
    assert 3.9 < float(bounded[2]) <= 4.0


def test_counts_of_a_logarithm() -> None:
    noise, p = LogPoisson(), torch.full((100_000,), 1.2, dtype=F64)
    y = noise.sample(p, torch.Generator().manual_seed(0))
    assert float(y.mean()) == pytest.approx(float(torch.tensor(1.2).exp()), rel=0.01)
    grid = torch.linspace(1, 1.4, 41, dtype=F64)
    values = torch.stack([noise.nll(g.expand_as(y), y) for g in grid])
    assert float(grid[values.argmin()]) == pytest.approx(1.2, abs=0.02)
    seen = torch.tensor([1.0, 5.0], dtype=F64)
    torch.testing.assert_close(noise.density(seen.log(), seen), torch.zeros(2, dtype=F64))
    assert float(noise.density(torch.tensor(-50.0), torch.tensor(0.0))) == pytest.approx(
        0, abs=1e-6
    )
    with pytest.raises(NoiseError, match="negative"):
        noise.check(-20 * seen)
    moved = LogPoisson(baseline=0.7)
    torch.testing.assert_close(moved.density(p[:3], y[:3]), noise.density(p[:3] + 0.7, y[:3]))
    torch.testing.assert_close(moved.score(p[:3], y[:3]), noise.score(p[:3] + 0.7, y[:3]))
    drawn = moved.sample(p, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, noise.sample(p + 0.7, torch.Generator().manual_seed(1)))
    with pytest.raises(NoiseError, match="baseline"):
        LogPoisson(baseline=float("nan"))
    with pytest.raises(NoiseError, match="above 0"):
        LogPoisson(clip=0.0)


def test_released_arrays_are_read(tmp_path) -> None:
    arrays = {name: draw(4, 1, 3, 3, seed=k).float().numpy() for k, name in enumerate(["H", "We"])}
    arrays["b"] = np.linspace(-1, 1, 4, dtype="f4").reshape(1, 4, 1, 1)
    np.savez(tmp_path / "half.npz", **arrays)
    with pytest.raises(SolverError, match=r"expected arrays H and b.*\['H', 'We', 'b'\]"):
        read_dcea(tmp_path / "half.npz")
    np.savez(tmp_path / "untied.npz", **arrays, Wd=arrays["H"] + 1)
    network = read_dcea(tmp_path / "untied.npz", stride=2)
    assert np.array_equal(network.atoms.detach().numpy(), arrays["H"][:, 0])
    assert np.array_equal(network.analysis.detach().numpy(), arrays["We"][:, 0])
    assert np.array_equal(network.decoder.detach().numpy(), arrays["H"][:, 0] + 1)
    bias = network.encoder.solver.prior.bias
    assert np.array_equal(bias.detach().numpy(), arrays["b"].ravel())
    np.savez(tmp_path / "tied.npz", H=arrays["H"], b=arrays["b"])
    assert read_dcea(tmp_path / "tied.npz").decoder is None


def test_what_it_can_not_treat_is_told() -> None:
    network = make_dcea(denoising(counts(20, 20)), atoms=4, size=5)
    blur = Convolution(Space((20, 20), F64), draw(3, 3))
    with pytest.raises(SolverError, match="an Identity of real images, got Convolution"):
        network(Problem(blur, counts(20, 20)))
    with pytest.raises(SolverError, match="images of 12 pixels at least"):
        network(denoising(counts(20, 7)))
    data = counts(20, 20)
    with pytest.raises(SolverError, match="no weights"):
        network(Problem(Identity(Space((20, 20), F64)), data, weights=torch.ones_like(data)))


@pytest.mark.parametrize(
    "options",
    [
        {"atoms": 0},
        {"size": 0},
        {"depth": 0},
        {"stride": 0},
        {"clip": 0.0},
        {"gain": -1.0},
        {"weight": float("nan")},
    ],
)
def test_wrong_numbers_are_told(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(SolverError, match=name):
        make_dcea(denoising(counts(20, 20)), **options)


def test_shapes_that_do_not_agree_are_told() -> None:
    with pytest.raises(SolverError, match=r"a bias \(atom\)"):
        DCEA(torch.ones(3, 4, 4), torch.ones(2))
    with pytest.raises(SolverError, match="decoder has the shape of the atoms"):
        DCEA(torch.ones(3, 4, 4), torch.ones(3), decoder=torch.ones(3, 5, 5))
