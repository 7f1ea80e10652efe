"""Finding fixed points: the same point by every way, as fast as theory says, each element alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from labrecon.networks.anderson import Anderson
from labrecon.networks.broyden import Broyden
from labrecon.networks.fixed_point import Finder, FixedPoint, Picard, find_fixed_point
from labrecon.solver import DivergenceError

FINDERS = {"picard": Picard, "anderson": Anderson, "broyden": Broyden}
every_finder = pytest.mark.parametrize("make", FINDERS.values(), ids=FINDERS)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def symmetric(eigenvalues: Tensor) -> Tensor:
    q, _ = torch.linalg.qr(random(len(eigenvalues), len(eigenvalues)))
    return q * eigenvalues @ q.mT


def affine(matrix: Tensor, shift: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda z: z @ matrix.mT + shift


def search(apply: Callable[[Tensor], Tensor], z: Tensor, finder: Finder, **options) -> FixedPoint:
    return find_fixed_point(apply, z, finder, **{"iterations": 500, "tolerance": 1e-11, **options})


@every_finder
def test_a_nonlinear_contraction(make: type[Finder]) -> None:
    matrix = random(12, 12)
    matrix = 0.8 * matrix / torch.linalg.matrix_norm(matrix, 2)
    shift = random(3, 12, seed=1)
    found = search(lambda z: torch.tanh(z @ matrix.mT) + shift, torch.zeros(3, 12).double(), make())
    assert bool(found.converged.all())
    expected = torch.zeros_like(shift)
    for _ in range(500):
        expected = torch.tanh(expected @ matrix.mT) + shift
    torch.testing.assert_close(found.z, expected, rtol=0, atol=1e-9)


@every_finder
def test_single_precision(make: type[Finder]) -> None:
    matrix = symmetric(torch.linspace(-0.5, 0.9, 20).double()).float()
    shift = random(4, 20).float()
    exact = torch.linalg.solve(torch.eye(20) - matrix, shift.mT).mT
    found = search(affine(matrix, shift), torch.zeros(4, 20), make(), tolerance=1e-5)
    assert bool(found.converged.all())
    assert found.z.dtype == torch.float32
    assert float((found.z - exact).norm() / exact.norm()) < 1e-4


def test_anderson_is_gmres_on_affine_maps() -> None:
    """With enough memory it ends within n + 1 differences (Walker and Ni 2011, theorem 2.2)."""
    n = 8
    apply = affine(symmetric(torch.linspace(-3, 0.99, n).double()), random(2, n))
    found = search(apply, torch.zeros(2, n).double(), Anderson(memory=n), tolerance=1e-7)
    assert bool(found.converged.all())
    assert found.iterations <= n + 2


def test_broyden_ends_in_twice_the_dimension() -> None:
    """On affine maps of n dimensions in at most 2n steps (Gay 1979)."""
    n = 8
    apply = affine(symmetric(torch.linspace(-0.7, 0.99, n).double()), random(2, n))
    found = search(apply, torch.zeros(2, n).double(), Broyden(memory=2 * n), tolerance=1e-9)
    assert bool(found.converged.all())
    assert found.iterations <= 2 * n + 1


def test_anderson_needs_far_fewer_iterations_on_an_ill_conditioned_map() -> None:
    """Condition 100: Picard's residual falls by 0.99 per iteration, that of GMRES by 0.82."""
    apply = affine(symmetric(1 - torch.logspace(-2, 0, 30).double()), random(1, 30))
    counts = {
        name: search(apply, torch.zeros(1, 30).double(), make(), iterations=2000, tolerance=1e-7)
        for name, make in FINDERS.items()
    }
    assert all(bool(found.converged.all()) for found in counts.values())
    assert counts["picard"].iterations > 1000
    assert counts["anderson"].iterations < counts["picard"].iterations / 6
    assert counts["broyden"].iterations < counts["picard"].iterations / 6


@every_finder
def test_elements_do_not_know_of_each_other(make: type[Finder]) -> None:
    matrix = symmetric(torch.linspace(0, 0.95, 10).double())
    # From the solution itself to far away; one is much harder than the others.
    shift = random(4, 10) * torch.tensor([0.0, 1.0, 1e3, 1e-3]).double()[:, None]
    gain = torch.tensor([0.1, 0.5, 1.0, 0.9]).double()[:, None]
    together = search(lambda z: gain * (z @ matrix.mT) + shift, 0 * shift, make())
    assert bool(together.converged.all())
    for i in range(4):
        alone = search(
            lambda z, i=i: gain[i] * (z @ matrix.mT) + shift[i], 0 * shift[i : i + 1], make()
        )
        assert alone.iterations <= together.iterations
        # Rounding differs with the batch, and quasi-Newton steps make more of it.
        size = float(alone.z.norm()) + 1e-12
        torch.testing.assert_close(together.z[i], alone.z[0], rtol=0, atol=1e-9 * size)


