"""The optimiser of a learner's parameters, in groups if it says so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from labrecon.fitting.config import OPTIMISERS, FitConfig, FitError

__all__ = ["make_optimiser", "trained"]


def make_optimiser(
    parameters: Iterable[Tensor] | Iterable[dict[str, Any]], config: FitConfig
) -> torch.optim.Optimizer:
    """A torch optimiser of what has gradients on.

    Raises:
        FitError: nothing has, or a group has an option that the optimiser does not know.
    """
    groups = [_group(entry) for entry in _grouped(list(parameters))]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise FitError("nothing to train: no parameter has gradients on (Operator.learn?)")
    if config.optimiser == "lbfgs" and len(groups) > 1:
        raise FitError("lbfgs takes one group of parameters: it has one direction for all")
    kind = OPTIMISERS[config.optimiser]
    try:
        optimiser = kind(groups, lr=config.learning_rate, **config.options)
    except (TypeError, ValueError) as error:
        raise FitError(f"parameter groups for {config.optimiser}: {error}") from error
    for group in optimiser.param_groups:
        unknown = set(group) - set(optimiser.defaults) - {"params"}
        if unknown:
            raise FitError(
                f"a parameter group has {', '.join(sorted(unknown))}; {config.optimiser} knows "
                f"{', '.join(sorted(optimiser.defaults))}"
            )
    if config.precision == "fp16" and any(p.is_complex() for p in trained(optimiser)):
        raise FitError("loss scaling (fp16) knows no complex parameters: take bf16 or float32")
    return optimiser


def trained(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters of all groups."""
    return [p for group in optimiser.param_groups for p in group["params"]]


def _grouped(entries: list[Any]) -> list[dict[str, Any]]:
    if all(isinstance(entry, dict) for entry in entries):
        return entries
    if all(isinstance(entry, Tensor) for entry in entries):
        return [{"params": entries}]
    raise FitError("parameters() gives tensors, or groups of them, and not both")


def _group(entry: dict[str, Any]) -> dict[str, Any]:
    if "params" not in entry:
        raise FitError(f"a parameter group has no 'params'; it has {', '.join(sorted(entry))}")
    held = entry["params"]
    tensors = [held] if isinstance(held, Tensor) else list(held)
    return {**entry, "params": [tensor for tensor in tensors if tensor.requires_grad]}
