"""How a prediction changes with the nuisances: derivatives by autograd, or by differences."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.calibration.unknowns import Unknowns
from labrecon.operator import GradientError

__all__ = ["FIRST_SCALE", "derivatives"]

#: Change of the data, relative to the data, by which differences are measured.
PROBE = 1e-3
#: A number whose unit changes the data by less than so many roundings (the piston of a pupil)
#: changes nothing.
ROUNDING = 30
#: Change of a nuisance that is tried first, in its unit.
FIRST_SCALE = 1e-2


def derivatives(
    unknowns: Unknowns, p: Tensor, x: Tensor, predicted: Tensor, scales: Tensor
) -> tuple[list[Tensor], Tensor]:
    """``∂A(x; p)/∂p_i`` for each number, shaped as the data, and scales for the next time.

    By reverse mode twice where the operator is differentiable in all nuisances; else by central
    differences whose size is adapted until the data change by `PROBE` of themselves, so that
    operators outside torch are served, too.

    Args:
        unknowns: the nuisances.
        p: their values.
        x: the object.
        predicted: ``A(x; p)``.
        scales: sizes of the differences, `FIRST_SCALE` at the start.
    """
    columns = _by_autograd(unknowns, p, x)
    if columns is None:
        return _by_differences(unknowns, p, x, predicted, scales)
    least = ROUNDING * torch.finfo(predicted.dtype).eps * torch.linalg.vector_norm(predicted)
    return [c if float(torch.linalg.vector_norm(c)) > least else 0 * c for c in columns], scales


def _by_autograd(unknowns: Unknowns, p: Tensor, x: Tensor) -> list[Tensor] | None:
    """Derivatives by autograd; None where the operator is not differentiable in each nuisance."""
    try:
        with torch.enable_grad():
            return _twice_reversed(unknowns, p, x)
    except GradientError:
        return None
    except RuntimeError as error:
        # An operator with a hand-written gradient need not have a second one.
        if "differentiate twice" in str(error):
            return None
        raise


def _twice_reversed(unknowns: Unknowns, p: Tensor, x: Tensor) -> list[Tensor] | None:
    """The derivative as the transpose of ``v ↦ Jᵀ v``, which needs no forward-mode rules."""
    values = {name: v.requires_grad_() for name, v in unknowns.values(p.detach()).items()}
    y = unknowns.operator.at(**values)(x.detach())
    if not y.requires_grad:
        return None
    v = torch.zeros_like(y).requires_grad_()
    pulled = torch.autograd.grad(y, list(values.values()), v, create_graph=True, allow_unused=True)
    if any(g is None or not g.requires_grad for g in pulled):
        return None
    columns = []
    for number in torch.cat([g.double().flatten() for g in pulled]):
        (column,) = torch.autograd.grad(number, v, retain_graph=True, allow_unused=True)
        columns.append(torch.zeros_like(y) if column is None else column.detach())
    return columns


@torch.no_grad()
def _by_differences(
    unknowns: Unknowns, p: Tensor, x: Tensor, predicted: Tensor, scales: Tensor
) -> tuple[list[Tensor], Tensor]:
    columns, following = [], []
    size = float(torch.linalg.vector_norm(predicted))
    for i, scale in enumerate(scales.tolist()):
        change = torch.zeros_like(p)
        change[i] = scale
        difference = unknowns.placed(p + change)(x) - unknowns.placed(p - change)(x)
        moved = float(torch.linalg.vector_norm(difference)) / max(2 * size, 1e-300) / PROBE
        felt = moved * PROBE > ROUNDING * torch.finfo(predicted.dtype).eps
        columns.append(difference / (2 * scale) if felt else 0 * difference)
        moved = moved if felt else 1.0
        following.append(scale / min(max(moved, 0.1), 10.0))
    return columns, torch.tensor(following, dtype=torch.float64)
