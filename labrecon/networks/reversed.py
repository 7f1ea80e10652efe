"""Unrolled layers that are recomputed backwards, each from its output."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from math import prod

import torch
from torch import Tensor

from labrecon.networks.checkpointed import detached
from labrecon.networks.recompute import Pieces
from labrecon.networks.walk import Walked, walk
from labrecon.prior import NotInvertibleError
from labrecon.problem import Problem
from labrecon.solver import Solver, State
from labrecon.space import squared_norm

__all__ = ["Reversal", "ReversalError", "place_waypoints", "reversible"]

REMEDY = 'set waypoints closer, take smaller steps, or memory="checkpoint"'

#: Between the errors that waypoints are placed for and the tolerance.
MARGIN = 0.1


class ReversalError(ArithmeticError):
    """A state recomputed from later layers is not the one that was there: the gradient is wrong."""


class Reversal:
    """States recomputed from the last one, and compared with those that were stored.

    Args:
        solver: undoes a layer by `Solver.inverse`.
        problem: of this forward pass.
        tolerance: largest relative error of a recomputed state.
        watch: told each error that was found.
    """

    def __init__(
        self,
        solver: Solver,
        problem: Problem,
        tolerance: float,
        watch: Callable[[float], object] = lambda error: None,
    ) -> None:
        self.solver = solver
        self.problem = problem
        self.tolerance = tolerance
        self.watch = watch
        self.stored: dict[int, State] = {}
        self._current: tuple[int, State] | None = None

    def store(self, layer: int, state: State) -> None:
        """Keep the state before ``layer``."""
        self.stored[layer] = detached(state)

    def before(self, layer: int) -> State:
        """The state before ``layer``: recomputed; where one was stored, that, once compared.

        Raises:
            ReversalError: they differ, or a layer can not be undone.
        """
        at, state = self._current or (-1, None)
        if state is None or at < layer:
            # A new backward pass.
            at = min(stored for stored in self.stored if stored > layer)
            state = self.stored[at]
        while at > layer:
            at, state = at - 1, self._undone(at - 1, state)
        self._current = at, state
        return state

    def _undone(self, layer: int, after: State) -> State:
        before = undo(self.solver, self.problem, after, layer)
        stored = self.stored.get(layer)
        if stored is None:
            return before
        error = departure(before, stored, after, self.problem.batch)
        if not error <= self.tolerance:
            raise ReversalError(
                f"{self.solver.name}: recomputed backwards, the state before layer {layer} is off "
                f"by {error:.1e} of its norm (tolerance {self.tolerance:.1e}), and so would be the "
                f"gradients: {REMEDY}"
            )
        self.watch(error)
        return stored


def undo(solver: Solver, problem: Problem, after: State, layer: int) -> State:
    """The state before a layer."""
    try:
        with torch.no_grad():
            return solver.inverse(problem, after)
    except NotInvertibleError as error:
        raise ReversalError(f"layer {layer} can not be undone: {error}; {REMEDY}") from error


def departure(state: State, stored: State, after: State, batch: tuple[int, ...]) -> float:
    """``‖state − stored‖`` over the norm of it or of the next, the largest of the batch."""
    recomputed, later = state.tensors(constants=False), after.tensors(constants=False)
    error, size, next_size = (torch.zeros(prod(batch), device="cpu") for _ in range(3))
    for name, tensor in stored.tensors(constants=False).items():
        error = error + _squares(recomputed[name] - tensor, batch)
        size = size + _squares(tensor, batch)
        next_size = next_size + _squares(later[name], batch)
    size = torch.maximum(size, next_size)
    return float((error / torch.where(size > 0, size, 1.0)).amax().sqrt())


def _squares(tensor: Tensor, batch: tuple[int, ...]) -> Tensor:
    """The squared norm of each batch element."""
    count = prod(batch) if tuple(tensor.shape[: len(batch)]) == batch else 1
    return squared_norm(tensor.reshape(count, -1), 1).double().cpu()


def reversible(
    reversal: Reversal, state: State, depth: int, waypoints: Collection[int], *, trace: bool
) -> Walked:
    """`walk` that keeps the first state, the last, and those before the layers ``waypoints``.

    Backward recomputes layer by layer from the last state (Gomez et al. 2017; Kellman et al. 2020):
    memory for one layer, whatever the depth, for one more forward pass and the inverses.
    """
    solver, problem = reversal.solver, reversal.problem
    pieces = Pieces((solver, problem.operator), problem.data.device)
    walked = Walked(state, [], [])
    reversal.store(0, state)
    step = partial(walk, solver, problem, layers=1, trace=trace)
    for layer in range(depth):
        if layer in waypoints:
            reversal.store(layer, walked.state)
        part = pieces.run(step, walked.state, partial(reversal.before, layer))
        walked = Walked(part.state, walked.told + part.told, walked.estimates + part.estimates)
    reversal.store(depth, walked.state)
    return walked


@torch.no_grad()
def place_waypoints(
    solver: Solver, problem: Problem, state: State, depth: int, tolerance: float
) -> list[int]:
    """Layers before which a state must be stored for the error of reversal to stay low.

    Each is as far from the one before as layers can be undone down to it: by trying, with a margin
    of ten below ``tolerance`` for what training changes.

    Raises:
        ReversalError: a single layer can not be undone.
    """
    places: list[int] = []
    layer, state = 0, detached(state)
    while layer < depth:
        reach, state = _reach(solver, problem, state, layer, depth - layer, tolerance)
        layer += reach
        places.append(layer)
    return places[:-1]


def _reach(
    solver: Solver, problem: Problem, state: State, layer: int, most: int, tolerance: float
) -> tuple[int, State]:
    """How many layers from ``state`` on can be undone, and the state after them."""
    good, reached = 0, state
    bad = most + 1
    while bad - good > 1:
        tried = min(2 * good or 1, most) if bad > most else (good + bad) // 2
        after = walk(solver, problem, reached, tried - good, trace=False).state
        error = _error_back(solver, problem, state, after, tried)
        if error <= (tolerance if tried == 1 else MARGIN * tolerance):
            good, reached = tried, after
        else:
            bad = tried
    if not good:
        raise ReversalError(
            f"{solver.name}: layer {layer} can not be undone to {tolerance:.1e}: {REMEDY}"
        )
    return good, reached


def _error_back(solver: Solver, problem: Problem, start: State, end: State, layers: int) -> float:
    """The error after undoing ``layers`` layers from ``end``; infinite where one can not be."""
    after = end
    for _ in range(layers):
        try:
            following, after = after, solver.inverse(problem, after)
        except NotInvertibleError:
            return float("inf")
    return departure(after, start, following, problem.batch)
