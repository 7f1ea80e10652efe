"""Matrices per batch element, and convolutional dictionaries against plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from labrecon import solve
from labrecon.operator import SpaceError
from labrecon.operators import BatchedMatrix, ConvolutionalDictionary, Matrix
from labrecon.problem import Problem
from labrecon.solvers import CG
from labrecon.space import Space

KINDS = [torch.float64, torch.complex128]


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("tall", [True, False])
def test_each_element_has_the_matrix_of_its_own(dtype: torch.dtype, tall: bool) -> None:
    m, n = (6, 4) if tall else (4, 6)
    matrices = draw(2, 3, m, n, dtype=dtype)
    operator = BatchedMatrix(matrices)
    x, y = draw(5, 2, 3, n, dtype=dtype, seed=1), draw(5, 2, 3, m, dtype=dtype, seed=2)
    weights = draw(m, seed=3).abs()
    for i in range(2):
        for j in range(3):
            one = Matrix(matrices[i, j])
            torch.testing.assert_close(operator(x)[:, i, j], one(x[:, i, j]))
            torch.testing.assert_close(operator.adjoint(y)[:, i, j], one.adjoint(y[:, i, j]))
            for w in (None, weights):
                expected = one.normal(x[:, i, j], w)
                torch.testing.assert_close(operator.normal(x, w)[:, i, j], expected)
                torch.testing.assert_close(operator.normal_map(w)(x)[:, i, j], expected)
    assert operator.norm() == pytest.approx(max(Matrix(m).norm() for m in matrices.flatten(0, 1)))


def test_least_squares_and_the_regularised_one_are_the_closed_forms() -> None:
    matrices, data = draw(7, 8, 5), draw(7, 8, seed=1)
    operator = BatchedMatrix(matrices)
    gram, back = matrices.mT @ matrices, operator.adjoint(data)
    found = solve(CG(), Problem(operator, data), iterations=100, tolerance=1e-14).x
    torch.testing.assert_close(found, torch.linalg.solve(gram, back), rtol=1e-7, atol=1e-9)
    rho = 0.1 + draw(7, 1, seed=2).abs()
    ridge = operator.solve(back, rho, iterations=100, tolerance=1e-14)
    exact = torch.linalg.solve(gram + rho[:, :, None] * torch.eye(5).double(), back)
    torch.testing.assert_close(ridge, exact, rtol=1e-8, atol=1e-10)


def test_gradients_reach_the_matrices() -> None:
    operator, x = BatchedMatrix(draw(2, 3, 4)), draw(2, 4, seed=1)

    def energy(matrix: Tensor) -> Tensor:
        return operator.at(matrix=matrix)(x).square().sum()

    assert gradcheck(energy, draw(2, 3, 4, seed=2).requires_grad_())


def test_another_number_of_vectors_is_refused() -> None:
    operator = BatchedMatrix(draw(3, 2, 4))
    for x in (draw(4), draw(2, 4), draw(3, 1, 4)):
        with pytest.raises(SpaceError, match=r"each of \(3,\) matrices"):
            operator(x)
    with pytest.raises(SpaceError, match="take Matrix"):
        BatchedMatrix(draw(2, 4))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_dictionary_adds_each_atom_at_each_place(dtype: torch.dtype, stride: int) -> None:
    atoms = draw(3, 3, 2, dtype=dtype)
    operator = ConvolutionalDictionary(Space((7, 8), dtype), atoms, stride)
    codes = draw(*operator.domain.shape, dtype=dtype, seed=1)
    expected = torch.zeros(7, 8, dtype=dtype)
    for a in range(3):
        for i in range(operator.domain.shape[1]):
            for j in range(operator.domain.shape[2]):
                top, left = stride * i, stride * j
                expected[top : top + 3, left : left + 2] += codes[a, i, j] * atoms[a]
    torch.testing.assert_close(operator(codes), expected)
    assert operator.domain.axes[0] == "atom"


def test_a_dictionary_changes_its_dtype_like_any_module() -> None:
    operator = ConvolutionalDictionary(Space((6,)), torch.ones(2, 3)).double()
    assert operator.atoms.dtype == torch.float64


def test_atoms_in_three_dimensions() -> None:
    operator = ConvolutionalDictionary(Space((4, 3, 5)), draw(2, 2, 2, 3).float())
    code = torch.zeros(operator.domain.shape)
    code[1, 2, 0, 1] = 2.0
    assert torch.equal(operator(code)[2:4, 0:2, 1:4], 2 * operator.atoms[1])


@pytest.mark.parametrize(
    ("shape", "atoms", "stride", "told"),
    [
        ((8,), (2, 3), 2, "multiple of the stride"),
        ((2,), (2, 3), 1, "do not fill"),
        ((8, 8), (2, 3), 1, r"atoms \(atom, \*size\)"),
        ((8,), (2, 3), 0, "whole number"),
    ],
)
def test_atoms_that_do_not_fit_are_told(shape, atoms, stride, told) -> None:
    with pytest.raises(SpaceError, match=told):
        ConvolutionalDictionary(Space(shape), torch.ones(atoms), stride)


def test_atoms_of_another_dtype_are_told() -> None:
    with pytest.raises(SpaceError, match="convert them"):
        ConvolutionalDictionary(Space((4,)), torch.ones(1, 2).double())
