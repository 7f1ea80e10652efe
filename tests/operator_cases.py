"""One small instance of every generic operator, for the tests that all of them must pass.

A new operator is added to `CASES` and thereby to every generic test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.algebra import block, stack
from labrecon.design import Box, Subset
from labrecon.operator import Operator
from labrecon.operators import (
    Burst,
    Convolution,
    ConvolutionalDictionary,
    Decimation,
    Diagonal,
    FiniteDifference,
    Fourier,
    Identity,
    Mask,
    MaskedFourier,
    Matrix,
    SparseMatrix,
    SubsetDesign,
    Warp,
    Wavelet,
)
from labrecon.space import Space


@dataclass(frozen=True)
class Case:
    """An operator for a dtype: float64 or complex128, and their single-precision counterparts.

    Attributes:
        make: the operator.
        kinds: "real", "complex", or both.
        exact_norm: False where `norm` is an upper bound.
    """

    name: str
    make: Callable[[torch.dtype], Operator]
    kinds: tuple[str, ...] = ("real", "complex")
    exact_norm: bool = True


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=dtype, generator=generator)


def pattern(*shape: int) -> Tensor:
    return random(*shape, dtype=torch.float64, seed=3) > 0


def sparse(dtype: torch.dtype) -> Tensor:
    return (random(5, 6, dtype=dtype) * pattern(5, 6)).to_sparse_csr()


def kernel(*shape: int, dtype: torch.dtype) -> Tensor:
    return random(*shape, dtype=dtype, seed=5)


def nested(dtype: torch.dtype) -> Operator:
    space = Space((3,), dtype)
    a, b = Diagonal(space, random(3, dtype=dtype)), FiniteDifference(space, boundary="periodic")
    m = Matrix(random(3, 3, dtype=dtype), range=b.range.__class__((1, 3), dtype, b.range.axes))
    row = Matrix(random(1, 3, dtype=dtype))
    return block([[a, None], [Identity(space), 0.5 * a]]) @ stack([row.H @ row, m.H @ (b - m)])


def shaken(operator: Operator) -> Operator:
    """With motions of up to a few samples in place of zeros."""
    motion = operator.current("motion")["motion"]
    operator.place({"motion": random(*motion.shape, dtype=torch.float64, seed=7)})
    return operator


CASES = [
    Case("identity", lambda d: Identity(Space((3, 2), d))),
    Case("diagonal", lambda d: Diagonal(Space((3, 2), d), random(2, dtype=d))),
    Case("diagonal-scalar", lambda d: Diagonal(Space((3,), d), torch.tensor(-2.0).double())),
    Case("mask", lambda d: Mask(Space((3, 2), d), pattern(3, 2))),
    Case("matrix", lambda d: Matrix(random(3, 4, dtype=d), learn=True)),
    Case("matrix-shaped", lambda d: Matrix(
        random(3, 4, dtype=d), Space((2, 2), d), Space((1, 3), d),
        feasible=None if d.is_complex else Box(-9, 9))),
    Case("sparse", lambda d: SparseMatrix(sparse(d), Space((2, 3), d))),
    Case("sparse-coo", lambda d: SparseMatrix(sparse(d).to_sparse_coo(), range=Space((1, 5), d))),
    Case("fourier", lambda d: Fourier(Space((4, 3), d)), ("complex",)),
    Case("fourier-axis", lambda d: Fourier(Space((5, 2), d), (-2,)), ("complex",)),
    Case("masked-fourier", lambda d: MaskedFourier(Space((4, 3), d), pattern(4, 3)), ("complex",)),
    Case("masked-lines", lambda d: MaskedFourier(
        Space((2, 4, 3), d), torch.tensor([[0.2], [1.0], [0.5], [0.3]]),
        (-2, -1), feasible=Subset(2, dim=-2)), ("complex",)),
    Case("blur", lambda d: Convolution(Space((6,), d), kernel(3, dtype=d), learn=True)),
    Case("blur-even", lambda d: Convolution(Space((5, 4), d), kernel(2, 4, dtype=d.to_real()))),
    Case("blur-last-axes", lambda d: Convolution(Space((2, 4, 5), d), kernel(3, 2, dtype=d))),
    Case("blur-3d", lambda d: Convolution(Space((3, 2, 4), d), kernel(2, 1, 3, dtype=d))),
    Case("valid", lambda d: Convolution(Space((6,), d), kernel(3, dtype=d), "valid", learn=True)),
    Case("valid-even", lambda d: Convolution(Space((5, 4), d), kernel(4, 2, dtype=d), "valid")),
    Case("atoms-1d", lambda d: ConvolutionalDictionary(
        Space((7,), d), random(3, 3, dtype=d), 2, learn=True)),
    Case("atoms-2d", lambda d: ConvolutionalDictionary(
        Space((5, 4), d), random(2, 3, 2, dtype=d))),
    Case("warp", lambda d: shaken(Warp(Space((4, 3), d), 2))),
    Case("warp-affine", lambda d: shaken(
        Warp(Space((2, 4, 3), d), 2, motion="affine", kernel="linear"))),
    Case("decimation", lambda d: Decimation(Space((2, 4, 6), d), 2)),
    Case("decimation-mosaic", lambda d: Decimation(
        Space((3, 8, 4), d), 2, psf=kernel(3, 2, dtype=d.to_real()), mosaic="gbrg")),
    Case("burst", lambda d: shaken(Burst(Decimation(Space((4, 6), d), 2), 3))),
    Case("gradient-1d", lambda d: FiniteDifference(Space((5,), d)), exact_norm=False),
    Case("gradient-2d", lambda d: FiniteDifference(Space((4, 3), d), spacing=(1.0, 0.5)),
         exact_norm=False),
    Case("gradient-3d", lambda d: FiniteDifference(Space((2, 3, 1), d)), exact_norm=False),
    Case("gradient-periodic", lambda d: FiniteDifference(Space((2, 4, 2), d), 2, "periodic")),
    Case("wavelet-1d", lambda d: Wavelet(Space((8,), d), "db4", 3)),
    Case("wavelet-2d", lambda d: Wavelet(Space((4, 8), d), "db2", 2)),
    Case("wavelet-3d", lambda d: Wavelet(Space((2, 4, 2), d), "haar", 1)),
    Case("wavelet-last-axis", lambda d: Wavelet(Space((3, 8), d), "sym5", 2, ndim=1)),
    Case("subset", lambda d: SubsetDesign(Matrix(random(5, 4, dtype=d)), 2, "axis0")),
    Case("composed", nested),
]  # fmt: skip

DTYPES = {"real": torch.float64, "complex": torch.complex128}
INSTANCES = [(case, kind) for case in CASES for kind in case.kinds]
NAMES = [f"{case.name}-{kind}" for case, kind in INSTANCES]


def dense(operator: Operator) -> Tensor:
    """The matrix of a linear operator, a column per sample of its domain."""
    eye = torch.eye(operator.domain.size, dtype=operator.domain.dtype)
    columns = operator(eye.reshape(-1, *operator.domain.shape))
    return columns.detach().reshape(-1, operator.range.size).mT
