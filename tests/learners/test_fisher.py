"""Optimality criteria against dense linear algebra."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labrecon import FitConfig, Gaussian, Poisson, fit
from labrecon.design import Box
from labrecon.learners import FisherDesign, ObjectSamples
from labrecon.operators import Matrix, SubsetDesign

N, ROWS, RHO, SIGMA = 6, 9, 0.1, 0.5


def matrix(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(ROWS, N, generator=generator, dtype=torch.float64) + 0.1


def signs(seed: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(2, (size,), generator=generator).double() - 1.0


def dense(a: Tensor, criterion: str, z: Tensor, task: Tensor, x: Tensor | None) -> Tensor:
    """``zᵀ f(F) z`` for the same random signs."""
    weights = 1 / (a @ x) if x is not None else torch.full((ROWS,), SIGMA**-2).double()
    f = a.mT @ (weights[:, None] * a) + RHO * torch.eye(N, dtype=torch.float64)
    if criterion == "d":
        values, vectors = torch.linalg.eigh(f)
        return -z @ (vectors * values.log()) @ vectors.mT @ z / N
    right = task.mT @ z if criterion == "task" else z
    return right @ torch.linalg.inv(f) @ right / len(z)


@pytest.mark.parametrize("poisson", [False, True])
@pytest.mark.parametrize("criterion", ["a", "d", "task"])
def test_value_and_gradient_are_those_of_dense_algebra(criterion: str, poisson: bool) -> None:
    operator = Matrix(matrix(), feasible=Box(0.0, 2.0))
    task = torch.eye(N, dtype=torch.float64)[:2]
    x = torch.linspace(1, 2, N, dtype=torch.float64)
    learner = FisherDesign(
        operator,
        Poisson() if poisson else Gaussian(SIGMA),
        criterion=criterion,  # type: ignore[arg-type]
        rho=RHO,
        task=Matrix(task) if criterion == "task" else None,
        probes=1,
        tolerance=1e-12,
    )
    value = learner.value(x, torch.Generator().manual_seed(5))
    (gradient,) = torch.autograd.grad(value, operator.matrix)
    a = matrix().requires_grad_()
    z = signs(5, len(task) if criterion == "task" else N)
    expected = dense(a, criterion, z, task, x if poisson else None)
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-8)
    if criterion == "d":
        # In expectation alone: the derivative of zᵀ log(F) z is another than zᵀF⁻¹ dF z.
        weights = 1 / (a @ x) if poisson else torch.full((ROWS,), SIGMA**-2).double()
        f = a.mT @ (weights[:, None] * a) + RHO * torch.eye(N, dtype=torch.float64)
        fixed = torch.linalg.inv(f.detach()) @ z
        (wanted,) = torch.autograd.grad(-fixed @ f @ z / N, a)
    else:
        (wanted,) = torch.autograd.grad(expected, a)
    assert torch.allclose(gradient, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_traces_come_out_on_average() -> None:
    operator = Matrix(matrix(), feasible=Box(0.0, 2.0))
    a = matrix()
    f = a.mT @ a / SIGMA**2 + RHO * torch.eye(N, dtype=torch.float64)
    x = torch.zeros(N, dtype=torch.float64)
    for criterion, exact in (
        ("a", float(torch.linalg.inv(f).trace()) / N),
        ("d", -float(torch.logdet(f)) / N),
    ):
        learner = FisherDesign(
            operator,
            Gaussian(SIGMA),
            criterion=criterion,  # type: ignore[arg-type]
            rho=RHO,
            probes=500,
            tolerance=1e-10,
        )
        with torch.no_grad():
            value = learner.value(x, torch.Generator().manual_seed(0))
        assert float(value) == pytest.approx(exact, rel=0.08)


def test_the_learned_slope_design_is_the_textbook_one() -> None:
    """Line fits on [−1, 1]: half of the observations at each end is A- and D-optimal."""
    places = torch.linspace(-1, 1, 9, dtype=torch.float64)
    rows = torch.stack([torch.ones(9).double(), places], 1)
    operator = SubsetDesign(Matrix(rows), 2, "axis0")
    learner = FisherDesign(operator, Gaussian(0.1), criterion="a", rho=1e-3, probes=4)
    samples = ObjectSamples(torch.zeros(1, 2, dtype=torch.float64))
    # Adam makes steps of one size whatever the gradient, which the sum of a subset takes back.
    fit(learner, samples, FitConfig(steps=60, learning_rate=10.0, optimiser="sgd"))
    assert operator.chosen.tolist() == [0, 8]


def test_what_is_refused() -> None:
    operator = Matrix(matrix(), feasible=Box(0.0, 2.0))
    with pytest.raises(ValueError, match="designs are matrix"):
        FisherDesign(operator, designs=["angles"])
    with pytest.raises(ValueError, match="needs task="):
        FisherDesign(operator, criterion="task")
    with pytest.raises(ValueError, match="'a', 'd' or 'task'"):
        FisherDesign(operator, criterion="e")  # type: ignore[arg-type]
