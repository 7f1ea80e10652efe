"""Operator: what an instrument does to an object, ``y = A(x)``."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from labrecon.space import Space, SpaceError, inner, per_element, squared_norm

if TYPE_CHECKING:
    from labrecon.design import FeasibleSet

__all__ = [
    "GradientError",
    "LinearityError",
    "Operator",
    "Space",
    "SpaceError",
    "linear_function",
]

Map = Callable[[Tensor], Tensor]


class LinearityError(TypeError):
    """A linear operator was needed and a nonlinear one was given."""


class GradientError(TypeError):
    """A gradient was asked for that an operator has no way to give."""


class _Linear(torch.autograd.Function):
    """A linear map whose derivative is its own differentiable transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, apply: Map, transpose: Map) -> Tensor:
        ctx.maps = apply, transpose
        return apply(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        apply, transpose = ctx.maps
        return linear_function(gradients[0], transpose, apply), None, None


def linear_function(x: Tensor, apply: Map, transpose: Map) -> Tensor:
    """Apply a linear map that autograd can not see through, differentiable to any order.

    ``apply`` and ``transpose`` (its conjugate transpose) may leave torch: a sparse matrix,
    ASTRA, a NumPy function. Each is used as the derivative of the other.

    Example:
        >>> m = torch.tensor([[1., 2.], [0., 1.]])
        >>> x = torch.ones(2, requires_grad=True)
        >>> y = linear_function(x, lambda v: m.detach() @ v, lambda v: m.detach().T @ v)
        >>> torch.autograd.grad(y.sum(), x)[0]
        tensor([1., 3.])
    """
    result: Tensor = _Linear.apply(x, _bound(apply), _bound(transpose))  # type: ignore[no-untyped-call]
    return result


class _Replaced(threading.local):
    """The values that `call_with` has put into operators, innermost last."""

    def __init__(self) -> None:
        self.stack: tuple[tuple[Operator, Mapping[str, Tensor]], ...] = ()


_replaced = _Replaced()


def _bound(function: Map) -> Map:
    """A function that finds the values of now when it is called later, in a backward pass."""
    stack = _replaced.stack
    if not stack or isinstance(function, _Bound):
        return function
    return _Bound(function, stack)


class _Bound:
    def __init__(
        self, function: Map, stack: tuple[tuple[Operator, Mapping[str, Tensor]], ...]
    ) -> None:
        self.function = function
        self.stack = stack

    def __call__(self, x: Tensor) -> Tensor:
        if _replaced.stack is self.stack:
            return self.function(x)
        apply = self.function
        for operator, values in reversed(self.stack):
            detached = {name: value.detach() for name, value in values.items()}
            apply = functools.partial(_within, operator, detached, apply)
        return apply(x)


def _within(operator: Operator, values: Mapping[str, Tensor], function: Map, x: Tensor) -> Tensor:
    result: Tensor = call_with(operator, "_apply_function", values, function, x)
    return result


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


class Operator(nn.Module):
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
    _fixed: tuple[str, ...] = ()
    _checked: ClassVar[tuple[str, ...]] = ("adjoint",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give every override of `adjoint` the space check of the base class."""
        super().__init_subclass__(**kwargs)
        for name in cls._checked:
            method = cls.__dict__.get(name)
            if method is not None:
                setattr(cls, name, _check_range(method))

    def __init__(self, domain: Space, range: Space) -> None:
        super().__init__()
        self.domain = domain
        self.range = range
        self._designs: dict[str, FeasibleSet] = {}
        self._nuisances: dict[str, FeasibleSet | None] = {}
        self._norm: tuple[tuple[Any, ...], float] | None = None

    @property
    def name(self) -> str:
        """The name used in messages."""
        return type(self).__name__

    # -- application ---------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """``A(x)``: ``(*batch, *domain.shape)`` to ``(*batch, *range.shape)``."""
        raise TypeError(f"{self.name} does not define forward(x)")

    def __call__(self, x: Tensor, **values: Tensor) -> Tensor:
        """``A(x)`` with the spaces checked; ``values`` replace designs or nuisances (`at`)."""
        if values:
            return self.at(**values)(x)
        self.domain.check(x, f"{self.name}: input")
        y: Tensor = super().__call__(x)
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

    def initial(self, y: Tensor) -> Tensor:
        """A first estimate of ``x``: ``α Aᴴ y`` with the ``α`` that fits ``y`` best."""
        if not self.linear:
            return self.domain.zeros(*self.range.batch(y), device=y.device)
        # Each brought to size one: squares of 1e-20 are 0 in single precision.
        x, _ = _of_size_one(self.adjoint(y), self.domain.ndim)
        z, size = _of_size_one(self(x), self.range.ndim)
        power = squared_norm(z, self.range.ndim)
        scale = inner(z, y, self.range.ndim).real / torch.where(power > 0, power, 1.0) / size
        return per_element(scale, self.domain.ndim).to(x.dtype) * x

    def norm(self, iterations: int = 60, tolerance: float = 1e-3) -> float:
        """``‖A‖₂`` by Lanczos' method on ``AᴴA``, cached until a parameter changes.

        It ends when the residual of the largest Ritz value bounds the relative error of ``‖A‖²`` by
        ``tolerance``; the error itself is mostly its square.
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
        with torch.no_grad():
            x = self.domain.random(generator=generator, device=device)
            value = largest_eigenvalue(self.normal, x, iterations, tolerance)
        # An unmatched adjoint shifts the eigenvalues by as much.
        value *= 1 + self.adjoint_mismatch
        self._norm = key, value**0.5
        return value**0.5

    def _loose(self) -> Iterable[Tensor]:
        """Tensors that the map depends on and that are neither parameters nor buffers."""
        return ()

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

    def _apply_function(self, function: Map, x: Tensor) -> Tensor:
        """``function(x)``, with whatever `call_with` has replaced."""
        return function(x)

    # -- designs and nuisances -----------------------------------------------------------------

    def design(self, name: str, value: Tensor, feasible: FeasibleSet) -> nn.Parameter:
        """Register a learnable acquisition parameter and what the hardware can do with it."""
        parameter = self._register(name, value)
        self._designs[name] = feasible
        return parameter

    def nuisance(
        self, name: str, value: Tensor, feasible: FeasibleSet | None = None
    ) -> nn.Parameter:
        """Register a calibration unknown: a rotation centre, an LED shift, a delay."""
        parameter = self._register(name, value)
        self._nuisances[name] = feasible
        return parameter

    def _register(self, name: str, value: Tensor) -> nn.Parameter:
        if hasattr(self, name):
            raise ValueError(f"{self.name} already has an attribute {name!r}")
        # Gradients are off until `learn` asks for them, so that a plain solve builds no graph.
        parameter = nn.Parameter(value.detach().clone(), requires_grad=False)
        self.register_parameter(name, parameter)
        return parameter

    @property
    def designs(self) -> Mapping[str, FeasibleSet]:
        """Learnable acquisition parameters of this operator and its parts, by dotted name."""
        return self._named(lambda part: part._designs)

    @property
    def nuisances(self) -> Mapping[str, FeasibleSet | None]:
        """Calibration unknowns of this operator and its parts, by dotted name."""
        return self._named(lambda part: part._nuisances)

    def _named(self, registered: Callable[[Operator], Mapping[str, Any]]) -> dict[str, Any]:
        """What the parts register, by dotted name, without what `at` has fixed to a value."""
        parts = [(p, part) for p, part in self.named_modules() if isinstance(part, Operator)]
        fixed = {
            f"{prefix}.operator.{name}".lstrip(".")
            for prefix, part in parts
            if prefix  # of this operator itself, `at` may give other values
            for name in part._fixed
        }
        named = {
            f"{prefix}.{name}".lstrip("."): feasible
            for prefix, part in parts
            for name, feasible in registered(part).items()
        }
        return {name: feasible for name, feasible in named.items() if name not in fixed}

    def learn(self, *names: str) -> list[nn.Parameter]:
        """Turn gradients on for the named designs or nuisances and return their tensors."""
        known = {**self.designs, **self.nuisances}
        self._require_known(names, known)
        parameters = [self.get_parameter(name) for name in names]
        for parameter in parameters:
            parameter.requires_grad_()
        return parameters

    def at(self, **values: Tensor) -> Operator:
        """The same operator with other values of its designs or nuisances, differentiable."""
        from labrecon.algebra import At

        self._require_known(values, {**self.designs, **self.nuisances})
        return At(self, values)

    def _require_known(self, names: Any, known: Mapping[str, Any]) -> None:
        for name in names:
            if name not in known:
                raise KeyError(
                    f"{self.name} has no design or nuisance {name!r}; it has {sorted(known)}"
                )

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
    @functools.wraps(adjoint)
    def checked(self: Operator, y: Tensor) -> Tensor:
        self.range.check(y, f"{self.name}: input of adjoint")
        x = adjoint(self, y)
        self.domain.check(x, f"{self.name}: output of adjoint")
        return x

    return checked


def _of_size_one(x: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """Each element divided by its largest modulus, and that; 1 where it is zero."""
    size = x.detach().abs().flatten(x.ndim - ndim).amax(-1)
    size = torch.where(size > 0, size, 1.0)
    return x / per_element(size, ndim), size


def call_with(
    operator: Operator, method: str, values: Mapping[str, Tensor], *args: Any, **options: Any
) -> Any:
    """Call ``operator.method(*args)`` with some of its parameters replaced by ``values``."""
    replaced = {f"operator.{place}": value for place, value in _everywhere(operator, values)}
    before = _replaced.stack
    _replaced.stack = (*before, (operator, dict(values)))
    try:
        # Not by torch's own tying: where one operator is part of another twice, it would put the
        # value there for good.
        return functional_call(
            _Method(operator, method), replaced, args, options, tie_weights=False
        )
    finally:
        _replaced.stack = before


def _everywhere(operator: Operator, values: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    """Each place of the parameters to replace; one operator in several places counts once."""
    new: dict[int, Tensor] = {}
    for name, value in values.items():
        prefix, _, key = name.rpartition(".")
        # Within another such call it is a plain tensor, which get_parameter refuses.
        new[id(getattr(operator.get_submodule(prefix), key))] = value
    for prefix, module in operator.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in new:
                yield f"{prefix}.{key}".lstrip("."), new[id(parameter)]


class _Method(nn.Module):
    def __init__(self, operator: Operator, method: str) -> None:
        super().__init__()
        self.operator = operator
        self.method = method

    def forward(self, *args: Any, **options: Any) -> Any:
        return getattr(self.operator, self.method)(*args, **options)


def largest_eigenvalue(apply: Map, x: Tensor, iterations: int, tolerance: float) -> float:
    """The largest eigenvalue of a self-adjoint, positive map by Lanczos' method from ``x``.

    Only the three-term recurrence is kept: lost orthogonality repeats converged values, which does
    no harm to the largest.
    """
    diagonal: list[float] = []
    beside: list[float] = []
    value = 0.0
    q, before = x / torch.linalg.vector_norm(x), torch.zeros_like(x)
    for _ in range(iterations):
        w = apply(q)
        diagonal.append(float(inner(q, w, q.ndim).real))
        w = w - diagonal[-1] * q - (beside[-1] if beside else 0.0) * before
        # Squares of 1e-20 are 0 in single precision, those of 1e20 are infinite.
        largest = float(w.abs().max())
        if not math.isfinite(largest) or not math.isfinite(diagonal[-1]):
            raise ArithmeticError(
                "the norm overflows: AᴴA x is not finite. Scale the operator, or compute in float64"
            )
        size = largest * float(torch.linalg.vector_norm(w / largest)) if largest > 0 else 0.0
        n = len(diagonal)
        matrix = torch.zeros(n, n, dtype=torch.float64)
        matrix.diagonal().copy_(torch.tensor(diagonal))
        if n > 1:
            matrix.diagonal(-1).copy_(torch.tensor(beside))
        values, vectors = torch.linalg.eigh(matrix)
        value = max(0.0, float(values[-1]))
        if size * abs(float(vectors[-1, -1])) <= tolerance * value:
            break
        beside.append(size)
        q, before = w / size, q
    return value


class CGState(NamedTuple):
    """Conjugate gradients: iterate, residual, search direction and ``‖r‖²`` per element."""

    x: Tensor
    r: Tensor
    p: Tensor
    rr: Tensor


def cg_start(apply: Map, rhs: Tensor, x0: Tensor | None, ndim: int) -> CGState:
    """Start conjugate gradients for ``apply(x) = rhs`` from ``x0`` (default zero)."""
    x = torch.zeros_like(rhs) if x0 is None else x0
    r = rhs if x0 is None else rhs - apply(x0)
    return CGState(x, r, r, squared_norm(r, ndim))


def cg_step(apply: Map, state: CGState, ndim: int) -> CGState:
    """One conjugate-gradient iteration; a batch element that has converged stays as it is."""
    x, r, p, rr = state
    q = apply(p)
    curvature = inner(p, q, ndim).real
    moving = (curvature > 0) & (rr > 0)
    alpha = per_element(torch.where(moving, rr, 0.0) / torch.where(moving, curvature, 1.0), ndim)
    x = x + alpha * p
    r = r - alpha * q
    rr_next = squared_norm(r, ndim)
    beta = per_element(torch.where(moving, rr_next, 0.0) / torch.where(moving, rr, 1.0), ndim)
    return CGState(x, r, r + beta * p, rr_next)
