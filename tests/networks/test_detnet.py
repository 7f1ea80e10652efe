"""DetNet: its step against the formulas, and what it takes and refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from labrecon.learners import LayerLoss
from labrecon.networks import Unrolled
from labrecon.networks.detnet import DetNetLayer, DetNetStep, make_detnet
from labrecon.networks.published_detnet import read_detnet
from labrecon.noise import Gaussian, Poisson
from labrecon.operators import BatchedMatrix, Convolution, Identity, Matrix
from labrecon.problem import Problem, SolverError
from labrecon.space import Space


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loud(network: Unrolled) -> Unrolled:
    """Weights large enough that every path counts."""
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            parameter.copy_(0.5 * draw(*parameter.shape, seed=i))
    return network


def by_formulas(network: Unrolled, matrix: Tensor, data: Tensor, values: Tensor) -> Tensor:
    """The released code, in matrices: (batch, m, n) and (batch, m)."""
    r, layers = network.solver.mixing, network.solver.layers
    back, gram = torch.einsum("bmn,bm->bn", matrix, data), matrix.mT @ matrix
    s, o, v = torch.zeros_like(back), 0.0, data.new_zeros(len(data), layers[0].memory.out_features)
    for layer in layers:
        d1, d2 = layer.rates
        z = torch.cat([s - d1 * back + d2 * torch.einsum("bij,bj->bi", gram, s), v], 1)
        z = torch.relu(z @ layer.hidden.weight.T + layer.hidden.bias)
        o = (1 - r) * (z @ layer.marks.weight.T + layer.marks.bias) + r * o
        v = (1 - r) * (z @ layer.memory.weight.T + layer.memory.bias) + r * v
        s = sum(values[i] * o[:, i :: len(values)] for i in range(len(values)))
    return s


@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, 1.0, 3.0]])
def test_the_network_is_the_released_formulas(values: list[float]) -> None:
    matrices, data = draw(4, 6, 5), draw(4, 6, seed=1)
    problem = Problem(BatchedMatrix(matrices), data)
    network = loud(make_detnet(problem, depth=3, values=values, mixing=0.4))
    expected = by_formulas(network, matrices, data, torch.tensor(values))
    torch.testing.assert_close(network(problem), expected, rtol=1e-4, atol=1e-4)
    # One matrix for all, weights, and an image in place of a vector.
    one = Problem(Matrix(matrices[0]), data, weights=torch.tensor([1.0, 2, 0, 1, 1, 1]))
    root = one.weights.sqrt()
    scaled = (root[:, None] * matrices[0]).expand(4, 6, 5)
    expected = by_formulas(network, scaled, root * data, torch.tensor(values))
    torch.testing.assert_close(network(one), expected, rtol=1e-4, atol=1e-4)


def test_any_linear_operator_serves() -> None:
    blur = Convolution(Space((4, 4)), draw(3, 3))
    problem = Problem(blur, draw(2, 4, 4, seed=1))
    network = loud(make_detnet(problem, depth=2))
    columns = blur(torch.eye(16).reshape(16, 4, 4)).reshape(16, 16).mT
    as_matrix = Problem(Matrix(columns), problem.data.reshape(2, 16))
    torch.testing.assert_close(
        network(problem).reshape(2, 16), network(as_matrix), rtol=1e-4, atol=1e-4
    )


def test_the_loss_of_layers_is_weighted_by_their_logarithm() -> None:
    matrices, truth = draw(3, 6, 5), draw(3, 5, seed=2).sign()
    problem = Problem(BatchedMatrix(matrices), draw(3, 6, seed=1))
    network = loud(make_detnet(problem, depth=4))
    value, told = LayerLoss(network, problem.operator, metrics={}).loss([(problem, truth)])
    trace = network.reconstruct(problem, trace=True).trace
    errors = [(x - truth).square().mean() for x in trace]
    logs = torch.arange(1.0, 5.0).log()
    expected = (logs * torch.stack(errors)).sum() / logs.sum()
    torch.testing.assert_close(value, expected)
    assert told["last_layer"] == pytest.approx(float(errors[-1].detach()))
    value.backward()
    for layer in network.solver.layers:
        assert bool((layer.marks.weight.grad != 0).any())


def test_a_loss_of_one_layer_is_refused() -> None:
    problem = Problem(Matrix(draw(6, 5)), draw(3, 6))
    learner = LayerLoss(make_detnet(problem, depth=1), problem.operator, metrics={})
    with pytest.raises(ValueError, match="two at least"):
        learner.loss([(problem, draw(3, 5))])


def test_released_arrays_are_read(tmp_path) -> None:
    """A file with the authors' names, of another size; their marks are those of +1 and −1."""
    arrays, sizes = {}, {"relu": (3 + 4, 5), "sign": (5, 6), "aff": (5, 4)}
    for k in (1, 2):
        for name, (rows, columns) in sizes.items():
            arrays[f"W{name}{k}"] = draw(rows, columns, seed=k).numpy()
            arrays[f"w{name}{k}"] = draw(1, columns, seed=10 + k).numpy()
    arrays["Variable"] = draw(6).numpy()
    np.savez(tmp_path / "net.npz", **arrays)
    network = read_detnet(tmp_path / "net.npz", mixing=0.5)
    matrices, data = draw(4, 6, 3), draw(4, 6, seed=1)
    expected = by_formulas(network, matrices, data, torch.tensor([1.0, -1.0]))
    made = network(Problem(BatchedMatrix(matrices), data))
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    first = network.solver.layers[1]
    assert torch.equal(first.rates.detach(), torch.from_numpy(arrays["Variable"][2:4]))
    assert torch.equal(first.marks.weight.detach(), torch.from_numpy(arrays["Wsign2"]).T)

    del arrays["Waff2"]
    np.savez(tmp_path / "broken.npz", **arrays)
    with pytest.raises(SolverError, match=r"broken.npz is no DetNet.*Waff2"):
        read_detnet(tmp_path / "broken.npz")
    np.savez(tmp_path / "other.npz", fc=np.ones(3))
    with pytest.raises(SolverError, match=r"other.npz is no DetNet"):
        read_detnet(tmp_path / "other.npz")


