"""Operators of sigpy, SciPy, PyLops and deepinv, and labrecon's as SciPy's."""

from __future__ import annotations

import numpy as np
import pylops
import pytest
import scipy.sparse
import scipy.sparse.linalg
import sigpy.linop
import torch
from operator_cases import DTYPES, INSTANCES, NAMES, dense
from torch.autograd import gradcheck, gradgradcheck

from labrecon.bridge import (
    Columns,
    GradientError,
    as_scipy,
    from_deepinv,
    from_pylops,
    from_scipy,
    from_sigpy,
)
from labrecon.operator import LinearityError, Operator
from labrecon.operators import Identity
from labrecon.space import Space

RNG = np.random.RandomState(0)


def test_sigpy():
    linop = sigpy.linop.FFT((4, 6)) * sigpy.linop.Multiply((4, 6), RNG.randn(4, 6) + 1j)
    a = from_sigpy(linop, torch.complex128)
    assert (a.domain.shape, a.range.shape) == ((4, 6), (4, 6))
    x = torch.randn(2, 4, 6, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    expected = np.stack([linop(each) for each in x.numpy()])
    torch.testing.assert_close(a(x), torch.from_numpy(expected))
    torch.testing.assert_close(dense(a.H), dense(a).mH)
    x = x[0].requires_grad_()
    assert gradcheck(a, x, fast_mode=True)
    assert gradgradcheck(a, x, fast_mode=True)


@pytest.mark.parametrize("kind", ["sparse", "operator"])
def test_scipy(kind):
    matrix = scipy.sparse.random_array((5, 6), density=0.5, rng=RNG).tocsr()
    given = matrix if kind == "sparse" else scipy.sparse.linalg.aslinearoperator(matrix)
    a = from_scipy(given, Space((2, 3), torch.float64))
    torch.testing.assert_close(dense(a), torch.from_numpy(matrix.toarray()))
    torch.testing.assert_close(dense(a.H), torch.from_numpy(matrix.toarray().T))
    batch = torch.ones(3, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(a(batch), torch.stack([a(each) for each in batch]))
    with pytest.raises(ValueError, match="the range has 4"):
        from_scipy(given, range=Space((4,), torch.float64))


def test_pylops():
    operator = pylops.FirstDerivative((4, 5), axis=0, dtype="float64", kind="centered")
    a = from_pylops(operator)
    assert a.domain == Space((4, 5), torch.float64)
    torch.testing.assert_close(dense(a), torch.from_numpy(operator.todense()))
    torch.testing.assert_close(dense(a.H), dense(a).mT)
    batch = torch.ones(2, 3, 4, 5, dtype=torch.float64)
    assert a(batch).shape == (2, 3, *operator.dimsd)


class Physics:
    """What deepinv calls a linear physics."""

    def __init__(self, matrix):
        self.matrix = matrix

    def A(self, x):
        return x @ self.matrix.mT

    def A_adjoint(self, y):
        return y @ self.matrix


class Nonlinear:
    def A(self, x):
        return x.square()


def test_deepinv():
    matrix = torch.from_numpy(RNG.randn(3, 4))
    a = from_deepinv(Physics(matrix), (2, 4), torch.float64)
    assert (a.domain.shape, a.range.shape, a.linear) == ((2, 4), (2, 3), True)
    y = torch.from_numpy(RNG.randn(5, 2, 3))
    torch.testing.assert_close(a.adjoint(y), Operator.adjoint(a, y))
    squares = from_deepinv(Nonlinear(), (4,), torch.float64)
    x = torch.ones(2, 3, 4, dtype=torch.float64)
    assert not squares.linear
    torch.testing.assert_close(squares.vjp(x, x), 2 * x)
    with pytest.raises(LinearityError, match="is nonlinear; give"):
        as_scipy(squares)


@pytest.mark.parametrize(("case", "kind"), INSTANCES, ids=NAMES)
def test_any_operator_as_scipys(case, kind):
    operator = case.make(DTYPES[kind])
    matrix = dense(operator).resolve_conj().numpy()
    flat = as_scipy(operator)
    columns = RNG.randn(operator.domain.size, 3)
    rows = RNG.randn(operator.range.size, 3)
    np.testing.assert_allclose(flat @ columns, matrix @ columns, atol=1e-12)
    np.testing.assert_allclose(flat @ columns[:, 0], matrix @ columns[:, 0], atol=1e-12)
    np.testing.assert_allclose(flat.H @ rows, matrix.conj().T @ rows, atol=1e-12)
    np.testing.assert_allclose(flat.H @ rows[:, 0], matrix.conj().T @ rows[:, 0], atol=1e-12)


def test_scipys_solver_on_labrecons_operator():
    case, kind = INSTANCES[NAMES.index("blur-real")]
    operator = case.make(DTYPES[kind])
    x = RNG.randn(operator.domain.size)
    flat = as_scipy(operator)
    found = scipy.sparse.linalg.lsqr(flat, flat @ x, atol=1e-14, btol=1e-14)[0]
    np.testing.assert_allclose(found, x, atol=1e-8)


def test_scipys_vector_is_not_shared():
    flat = as_scipy(Identity(Space((3,), torch.float64)))
    x = np.ones(3)
    y = flat.matvec(x)
    x[:] = 0
    assert y.all()


def test_scipy_operators_that_can_not_be_taken_are_refused_at_once():
    plain = scipy.sparse.linalg.LinearOperator((3, 3), matvec=lambda x: x, dtype=float)
    with pytest.raises(GradientError, match="give it rmatvec"):
        from_scipy(plain)
    a = from_scipy(plain, adjoint=Columns())
    torch.testing.assert_close(dense(a.H), torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"the domain is torch.float32: give Space"):
        from_scipy(plain, Space((3,)))
