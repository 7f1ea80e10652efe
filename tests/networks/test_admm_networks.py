"""Deep ADMM-Net and ADMM-CSNet over any operator."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from labrecon.networks.admm_csnet import PiecewiseLinearResidual, PriorFirstADMM, make_admm_csnet
from labrecon.networks.admm_net import FilterADMM, make_admm_net
from labrecon.networks.modl import make_modl
from labrecon.networks.published_admm import load_admm_csnet, load_admm_net
from labrecon.operator import Operator
from labrecon.operators import AsComplex, Convolution, MaskedFourier, Matrix
from labrecon.prior import Prior
from labrecon.priors import L1
from labrecon.priors.filter_bank import FilterBank
from labrecon.priors.piecewise_linear import PiecewiseLinear
from labrecon.problem import Problem, SolverError
from labrecon.schedule import Schedule
from labrecon.solver import solve
from labrecon.solvers import ADMM
from labrecon.space import Space

SHAPE = (5, 4)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def operators() -> dict[str, Operator]:
    space = Space(SHAPE, torch.complex128)
    # Some of it at every frequency: ADMM without a prior has one solution only.
    fourier = MaskedFourier(space, 0.3 + draw(*SHAPE, seed=4).abs().clamp_max(1))
    real = AsComplex(Space(SHAPE, torch.float64))
    return {
        "fourier": fourier,
        "fourier of real": fourier @ real,
        "blur": Convolution(real.domain, draw(3, 3, seed=5)),
        "matrix": Matrix(draw(24, 20, seed=6), real.domain),
        "signal": Matrix(draw(9, 8, seed=6)),
        "volume": Matrix(draw(40, 36, seed=7), Space((4, 3, 3), torch.float64)),
    }


def problem_of(name: str) -> Problem:
    operator = operators()[name]
    x = operator.domain.random(2, generator=torch.Generator().manual_seed(1))
    return Problem(operator, operator(x))


class Bank(Operator):
    """A bank's filters as an operator on one space."""

    def __init__(self, bank: FilterBank, domain: Space) -> None:
        self_lead = domain.shape[: domain.ndim - bank.axes]
        shape = (*self_lead, len(bank.atoms), *domain.shape[domain.ndim - bank.axes :])
        super().__init__(domain, Space(shape, domain.dtype))
        self.bank = bank

    def forward(self, x: Tensor) -> Tensor:
        return self.bank(x)


class SparseResponses(Prior):
    """``Σ_l weight · |D_l ∗ x|``, the parts of complex responses each."""

    def __init__(self, bank: FilterBank, weight: float) -> None:
        super().__init__()
        self.bank = bank
        self.sparse = PartsL1(weight)

    def split(self, domain: Space) -> list:
        return [(Bank(self.bank, domain), self.sparse)]


class PartsL1(L1):
    def prox(self, x: Tensor, step: Tensor | float) -> Tensor:
        if x.is_complex():
            return torch.complex(super().prox(x.real, step), super().prox(x.imag, step))
        return super().prox(x, step)


@pytest.mark.parametrize("name", list(operators()))
def test_untrained_admm_net_is_admm_with_soft_thresholding(name: str) -> None:
    problem = problem_of(name)
    network = make_admm_net(problem, depth=2, threshold=0.1)
    solver = network.solver
    rho, eta = float(solver.rho.detach()[0, 0]), float(solver.dual_step.detach()[0, 0])
    bank = FilterBank(min(2, problem.operator.domain.ndim)).double()
    classical = ADMM(prior=SparseResponses(bank, 0.1 * rho), rho=rho, dual_step=eta, inner=40)
    # The first image comes before the first stage.
    expected = solve(classical, problem, iterations=3).x
    torch.testing.assert_close(network(problem).detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["fourier", "matrix"])
def test_untrained_admm_csnet_is_admm_without_a_prior(name: str) -> None:
    problem = problem_of(name)
    network = make_admm_csnet(problem, depth=4, features=3)
    rho = float(network.solver.rho(0).detach())
    expected = solve(ADMM(rho=rho, inner=60), problem, iterations=5).state.x
    torch.testing.assert_close(network(problem).detach(), expected, rtol=1e-4, atol=1e-4)