def test_what_it_can_not_treat_is_told() -> None:
    network = make_detnet(Problem(Matrix(draw(6, 5)), draw(6)), depth=2)
    with pytest.raises(SolverError, match="made for 5 samples; Matrix has 4"):
        network(Problem(Matrix(draw(6, 4)), draw(6)))
    complex_matrix = Matrix(draw(6, 5).to(torch.complex64))
    with pytest.raises(SolverError, match="stack real and imaginary part"):
        network(Problem(complex_matrix, draw(6).to(torch.complex64)))
    with pytest.raises(SolverError, match="stack real and imaginary part"):
        make_detnet(Problem(complex_matrix, draw(6).to(torch.complex64)))
    with pytest.raises(SolverError, match="Gaussian noise"):
        network(Problem(Matrix(draw(6, 5)), draw(6).abs(), Poisson()))
    torch.testing.assert_close(
        network(Problem(Matrix(draw(6, 5)), draw(6), Gaussian(0.1))),
        network(Problem(Matrix(draw(6, 5)), draw(6))),
        msg="its rates are learned: the noise level has no say",
    )


@pytest.mark.parametrize("options", [{"depth": 0}, {"hidden": 0}, {"memory": -1}, {"mixing": 1.0}])
def test_wrong_numbers_are_told(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(SolverError, match=name):
        make_detnet(Problem(Matrix(draw(6, 5)), draw(6)), **options)


def test_an_object_too_large_for_dense_layers_is_refused_before_they_are_made() -> None:
    space = Space((64, 64))
    with pytest.raises(SolverError, match=r"an object of 4,096 samples has 1.4e\+10 numbers"):
        make_detnet(Problem(Identity(space), torch.zeros(space.shape)))


def test_a_step_needs_layers_and_real_values() -> None:
    with pytest.raises(SolverError, match="a layer at least"):
        DetNetStep([], [1.0, -1.0])
    with pytest.raises(SolverError, match="real values"):
        DetNetStep([DetNetLayer(2, 2, 3, 3)], torch.tensor([1.0j, -1.0j]))
