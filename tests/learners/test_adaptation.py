"""Adaptation: the anchor, Stein's risk, nuisances, imitation; R&R against its closed form."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from labrecon import Gaussian, Problem, Space
from labrecon.learner import FitConfig, fit
from labrecon.learners.adaptation import Adaptation, Transfer
from labrecon.learners.imitation import Imitation
from labrecon.learners.samples import ObjectSamples
from labrecon.learners.self_supervised import MeasuredScan, ScanSamples
from labrecon.networks.calibrated import Calibrated
from labrecon.networks.reused import reuse
from labrecon.operators import Convolution, Matrix
from labrecon.priors.reused import Reused
from labrecon.reconstructor import Reconstruction, Reconstructor
from labrecon.solver import SolverError

SIZE = 8


class Linear(Reconstructor):
    """``x = M Aᴴ y`` with a matrix that can be learned."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix.clone())

    def reconstruct(self, problem, x0=None, *, trace=False):
        return Reconstruction(problem.operator.adjoint(problem.data) @ self.matrix.T)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def matrices(generator):
    """``A₀``, ``A₁`` and the network's own, in double precision."""
    return [
        torch.randn(n, SIZE, generator=generator, dtype=torch.float64) / SIZE
        for n in (10, 12, SIZE)
    ]


def operators(matrices, dtype=torch.float64):
    a0, a1, m = (each.to(dtype) for each in matrices)
    network = Linear(0.3 * torch.eye(SIZE, dtype=dtype) + 0.1 * m)
    return network, Matrix(a0), Matrix(a1)


# -- R&R -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (3,)])
def test_reuse_comes_to_its_closed_form(matrices, generator, batch):
    """For a linear network the limit solves ``(A₁ᴴA₁ + λ − λ M A₀ᴴA₀) x = A₁ᴴ y``."""
    network, old, new = operators(matrices)
    y = torch.randn(*batch, 12, generator=generator, dtype=torch.float64)
    made = reuse(network, old, Problem(new, y), coupling=0.5, iterations=200)
    a0, a1, m = old.matrix, new.matrix, network.matrix
    size = made.solver.coupling(0)
    system = a1.T @ a1 + size * (torch.eye(SIZE) - m @ a0.T @ a0)
    wanted = torch.linalg.solve(system, (y @ a1)[..., None])[..., 0]
    with torch.no_grad():
        assert torch.allclose(made(Problem(new, y)), wanted, rtol=1e-3, atol=1e-4)


def test_only_the_network_is_in_the_state(matrices):
    network, old, new = operators(matrices)
    made = reuse(network, old, Problem(new, torch.zeros(12, dtype=torch.float64)))
    assert set(made.state_dict()) == {"solver.prior.network.matrix", "solver.coupling.raw"}
    moving = [name for name, p in made.named_parameters() if p.requires_grad]
    assert moving == ["solver.prior.network.matrix"]
    # But the operator goes where the network goes, and copies are whole.
    assert made.to(torch.float32).solver.prior.operator.matrix.dtype == torch.float32
    copied = copy.deepcopy(made)
    assert copied.solver.prior.operator is not made.solver.prior.operator


def test_gradients_reach_the_network_through_reuse(matrices, generator):
    network, old, new = operators(matrices)
    y = torch.randn(12, generator=generator, dtype=torch.float64)
    made = reuse(network, old, Problem(new, y), iterations=4)

    def loss(matrix):
        network.matrix.data = matrix
        return made(Problem(new, y)).square().sum()

    start = network.matrix.detach().clone()
    loss(start).backward()
    step = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = loss(start + 1e-3 * step), loss(start - 1e-3 * step)
    expected = float((ahead - behind) / 2e-3)
    assert float((network.matrix.grad * step).sum()) == pytest.approx(expected, rel=1e-3)


def test_reuse_of_complex_objects(generator):
    space = Space((4, 4), torch.complex64)
    old, new = (Convolution(space, torch.tensor(k)) for k in ([0.25, 0.5, 0.25], [0.1, 0.8, 0.1]))

    class Adjoint(Reconstructor):
        def reconstruct(self, problem, x0=None, *, trace=False):
            return Reconstruction(problem.operator.adjoint(problem.data))

    y = torch.randn(2, 4, 4, generator=generator, dtype=torch.complex64)
    x = reuse(Adjoint(), old, Problem(new, y), iterations=3)(Problem(new, y))
    assert x.dtype == torch.complex64
    assert x.shape == y.shape
    assert torch.equal(Reused(Adjoint(), old).prox(y, 1.0), old.adjoint(old(y)))


def test_objects_of_another_grid_are_refused(matrices):
    network, _, new = operators(matrices)
    other = Matrix(torch.zeros(5, 6, dtype=torch.float64))
    with pytest.raises(SolverError, match="reconstruct on the grid of the training"):
        reuse(network, other, Problem(new, torch.zeros(12, dtype=torch.float64)))


# -- P&P -------------------------------------------------------------------------------------------


def scans(new, generator, sigma=0.1, count=64):
    x = torch.randn(count, SIZE, generator=generator)
    y = new(x) + sigma * torch.randn(count, 12, generator=generator)
    return x, MeasuredScan(Problem(new, y, Gaussian(sigma)))


def test_the_loss_is_chi2_and_the_anchor(matrices, generator):
    network, _, new = operators(matrices, torch.float32)
    _, scan = scans(new, generator)
    learner = Adaptation(network, new, misfit="chi2", anchor=0.5)
    samples = ScanSamples([scan])
    batch = samples.batch(range(64), 0)
    y = scan.problem.data
    with torch.no_grad():
        chi2 = ((y - new(network(scan.problem))) / 0.1).square().mean()
    value, told = learner.loss(batch)
    assert float(value.detach()) == pytest.approx(float(chi2), rel=1e-5)
    assert told["anchor"] == 0.0
    with torch.no_grad():
        network.matrix.add_(0.1)
    value, told = learner.loss(batch)
    assert told["anchor"] == pytest.approx(0.5 * SIZE**2 * 0.01, rel=1e-4)
    assert float(value.detach()) == pytest.approx(told["misfit"] + told["anchor"], rel=1e-5)


