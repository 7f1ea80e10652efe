"""Unrolled layers of which only some states are stored; the others are computed again."""

from __future__ import annotations

import math
from functools import partial

from labrecon.networks.recompute import Pieces
from labrecon.networks.walk import Walked, walk
from labrecon.problem import Problem
from labrecon.solver import Solver, State

__all__ = ["checkpointed", "segment_length"]


def segment_length(depth: int, every: int | None) -> int:
    """``every``, or about ``√depth``, which needs the least memory."""
    return min(every or math.ceil(math.sqrt(depth)), depth)


def checkpointed(
    solver: Solver, problem: Problem, state: State, depth: int, every: int, *, trace: bool
) -> Walked:
    """`walk` that keeps the state before each segment of ``every`` layers (Chen et al. 2016).

    Backward computes a segment again from it: memory for ``depth / every`` states and the
    derivatives of ``every`` layers, for one more forward pass. The gradient is the same to the bit.
    """
    pieces = Pieces((solver, problem.operator), problem.data.device)
    walked = Walked(state, [], [])
    for start in range(0, depth, every):
        segment = partial(walk, solver, problem, layers=min(every, depth - start), trace=trace)
        before = partial(_same, detached(walked.state))
        part = pieces.run(segment, walked.state, before)
        walked = Walked(part.state, walked.told + part.told, walked.estimates + part.estimates)
    return walked


def _same(state: State) -> State:
    return state


def detached(state: State) -> State:
    """The state outside the graph."""
    return state.with_tensors({name: t.detach() for name, t in state.tensors().items()})
