"""The learned primal-dual method (Adler and Öktem 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.networks.unrolled import Unrolled
from labrecon.networks.update_network import update, update_network
from labrecon.operator import Operator
from labrecon.options import flag, number, whole
from labrecon.priors.channels import channel_count, from_channels, to_channels
from labrecon.problem import Problem
from labrecon.seeds import seeded
from labrecon.solver import Solver, SolverError, State, pick
from labrecon.space import Space

__all__ = ["LearnedPrimalDual", "PrimalDualState", "make_lpd"]


@dataclass(frozen=True)
class PrimalDualState(State):
    """The estimate, and channels of object and data.

    Attributes:
        x: ``scale · f⁽¹⁾``.
        primal: ``f``, ``(*lead, channels, *image)`` in units of the object's scale.
        dual: ``h``, ``(*lead, channels, *data)`` likewise.
    """

    x: Tensor
    primal: Tensor
    dual: Tensor


class LearnedPrimalDual(Solver):
    """``h ← h + Γ(h, Âf⁽²⁾, ŷ)``, ``f ← f + Λ(f, Âᴴh⁽¹⁾)``: networks in place of `PDHG`'s proxes.

    ``Â = A / norm`` and ``ŷ = y / (norm · scale)``, so that everything is of size one. ``f`` and
    ``h`` hold several images and data arrays each; ``A`` reads the second ``f``, ``Aᴴ`` and the
    result the first (Adler and Öktem 2018, algorithm 3). For a nonlinear operator ``Aᴴ`` is that of
    the Jacobian at ``f⁽¹⁾``. Networks that compute the exact proxes make it PDHG.

    The noise of the problem has no say: the networks learn it. Weights are a mask: the networks do
    not see samples of weight 0, and all others count alike. Not where data vary in dose or geometry
    beyond those trained on.

    Args:
        primal_network: ``Λ``, from ``primal + 1`` images to ``primal``, as real channels
            ``(batch, channels, *image)``; one for all layers, or a list of one each.
        dual_network: ``Γ``, from ``dual + 2`` data arrays to ``dual``.
        primal: how many images ``f`` holds.
        dual: how many data arrays ``h`` holds.
        axes: image axes of the object; leading ones (slices) are treated one by one.
        data_axes: likewise of the data.
        norm: ``‖A‖``, or the like for a nonlinear operator.
        scale: typical size of the object's values.

    Raises:
        SolverError: a number is wrong.
    """

    state_type = PrimalDualState

    def __init__(
        self,
        primal_network: nn.Module | nn.ModuleList,
        dual_network: nn.Module | nn.ModuleList,
        *,
        primal: int = 5,
        dual: int = 5,
        axes: int = 2,
        data_axes: int = 2,
        norm: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.primal_network = primal_network
        self.dual_network = dual_network
        self.primal = whole("primal", primal, error=SolverError)
        self.dual = whole("dual", dual, error=SolverError)
        self.axes = whole("axes", axes, error=SolverError)
        self.data_axes = whole("data_axes", data_axes, error=SolverError)
        self.norm = number("norm", norm, above=0, error=SolverError)
        self.scale = number("scale", scale, above=0, error=SolverError)

    def init(self, problem: Problem, x0: Tensor | None = None) -> PrimalDualState:
        """Zeros, as published; or ``x0`` in all primal channels."""
        x = self.start(problem, x0)
        spaces = {"object": (self.axes, problem.operator.domain)}
        spaces["data"] = self.data_axes, problem.operator.range
        for what, (axes, space) in spaces.items():
            if axes > space.ndim:
                raise SolverError(f"{self.name}: {axes} axes of the {what}, which has {space.ndim}")
        primal = to_channels([x / self.scale] * self.primal, self.axes)
        dual = torch.zeros_like(to_channels([problem.data] * self.dual, self.data_axes))
        return PrimalDualState(0, x, primal, dual)

    def step(
        self, problem: Problem, state: PrimalDualState
    ) -> tuple[PrimalDualState, dict[str, Any]]:
        """One dual update, which sees the data, and one primal update."""
        operator, size = problem.operator, self.norm * self.scale
        point = self._image(state.primal, min(1, self.primal - 1), operator.domain)
        arrays = [self._seen(problem, a) / size for a in (operator(point), problem.data)]
        channels = torch.cat([state.dual, to_channels(arrays, self.data_axes)], -self.data_axes - 1)
        outputs = self.dual * channel_count(operator.range.dtype)
        network = pick(self.dual_network, state.k)
        dual = state.dual + update(network, channels, self.data_axes, outputs)

        back = self._back(problem, state, dual) / self.norm
        channels = torch.cat([state.primal, to_channels([back], self.axes)], -self.axes - 1)
        outputs = self.primal * channel_count(operator.domain.dtype)
        network = pick(self.primal_network, state.k)
        primal = state.primal + update(network, channels, self.axes, outputs)
        x = self._image(primal, 0, operator.domain)
        return PrimalDualState(state.k + 1, x, primal, dual), {}

    def _image(self, primal: Tensor, index: int, domain: Space) -> Tensor:
        """One image of ``f`` in the unit of the object."""
        each = channel_count(domain.dtype)
        part = self.scale * primal.narrow(-self.axes - 1, index * each, each)
        return from_channels(part, domain.dtype, self.axes)[0]

    def _back(self, problem: Problem, state: PrimalDualState, dual: Tensor) -> Tensor:
        operator = problem.operator
        each = channel_count(operator.range.dtype)
        part = dual.narrow(-self.data_axes - 1, 0, each)
        first = self._seen(problem, from_channels(part, operator.range.dtype, self.data_axes)[0])
        if operator.linear:
            return operator.adjoint(first)
        return operator.vjp(self._image(state.primal, 0, operator.domain), first)

    @staticmethod
    def _seen(problem: Problem, data: Tensor) -> Tensor:
        if problem.weights is None:
            return data
        return torch.where(problem.weights > 0, data, torch.zeros_like(data))


def make_lpd(
    problem: Problem,
    *,
    depth: int = 10,
    features: int = 32,
    primal: int = 5,
    dual: int = 5,
    tied: bool = False,
    norm: float | None = None,
    scale: float = 1.0,
    seed: int = 0,
) -> Unrolled:
    """The learned primal-dual network from zeros, for any operator.

    Its update networks have three convolutions with a PReLU per channel; with 10 layers and two
    image axes there are 253 220 parameters, as published.

    Args:
        problem: an example: its operator gives axes, dtypes and norm.
        depth: number of layers.
        features: channels between the convolutions.
        primal: images of the object that a layer hands to the next.
        dual: arrays of the data likewise.
        tied: one pair of networks for all layers, or one each, as published.
        norm: None for ``‖A‖`` (linear operators).
        scale: typical size of the object's values.
        seed: of the first weights.

    Raises:
        SolverError: a number is wrong, or a nonlinear operator comes without a norm.
    """
    operator = problem.operator
    axes, data_axes = min(2, operator.domain.ndim), min(2, operator.range.ndim)
    each, each_data = channel_count(operator.domain.dtype), channel_count(operator.range.dtype)
    depth = whole("depth", depth, error=SolverError)
    primal = whole("primal", primal, error=SolverError)
    dual = whole("dual", dual, error=SolverError)
    layers = 1 if flag("tied", tied, error=SolverError) else depth
    duals, primals = nn.ModuleList(), nn.ModuleList()
    with seeded(seed):
        for _ in range(layers):
            inputs, outputs = each_data * (dual + 2), each_data * dual
            options: dict[str, Any] = {"features": features, "activation": "prelu"}
            duals.append(update_network(data_axes, inputs, outputs, **options))
            inputs, outputs = each * (primal + 1), each * primal
            primals.append(update_network(axes, inputs, outputs, **options))
    solver = LearnedPrimalDual(
        primals.to(operator.domain.real_dtype),
        duals.to(operator.range.real_dtype),
        primal=primal,
        dual=dual,
        axes=axes,
        data_axes=data_axes,
        norm=norm_of(operator) if norm is None else norm,
        scale=scale,
    )
    return Unrolled(solver, depth)


def norm_of(operator: Operator) -> float:
    """``‖A‖``.

    Raises:
        SolverError: the operator is nonlinear, or zero.
    """
    if not operator.linear:
        raise SolverError(
            f"{operator.name} is nonlinear and has no norm: give the network norm=, the size of "
            "A(x) over that of a typical x"
        )
    size = operator.norm()
    if not size > 0:
        raise SolverError(f"{operator.name} is zero")
    return size
