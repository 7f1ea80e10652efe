"""Checks of the map itself: spaces, linearity, adjoint, batches, precision, devices."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch import Tensor

from labrecon.operator import GradientError, Map, Operator
from labrecon.space import Space, SpaceError, inner, squared_norm
from labrecon.testing.bench import Bench, check, relative
from labrecon.testing.finding import Finding

MATCHED = 1e-3


@check("spaces")
def spaces(bench: Bench) -> Iterator[Finding]:
    """Shapes and dtypes are those of domain and range; others are refused by name."""
    operator = bench.operator
    for batch in ((), (2,), (2, 3)):
        x = bench.point(*batch)
        with torch.no_grad():
            try:
                y = operator(x)
            except SpaceError as error:
                yield Finding(
                    "failed", str(error), advice="return what `range` declares, or mend it"
                )
                return
        if y.shape != (*batch, *operator.range.shape) or y.device != x.device:
            yield Finding(
                "failed",
                f"a batch {batch} came back as {tuple(y.shape)} on {y.device}",
                advice="keep the leading batch axes and the device of the input",
            )
            return
        if not bool(torch.isfinite(y).all()):
            bad = int((~torch.isfinite(y)).sum())
            yield Finding(
                "failed",
                f"{bad} of {y.numel()} values of a finite object are not finite",
                float(bad),
                0.0,
                "look for a division by zero, or for memory that is not written",
            )
            return
    other = torch.float64 if operator.domain.real_dtype == torch.float32 else torch.float32
    for what, wrong in (
        (f"dtype {other}", bench.point().real.to(other)),
        ("a wrong shape", torch.cat([bench.point()] * 2, -1)),
    ):
        try:
            with torch.no_grad():
                operator(wrong)
        except SpaceError:
            continue
        yield Finding(
            "failed",
            f"{what} is accepted without a word",
            advice="do not override __call__; it checks inputs against `domain`",
        )
        return
    yield Finding("passed", f"{_told(operator.domain)} to {_told(operator.range)}, as declared")


@check("linearity")
def linearity(bench: Bench) -> Iterator[Finding]:
    """`linear` is true: ``A(ax + bz) = aA(x) + bA(z)``, and ``A(0) = 0``."""
    operator = bench.operator
    if not operator.linear:
        yield _nonlinear(bench)
        return
    with torch.no_grad():
        error = 0.0
        # White noise sees every entry, sample objects the range of values that data have.
        for make in (bench.random_x, bench.point):
            x, z = make(stream=1), make(stream=4)
            a, b = 1.7, -0.6
            error = max(error, relative(operator(a * x + b * z), a * operator(x) + b * operator(z)))
        offset = float(torch.linalg.vector_norm(operator(torch.zeros_like(x))))
    if offset != 0:  # NaN, too
        affine = offset == offset
        yield Finding(
            "failed",
            "A(0) is not 0: the map is affine" if affine else "A(0) is not finite",
            offset,
            0.0,
            "subtract the background in a preparation step, give it to the noise, or say "
            "linear = False"
            if affine
            else "look for a division by the input",
        )
    elif error > max(bench.exact, 1e-6 if bench.epsilon > 1e-10 else 0):
        rounded = bench.epsilon < 1e-10 and error < 1e-5
        yield Finding(
            "failed",
            "linear only to single precision" if rounded else "not linear",
            error,
            bench.exact,
            "look for a cast to float32 on the way"
            if rounded
            else "say linear = False in the class, and let solvers treat it as nonlinear",
        )
    else:
        yield Finding("passed", "linear", error, bench.exact)


def _nonlinear(bench: Bench) -> Finding:
    """Whether a map that is declared nonlinear is not linear after all."""
    operator = bench.operator
    x, z = bench.point(stream=1), bench.point(stream=4)
    try:
        with torch.no_grad():
            # Between two objects, and at half of one: the model may end beyond them.
            mixed = relative(operator(0.5 * x + 0.5 * z), 0.5 * operator(x) + 0.5 * operator(z))
            halved = relative(operator(0.5 * x), 0.5 * operator(x))
    except Exception:
        return Finding("passed", "nonlinear, as declared, and not defined everywhere")
    error = max(mixed, halved)
    if error > bench.exact:
        return Finding("passed", "nonlinear, as declared", error)
    return Finding(
        "warned",
        "the map is linear, and declared nonlinear",
        error,
        bench.exact,
        "say linear = True: linear solvers, closed forms and the norm are available then",
    )


@check("adjoint")
def adjoint(bench: Bench) -> Iterator[Finding]:
    """``⟨Ax, y⟩ = ⟨x, Aᴴy⟩`` for white noise ``y`` and for ``y = Ax``."""
    operator = bench.operator
    if not operator.linear:
        yield Finding("skipped", "a nonlinear operator has no adjoint; see gradient")
        return
    complete = bench.is_complex
    x = bench.random_x(6, stream=1)
    with torch.no_grad():
        ax = operator(x)
    size = torch.linalg.vector_norm(ax.flatten(1), dim=1).double()
    errors = []
    # White noise sees every entry; the data of x itself see a scale without scatter.
    for y in (bench.random_y(6), ax):
        try:
            with torch.no_grad():
                z = operator.adjoint(y)
        except GradientError as raised:
            yield Finding("failed", "there is no adjoint", advice=str(raised))
            return
        gap = _products(operator.range, ax, y) - _products(operator.domain, x, z)
        gap = gap if complete else gap.real
        spread = torch.linalg.vector_norm(y.flatten(1), dim=1).double()
        # ⟨Ax, y⟩ of white y scatters by ‖Ax‖·‖y‖/√n: that is its size.
        scale = size * spread / operator.range.size**0.5 if y is not ax else size * spread
        errors.append(float(gap.abs().square().sum().sqrt() / scale.square().sum().sqrt()))
    error = max(errors)
    error = error if error == error else float("inf")
    declared = operator.adjoint_mismatch
    if error <= bench.exact:
        yield Finding("passed", "exact", error, bench.exact)
    elif declared and error <= max(10 * declared, MATCHED):
        yield Finding("passed", f"unmatched, as declared ({declared:g})", error, 10 * declared)
    elif error <= MATCHED:
        yield Finding(
            "warned",
            "matched to 1e-3, not exact",
            error,
            bench.exact,
            f"fine for most solvers; declare adjoint_mismatch = {_rounded(error)}, or look for a "
            "cast, an interpolation or a tolerance that differs between the two",
        )
    else:
        yield Finding(
            "failed",
            "unmatched: this is not the transpose of forward",
            error,
            MATCHED,
            _advice(bench, x, ax),
        )


def _advice(bench: Bench, x: Tensor, ax: Tensor) -> str:
    """The usual mistakes, told apart where that is possible."""
    operator = bench.operator
    mine = operator.adjoint(ax)
    true = _transpose(bench, ax)
    gap = _products(operator.range, ax, ax) - _products(operator.domain, x, true)
    if float(gap.abs().max()) > MATCHED * float(_products(operator.range, ax, ax).abs().max()):
        return (
            "compare with the transpose of a small dense matrix (labrecon.bridge.Columns makes "
            "one); usual causes: a missing conjugate, an index off by one, a scale in one of the "
            "two, another boundary condition"
        )
    scale = complex((inner(true, mine, true.ndim) / inner(true, true, true.ndim)).item())
    if relative(mine, scale * true if mine.is_complex() else scale.real * true) < MATCHED:
        told = f"{scale:.4g}" if abs(scale.imag) > MATCHED else f"{scale.real:.4g}"
        return f"it is {told} times the transpose: the scale belongs into both, or into neither"
    if mine.is_complex() and relative(mine.conj(), true) < MATCHED:
        return "it is the conjugate of the adjoint: conjugate its result"
    if mine.is_complex() and relative(mine, _transpose(bench, ax.conj()).conj()) < MATCHED:
        return "it is the transpose without the conjugate: conjugate the factors of forward in it"
    for axis, name in enumerate(operator.domain.axes, start=1):
        for shift in (-2, -1, 1, 2):
            if relative(mine.roll(shift, axis), true) < 0.3:
                return f"it is shifted by {-shift} along {name!r}: an index is off by {abs(shift)}"
    return (
        "delete adjoint where forward is written in torch: its transpose is then found by "
        "automatic differentiation; else compare with the dense matrix of a small case"
    )


def _transpose(bench: Bench, y: Tensor) -> Tensor:
    """``Aᴴ y`` from the matrix of a small operator, a column per sample, or else by autograd."""
    operator, domain = bench.operator, bench.operator.domain
    if domain.size > 4096:
        return Operator.adjoint(operator, y)
    eye = torch.eye(domain.size, dtype=domain.dtype, device=y.device)
    rows = []
    with torch.no_grad():
        for part in eye.split(128):
            columns = operator(part.reshape(-1, *domain.shape)).flatten(1)
            rows.append(columns.conj() @ y.flatten(1).mT)
    return torch.cat(rows).mT.reshape(y.shape[0], *domain.shape)


@check("normal")
def normal(bench: Bench) -> Iterator[Finding]:
    """`normal` and `solve` agree with ``AᴴWA``."""
    operator = bench.operator
    if not operator.linear:
        yield Finding("skipped", "a nonlinear operator has no normal operator")
        return
    x = bench.random_x(2)
    weights = bench.random_y(stream=6).abs() + 0.1
    tolerance = max(30 * bench.exact, 10 * operator.adjoint_mismatch)
    with torch.no_grad():
        y = operator(x)
        errors = [
            relative(operator.normal(x), operator.adjoint(y)),
            relative(operator.normal(x, weights), operator.adjoint(weights * y)),
            relative(operator.normal_map(weights)(x), operator.normal(x, weights)),
        ]
        rho = float(operator.normal(x).abs().max() / x.abs().max())
        solved = operator.solve(x, rho, iterations=200)
        rest = relative(operator.normal(solved) + rho * solved, x)
    error = max(errors)
    unmatched = bench.unmatched
    if error > tolerance:
        yield Finding(
            "failed",
            "normal(x, weights) is not Aᴴ W A x",
            error,
            tolerance,
            unmatched or "mend the override, or delete it: the default applies both halves",
        )
    elif rest > 1e-3:
        yield Finding(
            "failed",
            "solve(rhs, ρ) does not solve (AᴴA + ρ) x = rhs",
            rest,
            1e-3,
            unmatched or "mend the override, or delete it: the default is conjugate gradients",
        )
    else:
        yield Finding("passed", "both are AᴴWA", error, tolerance)


@check("batch")
def batch(bench: Bench) -> Iterator[Finding]:
    """A batch is a loop: no element sees another."""
    operator = bench.operator
    x = bench.point(2, 3)
    maps: list[tuple[str, Map, Tensor]] = [("forward", operator, x)]
    if operator.linear:
        maps.append(("adjoint", operator.adjoint, bench.random_y(2, 3)))
    # Other sizes are summed in another order, FFTs by other plans.
    tolerance = 10 * bench.exact
    worst = 0.0
    for name, function, value in maps:
        with torch.no_grad():
            together = function(value)
            alone = torch.stack([torch.stack([function(v) for v in row]) for row in value])
        error = relative(together, alone)
        worst = max(worst, error)
        if not error <= tolerance:
            yield Finding(
                "failed",
                f"{name} of a batch differs from {name} of its elements",
                error,
                tolerance,
                "reduce over the last axes only (dim=-1, -2), index with [..., i], and let no "
                "normalisation see the batch axes",
            )
            return
    yield Finding("passed", "a batch (2, 3) equals six calls", worst, tolerance)


@check("precision")
def precision(bench: Bench) -> Iterator[Finding]:
    """The declared precision is the one computed with; in others the answer is the same."""
    yield from _sweep(bench)
    operator = bench.operator
    dtype = operator.range.real_dtype
    if dtype != torch.float64:
        yield Finding("passed", f"{dtype} is declared, and that is what is returned")
        return
    with torch.no_grad():
        # Sample objects may be whole numbers, of which results are exact in any precision.
        y = operator(bench.random_x() if operator.linear else bench.point())
    parts = torch.view_as_real(y.resolve_conj()) if y.is_complex() else y
    nonzero = parts[parts != 0]
    single = float((nonzero.float().double() == nonzero).double().mean()) if len(nonzero) else 0.0
    whole = float((nonzero.round() == nonzero).double().mean()) if len(nonzero) else 1.0
    if single > 0.99 and whole < 0.5:
        yield Finding(
            "failed",
            "float64 is declared, and every result is a float32 number",
            single,
            0.99,
            "remove the cast to float32, or declare the spaces as float32",
        )
    else:
        yield Finding("passed", "float64 throughout", single, 0.99)


def _sweep(bench: Bench) -> Iterator[Finding]:
    """An instrument whose operator takes ``dtype`` in every one of them, against float64."""
    instrument = bench.instrument
    if instrument is None or "dtype" not in inspect.signature(instrument.operator).parameters:
        return
    x = bench.point()
    complex_domain = bench.operator.domain.dtype.is_complex

    def answer(dtype: torch.dtype) -> Tensor:
        assert instrument is not None
        full = dtype.to_complex() if complex_domain else dtype
        operator = instrument.operator(bench.geometry, dtype=full).to(bench.device)
        with torch.no_grad():
            return operator(x.to(operator.domain.dtype))

    expected = answer(torch.float64)
    error = relative(answer(torch.float32), expected)
    if error > 1e-4:
        yield Finding(
            "failed",
            "float32 and float64 give different answers",
            error,
            1e-4,
            "look for constants of a fixed dtype, and for sums that cancel",
            "dtypes",
        )
    else:
        told = "float32 and float64 give one answer"
        yield Finding("passed", told, error, 1e-4, about="dtypes")


@check("devices")
def devices(bench: Bench) -> Iterator[Finding]:
    """Every device that is here gives the same answer, on that device."""
    others = ["cuda"] if torch.cuda.is_available() else []
    if not others:
        yield Finding("skipped", "there is no GPU here: only the CPU was checked")
        return
    x = bench.point(2).cpu()
    with torch.no_grad():
        expected = bench.make()(x)
        for name in others:
            y = bench.make().to(name)(x.to(name))
            error = relative(y, expected)
            tolerance = max(1e3 * bench.epsilon, 1e-4)
            if y.device.type != name:
                yield Finding(
                    "failed",
                    f"data on {name} came back on {y.device}",
                    about=name,
                    advice="make new tensors with device=x.device, and register constants as "
                    "buffers",
                )
            elif error > tolerance:
                yield Finding("failed", "the answer differs from the CPU's", error, tolerance,
                              "compare intermediate results on both devices", name)  # fmt: skip
            else:
                yield Finding("passed", "as on the CPU", error, tolerance, about=name)


@check("norm")
def norm(bench: Bench) -> Iterator[Finding]:
    """`norm` bounds ``‖Ax‖/‖x‖``, and not by far."""
    operator = bench.operator
    if not operator.linear:
        yield Finding("skipped", "a nonlinear operator has no norm")
        return
    claimed = bench.fresh().norm()
    ndim = operator.domain.ndim
    seen = 0.0
    with torch.no_grad():
        for x in (bench.random_x(4, stream=7), bench.point(2)):
            for _ in range(30):
                largest = x.abs().flatten(1).amax(1).reshape(-1, *[1] * ndim)
                x = x / torch.where(largest > 0, largest, 1.0)
                size = squared_norm(x, ndim).sqrt().clamp_min(1e-30)
                x = x / size.reshape(-1, *[1] * ndim)
                y = operator(x)
                reached = [float(torch.linalg.vector_norm(_double(each))) for each in y]
                seen = max(seen, *reached)
                x = operator.adjoint(y)
    if seen == 0.0:
        yield Finding("failed", "the operator is zero", 0.0, None, "does forward use its input?")
    elif claimed < seen * (1 - 5e-3):
        yield Finding(
            "failed",
            "norm() is too small: gradient steps would diverge",
            claimed / seen,
            1.0,
            bench.unmatched or "mend the override, or delete it: the default is Lanczos' method",
        )
    elif claimed > 3 * seen:
        yield Finding(
            "warned",
            "norm() is far above ‖Ax‖/‖x‖: steps will be small",
            claimed / seen,
            3.0,
            bench.unmatched or "give a tighter bound, or delete the override",
        )
    else:
        yield Finding("passed", f"‖A‖ = {claimed:.4g}, seen {seen:.4g}", claimed / seen, 3.0)


@check("initial")
def initial(bench: Bench) -> Iterator[Finding]:
    """The first estimate fits better than zero."""
    operator = bench.operator
    x = bench.point()
    with torch.no_grad():
        y = operator(x)
        start = operator.initial(y)
        if not operator.linear and not bool(start.any()):
            yield Finding("skipped", "nonlinear: the first estimate is zero, solvers need a start")
            return
        if start.shape != x.shape or start.dtype != x.dtype:
            yield Finding(
                "failed",
                f"initial returned {tuple(start.shape)} {start.dtype}",
                advice=f"return {tuple(x.shape)} {x.dtype}, as `domain` declares",
            )
            return
        error = relative(operator(start), y)
    if error < 1.0:
        yield Finding("passed", "fits the data better than zero does", error, 1.0)
    else:
        yield Finding(
            "failed",
            "fits the data worse than zero does",
            error,
            1.0,
            "check its scale (‖A·initial(y) − y‖ < ‖y‖), or delete the override",
        )


def _products(space: Space, a: Tensor, b: Tensor) -> Tensor:
    """Inner products in double precision, one per element, as complex numbers."""
    return inner(a.to(torch.complex128), b.to(torch.complex128), space.ndim).cpu()


def _double(x: Tensor) -> Tensor:
    return x.to("cpu", torch.complex128 if x.is_complex() else torch.float64)


def _rounded(error: float) -> str:
    return f"{2 * error:.0e}"


def _told(space: Space) -> str:
    axes = " × ".join(f"{axis} {n}" for axis, n in zip(space.axes, space.shape, strict=True))
    return f"{axes} ({str(space.dtype).removeprefix('torch.')})"
