"""What every operator keeps: adjoint, batch, derivatives, and the answers of dense algebra."""

from __future__ import annotations

import pytest
import torch
from operator_cases import DTYPES, INSTANCES, NAMES, Case, dense, random
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from labrecon.operator import Operator, SpaceError

every = pytest.mark.parametrize(("case", "kind"), INSTANCES, ids=NAMES)


def vectors(operator: Operator, *batch: int) -> tuple[Tensor, Tensor]:
    domain, target = operator.domain, operator.range
    x = random(*batch, *domain.shape, dtype=domain.dtype, seed=11)
    return x, random(*batch, *target.shape, dtype=target.dtype, seed=12)


def solved(operator: Operator, rhs: Tensor, rho: Tensor, weights: Tensor | None) -> Tensor:
    """``(Aᴴ W A + ρ)⁻¹ rhs`` by dense linear algebra."""
    a, n = dense(operator), operator.domain.size
    w = torch.ones(operator.range.shape, dtype=torch.float64) if weights is None else weights
    columns = []
    for b in range(len(rhs)):
        diagonal = rho.expand(len(rhs), *operator.domain.shape)[b].reshape(-1)
        system = a.mH @ (w.expand(operator.range.shape).reshape(-1, 1) * a)
        system = system + torch.diag(diagonal.to(a.dtype))
        columns.append(torch.linalg.solve(system, rhs[b].reshape(n)))
    return torch.stack(columns).reshape(rhs.shape)


@every
@pytest.mark.parametrize("single", [False, True], ids=["double", "single"])
def test_adjoint(case: Case, kind: str, single: bool) -> None:
    dtype = DTYPES[kind]
    if single:
        dtype = torch.complex64 if dtype.is_complex else torch.float32
    operator = case.make(dtype)
    x, y = vectors(operator, 3)
    with torch.no_grad():
        left = (operator(x).conj() * y).sum()
        right = (x.conj() * operator.adjoint(y)).sum()
        scale = float(torch.linalg.vector_norm(operator(x)) * torch.linalg.vector_norm(y))
    assert abs(complex(left - right)) <= (1e-5 if single else 1e-12) * scale


@every
def test_batch_is_a_loop(case: Case, kind: str) -> None:
    operator = case.make(DTYPES[kind])
    x, y = vectors(operator, 2, 3)
    for method, value in ((operator, x), (operator.adjoint, y), (operator.normal, x)):
        result = method(value)
        rows = [torch.stack([method(element) for element in row]) for row in value]
        torch.testing.assert_close(result, torch.stack(rows), rtol=1e-12, atol=1e-12)


@every
def test_derivatives_of_first_and_second_order(case: Case, kind: str) -> None:
    operator = case.make(DTYPES[kind])
    x, y = vectors(operator)
    learned = dict(operator.named_parameters())

    def forward(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(operator, dict(zip(learned, values, strict=True)), (x,))

    def adjoint(y: Tensor, *values: Tensor) -> Tensor:
        chosen = dict(zip(learned, values, strict=True))
        return operator.at(**chosen).adjoint(y) if chosen else operator.adjoint(y)

    for function, value in ((forward, x), (adjoint, y)):
        inputs = [value, *(p.detach() for p in learned.values())]
        inputs = [t.clone().requires_grad_() for t in inputs]
        assert gradcheck(function, inputs, fast_mode=True)
        assert gradgradcheck(function, inputs, fast_mode=True)


@every
def test_adjoint_by_differentiation_is_the_one_that_is_written(case: Case, kind: str) -> None:
    operator = case.make(DTYPES[kind])
    _, y = vectors(operator, 2)
    torch.testing.assert_close(
        Operator.adjoint(operator, y), operator.adjoint(y), rtol=1e-12, atol=1e-12
    )


@every
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_normal_is_both_halves(case: Case, kind: str, weighted: bool) -> None:
    operator = case.make(DTYPES[kind])
    x, y = vectors(operator, 2)
    weights = y[0].abs() if weighted else None
    z = operator(x) if weights is None else weights * operator(x)
    torch.testing.assert_close(
        operator.normal(x, weights), operator.adjoint(z), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(operator.normal_map(weights)(x), operator.normal(x, weights))


@every
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("spread", ["number", "per element", "per sample"])
def test_solve_is_the_dense_solution(case: Case, kind: str, weighted: bool, spread: str) -> None:
    operator = case.make(DTYPES[kind])
    x, y = vectors(operator, 2)
    shape = {
        "number": (),
        "per element": (2, *[1] * operator.domain.ndim),
        "per sample": operator.domain.shape,
    }[spread]
    rho = 0.5 + random(*shape, dtype=torch.float64, seed=4).abs()
    weights = 0.1 + y[0].abs() if weighted else None
    found = operator.solve(x, rho, weights=weights, iterations=300, tolerance=1e-13)
    torch.testing.assert_close(found, solved(operator, x, rho, weights), rtol=1e-9, atol=1e-9)


@every
def test_norm_is_the_largest_singular_value(case: Case, kind: str) -> None:
    operator = case.make(DTYPES[kind])
    largest = float(torch.linalg.matrix_norm(dense(operator), 2))
    if case.exact_norm:
        assert operator.norm(iterations=400, tolerance=1e-7) == pytest.approx(largest, rel=1e-3)
    else:
        assert largest <= operator.norm() * (1 + 1e-12)


@every
def test_wrong_arrays_are_refused_by_name(case: Case, kind: str) -> None:
    operator = case.make(DTYPES[kind])
    x, y = vectors(operator, 2)
    other = torch.float32 if DTYPES[kind].is_complex else torch.complex64
    for method, value in ((operator, x), (operator.adjoint, y)):
        with pytest.raises(SpaceError, match=f"{operator.name}: input.*dtype {other}, expected"):
            method(value.real.to(other))
        with pytest.raises(SpaceError, match=f"{operator.name}: input.*got shape .*expected"):
            method(torch.cat([value, value], -1))


@every
def test_an_operator_has_its_state_in_its_state_dict(case: Case, kind: str) -> None:
    operator, other = case.make(DTYPES[kind]), case.make(DTYPES[kind])
    x, _ = vectors(operator)
    for tensor in [*other.parameters(), *other.buffers()]:
        if tensor.is_floating_point() or tensor.is_complex():
            nn.init.zeros_(tensor.detach())
    other.load_state_dict(operator.state_dict())
    torch.testing.assert_close(other(x), operator(x))


@every
def test_forward_leaves_its_input_alone(case: Case, kind: str) -> None:
    operator = case.make(DTYPES[kind])
    x, y = vectors(operator, 2)
    x_before, y_before = x.clone(), y.clone()
    operator(x), operator.adjoint(y), operator.normal(x), operator.solve(x, 1.0)
    assert torch.equal(x, x_before)
    assert torch.equal(y, y_before)
