"""Adjustable: numbers of an instrument that are learned, chosen or calibrated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from labrecon.design import FeasibleSet

__all__ = ["Adjustable"]


class Adjustable(nn.Module):
    """What operator and noise can be changed in: designs, and calibration unknowns.

    Names of parts are dotted, as those of their parameters are.
    """

    _fixed: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._designs: dict[str, FeasibleSet] = {}
        self._nuisances: dict[str, FeasibleSet | None] = {}
        self._numbers: dict[str, tuple[str, ...]] = {}

    @property
    def name(self) -> str:
        """The name used in messages."""
        return type(self).__name__

    def design(self, name: str, value: Tensor, feasible: FeasibleSet) -> nn.Parameter:
        """Register a learnable acquisition parameter and what the hardware can do with it."""
        parameter = self._register(name, value)
        self._designs[name] = feasible
        return parameter

    def nuisance(
        self,
        name: str,
        value: Tensor,
        feasible: FeasibleSet | None = None,
        *,
        numbers: Sequence[str] = (),
    ) -> nn.Parameter:
        """Register a calibration unknown: a rotation centre, an LED shift, a delay.

        ``numbers`` says what each number of a vector is, such as ``("y", "x")``, for reports.
        """
        if numbers and len(numbers) != value.numel():
            raise ValueError(
                f"{self.name}: the nuisance {name!r} has {value.numel()} numbers, and names for "
                f"{len(numbers)}: {', '.join(numbers)}"
            )
        parameter = self._register(name, value)
        self._nuisances[name] = feasible
        self._numbers[name] = tuple(numbers)
        return parameter

    def _register(self, name: str, value: Tensor) -> nn.Parameter:
        if hasattr(self, name):
            raise ValueError(f"{self.name} already has an attribute {name!r}")
        # Gradients are off until `learn` asks for them, so that a plain solve builds no graph.
        parameter = nn.Parameter(value.detach().clone(), requires_grad=False)
        self.register_parameter(name, parameter)
        return parameter

    @property
    def designs(self) -> Mapping[str, FeasibleSet]:
        """Learnable acquisition parameters of this and its parts, by dotted name."""
        return self._named(lambda part: part._designs)

    @property
    def nuisances(self) -> Mapping[str, FeasibleSet | None]:
        """Calibration unknowns of this and its parts, by dotted name."""
        return self._named(lambda part: part._nuisances)

    def short_name(self, name: str) -> str:
        """The last part of a nuisance's dotted name; all of it where another ends so, too."""
        known = self.nuisances
        self._require_known([name], known)
        last = name.rpartition(".")[2]
        return last if [each.rpartition(".")[2] for each in known].count(last) == 1 else name

    def labels_of(self, name: str) -> tuple[str, ...]:
        """What each number of a nuisance is called: ``centre``; ``delay y`` and ``delay x``.

        Numbers that the operator does not name are counted: ``offset.0``.
        """
        called = self.short_name(name)
        value = self.get_parameter(name)
        if not value.ndim:
            return (called,)
        told = self._named(lambda part: part._numbers)[name]
        if told:
            return tuple(f"{called} {number}" for number in told)
        return tuple(f"{called}.{i}" for i in range(value.numel()))

    def _named(self, registered: Callable[[Adjustable], Mapping[str, Any]]) -> dict[str, Any]:
        """What the parts register, by dotted name, without what `at` has fixed to a value."""
        parts = [(p, part) for p, part in self.named_modules() if isinstance(part, Adjustable)]
        fixed = {
            f"{prefix}.operator.{name}".lstrip(".")
            for prefix, part in parts
            if prefix  # of this operator itself, `at` may give other values
            for name in part._fixed
        }
        named = {
            f"{prefix}.{name}".lstrip("."): feasible
            for prefix, part in parts
            for name, feasible in registered(part).items()
        }
        return {name: feasible for name, feasible in named.items() if name not in fixed}

    def learn(self, *names: str) -> list[nn.Parameter]:
        """Turn gradients on for the named designs or nuisances and return their tensors."""
        known = {**self.designs, **self.nuisances}
        self._require_known(names, known)
        parameters = [self.get_parameter(name) for name in names]
        for parameter in parameters:
            parameter.requires_grad_()
        return parameters

    def _require_known(self, names: Any, known: Mapping[str, Any]) -> None:
        for name in names:
            if name not in known:
                raise KeyError(
                    f"{self.name} has no design or nuisance {name!r}; it has {sorted(known)}"
                )

    def current(self, *names: str) -> dict[str, Tensor]:
        """Copies of the named designs or nuisances as they are."""
        self._require_known(names, {**self.designs, **self.nuisances})
        return {name: self.get_parameter(name).detach().clone() for name in names}

    def place(self, values: Mapping[str, Tensor]) -> None:
        """Set designs or nuisances to these values, for good; `at` does it for one application."""
        self._require_known(values, {**self.designs, **self.nuisances})
        with torch.no_grad():
            for name, value in values.items():
                self.get_parameter(name).copy_(value)

    def project_designs(self) -> None:
        """Bring the designs that gradients are on for to what the hardware can do."""
        with torch.no_grad():
            for name, feasible in self.designs.items():
                parameter = self.get_parameter(name)
                if parameter.requires_grad:
                    parameter.copy_(feasible.project(parameter))
