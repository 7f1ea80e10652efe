"""DetNet: which of a few values each sample has, by unfolded projected gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.functional import Map
from labrecon.networks.unrolled import Unrolled
from labrecon.noise import Gaussian
from labrecon.options import number, whole
from labrecon.priors.finite_set import FiniteSet
from labrecon.problem import Problem, SolverError
from labrecon.seeds import seeded
from labrecon.solver import Solver, State, constant, pick

__all__ = ["DetNetLayer", "DetNetStep", "make_detnet"]

#: Numbers to learn: 4 GiB in single precision, four times as much with gradients and Adam.
_MOST = 2**30


@dataclass(frozen=True)
class DetNetState(State):
    """Estimate, marks of each value (…, n · values), memory (…, m), and ``Aᴴy``."""

    x: Tensor
    marks: Tensor
    memory: Tensor
    backprojection: Tensor = constant()


class DetNetLayer(nn.Module):
    """``z = relu(W₁[q; v] + b₁)``, and from it the marks ``W₂z + b₂`` and memory ``W₃z + b₃``.

    Args:
        size: ``n``, samples of the object.
        values: how many values a sample may have.
        hidden: of ``z``.
        memory: of ``v``.
    """

    def __init__(self, size: int, values: int, hidden: int, memory: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size + memory, hidden)
        self.marks = nn.Linear(hidden, size * values)
        self.memory = nn.Linear(hidden, memory)
        #: ``δ₁`` and ``δ₂`` of the gradient's two terms.
        self.rates = nn.Parameter(torch.zeros(2))
        for linear in (self.hidden, self.marks, self.memory):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.normal_(linear.bias, std=0.01)

    def forward(self, q: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Marks and memory."""
        z = self.hidden(torch.cat([q, memory], -1)).relu()
        return self.marks(z), self.memory(z)


class DetNetStep(Solver):
    """A projected gradient step whose projection onto a finite set is learned.

    ``q = x − δ₁ Aᴴy + δ₂ AᴴA x``, then the layer's marks ``o`` and memory ``v``, each mixed with
    what it was: ``o ← (1 − r) o' + r o``. Each sample has one mark per value, near 1 for the right
    one, and ``x = Σᵢ aᵢ oᵢ`` (Samuel, Diskin and Wiesel 2017, 2019, with the one-hot marks of the
    released code in place of the paper's soft sign). The data enter as ``Aᴴy`` and ``AᴴA`` alone:
    any linear operator, also another one for each batch element. Trained for one statistics of
    operators and one size.

    Args:
        layers: one per iteration.
        values: ``aᵢ``, real.
        mixing: ``r``, between 0 and 1.

    Raises:
        SolverError: the numbers make no sense.
    """

    state_type = DetNetState
    needs_linear = True
    values: Tensor

    def __init__(
        self, layers: Sequence[DetNetLayer], values: Sequence[float], *, mixing: float = 0.9
    ) -> None:
        super().__init__()
        points = torch.as_tensor(values)
        if points.ndim != 1 or points.is_complex() or not len(layers):
            raise SolverError("DetNet needs a layer at least, and a list of real values")
        self.samples = layers[0].marks.out_features // len(points)
        self.memory = layers[0].memory.out_features
        self.layers = nn.ModuleList(layers)
        self.register_buffer("values", points.to(layers[0].rates.dtype))
        self.mixing = number("DetNet: mixing", mixing, at_least=0, below=1, error=SolverError)

    def check(self, problem: Problem) -> None:
        """Raise `SolverError` at another noise, a complex object, or one of another size."""
        super().check(problem)
        _require_real(problem)
        domain = problem.operator.domain
        if domain.size != self.samples:
            raise SolverError(
                f"this DetNet was made for {self.samples} samples; {problem.operator.name} "
                f"has {domain.size}"
            )
        if not isinstance(problem.noise, Gaussian):
            raise SolverError("DetNet sees Aᴴy and AᴴA, which is all there is of Gaussian noise")

    def init(self, problem: Problem, x0: Tensor | None = None) -> DetNetState:
        """Zeros, or ``x0`` without marks."""
        x = self.start(problem, x0)
        lead = x.shape[: x.ndim - problem.operator.domain.ndim]
        back = problem.operator.adjoint(problem.weighted(problem.data))
        marks = x.new_zeros(*lead, self.samples * len(self.values))
        return DetNetState(0, x, marks, x.new_zeros(*lead, self.memory), back)

    def step(self, problem: Problem, state: DetNetState) -> tuple[DetNetState, dict[str, Any]]:
        """One learned step."""
        x, ndim = state.x, problem.operator.domain.ndim
        layer: Any = pick(self.layers, state.k)
        first, second = layer.rates
        normal = _normal(problem)(x)
        q = x - first * state.backprojection + second * normal
        marks, memory = layer(q.flatten(x.ndim - ndim), state.memory)
        r = self.mixing
        marks = (1 - r) * marks + r * state.marks
        memory = (1 - r) * memory + r * state.memory
        x = (marks.unflatten(-1, (-1, len(self.values))) @ self.values).reshape(x.shape)
        return DetNetState(state.k + 1, x, marks, memory, state.backprojection), {}


