"""Solver: one iteration of an algorithm, and the loop that repeats it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from labrecon.operator import Operator
from labrecon.prior import ImplicitPriorError, NotInvertibleError, Prior
from labrecon.problem import Problem, SolverError
from labrecon.schedule import Schedule, pick
from labrecon.space import squared_norm

__all__ = [
    "DivergenceError",
    "Problem",
    "Schedule",
    "Solution",
    "Solver",
    "SolverError",
    "State",
    "constant",
    "pick",
    "solve",
]


class DivergenceError(ArithmeticError):
    """An iterate is no longer finite."""


def constant() -> Any:
    """A field of a `State` that does not take part in the fixed point: step sizes, counters."""
    return field(metadata={"constant": True})


@dataclass(frozen=True)
class State:
    """The state of an iteration: a value, never changed in place.

    Tensor fields make up the fixed-point state; those declared with `constant`, and plain numbers,
    do not. A field may also be a tuple of tensors.
    """

    k: int

    def tensors(self, *, constants: bool = True) -> dict[str, Tensor]:
        """The tensors by field name; members of a tuple are called ``name.0``, ``name.1``."""
        found: dict[str, Tensor] = {}
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if spec.metadata.get("constant") and not constants:
                continue
            if isinstance(value, Tensor):
                found[spec.name] = value
            elif isinstance(value, tuple):
                found |= {f"{spec.name}.{i}": v for i, v in enumerate(value)}
        return found

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """A copy with other values of some of its tensors, by the names that `tensors` gives."""
        changes: dict[str, Any] = {}
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, tuple):
                names = [f"{spec.name}.{i}" for i in range(len(value))]
                members = [tensors.get(n, v) for n, v in zip(names, value, strict=True)]
                changes[spec.name] = tuple(members)
            elif spec.name in tensors:
                changes[spec.name] = tensors[spec.name]
        return self.replace(**changes)

    def numbers(self) -> dict[str, int | float | bool | None]:
        """The fields that are plain numbers, by name."""
        pairs = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return {name: value for name, value in pairs if not isinstance(value, Tensor | tuple)}

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


class Solver(nn.Module):
    """One iteration of an algorithm, and nothing else.

    `step` is pure: it changes no attribute and no argument, so that the same code runs in
    `solve`, unrolled as a network, and as a fixed-point map.

    Attributes:
        state_type: the dataclass of this solver's state (used to read a saved one).
        needs_exact_adjoint: the method fails with an unmatched back-projection.
        needs_linear: the method treats linear operators only.
        one_step: one iteration is all there is; `solve` makes no more.
        random: steps are draws, of which a small change says nothing: no tolerance ends it.
    """

    state_type: ClassVar[type[State]] = State
    needs_exact_adjoint: bool = False
    needs_linear: bool = False
    one_step: bool = False
    random: bool = False

    def __init__(self) -> None:
        # Without it, a solver that takes no options would show the signature of `nn.Module`.
        super().__init__()

    @property
    def name(self) -> str:
        """The name used in messages."""
        return type(self).__name__

    def init(self, problem: Problem, x0: Tensor | None = None) -> State:
        """The state before the first iteration."""
        raise TypeError(f"{self.name} does not define init")

    def step(self, problem: Problem, state: Any) -> tuple[State, dict[str, Any]]:
        """One iteration: the next state, and what it tells.

        Told are metrics of this step as numbers, and losses for training as scalar tensors.
        """
        raise TypeError(f"{self.name} does not define step")

    def estimate(self, state: Any) -> Tensor:
        """The reconstruction held by a state."""
        x: Tensor = state.x
        return x

    def calibrated(self, problem: Problem, state: Any) -> Operator:
        """The operator that the estimate belongs to: with nuisances that were estimated beside it.

        By default the problem's own. What it predicts of the estimate is what a report compares
        with the data.
        """
        return problem.operator

    def inverse(self, problem: Problem, state: Any) -> State:
        """The state from which `step` leads to ``state``, for memory-efficient learning.

        Raises:
            NotInvertibleError: a step, or the prior's prox, can not be undone.
        """
        raise NotInvertibleError(f"{self.name} has no inverse step")

    def stationary(self, problem: Problem, state: Any) -> tuple[State, dict[str, Any]]:
        """The map whose fixed point is the solution: `step` with counters and constants held.

        A method that is no fixed-point iteration (conjugate gradients) gives another map with the
        same solution.
        """
        following, told = self.step(problem, state)
        same: State = state.with_tensors(following.tensors(constants=False))
        return same, told

    def settled(self, problem: Problem, state: Any) -> State:
        """``state`` with those constants fit for `stationary` that are found on the way.

        By default as it is; a method that searches for its step size goes a few steps.
        """
        same: State = state
        return same

    def penalty(self, x: Tensor, ndim: int) -> Tensor:
        """The prior's part of the objective; 0 for solvers without a prior.

        Raises:
            ImplicitPriorError: the prior has no penalty, or differs from layer to layer.
        """
        prior = getattr(self, "prior", None)
        if isinstance(prior, Prior):
            return prior.penalty(x, ndim)
        if isinstance(prior, nn.ModuleList):
            raise ImplicitPriorError(f"{self.name}: a prior per layer has no one penalty")
        return torch.zeros((), dtype=x.real.dtype, device=x.device)

    def objective(self, problem: Problem, x: Tensor) -> Tensor:
        """``D(x) + g(x)``, one number per batch element."""
        return problem.loss(x) + self.penalty(x, problem.operator.domain.ndim)

    def start(self, problem: Problem, x0: Tensor | None) -> Tensor:
        """``x0`` checked, or zeros."""
        domain = problem.operator.domain
        if x0 is None:
            return domain.zeros(*problem.batch, device=problem.data.device)
        domain.check(x0, f"{self.name}: x0")
        return x0

    def check(self, problem: Problem) -> None:
        """Raise `SolverError` where the method can not treat the operator."""
        operator = problem.operator
        if self.needs_linear and not operator.linear:
            raise SolverError(f"{self.name} needs a linear operator; {operator.name} is not")
        if self.needs_exact_adjoint and operator.adjoint_mismatch > 0:
            raise SolverError(
                f"{self.name} needs an exact adjoint; that of {operator.name} is off by "
                f"{operator.adjoint_mismatch:.1%}. Use a matched backend, or SIRT or FISTA"
            )


Status = Literal["converged", "iterations", "time", "stopped", "interrupted"]


@dataclass(frozen=True)
class Solution:
    """The result of `solve`.

    Attributes:
        x: the reconstruction.
        state: give it back to `solve` to go on exactly where this solve ended.
        status: why the loop ended: "converged" (tolerance met), "iterations" or "time" (limit
            reached), "stopped" (by a callback), "interrupted" (Ctrl-C).
        history: a record per check: iteration, seconds, change, objective, and what `step` told.
        seconds: wall time of the loop.
    """

    x: Tensor
    state: State
    status: Status
    history: list[dict[str, float]]
    seconds: float


Callback = Callable[[State, dict[str, float]], object]


def solve(
    solver: Solver,
    problem: Problem,
    *,
    x0: Tensor | None = None,
    state: State | None = None,
    iterations: int = 100,
    tolerance: float | None = None,
    seconds: float | None = None,
    check_every: int = 10,
    objective: bool = False,
    callbacks: Iterable[Callback] = (),
) -> Solution:
    """Repeat ``solver.step`` until the change is small, a limit is reached or someone stops it.

    A solve that is stopped and resumed with ``state=`` gives the same bits as one that ran
    through, because steps are pure and checks happen at multiples of ``check_every``.

    Args:
        solver: the algorithm.
        problem: the data term.
        x0: first estimate; solvers start from zero without one.
        state: a state to go on from (of an earlier `Solution`, or read from a file).
        iterations: total number, those of a resumed state counted in.
        tolerance: stop when ``‖x_k − x_{k−1}‖ / ‖x_k‖`` is below it for every batch element.
        seconds: stop at the first check after so much wall time.
        check_every: iterations between checks; a check costs a few reductions.
        objective: record ``D(x) + g(x)`` at each check (one more forward).
        callbacks: called at each check with the state and its record; a true result stops.

    Raises:
        SolverError: data with NaN, negative weights, or a method that can not treat the problem.
        DivergenceError: an iterate is not finite.
    """
    if iterations < 1 or check_every < 1:
        raise SolverError("iterations and check_every must be at least 1")
    if solver.one_step:
        iterations = 1
    if solver.random:
        tolerance = None
    solver.check(problem)
    problem.validate()
    begin = time.perf_counter()
    problem = problem.prepare()
    current = solver.init(problem, x0) if state is None else state
    history: list[dict[str, float]] = []
    status: Status = "iterations"
    watchers = list(callbacks)
    try:
        for previous, following, told in _steps(solver, problem, current, iterations):
            current = following
            if current.k % check_every and current.k != iterations:
                continue
            record = _record(solver, problem, previous, current, told, objective)
            record["seconds"] = time.perf_counter() - begin
            history.append(record)
            if tolerance is not None and record["change"] <= tolerance:
                status = "converged"
                break
            answers = [watch(current, record) for watch in watchers]
            if any(answers):
                status = "stopped"
                break
            if seconds is not None and record["seconds"] >= seconds:
                status = "time"
                break
    except KeyboardInterrupt:
        # `current` is the last complete state: a step interrupted half-way never replaced it.
        status = "interrupted"
    elapsed = time.perf_counter() - begin
    return Solution(solver.estimate(current), current, status, history, elapsed)


def _steps(
    solver: Solver, problem: Problem, state: State, iterations: int
) -> Iterator[tuple[State, State, dict[str, Any]]]:
    while state.k < iterations:
        previous = state
        state, told = solver.step(problem, state)
        yield previous, state, told


def _record(
    solver: Solver,
    problem: Problem,
    previous: State,
    state: State,
    told: dict[str, Any],
    objective: bool,
) -> dict[str, float]:
    with torch.no_grad():
        x, before = solver.estimate(state), solver.estimate(previous)
        ndim = problem.operator.domain.ndim
        # One transfer for both: a check costs next to nothing, on a GPU too.
        norms = torch.stack([squared_norm(x, ndim), squared_norm(x - before, ndim)]).reshape(2, -1)
        sizes, moves = norms.tolist()
        if not all(map(math.isfinite, sizes)):
            raise DivergenceError(
                f"{solver.name}: the estimate is not finite after iteration {state.k}; the step "
                "size is too large for this operator, or the data hold impossible values"
            )
        tiny = torch.finfo(norms.dtype).tiny
        changes = [(m / max(s, tiny)) ** 0.5 for m, s in zip(moves, sizes, strict=True)]
        record = {"iteration": float(state.k), "change": max(changes, default=0.0)}
        if objective:
            try:
                record["objective"] = float(solver.objective(problem, x).sum())
            except ImplicitPriorError:
                record["data_term"] = float(problem.loss(x).sum())
    record.update({key: float(value) for key, value in told.items()})
    return record
