"""What a calibration found: estimates with errors, how it got there, and how it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

__all__ = ["AT_BOUND", "NO_SOLUTION", "Calibration", "Estimate"]

#: Reasons for which there is a value without an error.
AT_BOUND, NO_SOLUTION = "at its bound", "no solution of the model"


@dataclass(frozen=True)
class Estimate:
    """One number of a nuisance.

    Attributes:
        label: ``centre``, ``led_shift x``.
        unit: as the operator states it.
        start: value before.
        value: the estimate.
        error: standard error; None where the data do not determine it.
        reason: why there is no error.
    """

    label: str
    unit: str
    start: float
    value: float
    error: float | None
    reason: str = ""

    @property
    def known(self) -> bool:
        """Whether the value means anything: not where the data do not determine it."""
        return self.error is not None or self.reason in (AT_BOUND, NO_SOLUTION)

    @property
    def shown(self) -> str:
        """The value, with as many digits as its error leaves."""
        if not self.error:
            return f"{self.value:.4g}"
        # Two digits of the error count.
        places = 1 - math.floor(math.log10(self.error))
        return f"{self.value:.{places}f}" if 0 <= places < 12 else f"{self.value:.4g}"

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.error is not None:
            return f"{self.label} {self.shown} ± {self.error:.2g}{unit}"
        if self.known:
            return f"{self.label} {self.shown}{unit}, {self.reason}"
        return f"{self.label}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Estimates of nuisances, jointly with the object.

    Attributes:
        method: "projection" or "alternating".
        estimates: of each number.
        correlation: between the estimates' errors; None where one has none.
        steps: steps in the nuisances.
        status: "converged"; "iterations": the estimates still move, or would if the object moved
            with them; or "misfit": they have settled where the model does not explain the data.
        statement: the last step in standard errors, and why it ended.
        history: of each step: its number, the objective and the values, by label.
        level_known: whether the noise states its level; else it was estimated from the residual.
        chi2: mean square of the normalised residual per degree of freedom at the end; 1 is a fit
            within the noise, and so by construction where the level was estimated. It is that of
            the best object of the quadratic prior, and not of the image.
        chi2_before: the same with the values at the start and the best object there, of the same
            prior and as many degrees of freedom.
        residual_before: normalised residual of the best object with the values at the start.
        residual_after: the same with the estimates.
        warnings: what keeps the errors from being right.
        inflation: factor that a misfit has put on the errors.
        elements: elements of a stack that were used, of how many; None for all.
    """

    method: Literal["projection", "alternating"]
    estimates: tuple[Estimate, ...]
    correlation: tuple[tuple[float | None, ...], ...]
    steps: int
    status: Literal["converged", "iterations", "misfit"]
    statement: str
    history: list[dict[str, float]]
    level_known: bool
    chi2: float
    chi2_before: float
    residual_before: Tensor
    residual_after: Tensor
    warnings: tuple[str, ...] = ()
    inflation: float = 1.0
    elements: tuple[int, int] | None = field(default=None)

    def numbers(self) -> dict[str, Any]:
        """Everything but the residuals, as plain values."""
        return {
            "method": self.method,
            "status": self.status,
            "statement": self.statement,
            "steps": self.steps,
            "estimates": {
                e.label: {
                    "value": e.value,
                    "error": e.error,
                    "unit": e.unit,
                    "start": e.start,
                    **({"reason": e.reason} if e.reason else {}),
                }
                for e in self.estimates
            },
            "correlation": [list(row) for row in self.correlation],
            "noise_level_known": self.level_known,
            "chi2": self.chi2,
            "chi2_before": self.chi2_before,
            "error_inflation": self.inflation,
            "history": self.history,
            "warnings": list(self.warnings),
            **({} if self.elements is None else {"elements": list(self.elements)}),
        }
