"""A linear inversion of data, through which differences of data are compared as objects are."""

from __future__ import annotations

import torch

from labrecon.operator import Operator

__all__ = ["require_linear_inversion"]


def require_linear_inversion(operator: Operator, device: torch.device) -> None:
    """Raise where `Operator.initial` is not linear, and noise would not have mean 0 in it.

    Raises:
        ValueError: as for an operator that has none of its own: the default scales each estimate by
            its own data.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (operator.range.random(1, generator=generator, device=device) for _ in range(2))
    with torch.no_grad():
        apart, together = operator.initial(a) + operator.initial(b), operator.initial(a + b)
    if float((apart - together).abs().max()) > 1e-3 * float(together.abs().max()):
        raise ValueError(
            f"{operator.name} has no linear direct inversion (initial), such as filtered "
            "back-projection: compare data instead (ssdu, or where='data')"
        )
