"""A network on an operator whose calibration has been found anew."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from labrecon import plugins
from labrecon.operator import Operator
from labrecon.plugins import Host
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstruction, Reconstructor

__all__ = ["Calibrated", "make_calibrated"]


class Calibrated(Reconstructor):
    """``R(problem)`` with nuisances of the problem's operator at values of its own.

    Args:
        network: ``R``.
        nuisances: values by name, as the operator calls them.
    """

    def __init__(self, network: Reconstructor, nuisances: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.network = network
        self.nuisances = dict(nuisances)

    def placed(self, operator: Operator) -> Operator:
        """A copy of the operator with the values; the given one stays."""
        made = copy.deepcopy(operator)
        made.place(self.nuisances)
        return made

    def reconstruct(
        self, problem: Problem, x0: Tensor | None = None, *, trace: bool = False
    ) -> Reconstruction:
        """What the network makes of the calibrated problem."""
        posed = replace(problem, operator=self.placed(problem.operator), prepared=None)
        return self.network.reconstruct(posed, x0, trace=trace)


def make_calibrated(
    problem: Problem,
    *,
    network: str,
    nuisances: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    scale: float = 1.0,
    seed: int = 0,
    host: Host | None = None,
) -> Calibrated:
    """A registered network on an operator with other values of its nuisances.

    Args:
        problem: an example.
        network: a registered one, "reused" among them.
        nuisances: numbers by name.
        options: of the network.
        scale: typical size of the object's values.
        seed: of first weights.
        host: where names are looked up.

    Raises:
        KeyError: the operator has no such nuisance.
    """
    host = host or plugins.host()
    held = problem.operator.current(*nuisances)
    values = {k: torch.as_tensor(v, dtype=held[k].dtype) for k, v in nuisances.items()}
    made = Calibrated(None, values)  # type: ignore[arg-type]
    posed = replace(problem, operator=made.placed(problem.operator), prepared=None)
    make = host.get("networks", network)
    made.network = make(posed, scale=scale, seed=seed, **dict(options or {}))
    return made
