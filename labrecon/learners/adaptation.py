"""Adaptation to a drifted operator: parametrise and perturb, and transfer learning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from labrecon.learners.self_supervised import Consistency, Risk, ScanBatch, SelfSupervised, Term
from labrecon.learners.supervised import Supervised
from labrecon.operator import Operator
from labrecon.options import number
from labrecon.reconstructor import Reconstructor

__all__ = ["Adaptation", "Anchor", "Misfit", "Transfer"]

Misfit = Literal["sure", "chi2"]


class Anchor:
    """``μ ‖θ − θ₀‖²``, which keeps a network near to what it was.

    Args:
        network: its parameters with gradients on, as they are now, are ``θ₀``.
        weight: ``μ``.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(self, network: nn.Module, weight: float) -> None:
        self.weight = number("anchor", weight, at_least=0)
        moving = [p for p in network.parameters() if p.requires_grad]
        self._pairs = [(p, p.detach().clone()) for p in moving]

    def __call__(self) -> Tensor:
        """The term; its gradient reaches the network."""
        total = torch.zeros(())
        for now, then in self._pairs:
            total = total.to(now.device) + (now - then.to(now)).abs().square().sum()
        return self.weight * total


class Adaptation(SelfSupervised):
    """P&P: ``argmin_θ misfit(y, A f(y; θ, A)) + μ ‖θ − θ₀‖²`` (Gilton, Ongie and Willett 2021).

    Parametrise and perturb: a network that was trained for another operator is changed as little as
    measured data ``y`` ask for, without truths. With the network of `labrecon.networks.reused` it
    is R&R+. The misfit is a `Term`, such as `labrecon.learners.imitation.Imitation` of R&R (then it
    is a fine-tuning towards R&R, and P&P no longer), or

    - "chi2", as published: ``‖y − A f(y)‖²`` in units of the noise. Minimised to its end it fits
      the noise: stop where it is 1. A network with data consistency inside, as MoDL, is below that
      from the first and only gets worse.
    - "sure": the risk ``‖A x − A f(y)‖²`` as Stein's estimate has it
      (`labrecon.learners.self_supervised.Risk`), which does not reward fitted noise.

    Nuisances of the operator for which `Adjustable.learn` was called are found beside the network:
    the new operator is then known up to these.

    Args:
        network: ``f``; parameters with gradients off stay as they are.
        operator: ``A``.
        misfit: "sure", "chi2", or a term; "sure" needs scans that state their noise.
        anchor: ``μ``.
        nuisance_rate: learning rate of nuisances; by default that of the network.
        **options: of `SelfSupervised`.

    Raises:
        ValueError: an unknown misfit or data term, or a negative anchor.
    """

    def __init__(
        self,
        network: Reconstructor,
        operator: Operator,
        *,
        misfit: Misfit | Term = "sure",
        anchor: float = 1e-3,
        nuisance_rate: float | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(misfit, Term) and misfit not in get_args(Misfit):
            known = ", ".join(get_args(Misfit))
            raise ValueError(f"misfit is a term or one of {known}, got {misfit!r}")
        named: dict[Any, Term] = {"sure": Risk(), "chi2": Consistency()}
        term = misfit if isinstance(misfit, Term) else named[misfit]
        super().__init__(network, operator, {"misfit": (1.0, term)}, **options)
        self.anchor = Anchor(network, anchor)
        self.nuisance_rate = nuisance_rate

    def parameters(self) -> Iterable[Any]:
        """The network's, and the nuisances that gradients are on for."""
        groups: list[dict[str, Any]] = []
        if own := list(super().parameters()):
            groups.append({"params": own})
        if free := [parameter for _, parameter in self._nuisances()]:
            rate = {} if self.nuisance_rate is None else {"lr": self.nuisance_rate}
            groups.append({"params": free, **rate})
        return groups

    def loss(self, batch: ScanBatch) -> tuple[Tensor, dict[str, float]]:
        """The misfit as a mean over the slices of a batch, and the anchor."""
        value, told = super().loss(batch)
        pull = self.anchor()
        return value + pull.to(value), {**told, "anchor": float(pull.detach())}

    def after_step(self) -> None:
        """Bring nuisances back to what they can be."""
        with torch.no_grad():
            for name, parameter in self._nuisances():
                feasible = self.operator.nuisances[name]
                if feasible is not None:
                    parameter.copy_(feasible.project(parameter))

    def _nuisances(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name in self.operator.nuisances:
            parameter = self.operator.get_parameter(name)
            if parameter.requires_grad:
                yield name, parameter


class Transfer(Supervised):
    """Supervised training that goes on, with few pairs: `Supervised` plus ``μ ‖θ − θ₀‖²``.

    Args:
        network: what is trained, as it was trained before.
        operator: the new one.
        anchor: ``μ``.
        **options: of `Supervised`.

    Raises:
        ValueError: a negative anchor, or what `Supervised` refuses.
    """

    def __init__(
        self, network: Reconstructor, operator: Operator, *, anchor: float = 1e-4, **options: Any
    ) -> None:
        super().__init__(network, operator, **options)
        self.anchor = Anchor(network, anchor)

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The loss of the pairs, and the anchor."""
        value, told = super().loss(batch)
        pull = self.anchor()
        return value + pull.to(value), {**told, "anchor": float(pull.detach())}
