"""The adapted network: built from the trained one, and described so that it is built again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from labrecon.adapt.order import Order
from labrecon.errors import ModelError
from labrecon.io.model import ModelCard, SpaceCard
from labrecon.io.provenance import versions
from labrecon.networks.calibrated import Calibrated
from labrecon.networks.reused import make_reused
from labrecon.networks.unrolled import Unrolled
from labrecon.operator import Operator
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor
from labrecon.solvers.trained import with_unit_noise

__all__ = ["Made", "adapted", "card_of", "posed"]


@dataclass(frozen=True)
class Made:
    """The network on its way.

    Attributes:
        network: what is adapted: R&R around the trained one, or that one itself.
        inner: the trained one.
        operator: ``A₁``, in which nuisances may be on their way, too.
        first: their values before.
    """

    network: Reconstructor
    inner: Reconstructor
    operator: Operator
    first: Mapping[str, Tensor]

    def finished(self) -> Reconstructor:
        """The network for scans of the operator as it was before."""
        self.network.eval()
        if not self.first:
            return self.network
        values = self.operator.current(*self.first)
        # What the network is given is the operator of a file, without the calibration.
        self.operator.place(self.first)
        return Calibrated(self.network, values).eval()


def posed(order: Order, problem: Problem) -> Problem:
    """The problem as the network takes it."""
    return with_unit_noise(problem) if order.parent.card.data_term == "unit" else problem


def adapted(order: Order) -> Made:
    """The network before anything is trained.

    Raises:
        ModelError: it can not be built for the new operator, or R&R not with it.
    """
    operator = order.operator
    first = operator.current(*order.recipe.calibrate)
    if order.recipe.method in ("pp", "transfer"):
        network = order.parent.build(posed(order, order.problems[0]), order.host)
        return Made(network, network, operator, first)
    network = reused(order)
    return Made(network, _inner(network), operator, first)


def reused(order: Order) -> Unrolled:
    """R&R with the network as it was trained.

    Raises:
        ModelError: the new operator is not linear, or the network can not be built.
    """
    card, example = order.parent.card, posed(order, order.problems[0])
    common: dict[str, Any] = {"scale": card.scale, "seed": card.seed, "host": order.host}
    try:
        made = make_reused(example, **_reuse_options(order), **common)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{order.parent.folder} can not be reused: {error}") from error
    _inner(made).load_state_dict(dict(order.parent.tensors))
    return made.eval()


def _inner(made: Unrolled) -> Reconstructor:
    """The trained network inside R&R."""
    network: Any = made.solver.prior.network  # type: ignore[union-attr]
    return network


def _reuse_options(order: Order) -> dict[str, Any]:
    card = order.parent.card
    return {
        "network": card.network,
        "options": order.parent.options,
        "instrument": order.asked,
        "geometry": order.old.model_dump(mode="json"),
        "operator": card.operator,
        "data_term": card.data_term,
        "coupling": order.recipe.coupling,
        "iterations": order.recipe.iterations,
    }


def card_of(order: Order, made: Made, network: Reconstructor) -> ModelCard:
    """What ``model.json`` says of the adapted network: for the geometry of the scans."""
    card, operator = order.parent.card, order.operator
    name, options = card.network, order.parent.options
    if order.recipe.method in ("rr", "rr+"):
        name, options = "reused", _reuse_options(order)
    if isinstance(network, Calibrated):
        values = {key: value.tolist() for key, value in network.nuisances.items()}
        name, options = "calibrated", {"network": name, "options": options, "nuisances": values}
    return ModelCard(
        network=name,
        options=options,
        scale=card.scale,
        seed=card.seed,
        data_term=card.data_term,
        instrument=card.instrument,
        geometry=order.geometry.model_dump(mode="json"),
        operator=card.operator,
        prepare=card.prepare,
        domain=SpaceCard.of(operator.domain),
        range=SpaceCard.of(operator.range),
        parameters=sum(p.numel() for p in made.inner.parameters()),
        versions=versions(order.host),
    )
