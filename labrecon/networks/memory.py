"""What a training step of an unrolled network needs in memory, predicted and measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labrecon.networks.checkpointed import segment_length
from labrecon.networks.meter import available, counted_peak, measured_peak
from labrecon.networks.reversed import ReversalError
from labrecon.networks.walk import walk
from labrecon.prior import NotInvertibleError
from labrecon.problem import Problem
from labrecon.solver import SolverError, State

if TYPE_CHECKING:
    from labrecon.networks.unrolled import Memory, Unrolled
    from labrecon.reconstructor import Reconstructor

__all__ = ["MemoryPlan", "advise", "fastest_that_fits", "measure_memory", "plan_memory"]

#: From the fastest to the one that needs least.
MODES: tuple[Memory, ...] = ("store", "checkpoint", "invert")
#: How far a measured peak may be above the predicted one.
MARGIN = 1.25


@dataclass(frozen=True)
class MemoryPlan:
    """What a training step needs beyond what was there before it.

    Attributes:
        depth: number of layers.
        mode: of memory.
        bytes: at the peak of forward and backward pass, gradients of the parameters included, the
            optimiser's own state not.
    """

    depth: int
    mode: Memory
    bytes: int


def plan_memory(
    network: Unrolled,
    problem: Problem,
    depths: Iterable[int] | None = None,
    modes: Sequence[Memory] = MODES,
) -> list[MemoryPlan]:
    """Predicts the peak memory of a training step by depth and mode, within 25 %.

    Training steps of the network cut down to a few layers are run and their tensors counted (on
    CUDA: what is allocated); from these follows what a layer, a stored state and the rest need.

    Args:
        network: its parameters serve; depth and mode are varied.
        problem: an example of the size to train on: object, data, batch, device.
        depths: by default the network's own.
        modes: by default all that the network can be trained in.

    Raises:
        SolverError: nothing in the network or the operator has gradients on.
    """
    depths = [network.depth] if depths is None else list(depths)
    costs = _Costs(network, problem)
    plans = []
    for depth in depths:
        for mode in modes:
            try:
                plans.append(MemoryPlan(depth, mode, costs.predict(depth, mode)))
            except (NotInvertibleError, ReversalError):
                continue
    return plans


def measure_memory(network: Unrolled, problem: Problem) -> MemoryPlan:
    """Measures the peak memory of a training step: resident set, or what CUDA has allocated.

    See `labrecon.networks.meter.measured_peak` for what is measured.

    Raises:
        RuntimeError: not on Linux or CUDA, or the training step fails.
        MemoryError: there is not enough memory.
        SolverError: nothing in the network or the operator has gradients on.
    """
    _learned(network, problem)
    mode = network.mode(problem)
    short = network.variant(min(2, network.depth), mode)
    peak = measured_peak(
        lambda: training_step(network, problem),
        problem.data.device,
        before=lambda: training_step(short, problem),
    )
    return MemoryPlan(network.depth, mode, peak)


def training_step(network: Unrolled, problem: Problem) -> tuple[Tensor | None, ...]:
    """Forward and backward pass; the gradients are returned, those of parameters untouched.

    Raises:
        SolverError: nothing in the network or the operator has gradients on.
    """
    learned = _learned(network, problem)
    problem = replace(problem, data=problem.data.detach())
    with torch.enable_grad():
        result = network.reconstruct(problem)
        x = torch.view_as_real(result.x) if result.x.is_complex() else result.x
        loss = x.square().mean() + sum(result.losses.values())
        return torch.autograd.grad(loss, learned, allow_unused=True)


def _learned(network: Unrolled, problem: Problem) -> list[Tensor]:
    modules = (network, problem.operator)
    learned: list[Tensor] = [
        p for module in modules for p in module.parameters() if p.requires_grad
    ]
    if not learned:
        raise SolverError("nothing to train: no parameter has gradients on (learn=…)")
    return learned


class _Costs:
    """What layers and states need, from training steps of two layers and of four."""

    def __init__(self, network: Unrolled, problem: Problem) -> None:
        self.network = network
        self.problem = replace(problem, data=problem.data.detach()).prepare()
        with torch.no_grad():
            self.start = network.first_state(self.problem)
            self.state = _growth(network, self.problem, self.start)
        self.few, gradients = self._peak(network.variant(2, "store"))
        self.inside = self._inside()
        more, more_gradients = self._peak(network.variant(4, "store"))
        self.layer = (more - self.few) / 2
        self.gradient = (more_gradients - gradients) / 2

    def predict(self, depth: int, mode: Memory) -> int:
        """Bytes at the peak."""
        return self.inside + self._counted(depth, mode)

    def _inside(self) -> int:
        """Bytes that operations take inside (convolutions), which the count on CPUs can not see."""
        if self.problem.data.device.type == "cuda":
            return 0
        short = self.network.variant(2, "store")
        try:
            return max(0, measure_memory(short, self.problem).bytes - self.few)
        except (RuntimeError, MemoryError):
            return 0

    def _counted(self, depth: int, mode: Memory) -> int:
        network = self.network
        if mode == "store":
            return int(self.few + self.layer * (depth - 2))
        if mode == "checkpoint":
            # Two segments of two layers, then longer ones, then more of them. Stored states have
            # gone when the last gradients come.
            every = segment_length(depth, network.every)
            peak, _ = self._peak(network.variant(4, mode, every=2))
            states = self.state * (ceil(depth / every) - 2)
            return int(peak + self.layer * (every - 2) + max(states, self.gradient * (depth - 4)))
        peak, _ = self._peak(network.variant(2, mode, waypoints=0))
        if depth != network.depth or network.memory not in ("invert", "auto"):
            network = network.variant(depth, mode)
        waypoints = len(network.stored_layers(self.problem, self.start))
        return int(peak + self.state * waypoints + self.gradient * (depth - 2))

    def _peak(self, network: Unrolled) -> tuple[int, int]:
        """Bytes of a training step at its peak, and those of its gradients."""
        gradients: list[int] = []

        def run() -> None:
            found = training_step(network, self.problem)
            gradients.append(sum(g.nbytes for g in found if g is not None))

        return counted_peak(run, self.problem.data.device), gradients[0]


def _growth(network: Unrolled, problem: Problem, state: State) -> int:
    """Bytes that storing one more state takes."""
    later = walk(network.solver, problem, state, 2, trace=False).state
    earlier = walk(network.solver, problem, state, 1, trace=False).state
    shared = {t.untyped_storage().data_ptr() for t in earlier.tensors().values()}
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage() for t in later.tensors().values()
    }
    return sum(s.nbytes() for key, s in storages.items() if key not in shared)


def fastest_that_fits(network: Unrolled, problem: Problem, budget: float | None = None) -> Memory:
    """The first of "store", "checkpoint" and "invert" whose training step fits ``budget`` bytes.

    If none does, the one that needs least. Without a budget, it is the memory that is available.
    """
    plans = plan_memory(network, problem)
    room = available(problem.data.device) if budget is None else budget
    fitting = [plan for plan in plans if MARGIN * plan.bytes <= room]
    chosen = fitting[0] if fitting else min(plans, key=lambda plan: plan.bytes)
    return chosen.mode


def advise(reconstructor: Reconstructor, problem: Problem) -> str:
    """What to do where memory did not suffice for a training step: a sentence for the user."""
    from labrecon.networks.unrolled import Unrolled

    smaller = "take a smaller batch or smaller objects"
    if not isinstance(reconstructor, Unrolled):
        return f"{type(reconstructor).__name__} has no modes of memory: {smaller}"
    try:
        plans = plan_memory(reconstructor, problem)
        room = available(problem.data.device)
    except (RuntimeError, MemoryError):
        return f"not even a few layers fit the memory: {smaller}"
    needs = ", ".join(f"{_size(plan.bytes)} with memory={plan.mode!r}" for plan in plans)
    told = (
        f"a training step of {reconstructor.depth} layers needs about {needs}; "
        f"{_size(room)} are available"
    )
    fitting = [plan for plan in plans if MARGIN * plan.bytes <= room]
    if not fitting:
        return f"{told}: {smaller}, or fewer layers"
    return f"{told}: take memory={fitting[0].mode!r}"


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
