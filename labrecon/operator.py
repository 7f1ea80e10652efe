"""Operator: what an instrument does to an object, ``y = A(x)``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor

from labrecon.adjustable import Adjustable
from labrecon.functional import Map
from labrecon.krylov import cg_start, cg_step, largest_eigenvalue
from labrecon.space import Space, SpaceError, inner, per_element, squared_norm

if TYPE_CHECKING:
    pass

Result = TypeVar("Result")
#: Whether mixed precision is on for any device; five times faster than asking for the one of x.
_mixed_precision: Callable[[], bool] = torch._C._is_any_autocast_enabled

__all__ = [
    "GradientError",
    "LinearityError",
    "Operator",
    "Space",
    "SpaceError",
]


class LinearityError(TypeError):
    """A linear operator was needed and a nonlinear one was given."""


class GradientError(TypeError):
    """A gradient was asked for that an operator has no way to give."""


def _fingerprint(tensor: Tensor) -> tuple[Any, ...]:
    """Numbers that change when the content does, sparse indices included."""
    t = tensor.detach()
    parts: tuple[Tensor, ...]
    if t.layout == torch.sparse_csr:
        parts = (t.crow_indices(), t.col_indices(), t.values())
    elif t.is_sparse:
        t = t.coalesce()
        parts = (t.indices(), t.values())
    else:
        parts = (t,)
    return tuple(_projection(part) for part in parts)


def _projection(t: Tensor) -> tuple[float, float]:
    """The sum, and the inner product with a fixed vector that has no symmetry."""
    flat = (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t).flatten().double()
    steps = torch.arange(len(flat), dtype=torch.float64, device=flat.device)
    return float(flat.sum()), float(torch.dot(torch.sin(steps * steps + 0.7 * steps + 1), flat))


def _in_full_precision(method: Callable[..., Result]) -> Callable[..., Result]:
    """The method with mixed precision off: what an instrument does is not a network's layer."""

    @functools.wraps(method)
    def precise(self: Any, *args: Any, **kwargs: Any) -> Result:
        if not _mixed_precision():
            return method(self, *args, **kwargs)
        x = args[0] if args else next(iter(kwargs.values()))
        with torch.autocast(x.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return precise


class Operator(Adjustable):
    """A map ``y = A(x)`` from ``domain`` to ``range``; `forward` is all that a lab must write.

    Everything else has a default made from `forward` by automatic differentiation and may be
    overridden where something faster is known: `adjoint`, `normal`, `solve`, `initial`, `norm`.
    Operators compose: ``A @ B``, ``A + B``, ``2 * A``, ``A.H``, `stack`, `block`.

    Attributes:
        domain: space of ``x``.
        range: space of ``y``.
        linear: whether ``A`` is linear over the reals.
        adjoint_mismatch: relative error of `adjoint` against the true transpose. 0.0 is exact;
            solvers that need an exact adjoint refuse a larger one.
        threadsafe: whether several threads may apply the operator at once; never assumed.

    Example:
        >>> class Blur(Operator):
        ...     def __init__(self):
        ...         super().__init__(Space((8,)), Space((7,)))
        ...     def forward(self, x):
        ...         return (x[..., 1:] + x[..., :-1]) / 2
        >>> Blur().adjoint(torch.ones(7))
        tensor([0.5000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 0.5000])
    """

    linear: bool = True
    adjoint_mismatch: float = 0.0
    threadsafe: bool = False
    _checked: ClassVar[tuple[str, ...]] = ("adjoint",)
    _precise: ClassVar[tuple[str, ...]] = ("normal", "solve", "initial", "pullback")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give overrides what the base class does: space checks, full precision."""
        super().__init_subclass__(**kwargs)
        for names, wrap in ((cls._checked, _check_range), (cls._precise, _in_full_precision)):
            for name in names:
                method = cls.__dict__.get(name)
                if method is not None:
                    setattr(cls, name, wrap(method))

    def __init__(self, domain: Space, range: Space) -> None:
        super().__init__()
        self.domain = domain
        self.range = range
        self._norm: tuple[tuple[Any, ...], float] | None = None

    # -- application ---------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """``A(x)``: ``(*batch, *domain.shape)`` to ``(*batch, *range.shape)``."""
        raise TypeError(f"{self.name} does not define forward(x)")

    def __call__(self, x: Tensor, **values: Tensor) -> Tensor:
        """``A(x)`` with the spaces checked; ``values`` replace designs or nuisances (`at`)."""
        if values:
            return self.at(**values)(x)
        self.domain.check(x, f"{self.name}: input")
        if _mixed_precision():
            with torch.autocast(x.device.type, enabled=False):
                y: Tensor = super().__call__(x)
        else:
            y = super().__call__(x)
        self.range.check(y, f"{self.name}: output of forward")
        return y

    def pullback(self, x: Tensor) -> tuple[Tensor, Map]:
        """``A(x)`` and the function ``v ↦ J(x)ᴴ v``; both differentiable if gradients are on."""
        if self.linear:
            return self(x), self.adjoint
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            point = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            y = self(point)

        def pull(v: Tensor) -> Tensor:
            return self._transpose(y, point, v, differentiable)

        return (y if differentiable else y.detach()), pull

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """``J(x)ᴴ v``, the Jacobian's conjugate transpose applied to ``v``."""
        return self.pullback(x)[1](v)

    def jvp(self, x: Tensor, u: Tensor) -> Tensor:
        """``J(x) u``, the Jacobian applied to ``u``."""
        if self.linear:
            return self(u)
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            y, pull = self.pullback(x)
            v = torch.zeros_like(y).requires_grad_()
            # J is the transpose of v ↦ Jᴴ v: reverse mode twice needs no forward-mode rules.
            (g,) = torch.autograd.grad(pull(v), v, u, create_graph=differentiable)
        return g

    def adjoint(self, y: Tensor) -> Tensor:
        """``Aᴴ y``; by default the transpose of `forward` by automatic differentiation.

        Raises:
            LinearityError: the operator is nonlinear (use `vjp` or `linearize`).
            GradientError: forward computes outside torch, or detaches its input.
        """
        if not self.linear:
            raise LinearityError(
                f"{self.name} is nonlinear and has no adjoint; use vjp(x, v) or linearize(x)"
            )
        self.range.check(y, f"{self.name}: input of adjoint")
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            x = self.domain.zeros(*self.range.batch(y), device=y.device).requires_grad_()
            return self._transpose(self(x), x, y, differentiable)

    @_in_full_precision
    def _transpose(self, y: Tensor, x: Tensor, v: Tensor, differentiable: bool) -> Tensor:
        """``J(x)ᴴ v`` from the graph that leads from ``x`` to ``y``."""
        g = None
        if y.requires_grad:  # from x or, where forward detaches x, from a parameter only
            (g,) = torch.autograd.grad(
                y, x, v, create_graph=differentiable, retain_graph=True, allow_unused=True
            )
        if g is None:
            raise GradientError(
                f"{self.name}: the output of forward carries no gradient of its input; it was "
                "detached, or computed outside torch. Write forward in torch, or adjoint(y), or "
                "wrap it (labrecon.bridge)"
            )
        return g

    @_in_full_precision
    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``Aᴴ W A x``; override where it is cheaper than the two halves (Toeplitz)."""
        y = self(x)
        return self.adjoint(y if weights is None else weights * y)

    def normal_map(self, weights: Tensor | None = None) -> Map:
        """``x ↦ Aᴴ W A x`` to be used many times; override to compute once what does not change.

        It is only for as long as the parameters stay as they are: a solver asks for a new one.
        """
        return functools.partial(self.normal, weights=weights)

    def linearize(self, x: Tensor) -> Operator:
        """The Jacobian at ``x`` as a linear operator."""
        from labrecon.algebra import Linearized

        return Linearized(self, x)

    # -- what solvers ask for ------------------------------------------------------------------

    @_in_full_precision
    def initial(self, y: Tensor) -> Tensor:
        """A first estimate of ``x``: ``α Aᴴ y`` with the ``α`` that fits ``y`` best."""
        if not self.linear:
            return self.domain.zeros(*self.range.batch(y), device=y.device)
        return self.fit_scale(self.adjoint(y), y)

    @_in_full_precision
    def fit_scale(self, x: Tensor, y: Tensor) -> Tensor:
        """``α x`` with the ``α`` for which ``A α x`` fits ``y`` best, per batch element."""
        # Each brought to size one: squares of 1e-20 are 0 in single precision.
        x, _ = _of_size_one(x, self.domain.ndim)
        z, size = _of_size_one(self(x), self.range.ndim)
        power = squared_norm(z, self.range.ndim)
        scale = inner(z, y, self.range.ndim).real / torch.where(power > 0, power, 1.0) / size
        return per_element(scale, self.domain.ndim).to(x.dtype) * x

    def norm(self, iterations: int = 60, tolerance: float = 1e-3) -> float:
        """``‖A‖₂`` by Lanczos' method on ``AᴴA``, cached until a parameter changes.

        It ends when the residual of the largest Ritz value bounds the relative error of ``‖A‖²`` by
        ``tolerance``; the error itself is mostly its square.

        Raises:
            LinearityError: the operator is nonlinear.
            SpaceError: `at` has given it values that differ along the batch.
        """
        if not self.linear:
            raise LinearityError(f"{self.name} is nonlinear: take linearize(x).norm()")
        parts = [part for part in self.modules() if isinstance(part, Operator)]
        loose = [tensor for part in parts for tensor in part._loose()]
        tensors = [*self.parameters(), *self.buffers(), *loose]
        # By content: versions do not tell of changes through ``.data``.
        key = tuple(_fingerprint(t) for t in tensors)
        if self._norm is not None and self._norm[0] == key:
            return self._norm[1]
        device = tensors[0].device if tensors else None
        generator = torch.Generator().manual_seed(0)

        def apply(v: Tensor) -> Tensor:
            w = self.normal(v)
            if w.shape != v.shape:
                raise SpaceError(
                    f"{self.name} has no one norm: with these values it differs along a batch of "
                    f"{tuple(w.shape[: w.ndim - v.ndim])}"
                )
            return w

        with torch.no_grad():
            x = self.domain.random(generator=generator, device=device)
            value = largest_eigenvalue(apply, x, iterations, tolerance)
        # An unmatched adjoint shifts the eigenvalues by as much.
        value *= 1 + self.adjoint_mismatch
        self._norm = key, value**0.5
        return value**0.5

    def _loose(self) -> Iterable[Tensor]:
        """Tensors that the map depends on and that are neither parameters nor buffers."""
        return ()

    @_in_full_precision
    def solve(
        self,
        rhs: Tensor,
        rho: Tensor | float,
        *,
        weights: Tensor | None = None,
        x0: Tensor | None = None,
        iterations: int = 30,
        tolerance: float = 1e-6,
    ) -> Tensor:
        """``(Aᴴ W A + ρ I)⁻¹ rhs`` by conjugate gradients; override where it is diagonal."""

        def apply(v: Tensor) -> Tensor:
            return self.normal(v, weights) + rho * v

        state = cg_start(apply, rhs, x0, self.domain.ndim)
        enough = tolerance**2 * squared_norm(rhs.detach(), self.domain.ndim)
        for _ in range(iterations):
            if bool((state.rr.detach() <= enough).all()):
                break
            state = cg_step(apply, state, self.domain.ndim)
        return state.x

    def only(self, axis: str, members: Sequence[int]) -> Operator | None:
        """The same with some of its data along an axis of the range; None: it saves nothing.

        Override it where fewer acquisitions cost less: a design of ``k`` of ``n`` asks for it.
        """
        return None

    # -- other values of designs and nuisances ----------------------------------------------------

    def at(self, **values: Tensor) -> Operator:
        """The same operator with other values of its designs or nuisances, differentiable."""
        from labrecon.algebra import At

        self._require_known(values, {**self.designs, **self.nuisances})
        return At(self, values)

    # -- algebra -------------------------------------------------------------------------------

    @property
    def H(self) -> Operator:
        """The adjoint as an operator."""
        from labrecon.algebra import Adjoint

        return Adjoint(self)

    def __matmul__(self, other: Operator) -> Operator:
        """``A @ B``: first ``B``, then ``A``."""
        from labrecon.algebra import Composition

        return Composition(self, other)

    def __add__(self, other: Operator) -> Operator:
        """``A + B``."""
        from labrecon.algebra import Sum

        return Sum(self, other)

    def __sub__(self, other: Operator) -> Operator:
        """``A - B``."""
        return self + (-1.0) * other

    def __neg__(self) -> Operator:
        """``-A``."""
        return (-1.0) * self

    def __rmul__(self, factor: complex | Tensor) -> Operator:
        """``c * A`` for a scalar ``c``."""
        from labrecon.algebra import Scaled

        return Scaled(factor, self)


def _check_range(adjoint: Callable[..., Tensor]) -> Callable[..., Tensor]:
    precise = _in_full_precision(adjoint)

    @functools.wraps(adjoint)
    def checked(self: Operator, y: Tensor) -> Tensor:
        self.range.check(y, f"{self.name}: input of adjoint")
        x: Tensor = precise(self, y)
        self.domain.check(x, f"{self.name}: output of adjoint")
        return x

    return checked


def _of_size_one(x: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """Each element divided by its largest modulus, and that; 1 where it is zero."""
    size = x.detach().abs().flatten(x.ndim - ndim).amax(-1)
    size = torch.where(size > 0, size, 1.0)
    return x / per_element(size, ndim), size
