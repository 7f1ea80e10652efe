"""ISTA-Net and ISTA-Net⁺: the classical algorithm inside, the published network, any operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from learned_iteration_cases import CASES, blur_1d, fall_of_loss, sampled_fourier
from torch import Tensor, nn
from torch.nn.functional import conv2d

from labrecon.networks import Unrolled
from labrecon.networks.ista_net import linear_start, make_ista_net, make_ista_net_plus
from labrecon.networks.published import read_dncnn, read_ista_net
from labrecon.operator import Operator
from labrecon.operators import AsComplex, Identity, MaskedFourier, Matrix, Wavelet
from labrecon.plugins import host
from labrecon.priors import WaveletL1
from labrecon.priors.denoisers import DnCNN
from labrecon.priors.transform_pair import TransformPair
from labrecon.problem import Problem
from labrecon.schedule import Schedule
from labrecon.solver import SolverError, solve
from labrecon.solvers import ISTA
from labrecon.space import Space, SpaceError

F64 = torch.float64
FACTORIES = [make_ista_net, make_ista_net_plus]
every = pytest.mark.parametrize("make", FACTORIES, ids=["base", "plus"])


def draw(*shape: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def compressed(rows: int = 24, size: int = 8) -> tuple[Matrix, Tensor]:
    matrix = draw(rows, size * size) / rows**0.5
    return Matrix(matrix, Space((size, size), F64)), draw(5, size, size, seed=1)


# -- the algorithm inside ------------------------------------------------------------------------


def test_with_a_wavelet_for_the_transforms_it_is_ista() -> None:
    operator, x = compressed()
    problem, step, weight = Problem(operator, operator(x)), 0.125, 0.5
    w = Wavelet(operator.domain, "db2", 2)
    pairs = [TransformPair(w, w.H, threshold=step * weight) for _ in range(9)]
    steps = Schedule(step, 9, constraint=None, learn=True)
    network = Unrolled(ISTA(prior=nn.ModuleList(pairs), step_size=steps).double(), 9)
    classical = ISTA(prior=WaveletL1(weight, wavelet="db2", levels=2), step_size=step)
    expected = solve(classical, problem, iterations=9).x
    torch.testing.assert_close(network(problem).detach(), expected, rtol=0, atol=1e-12)
    losses = network.reconstruct(problem).losses
    assert float(losses["symmetry"].detach()) < 1e-28


def test_steps_and_thresholds_may_be_negative() -> None:
    operator, x = compressed()
    problem = Problem(operator, operator(x))
    network = make_ista_net(problem, depth=2, features=3)
    before = network(problem)
    with torch.no_grad():
        network.solver.step_size.raw[1] = -0.2
        network.solver.prior[0].threshold.raw[0] = -0.3
    after = network(problem)
    assert bool(torch.isfinite(after).all())
    assert bool((after != before).any())


# -- the factories -------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("name", CASES)
def test_any_operator_will_do_and_a_step_down_the_gradient_helps(make, name: str) -> None:
    problem, truth = CASES[name]()
    network = make(problem, depth=2, features=4)
    estimate = network(problem)
    assert (estimate.shape, estimate.dtype) == (truth.shape, truth.dtype)
    before, after = fall_of_loss(network, problem, truth)
    assert after < before


@every
def test_the_symmetry_is_summed_over_layers_in_training_only(make) -> None:
    problem, _ = sampled_fourier()
    network = make(problem, depth=3, features=4)
    assert network.loss_weights == {"symmetry": 0.01}
    told = network.reconstruct(problem).losses
    assert set(told) == {"symmetry"}
    parts = []
    state = network.solver.init(problem, problem.operator.initial(problem.data))
    for _ in range(3):
        state, each = network.solver.step(problem, state)
        parts.append(float(each["symmetry"].detach()))
    assert float(told["symmetry"].detach()) == pytest.approx(sum(parts), rel=1e-5)
    assert network.eval().reconstruct(problem).losses == {}


@every
def test_weights_come_from_the_seed_alone(make) -> None:
    problem, _ = blur_1d()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second, third = (make(problem, depth=2, features=4, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(first(problem), second(problem))
    assert bool((first(problem) != third(problem)).any())


@every
def test_the_first_step_is_half_of_one_over_the_curvature(make) -> None:
    """Published is ½ for an operator of norm 1; a louder instrument gets a shorter step."""
    problem, _ = blur_1d()
    loud = Problem(10.0 * problem.operator, 10.0 * problem.data)
    for p in (problem, loud):
        network = make(p, depth=2, features=4)
        expected = torch.full((2,), 0.5 / float(p.lipschitz()))
        torch.testing.assert_close(network.solver.step_size.values().detach(), expected)
    torch.testing.assert_close(
        make(problem, depth=2, features=4)(problem), make(loud, depth=2, features=4)(loud)
    )


@every
def test_published_parameter_counts(make) -> None:
    """9 phases of two numbers and convolutions 3 × 3 without bias, 32 features."""
    problem = Problem(Identity(Space((33, 33))), torch.zeros(33, 33))
    outside, inside = 9 * 32, 9 * 32 * 32
    each = 2 + 2 * outside + (4 if make is make_ista_net_plus else 2) * inside
    count = sum(p.numel() for p in make(problem).parameters() if p.requires_grad)
    assert count == 9 * each


@every
def test_wrong_options(make) -> None:
    problem, _ = blur_1d()
    for options, match in (({"depth": 0}, "depth"), ({"start": "fbp"}, "start")):
        with pytest.raises(SolverError, match=match):
            make(problem, **options)
    with pytest.raises(ValueError, match="features"):
        make(problem, features=0)
    with pytest.raises(ValueError, match="scale"):
        make(problem, scale=0.0)


class Squared(Operator):
    linear = False

    def forward(self, x: Tensor) -> Tensor:
        return x.square()


@every
def test_nonlinear_operators_need_a_step(make) -> None:
    space = Space((9,))
    problem = Problem(Squared(space, space), torch.ones(2, 9))
    with pytest.raises(SolverError, match="step_size"):
        make(problem)
    assert bool(torch.isfinite(make(problem, step_size=0.1, depth=2, features=3)(problem)).all())


def test_they_are_registered() -> None:
    assert host().get("networks", "ista-net") is make_ista_net
    assert host().get("networks", "ista-net-plus") is make_ista_net_plus


# -- real objects, linear starts -----------------------------------------------------------------


def test_real_objects_of_a_complex_operator() -> None:
    space = Space((6, 5), F64)
    fourier = MaskedFourier(Space((6, 5), torch.complex128), draw(6, 5, seed=2) > 0) @ AsComplex(
        space
    )
    x, y = draw(3, 6, 5), draw(3, 6, 5, dtype=torch.complex128, seed=3)
    left, right = (fourier(x).conj() * y).real.sum(), (x * fourier.adjoint(y)).sum()
    torch.testing.assert_close(left, right)
    problem = Problem(fourier, fourier(x))
    network = make_ista_net_plus(problem, depth=2, features=4, start="adjoint")
    assert network(problem).dtype == F64
    rhs = AsComplex(space).solve(x, 0.5)
    torch.testing.assert_close(rhs, x / 1.5)
    with pytest.raises(SpaceError, match="real space"):
        AsComplex(Space((3,), torch.complex64))


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_a_linear_start_has_the_least_squared_error(dtype: torch.dtype) -> None:
    operator = Matrix(draw(6, 16, dtype=dtype), Space((4, 4), dtype))
    objects = draw(40, 4, 4, dtype=dtype, seed=1)
    start = linear_start(operator, objects)
    data = operator(objects)
    # Orthogonality: the error of the best linear map is uncorrelated with the data.
    error = (start(data) - objects).flatten(1)
    correlation = error.mT @ data.conj()
    torch.testing.assert_close(correlation, torch.zeros_like(correlation), rtol=0, atol=1e-10)
    # Objects of a subspace smaller than the data are found exactly; the Gram matrix is singular.
    few = draw(3, 4, 4, dtype=dtype, seed=2)
    mixed = torch.einsum("nk,kij->nij", draw(30, 3, dtype=dtype, seed=3), few)
    torch.testing.assert_close(linear_start(operator, mixed)(operator(few)), few)
    problem = Problem(operator, data)
    network = make_ista_net(problem, depth=1, features=3, start=start)
    assert network(problem).shape == objects.shape


# -- released weights ----------------------------------------------------------------------------


def released(phases: int, features: int, plus: bool, channels: int = 1) -> dict[str, np.ndarray]:
    """Arrays as the authors name them, of other sizes than those at hand (a ratio of 40 %)."""
    rng = np.random.default_rng(0)
    inner = (features, features, 3, 3)
    shapes = {
        "conv1_forward": inner if plus else (features, channels, 3, 3),
        "conv2_forward": inner,
        "conv1_backward": inner,
        "conv2_backward": inner if plus else (channels, features, 3, 3),
    }
    if plus:
        shapes |= {"conv_D": (features, channels, 3, 3), "conv_G": (channels, features, 3, 3)}
    arrays = {}
    for k in range(phases):
        arrays[f"fcs.{k}.lambda_step"] = rng.normal(0.3, 0.3, 1)
        arrays[f"fcs.{k}.soft_thr"] = rng.normal(0, 0.05, 1)
        for name, shape in shapes.items():
            arrays[f"fcs.{k}.{name}"] = 0.2 * rng.normal(size=shape)
    return arrays


def published_forward(arrays: dict, phi: Tensor, q: Tensor, y: Tensor, size: int) -> Tensor:
    """The forward pass of the authors, written out."""
    of = {key: torch.as_tensor(value) for key, value in arrays.items()}

    def conv(u: Tensor, name: str) -> Tensor:
        return conv2d(u, of[name], padding=1)

    x = y @ q.mT
    for k in range(sum("soft_thr" in key for key in of)):
        p = f"fcs.{k}."
        x = x - of[p + "lambda_step"] * (x @ phi.mT @ phi) + of[p + "lambda_step"] * (y @ phi)
        image = x.reshape(-1, 1, size, size)
        plus = p + "conv_D" in of
        seen = conv(image, p + "conv_D") if plus else image
        f = conv(conv(seen, p + "conv1_forward").relu(), p + "conv2_forward")
        f = f.sign() * (f.abs() - of[p + "soft_thr"]).relu()
        f = conv(conv(f, p + "conv1_backward").relu(), p + "conv2_backward")
        x = (image + conv(f, p + "conv_G") if plus else f).reshape(len(x), -1)
    return x.reshape(-1, size, size)


@pytest.mark.parametrize("plus", [False, True], ids=["base", "plus"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_any_released_size_is_read(plus: bool, prefix: str, tmp_path: Path) -> None:
    arrays = released(phases=4, features=5, plus=plus)
    path = tmp_path / "ista_net_cs_ratio_40.npz"
    np.savez(path, **{prefix + key: value for key, value in arrays.items()})
    phi = torch.linalg.qr(draw(81, 32)).Q.mT.contiguous()  # 40 % of 9 × 9
    operator = Matrix(phi, Space((9, 9), F64))
    q = draw(81, 32, seed=4) / 9
    start = Matrix(q, operator.range, operator.domain)
    data = operator(draw(3, 9, 9, seed=5))
    network = read_ista_net(path, start=start)
    assert not network.training
    assert network.depth == 4
    expected = published_forward(arrays, phi, q, data, 9)
    torch.testing.assert_close(network(Problem(operator, data)).detach(), expected)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == sum(
        a.size for a in arrays.values()
    )
    torch.testing.assert_close(  # and from a state dictionary; of objects in another unit
        255 * network(Problem(operator, data)),
        read_ista_net(arrays, start=start, scale=255.0)(Problem(operator, 255 * data)),
    )


def test_released_weights_of_complex_images() -> None:
    problem, truth = sampled_fourier(torch.complex128)
    network = read_ista_net(released(2, 4, plus=True, channels=2), start="adjoint")
    assert network(problem).dtype == truth.dtype


def test_arrays_that_are_no_ista_net_are_refused(tmp_path: Path) -> None:
    good = released(2, 4, plus=True)
    wrong = {
        "expected arrays": {k: v for k, v in good.items() if k != "fcs.1.soft_thr"},
        "not of an ISTA-Net": {**good, "decoder": np.zeros(3)},
        "phases": {k: v for k, v in good.items() if not k.startswith("fcs.0")},
        "do not fit": {**good, "fcs.1.conv_G": np.zeros((1, 9, 3, 3))},
    }
    for match, arrays in wrong.items():
        with pytest.raises(SolverError, match=match):
            read_ista_net(arrays)
    with pytest.raises(SolverError, match="phases"):
        read_ista_net({})
    with pytest.raises(FileNotFoundError):
        read_ista_net(tmp_path / "absent.npz")


@pytest.mark.parametrize("batch_norm", [False, True])
def test_any_released_dncnn_is_read(batch_norm: bool) -> None:
    source = DnCNN(2, features=5, depth=4, batch_norm=batch_norm).double()
    source(draw(4, 2, 8, 8))  # so that the running means are not 0
    state = source.state_dict()
    arrays = {f"module.dncnn.{k.partition('.')[2]}": v.numpy() for k, v in state.items()}
    network = read_dncnn(arrays)
    x = draw(2, 2, 6, 6)
    torch.testing.assert_close(network(x), source.eval()(x))
    for broken in ({}, {"dncnn.0.weight": np.zeros((4, 1, 3, 3))}, {"w": np.zeros(3)}):
        with pytest.raises(SolverError, match="DnCNN"):
            read_dncnn(broken)
    arrays["module.dncnn.2.weight"] = np.zeros((5, 4, 3, 3))
    with pytest.raises(SolverError, match="do not fit"):
        read_dncnn(arrays)