def test_a_step_that_ends_with_the_data_makes_the_same_iterates() -> None:
    problem = problem_of("fourier of real")
    rho, prior = Schedule([0.3, 0.2, 0.5, 0.4, 0.1, 0.3, 0.6]), L1(0.05)
    ours = PriorFirstADMM(prior=prior, rho=rho, dual_step=1.3)
    state = ours.init(problem)
    for _ in range(6):
        state, _ = ours.step(problem, state)
    classical = ADMM(prior=prior, rho=rho, dual_step=1.3, inner=50)
    expected = solve(classical, problem, iterations=7).state
    torch.testing.assert_close(state.x.detach(), expected.x.detach(), rtol=1e-6, atol=1e-6)


def perturbed(network: torch.nn.Module) -> None:
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter += 0.02 * draw(*parameter.shape, seed=number)


@pytest.mark.parametrize("make", [make_admm_net, make_admm_csnet])
def test_a_closed_form_and_conjugate_gradients_agree(make) -> None:
    """The same sampling as a filter, and hidden in a matrix; values and gradients."""
    problem = problem_of("fourier of real")
    domain = problem.operator.domain
    columns = problem.operator(torch.eye(domain.size).double().reshape(-1, *SHAPE)).flatten(1)
    stacked = torch.view_as_real(columns.mT.contiguous()).movedim(-1, 0).flatten(0, 1)
    data = torch.view_as_real(problem.data.flatten(1)).movedim(-1, 1).flatten(1)
    hidden = Problem(Matrix(stacked, domain), data)

    network = make(problem, depth=3, **({} if make is make_admm_net else {"features": 3}))
    perturbed(network)
    network.solver.inner = 200
    results = []
    for version in (problem, hidden):
        network.zero_grad()
        x = network(version)
        x.square().sum().backward()
        results.append([x.detach(), *(p.grad.clone() for p in network.parameters())])
    for a, b in zip(*results, strict=True):
        assert float((a - b).norm()) <= 2e-4 * float(b.norm())


@pytest.mark.parametrize("make", [make_admm_net, make_admm_csnet])
@pytest.mark.parametrize("name", list(operators()))
def test_every_parameter_is_learned_over_every_operator(make, name: str) -> None:
    problem = problem_of(name)
    network = make(problem, depth=2, **({} if make is make_admm_net else {"features": 3}))
    perturbed(network)
    x = network(problem)
    assert x.dtype == problem.operator.domain.dtype
    x.abs().square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("make", [make_admm_net, make_admm_csnet])
def test_scale_makes_it_see_objects_of_size_one(make) -> None:
    problem = problem_of("blur")
    options = {} if make is make_admm_net else {"features": 3}
    one, large = (make(problem, depth=2, scale=scale, **options) for scale in (1.0, 1000.0))
    perturbed(one)
    large.load_state_dict(one.state_dict())
    bright = Problem(problem.operator, 1000 * problem.data)
    torch.testing.assert_close(large(bright), 1000 * one(problem), rtol=1e-5, atol=1e-3)