def test_a_strong_anchor_holds(matrices, generator):
    def moved(anchor: float) -> float:
        network, _, new = operators(matrices, torch.float32)
        before = network.matrix.detach().clone()
        _, scan = scans(new, torch.Generator().manual_seed(1))
        learner = Adaptation(network, new, misfit="chi2", anchor=anchor)
        config = FitConfig(steps=20, batch_size=64, learning_rate=1e-2)
        fit(learner, ScanSamples([scan]), config)
        return float((network.matrix.detach() - before).norm())

    assert moved(1e4) < 0.1 * moved(0.0)


def test_nuisances_are_found_beside_a_fixed_network(generator):
    """The kernel of a blur that is known up to a factor, by objects that the network knows."""
    space = Space((16,))
    blur = Convolution(space, torch.tensor([0.2, 0.5, 0.3]))
    x = torch.randn(32, 16, generator=generator)
    true = Convolution(space, torch.tensor([0.3, 0.5, 0.2]))
    y = true(x)

    class Known(Reconstructor):
        def reconstruct(self, problem, x0=None, *, trace=False):
            return Reconstruction(true.solve(true.adjoint(problem.data), 1e-6))

    blur.learn("kernel")
    learner = Adaptation(Known(), blur, misfit="chi2", nuisance_rate=0.02)
    samples = ScanSamples([MeasuredScan(Problem(blur, y, Gaussian(0.1)))])
    fit(learner, samples, FitConfig(steps=100, batch_size=32))
    assert torch.allclose(blur.kernel.detach(), torch.tensor([0.3, 0.5, 0.2]), atol=0.01)


def test_calibrated_leaves_the_operator_alone(generator):
    space = Space((16,))
    blur = Convolution(space, torch.tensor([0.2, 0.5, 0.3]))
    found = torch.tensor([0.3, 0.5, 0.2])

    class Adjoint(Reconstructor):
        def reconstruct(self, problem, x0=None, *, trace=False):
            return Reconstruction(problem.operator.adjoint(problem.data))

    y = torch.randn(16, generator=generator)
    made = Calibrated(Adjoint(), {"kernel": found})
    assert torch.equal(made(Problem(blur, y)), Convolution(space, found).adjoint(y))
    assert torch.equal(blur.kernel, torch.tensor([0.2, 0.5, 0.3]))
    with pytest.raises(KeyError, match="no design or nuisance 'tilt'"):
        Calibrated(Adjoint(), {"tilt": found})(Problem(blur, y))


def test_what_is_unknown_is_refused(matrices):
    network, _, new = operators(matrices, torch.float32)
    with pytest.raises(ValueError, match="misfit is a term or one of sure, chi2, got 'best'"):
        Adaptation(network, new, misfit="best")
    with pytest.raises(ValueError, match="anchor"):
        Adaptation(network, new, anchor=-1.0)
    silent = Problem(new, torch.zeros(3, 12))
    for misfit in ("sure", Imitation(copy.deepcopy(network))):
        with pytest.raises(ValueError, match="level of the noise"):
            Adaptation(network, new, misfit=misfit).check(silent)


# -- imitation and transfer ------------------------------------------------------------------------


def test_imitation_learns_to_invert_the_new_operator(matrices, generator):
    """What the teacher made is found again from its simulated measurement."""
    network, _, new = operators(matrices, torch.float32)
    _, scan = scans(new, generator, sigma=0.001)
    learner = Adaptation(network, new, misfit=Imitation(Linear(torch.eye(SIZE))), anchor=0.0)
    with torch.no_grad():
        x = new.adjoint(scan.problem.data)
        measured = Problem(new, new(x))
        before = float((network(measured) - x).norm())
    config = FitConfig(steps=60, batch_size=64, learning_rate=0.3, schedule="cosine")
    fit(learner, ScanSamples([scan]), config)
    with torch.no_grad():
        assert float((network(measured) - x).norm()) < 0.5 * before


def test_the_teacher_is_asked_once_of_each_slice(matrices, generator):
    network, _, new = operators(matrices, torch.float32)
    _, scan = scans(new, generator, count=8)
    asked = []

    class Counted(Linear):
        def reconstruct(self, problem, x0=None, *, trace=False):
            asked.append(len(problem.data))
            return super().reconstruct(problem, x0, trace=trace)

    learner = Adaptation(network, new, misfit=Imitation(Counted(network.matrix.detach())))
    fit(learner, ScanSamples([scan]), FitConfig(epochs=5, batch_size=4))
    assert asked == [4, 4] or sum(asked) <= 16
    assert len(asked) <= 4


def test_transfer_is_supervised_with_an_anchor(matrices, generator):
    network, _, new = operators(matrices, torch.float32)
    x, _ = scans(new, generator)
    learner = Transfer(network, new, noise=Gaussian(0.1), anchor=2.0)
    batch = ObjectSamples(x).batch(range(64), 0)
    assert learner.loss(batch)[1]["anchor"] == 0.0
    with torch.no_grad():
        network.matrix.add_(0.01)
    moved, told = learner.loss(ObjectSamples(x).batch(range(64), 0))
    assert told["anchor"] == pytest.approx(2.0 * SIZE**2 * 1e-4, rel=1e-3)
    assert float(moved.detach()) > told["anchor"]
