"""Checks of the map itself: spaces, linearity, batches, precision, devices."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch import Tensor

from labrecon.functional import Map
from labrecon.space import Space, SpaceError
from labrecon.testing.bench import Bench, check, relative
from labrecon.testing.finding import Finding


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
                objects = ": input:" in str(error)
                yield Finding(
                    "failed",
                    str(error),
                    advice="these are sample objects: see the check objects"
                    if objects
                    else "return what range declares, or mend range",
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


def _told(space: Space) -> str:
    axes = " × ".join(f"{axis} {n}" for axis, n in zip(space.axes, space.shape, strict=True))
    return f"{axes} ({str(space.dtype).removeprefix('torch.')})"
