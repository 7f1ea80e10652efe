"""Checks of behaviour: repeatability, side effects, threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from labrecon.functional import Map
from labrecon.operator import GradientError
from labrecon.testing.bench import Bench, check, relative
from labrecon.testing.finding import Finding
from labrecon.testing.process_state import differs, process_state


@check("repeatability")
def repeatability(bench: Bench) -> Iterator[Finding]:
    """The same input gives the same output, whatever was computed before."""
    operator = bench.fresh()
    # Sums made by several threads, or on a GPU, have an order of their own.
    tolerance = 30 * bench.epsilon
    rounding = 0.0
    x, z = bench.point(stream=3), bench.point(stream=9)
    maps: list[tuple[str, Map, Tensor, Tensor]] = [("forward", operator, x, z)]
    if operator.linear:
        maps.append(("adjoint", operator.adjoint, bench.random_y(), bench.random_y(stream=8)))
    with torch.no_grad():
        for name, function, one, other in maps:
            first = function(one).clone()
            result = function(one)
            error = relative(result, first)
            rounding = max(rounding, error)
            if error > tolerance:
                yield Finding(
                    "failed",
                    f"{name} called twice gives two answers",
                    error,
                    tolerance,
                    "draw random numbers in noise.sample only; take torch.Generator arguments; "
                    "return memory that later calls do not overwrite",
                )
                return
            kept = result.clone()
            function(other)
            if not _equal(result, kept):
                yield Finding(
                    "failed",
                    f"a result of {name} was overwritten by the next call",
                    advice="return memory of its own: buffer.clone(), array.copy()",
                )
                return
            bench.operator(bench.point())
            error = relative(function(one), first)
            if error > tolerance:
                yield Finding(
                    "failed",
                    f"{name} depends on what it was called with before",
                    error,
                    tolerance,
                    "keep no state between calls: no caches without a key, no running averages",
                )
                return
        error = relative(bench.fresh()(x), bench.fresh()(x))
        if error > max(tolerance, bench.exact):
            yield Finding(
                "failed",
                "two operators of one geometry differ",
                error,
                tolerance,
                "build from the geometry alone; seed what is random from it",
            )
            return
    if rounding > 0:
        yield Finding(
            "warned",
            "the same up to rounding, call after call",
            rounding,
            tolerance,
            "sums in an order that changes (threads, atomics): results can not be repeated "
            "to the bit",
        )
        return
    yield Finding("passed", "the same, call after call", 0.0, tolerance)


@check("purity")
def purity(bench: Bench) -> Iterator[Finding]:
    """Inputs, parameters and the state of the process are left as they were."""
    operator = bench.fresh()
    x, y = bench.point(2), bench.random_y(2)
    kept = [x.clone(), y.clone()]
    parameters = {k: v.clone() for k, v in operator.state_dict().items()}
    before = process_state()
    with torch.no_grad():
        operator(x)
        if operator.linear:
            operator.adjoint(y)
        operator.initial(y)
    after = process_state()
    changed = [what for what in before if differs(before[what], after[what])]
    if not torch.equal(x, kept[0]) or not torch.equal(y, kept[1]):
        yield Finding(
            "failed",
            "the input was changed in place",
            advice="work on a copy (x.clone(), array.copy()) or avoid in-place operations",
        )
        return
    moved = [k for k, v in operator.state_dict().items() if not _equal(v, parameters[k])]
    if moved:
        yield Finding("failed", f"parameters were changed: {', '.join(moved)}",
                      advice="forward must not assign to parameters or buffers")  # fmt: skip
    elif changed:
        yield Finding(
            "failed",
            f"the state of the process was changed: {', '.join(changed)}",
            advice="take a torch.Generator, pass dtype= and device= instead of defaults, and "
            "restore what a library insists on",
        )
    else:
        yield Finding("passed", "nothing was changed")


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


@check("threads")
def threads(bench: Bench) -> Iterator[Finding]:
    """Calls from several threads do not disturb each other, if that is claimed."""
    operator = bench.operator
    if not operator.threadsafe:
        yield Finding("skipped", "not claimed: operator.threadsafe is False")
        return
    inputs = [bench.point(stream=50 + i) for i in range(8)]
    answers = [bench.random_y(stream=60 + i) for i in range(8)]

    def everything(i: int) -> list[Tensor]:
        """Forward, adjoint and, where there is one, the gradient."""
        with torch.no_grad():
            found = [operator(inputs[i])]
            if operator.linear:
                found.append(operator.adjoint(answers[i]))
        free = inputs[i].clone().requires_grad_()
        with contextlib.suppress(GradientError):
            y = operator(free)
            if y.requires_grad:
                found += torch.autograd.grad(y, free, answers[i])
        return found

    expected = [everything(i) for i in range(8)]
    worst = [0.0] * len(inputs)
    raised: list[BaseException] = []
    together = threading.Barrier(len(inputs))

    def work(i: int) -> None:
        try:
            for _ in range(10):
                together.wait(timeout=30)
                for found, known in zip(everything(i), expected[i], strict=True):
                    worst[i] = max(worst[i], relative(found, known))
        except Exception as error:
            raised.append(error)
            together.abort()

    workers = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    advice = "say threadsafe = False: calls then wait for one another"
    if raised:
        first = next(
            (e for e in raised if not isinstance(e, threading.BrokenBarrierError)), raised[0]
        )
        yield Finding("failed", f"in 8 threads: {type(first).__name__}: {first}", advice=advice)
    elif max(worst) > bench.exact:
        yield Finding(
            "failed", "8 threads get other answers than one", max(worst), bench.exact, advice
        )
    else:
        yield Finding("passed", "8 threads get the answers of one", max(worst), bench.exact)
