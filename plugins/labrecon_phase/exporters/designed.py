"""Learned patterns as the controller of the LEDs takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.led_patterns import LEDPatterns

__all__ = ["Sent", "sent", "with_ending"]


@dataclass(frozen=True)
class Sent:
    """What is sent to an LED controller.

    Attributes:
        geometry: the microscope.
        codes: (exposure, led), whole numbers from 0 to ``levels − 1``.
        times: relative durations of exposures, with which the light of each is 1.
    """

    geometry: PhaseGeometry
    codes: Tensor
    times: Tensor

    def lit(self, exposure: int) -> list[int]:
        """LEDs that are on."""
        lit: list[int] = self.codes[exposure].nonzero()[:, 0].tolist()
        return lit


def sent(geometry: BaseModel, designs: Mapping[str, Tensor]) -> Sent:
    """Patterns of the design, else of the geometry, rounded to the brightness levels.

    Raises:
        ValueError: LEDs that there are not, or patterns that no controller can show.
    """
    assert isinstance(geometry, PhaseGeometry)
    values = geometry.patterns.tensor(torch.float64)
    for name, value in designs.items():
        if name.rpartition(".")[2] == "patterns":
            values = value.detach().cpu()
    leds = geometry.leds.shape[0]
    if values.ndim != 2 or values.shape[1] != leds:
        raise ValueError(f"patterns are (exposure, led) for {leds} LEDs, got {tuple(values.shape)}")
    feasible = LEDPatterns(torch.ones(1, leds), geometry.levels)
    # In the precision of the design, whose rounding is no violation.
    broken = feasible.violations(values)
    if broken:
        told = ", ".join(f"{rule}: {amount}" for rule, amount in broken.items())
        raise ValueError(
            f"the patterns can not be shown ({told}): LEDs have no negative brightness and that of "
            "an exposure sums to 1; project or harden the design first"
        )
    codes = feasible.codes(values)
    return Sent(geometry, codes, (geometry.levels - 1) / codes.sum(1).double())


def with_ending(path: Path, ending: str) -> Path:
    """The path with an ending; a dot in its name (``dpc_0.25``) is no ending."""
    return path if path.suffix == ending else path.with_name(path.name + ending)
