"""Unrolled: a solver's steps as the layers of a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from labrecon.networks.checkpointed import checkpointed, segment_length
from labrecon.networks.learnable import with_learned
from labrecon.networks.memory import fastest_that_fits
from labrecon.networks.reversed import Reversal, place_waypoints, reversible
from labrecon.networks.walk import Walked, walk
from labrecon.options import number, whole
from labrecon.prior import NotInvertibleError, Prior
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstruction, Reconstructor
from labrecon.solver import Solver, SolverError, State

__all__ = ["Memory", "Unrolled", "first_estimate"]

#: Where a network starts: by name, or a module from data to a first estimate.
Start = str | nn.Module
STARTS = ("zero", "adjoint", "initial")

#: What a training step keeps of its layers.
Memory = Literal["store", "checkpoint", "invert", "auto"]

#: An error of reversal at which waypoints are placed anew, as a part of the tolerance.
WORN = 1 / 3


class Unrolled(Reconstructor):
    """``depth`` steps of a solver as a network, whose numbers and priors can be learned.

    Untrained it is the solver, stopped after ``depth`` iterations. The mode of ``memory`` changes
    what a training step costs, not what it computes:

    ============  ==============================  ======================================
    memory        keeps                           computes besides forward and backward
    ============  ==============================  ======================================
    "store"       the derivatives of all layers   nothing
    "checkpoint"  a state every ``√depth`` layers,  one more forward pass
                  the derivatives of as many
    "invert"      a few states, the derivatives   one more forward pass, and the inverse
                  of one layer                    of each layer
    "auto"        as of the first of these that fits ``budget``
    ============  ==============================  ======================================

    "invert" is memory-efficient learning (Kellman et al. 2020): layers are recomputed backwards
    from the output by `Solver.inverse`. That multiplies rounding errors in each layer, so some
    states are stored as waypoints, and what is recomputed is compared with them: a gradient that
    would be wrong is refused with a `ReversalError`. Not for steps near ``1/L`` or priors that
    forget (soft thresholding, projections): take "checkpoint".

    Args:
        solver: its `step` is a layer. Parameters that it has already are used as they are.
        depth: number of layers.
        tied: where ``learn`` makes parameters: one set for all layers, rather than one each.
        learn: what becomes learnable, see `labrecon.networks.learnable.with_learned`; the solver
            that was given stays as it is.
        start: "zero", "adjoint" (``Aᴴ y``), "initial" (the operator's own), or a module that is
            called with the data.
        problem: an example, where ``learn`` names a step size that is found from the operator.
        memory: see above.
        every: for "checkpoint": layers per segment; None for ``√depth``.
        waypoints: for "invert": None to find by trial, in the first forward pass, how far back the
            reversal is accurate (again when training has changed that); a number of layers from
            one to the next; or 0 for none.
        tolerance: for "invert": largest relative error of a recomputed state.
        budget: for "auto": bytes; None for the memory that is available.

    Raises:
        SolverError: depth, start, a name in ``learn`` or a memory option is wrong.
        NotInvertibleError: "invert" for a solver or prior without an inverse.
    """

    #: 1 for layers before which a state is stored, 0 for the others, -1 before that was tried.
    #: It is part of the state dict, so that a training that is continued gives the same bits.
    placed: Tensor

    def __init__(
        self,
        solver: Solver,
        depth: int,
        *,
        tied: bool = False,
        learn: Iterable[str] = (),
        start: Start = "zero",
        problem: Problem | None = None,
        memory: Memory = "store",
        every: int | None = None,
        waypoints: int | None = None,
        tolerance: float = 1e-4,
        budget: float | None = None,
    ) -> None:
        super().__init__()
        self.depth = whole("depth", depth, error=SolverError)
        learned = list(learn)
        if learned:
            solver = with_learned(solver, learned, depth, tied=tied, problem=problem)
        self.solver = solver
        if isinstance(start, str) and start not in STARTS:
            raise SolverError(f"start is a module or one of {', '.join(STARTS)}, got {start!r}")
        self.start = start
        if memory not in get_args(Memory):
            raise SolverError(f"memory is one of {', '.join(get_args(Memory))}, got {memory!r}")
        self.memory: Memory = memory
        self.every = None if every is None else whole("every", every, error=SolverError)
        self.waypoints = waypoints
        if waypoints is not None:
            whole("waypoints", waypoints, at_least=0, error=SolverError)
        self.tolerance = number("tolerance", tolerance, above=0, error=SolverError)
        self.budget = (
            None if budget is None else number("budget", budget, above=0, error=SolverError)
        )
        self._modes: dict[Any, Memory] = {}
        if memory == "invert":
            require_inverse(solver)
        if memory in ("invert", "auto"):
            self._begin_placing()

    def reconstruct(
        self, problem: Problem, x0: Tensor | None = None, *, trace: bool = False
    ) -> Reconstruction:
        """The estimate after the last layer."""
        self.solver.check(problem)
        problem = problem.prepare()
        state = self.first_state(problem, x0)
        walked = self._walk(problem, state, trace)
        losses: dict[str, Tensor] = {}
        for told in walked.told:
            for name, value in told.items():
                if isinstance(value, Tensor):
                    losses[name] = losses[name] + value if name in losses else value
        x = self.solver.estimate(walked.state)
        told = {"iterations": float(self.depth)}
        return Reconstruction(x, losses, told, trace=tuple(walked.estimates))

    def first_state(self, problem: Problem, x0: Tensor | None = None) -> State:
        """The state before the first layer."""
        return self.solver.init(problem, first_estimate(self.start, problem, x0))

    def _walk(self, problem: Problem, state: State, trace: bool) -> Walked:
        mode = self.mode(problem) if torch.is_grad_enabled() else "store"
        if mode == "checkpoint":
            every = segment_length(self.depth, self.every)
            return checkpointed(self.solver, problem, state, self.depth, every, trace=trace)
        if mode == "invert":
            reversal = Reversal(self.solver, problem, self.tolerance, self._watch)
            waypoints = self.stored_layers(problem, state)
            return reversible(reversal, state, self.depth, waypoints, trace=trace)
        return walk(self.solver, problem, state, self.depth, trace=trace)

    def mode(self, problem: Problem) -> Memory:
        """``memory``; for "auto" the fastest mode that fits, tried once per size of the data."""
        if self.memory != "auto":
            return self.memory
        key = (problem.data.shape, problem.data.device, self.training)
        if key not in self._modes:
            self._modes[key] = fastest_that_fits(self, problem, self.budget)
        return self._modes[key]

    def stored_layers(self, problem: Problem, state: State) -> list[int]:
        """The layers before which "invert" stores a state, the first apart."""
        if self.waypoints is not None:
            return list(range(self.waypoints, self.depth, self.waypoints)) if self.waypoints else []
        placed = self.placed.tolist()
        if -1 in placed:
            layers = place_waypoints(self.solver, problem, state, self.depth, self.tolerance)
            placed = [int(layer in layers) for layer in range(self.depth)]
            self.placed.copy_(torch.tensor(placed, dtype=torch.int8))
        return [layer for layer, stored in enumerate(placed) if stored]

    def _watch(self, error: float) -> None:
        if self.waypoints is None and error > WORN * self.tolerance:
            self.placed.fill_(-1)

    def variant(self, depth: int, memory: Memory, **options: int) -> Unrolled:
        """The same network, with the same parameters, of another depth and mode of memory."""
        other = copy.copy(self)
        other._buffers = {}
        other.depth, other.memory = depth, memory
        for name, value in options.items():
            setattr(other, name, value)
        if memory == "invert":
            require_inverse(self.solver)
            other._begin_placing()
        return other

    def _begin_placing(self) -> None:
        if self.waypoints is None:
            unknown = torch.full((self.depth,), -1, dtype=torch.int8)
            self.register_buffer("placed", unknown)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Weights trained in one mode of memory serve in any other.
        key = f"{prefix}placed"
        own = self._buffers.get("placed")
        if own is None or state_dict.get(key, own).shape != own.shape:
            state_dict.pop(key, None)
        if own is not None:
            state_dict.setdefault(key, own)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def require_inverse(solver: Solver) -> None:
    """Raise where layers of a solver can not be undone, naming what to take instead.

    Raises:
        NotInvertibleError: the solver, or a prior of it, has no inverse.
    """
    remedy = 'take memory="checkpoint"'
    if type(solver).inverse is Solver.inverse:
        raise NotInvertibleError(f"{solver.name} has no inverse step: {remedy}")
    held = getattr(solver, "prior", None)
    for prior in held if isinstance(held, nn.ModuleList) else [held]:
        if isinstance(prior, Prior) and type(prior).inverse is Prior.inverse:
            raise NotInvertibleError(
                f"the prox of {type(prior).__name__} has no inverse, so layers can not be "
                f"recomputed: take LeakyL1, Tikhonov or a residual network as prior, or {remedy}"
            )


def first_estimate(start: Start, problem: Problem, x0: Tensor | None) -> Tensor | None:
    """``x0`` if given, else what ``start`` says; None for zeros."""
    if x0 is not None or start == "zero":
        return x0
    if isinstance(start, nn.Module):
        made: Tensor = start(problem.data)
        return made
    makers: dict[str, Callable[[Tensor], Tensor]] = {
        "adjoint": problem.operator.adjoint,
        "initial": problem.operator.initial,
    }
    return makers[start](problem.data)