def _normal(problem: Problem) -> Map:
    """``AᴴWA``, as a prepared problem has it at hand."""
    if problem.prepared is not None:
        return problem.prepared.normal
    return problem.operator.normal_map(problem.weights)


def _require_real(problem: Problem) -> None:
    domain = problem.operator.domain
    if domain.dtype.is_complex:
        raise SolverError(
            f"DetNet's values are real; {problem.operator.name} has {domain.dtype}: stack real "
            "and imaginary part"
        )


def make_detnet(
    problem: Problem,
    *,
    depth: int = 30,
    values: Sequence[float] = (-1.0, 1.0),
    hidden: int | None = None,
    memory: int | None = None,
    mixing: float = 0.9,
    scale: float = 1.0,
    seed: int = 0,
) -> Unrolled:
    """DetNet for objects whose samples have one of a few values.

    Its output is soft: ``FiniteSet(values)`` decides. Train it with
    `labrecon.learners.LayerLoss`, on an operator drawn anew for each sample where the operator is
    not known beforehand (`labrecon.operators.BatchedMatrix`). Not for large images: its layers are
    dense.

    Args:
        problem: an example: its operator gives the size.
        depth: number of layers.
        values: that a sample may have.
        hidden: units of a layer; None for four per sample.
        memory: numbers that a layer hands to the next; None for two per sample.
        mixing: share that marks and memory keep from layer to layer.
        scale: not used: ``values`` are in the object's unit.
        seed: of the first weights.

    Raises:
        SolverError: a number is wrong, or the values are not; a complex object, or one so large
            that the layers would have more than 2³⁰ numbers.
    """
    _require_real(problem)
    size = problem.operator.domain.size
    depth = whole("DetNet: depth", depth, error=SolverError)
    hidden = whole("DetNet: hidden", 4 * size if hidden is None else hidden, error=SolverError)
    memory = whole("DetNet: memory", 2 * size if memory is None else memory, error=SolverError)
    points = FiniteSet(values).values.tolist()
    numbers = depth * hidden * (size + 2 * memory + size * len(points))
    if numbers > _MOST:
        raise SolverError(
            f"DetNet of {depth} dense layers for an object of {size:,} samples has {numbers:.1e} "
            f"numbers to learn, more than {_MOST:.1e}: give smaller hidden= and memory=, or take "
            "a network of convolutions"
        )
    with seeded(seed):
        layers = [DetNetLayer(size, len(points), hidden, memory) for _ in range(depth)]
    solver = DetNetStep(layers, points, mixing=mixing)
    return Unrolled(solver.to(problem.operator.domain.real_dtype), depth)
