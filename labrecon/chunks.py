"""A stack solved a few of its elements at a time, as many as memory holds."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from labrecon.memory import GIB, free, is_exhausted, release
from labrecon.noise import Noise
from labrecon.operator import Operator
from labrecon.prior import Prior
from labrecon.problem import Problem, SolverError
from labrecon.solver import Solution, Solver, State, constant

__all__ = [
    "Joined",
    "elements_that_fit",
    "largest",
    "part",
    "predict",
    "solve_stack",
    "why_coupled",
]

#: Arrays of the size of object and data together that a solve holds at its peak. Measured: FISTA
#: with TV 6, ADMM with TV 10, PDHG with TGV 15 of large arrays; up to twice as many of small ones.
COPIES = 24
#: Part of the free memory that a solve may plan with.
SHARE = 0.8
#: Solves a part of the problem from its part of the first estimate, within so many seconds.
Part = Callable[[Problem, Tensor | None, float | None], Solution]


@dataclass(frozen=True)
class Joined(State):
    """What is kept of the states of several chunks: the estimate, and elements per chunk."""

    x: Tensor
    size: int = constant()


def elements_that_fit(
    operator: Operator, batch: tuple[int, ...], device: torch.device, budget: float | None = None
) -> int:
    """How many elements of the first batch axis a solve can hold, 1 at least.

    An estimate: `COPIES` times the size of object and data. What an operator needs itself is not
    known; `solve_stack` halves the number where it was too large.

    Args:
        operator: the forward model of one element.
        batch: sizes of the leading axes of the data.
        device: where to compute.
        budget: GiB that the solve may take; by default 80 % of what is free.
    """
    spaces = (operator.domain, operator.range)
    each = COPIES * math.prod(batch[1:]) * sum(s.size * s.dtype.itemsize for s in spaces)
    allowed = SHARE * free(device) if budget is None else budget * GIB
    return max(1, min(batch[0], int(allowed // each)))


def why_coupled(solver: Solver, axes: int) -> str | None:
    """Why elements with so many axes can not be solved apart; None where they can."""
    calibrates = type(solver).calibrated is not Solver.calibrated
    if calibrates and getattr(solver, "nuisances", True):
        return f"{solver.name} estimates nuisances that all elements share"
    for module in solver.modules():
        ndim = max(getattr(module, name, 0) for name in ("ndim", "axes"))
        if isinstance(module, Prior) and ndim > axes:
            name = type(module).__name__
            return f"{name} with ndim = {ndim} joins neighbours, and one of them has {axes} axes"
    return None


def part(problem: Problem, chosen: slice) -> Problem:
    """The problem of some elements of the first batch axis."""
    ndim, count = problem.data.ndim, len(problem.data)

    def cut(values: Tensor) -> Tensor:
        return values[chosen] if values.ndim == ndim and len(values) == count else values

    weights = None if problem.weights is None else cut(problem.weights)
    return replace(
        problem,
        data=problem.data[chosen],
        noise=_noise_of(problem.noise, cut),
        weights=weights,
        prepared=None,
    )


def _noise_of(noise: Noise, cut: Callable[[Tensor], Tensor]) -> Noise:
    held = [(m, n, b) for m in noise.modules() for n, b in m.named_buffers(recurse=False)]
    if all(cut(buffer) is buffer for _, _, buffer in held):
        return noise
    made = copy.deepcopy(noise)
    for module in made.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, cut(buffer))
    return made


def largest(problem: Problem, size: int | None, of: Callable[[Problem], Tensor]) -> float:
    """The largest modulus of something of the problem, looked at a few elements at a time."""
    if size is None:
        return float(of(problem).abs().max())
    starts = range(0, len(problem.data), size)
    return max(float(of(part(problem, slice(s, s + size))).abs().max()) for s in starts)


def predict(operator: Operator, x: Tensor, size: int, device: torch.device) -> Tensor:
    """``A x`` of a stack, a few elements at a time, on the CPU."""
    return torch.cat([operator(some.to(device)).cpu() for some in x.split(size)])


def solve_stack(
    solver: Solver,
    problem: Problem,
    solve_part: Part,
    *,
    size: int | None = None,
    x0: Tensor | None = None,
    seconds: float | None = None,
) -> Solution:
    """Solve a stack at once, or a few elements at a time; fewer where memory runs out.

    Elements do not see each other, so that the result is that of all at once up to rounding, where
    the solver has no step size for all (backtracking) and no tolerance: each chunk ends by its own.
    The solution of several chunks lies on the CPU, its state is `Joined`, and its history that of
    the whole: objectives are added up, changes are the largest.

    Args:
        solver: the method.
        problem: with a batch axis, unless ``size`` is None.
        solve_part: solves a part of the problem.
        size: elements at a time; None for all of them.
        x0: first estimate.
        seconds: time for all of it, dealt by elements.

    Raises:
        SolverError: the operator differs between elements.
        KeyboardInterrupt: Ctrl-C; what was solved is lost.
    """
    coupled = why_coupled(solver, problem.operator.domain.ndim) if problem.batch else "no stack"
    device, total = problem.data.device, problem.batch[0] if problem.batch else 1
    if size is None:
        try:
            return solve_part(problem, x0, seconds)
        except Exception as error:
            if coupled or total < 2 or not is_exhausted(error):
                raise
        # The error, and with it what its frames held, is gone from here on.
        release(device)
        size = math.ceil(total / 2)
    elif coupled:
        raise SolverError(f"{coupled}: leave out solver.batch")
    begin = time.perf_counter()
    x: Tensor | None = None
    done: list[Solution] = []
    start = 0
    while start < total:
        chosen = slice(start, min(start + size, total))
        left = None
        if seconds is not None:
            left = seconds - (time.perf_counter() - begin)
            left = max(left * (chosen.stop - start) / (total - start), 0.0)
        try:
            some = None if x0 is None else x0[chosen].to(device)
            solution = solve_part(part(problem, chosen), some, left)
        except Exception as error:
            if size == 1 or not is_exhausted(error):
                raise
            solution = None
        if solution is None:
            release(device)
            size = math.ceil((chosen.stop - start) / 2)
            continue
        if solution.status == "interrupted":
            raise KeyboardInterrupt(f"in elements {start} to {chosen.stop - 1} of {total}")
        _require_own(solution.x, chosen.stop - start, problem.operator)
        if x is None:
            x = torch.empty(total, *solution.x.shape[1:], dtype=solution.x.dtype)
        x[chosen] = solution.x
        # What is told of it is kept, its tensors are not.
        done.append(replace(solution, x=torch.empty(0), state=State(solution.state.k)))
        start = chosen.stop
    assert x is not None
    return _joined(x, size, done, time.perf_counter() - begin)


def _require_own(x: Tensor, count: int, operator: Operator) -> None:
    """Raise unless the operator gave as many elements as it was given."""
    if len(x) != count or x.ndim <= operator.domain.ndim:
        raise SolverError(
            f"{operator.name} made {tuple(x.shape)} of {count} elements: it is not the same for "
            "all of them, and they can not be solved apart; leave out solver.batch"
        )


def _joined(x: Tensor, size: int, parts: list[Solution], seconds: float) -> Solution:
    unfinished = [solution.status for solution in parts if solution.status != "converged"]
    status = unfinished[0] if unfinished else "converged"
    k = max(solution.state.k for solution in parts)
    return Solution(x, Joined(k, x, size), status, _history(parts), seconds)


def _history(parts: list[Solution]) -> list[dict[str, float]]:
    """One record for all chunks at each iteration; a chunk that has ended stays as it was."""
    told = [solution.history for solution in parts]
    at = sorted({record["iteration"] for history in told for record in history})
    joined = []
    for iteration in at:
        records = [
            [record for record in history if record["iteration"] <= iteration][-1]
            for history in told
            if history and history[0]["iteration"] <= iteration
        ]
        added = ("seconds", "objective", "data_term", "unfinished")
        names = dict.fromkeys(name for record in records for name in record)
        merged = {
            name: (sum if name in added else max)([r[name] for r in records if name in r])
            for name in names
        }
        joined.append({**merged, "iteration": iteration})
    return joined