def test_the_contraction_of_picard_tends_to_the_spectral_radius() -> None:
    apply = affine(symmetric(torch.linspace(-0.3, 0.9, 15).double()), random(2, 15))
    found = search(apply, torch.zeros(2, 15).double(), Picard())
    assert found.contraction == pytest.approx(0.9, abs=1e-3)


def test_the_contraction_of_anderson_is_a_lower_bound() -> None:
    apply = affine(symmetric(torch.linspace(-0.3, 0.9, 15).double()), random(2, 15))
    found = search(apply, torch.zeros(2, 15).double(), Anderson())
    assert 0.5 < found.contraction <= 0.9 + 1e-6


@pytest.mark.parametrize("rate", [0.3, 0.9, 0.99])
def test_how_far_the_fixed_point_of_a_slow_map_is(rate: float) -> None:
    """``z = rate · z + b``: the residual says (1 − rate) of the distance."""
    goal = torch.tensor([[3.0, 4.0]]).double()
    apply = affine(rate * torch.eye(2).double(), (1 - rate) * goal[0])
    found = search(apply, torch.zeros(1, 2).double(), Picard(), tolerance=1e-3)
    away = float((found.z - goal).norm() / apply(found.z).norm())
    assert away > 0.9e-3 * rate / (1 - rate)
    assert found.distance == pytest.approx(away, rel=1e-6)


def test_a_map_that_does_not_contract_has_no_distance() -> None:
    found = search(lambda z: 1.1 * z + 1, torch.zeros(1, 2).double(), Picard(), iterations=5)
    assert found.contraction > 1
    assert found.distance is None


def test_damping_tames_a_map_that_overshoots() -> None:
    apply = affine(symmetric(torch.linspace(-1.5, 0.5, 6).double()), random(1, 6))
    zero = torch.zeros(1, 6).double()
    assert not bool(search(apply, zero, Picard()).converged.all())
    assert bool(search(apply, zero, Picard(beta=0.5)).converged.all())


def test_the_point_of_lowest_residual_is_returned() -> None:
    """A spiral out of the fixed point 0: the best point is the first."""
    angle = torch.tensor(0.3).double()
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    begin = torch.tensor([[1.0, 0.5]]).double()
    found = search(
        lambda z: z + (1.2 * turn - torch.eye(2)) @ z.mT.squeeze(-1) * z.norm(),
        begin,
        Picard(),
        iterations=10,
    )
    assert not bool(found.converged.any())
    assert found.iterations == 10
    assert torch.equal(found.z, begin)


@every_finder
def test_a_start_at_the_solution(make: type[Finder]) -> None:
    found = search(
        affine(torch.eye(3).double() / 2, torch.zeros(3).double()),
        torch.zeros(2, 3).double(),
        make(),
    )
    assert found.iterations == 1
    assert found.worst == 0
    assert found.contraction is None
    assert found.distance is None


@every_finder
def test_a_constant_map_takes_two_evaluations(make: type[Finder]) -> None:
    goal = random(2, 3)
    found = search(lambda z: goal + 0 * z, torch.zeros(2, 3).double(), make())
    assert found.iterations == 2
    assert torch.equal(found.z, goal)
    assert found.contraction == 0


@every_finder
def test_an_empty_batch(make: type[Finder]) -> None:
    found = search(lambda z: z / 2, torch.zeros(0, 3).double(), make())
    assert found.z.shape == (0, 3)
    assert found.worst == 0


@every_finder
def test_what_is_not_finite_is_told_with_its_elements(make: type[Finder]) -> None:
    def apply(z: Tensor) -> Tensor:
        gain = torch.tensor([0.5, 1e200, 0.5]).double()[:, None]
        return gain * z + 1

    with pytest.raises(DivergenceError, match=r"iteration \d \(batch elements \[1\]\)"):
        search(apply, torch.zeros(3, 2).double(), make())


@pytest.mark.parametrize("make", [Anderson, Broyden])
def test_what_is_forgotten_has_no_say(make: type[Finder]) -> None:
    apply = affine(symmetric(torch.linspace(0, 0.95, 5).double()), random(2, 5))
    old, new = make(), make()
    z = torch.zeros(2, 5).double()
    for _ in range(3):
        z = old.propose(z, apply(z))
    old.forget(torch.tensor([True, False]))
    other = random(2, 5, seed=3)
    for point in (other, apply(other)):
        proposed, fresh = old.propose(point, apply(point)), new.propose(point, apply(point))
        torch.testing.assert_close(proposed[0], fresh[0], rtol=1e-10, atol=0)
        assert not torch.allclose(proposed[1], fresh[1])
