"""Operators of other packages as labrecon's, and labrecon's as SciPy's.

The packages are not imported: what counts is what an object can do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from labrecon.bridge.external import External, external
from labrecon.operator import GradientError, LinearityError, Operator
from labrecon.space import Space

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

__all__ = ["as_scipy", "from_deepinv", "from_pylops", "from_scipy", "from_sigpy"]


def from_sigpy(linop: Any, dtype: torch.dtype = torch.complex64, **options: Any) -> External:
    """A sigpy ``Linop``: its ``ishape`` to its ``oshape``, with its adjoint ``linop.H``.

    Args:
        linop: any object with ``ishape``, ``oshape``, ``H`` and a call.
        dtype: of both spaces; sigpy does not say.
        **options: as of `external`.
    """
    return external(
        linop,
        linop.H,
        domain=Space(tuple(linop.ishape), dtype),
        range=Space(tuple(linop.oshape), dtype),
        linear=True,
        name=options.pop("name", f"sigpy {type(linop).__name__}"),
        **options,
    )


def from_scipy(
    linear_operator: Any, domain: Space | None = None, range: Space | None = None, **options: Any
) -> External:
    """A SciPy ``LinearOperator`` or a sparse matrix ``(m, n)``, on flattened arrays.

    Args:
        linear_operator: what ``scipy.sparse.linalg.aslinearoperator`` takes.
        domain: a space of ``n`` samples (default: a vector).
        range: a space of ``m`` samples (default: a vector).
        **options: as of `external`.
    """
    from scipy.sparse.linalg import aslinearoperator

    flat = aslinearoperator(linear_operator)
    rows, columns = flat.shape
    dtype = torch.from_numpy(np.empty(0, flat.dtype)).dtype
    domain, range = domain or Space((columns,), dtype), range or Space((rows,), dtype)
    for space, size, what in ((domain, columns, "domain"), (range, rows, "range")):
        if space.size != size:
            raise ValueError(f"the operator is {flat.shape}, and the {what} has {space.size}")
        if space.dtype != dtype and "compute" not in options:
            raise ValueError(
                f"the operator computes in {dtype}, and the {what} is {space.dtype}: give "
                f"Space({space.shape}, {dtype}), or compute={dtype.to_real()} to convert"
            )
    adjoint = options.pop("adjoint", None)
    if adjoint is None:
        _require_adjoint(flat)
        adjoint = _Flat(flat, True, domain.shape)
    return external(
        _Flat(flat, False, range.shape),
        adjoint,
        domain=domain,
        range=range,
        linear=True,
        batched=True,
        name=options.pop("name", f"scipy {type(linear_operator).__name__}"),
        **options,
    )


def _require_adjoint(flat: LinearOperator) -> None:
    """Raise unless there is an adjoint: SciPy finds out only when it is called."""
    try:
        flat.rmatvec(np.zeros(flat.shape[0], flat.dtype))
    except (NotImplementedError, TypeError) as error:
        raise GradientError(
            "the operator has no adjoint: give it rmatvec, or adjoint=Columns() to make one from "
            "its matrix"
        ) from error


def from_pylops(operator: Any, **options: Any) -> External:
    """A PyLops operator: its ``dims`` to its ``dimsd``."""
    dtype = torch.from_numpy(np.empty(0, operator.dtype)).dtype
    domain, range = Space(tuple(operator.dims), dtype), Space(tuple(operator.dimsd), dtype)
    return external(
        _Flat(operator, False, range.shape),
        _Flat(operator, True, domain.shape),
        domain=domain,
        range=range,
        linear=True,
        batched=True,
        name=options.pop("name", f"pylops {type(operator).__name__}"),
        **options,
    )


class _Flat:
    """A product with the rows of a batch."""

    def __init__(self, operator: Any, adjoint: bool, shape: tuple[int, ...]) -> None:
        self.operator = operator
        self.adjoint = adjoint
        self.shape = shape

    def __call__(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        one = self.operator.rmatvec if self.adjoint else self.operator.matvec
        many = self.operator.rmatmat if self.adjoint else self.operator.matmat
        flat = x.reshape(len(x), -1)
        y = one(flat[0])[None] if len(flat) == 1 else np.ascontiguousarray(many(flat.T).T)
        return np.asarray(y).reshape(len(x), *self.shape)


class _Physics(Operator):
    """The noiseless map of a deepinv ``Physics``, which is torch's own to differentiate."""

    def __init__(self, physics: Any, domain: Space, range: Space, linear: bool) -> None:
        super().__init__(domain, range)
        self.physics = physics
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """``physics.A(x)``."""
        y = self.physics.A(x.reshape(-1, *self.domain.shape))
        return y.reshape(*self.domain.batch(x), *self.range.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """``physics.A_adjoint(y)``."""
        if not self.linear:
            return super().adjoint(y)
        x = self.physics.A_adjoint(y.reshape(-1, *self.range.shape))
        return x.reshape(*self.range.batch(y), *self.domain.shape)


def from_deepinv(
    physics: Any, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Operator:
    """A deepinv ``Physics`` for images ``(channel, …)`` of ``shape``; its noise is left out.

    Args:
        physics: any object with ``A`` and, where it is linear, ``A_adjoint``; both take
            ``(batch, *shape)``.
        shape: of one image, with its channel axis.
        dtype: of the images.
    """
    with torch.no_grad():
        y = physics.A(torch.zeros(1, *shape, dtype=dtype))
    domain, range = Space(shape, dtype), Space(tuple(y.shape[1:]), y.dtype)
    return _Physics(physics, domain, range, hasattr(physics, "A_adjoint"))


def as_scipy(operator: Operator) -> LinearOperator:
    """A linear operator as SciPy's ``LinearOperator`` on flattened arrays, on the CPU.

    Raises:
        LinearityError: it is nonlinear: take ``operator.linearize(x)``.

    Example:
        >>> from scipy.sparse.linalg import svds
        >>> from labrecon.operators import FiniteDifference
        >>> difference = FiniteDifference(Space((8,), torch.float64))
        >>> _, largest, _ = svds(as_scipy(difference), k=1)
        >>> round(float(largest.item()), 3)
        1.962
    """
    from scipy.sparse.linalg import LinearOperator

    if not operator.linear:
        raise LinearityError(f"{operator.name} is nonlinear; give operator.linearize(x)")
    domain, range = operator.domain, operator.range
    if domain.dtype.is_complex != range.dtype.is_complex:
        raise LinearityError(
            f"{operator.name} maps {domain.dtype} to {range.dtype}; SciPy's operators have one "
            "field"
        )

    def apply(method: Any, source: Space, columns: Any) -> Any:
        # A copy: the operator may return its input, and SciPy goes on using its vector.
        rows = np.array(columns.T, order="C").reshape(-1, *source.shape)
        # SciPy hands over its own precision; the operator has one.
        x = torch.from_numpy(rows).to(source.dtype)
        with torch.no_grad():
            y = method(x)
        return y.reshape(len(rows), -1).mT.resolve_conj().numpy()

    def forward(columns: Any) -> Any:
        return apply(operator, domain, columns)

    def adjoint(columns: Any) -> Any:
        return apply(operator.adjoint, range, columns)

    dtype = torch.empty(0, dtype=torch.promote_types(domain.dtype, range.dtype)).numpy().dtype
    return LinearOperator(
        shape=(range.size, domain.size),
        matvec=lambda x: forward(x.reshape(-1, 1)).ravel(),
        rmatvec=lambda y: adjoint(y.reshape(-1, 1)).ravel(),
        matmat=forward,
        rmatmat=adjoint,
        dtype=dtype,
    )