@pytest.mark.cuda
@pytest.mark.parametrize("make", [make_admm_net, make_admm_csnet, make_modl])
@pytest.mark.parametrize("name", ["fourier of real", "matrix"])
def test_a_gpu_gives_what_the_cpu_gives(make, name: str) -> None:
    results = []
    for device in ("cpu", "cuda"):
        problem = problem_of(name)
        problem = Problem(problem.operator.to(device), problem.data.to(device))
        options = {} if make is make_admm_net else {"features": 3}
        network = make(problem, depth=2, **options)
        perturbed(network)
        network = network.to(device)
        x = network(problem)
        x.square().sum().backward()
        results.append([x.detach().cpu(), *(p.grad.cpu() for p in network.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_numbers_and_layers_that_do_not_fit_are_told() -> None:
    problem = problem_of("blur")
    with pytest.raises(SolverError, match="rho"):
        make_admm_net(problem, rho=0.0)
    with pytest.raises(SolverError, match="depth"):
        make_admm_csnet(problem, depth=0)
    with pytest.raises(SolverError, match="one more of coupling"):
        FilterADMM(
            [FilterBank()], [PiecewiseLinear(8)], [FilterBank()], torch.ones(2, 8), torch.ones(1, 8)
        )


# -- the authors' files ----------------------------------------------------------------------------


def write_matlab(path: Path, layers: list[tuple[str, list[np.ndarray]]]) -> Path:
    """A file like MATLAB's, version 7.3: cells are references, arrays have their axes reversed."""
    with h5py.File(path, "w") as file:
        held = file.create_group("#refs#")
        references = []
        for number, (kind, weights) in enumerate(layers):
            entry = held.create_group(f"layer{number}")
            entry["type"] = np.array([[ord(c)] for c in kind], dtype=np.uint16)
            if weights:
                cells = []
                for i, array in enumerate(weights):
                    cells.append(held.create_dataset(f"w{number}_{i}", data=array.T).ref)
                entry.create_dataset("weights", data=np.array([cells]).T, dtype=h5py.ref_dtype)
            references.append(entry.ref)
        file.create_dataset("net/layers", data=np.array([references]).T, dtype=h5py.ref_dtype)
    return path


def matlab_filters(gamma: np.ndarray) -> list[np.ndarray]:
    """The authors' ``reshape(B * gamma(:, i), 3, 3)``, with ``B`` of ``kron(dctmtx, dctmtx)``."""
    position = np.arange(3)
    dct = np.cos(np.pi / 6 * np.outer(position, 2 * position + 1)) * np.sqrt(2 / 3)
    dct[0] /= np.sqrt(2)
    atoms = np.kron(dct, dct)[1:].T
    return [(atoms @ column).reshape(3, 3, order="F") for column in gamma.T]


@pytest.mark.parametrize("stages", [2, 3])
def test_a_file_of_any_number_of_stages_is_read(tmp_path: Path, stages: int) -> None:
    random = np.random.default_rng(0)
    gammas, layers = [], []
    for stage in range(stages):
        first = stage == 0
        image = [random.normal(size=(8, 8)), random.random((1, 8))]
        gammas.append(image[0])
        layers += [
            ("X_org" if first else "X_mid", image),
            ("Convo", [random.normal(size=(8, 8))]),
            ("Non_linorg" if first else "Non_linmid", [random.normal(size=(101, 8))]),
            ("Multi_org" if first else "Multi_mid", [random.normal(size=(1, 8))]),
        ]
    layers += [("X_mid", [random.normal(size=(8, 8)), random.random((1, 8))]), ("loss", [])]
    network = load_admm_net(write_matlab(tmp_path / "net.mat", layers))
    assert network.depth == stages
    bank = network.solver.coupling[0]
    for ours, theirs in zip(bank.filters().detach(), matlab_filters(gammas[0]), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)
    np.testing.assert_array_equal(
        network.solver.shrink[1].values.detach().numpy(), layers[6][1][0].T
    )


def test_kernels_of_a_file_are_not_transposed(tmp_path: Path) -> None:
    """As MATLAB's ``vl_nnconv`` (a correlation) with kernels (row, column, input, output)."""
    import scipy.ndimage

    random = np.random.default_rng(0)
    first, second = random.normal(size=(5, 5, 1, 3)), random.normal(size=(5, 5, 3))
    identity = np.repeat(np.linspace(-1, 1, 101)[:, None], 3, 1)
    layers = [
        ("Reorg", [np.array([[0.1]])]),
        ("conv", [first, np.zeros((1, 3))]),
        ("Non_linear", [identity]),
        ("conv", [second, np.zeros((1, 1))]),
        ("Multi_final", [np.array([[1.0]])]),
        ("Refinal", [np.array([[-0.2]])]),
        ("rLoss", []),
    ]
    network = load_admm_csnet(write_matlab(tmp_path / "net.mat", layers))
    assert network.depth == 1
    assert float(network.solver.rho(1).detach()) == pytest.approx(-0.2)
    image = random.normal(size=(9, 8))
    change = np.zeros_like(image)
    for channel in range(3):
        response = scipy.ndimage.correlate(image, first[:, :, 0, channel], mode="constant")
        change += scipy.ndimage.correlate(response, second[:, :, channel], mode="constant")
    with torch.no_grad():
        ours = network.solver.prior[0].prox(torch.from_numpy(image), 1.0)
    np.testing.assert_allclose(ours.numpy(), image - change, atol=1e-5)


@pytest.mark.parametrize("load", [load_admm_net, load_admm_csnet])
def test_another_file_is_told(load, tmp_path: Path) -> None:
    (tmp_path / "text.mat").write_text("no network")
    with pytest.raises(SolverError, match=r"MATLAB file of version 7\.3"):
        load(tmp_path / "text.mat")
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["image"] = np.zeros(3)
    with pytest.raises(SolverError, match=r"MATLAB file of version 7\.3"):
        load(tmp_path / "other.mat")


def test_a_schedule_for_the_coupling_may_be_shared() -> None:
    problem = problem_of("fourier")
    prior = PiecewiseLinearResidual(2, 3, 3).double()
    solver = PriorFirstADMM(prior=prior, rho=Schedule(0.1, learn=True))
    state, _ = solver.step(problem, solver.init(problem))
    assert state.x.shape == problem.data.shape
