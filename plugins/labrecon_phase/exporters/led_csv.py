"""Patterns as a table, for controllers that have their own program."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel
from torch import Tensor

from labrecon.io.atomic import write_file
from labrecon_phase.exporters.designed import sent, with_ending

__all__ = ["export_led_csv"]

HEADER = ("exposure", "led", "x_mm", "y_mm", "z_mm", "code", "relative_time")


def export_led_csv(geometry: BaseModel, designs: Mapping[str, Tensor], path: Path) -> None:
    """Write ``NAME.csv``: a row for each LED that is on in an exposure, both counted from 0.

    ``code`` is what the controller is sent, ``relative_time`` the duration with which the light of
    each exposure, the sum of ``code / (levels − 1)`` times it, is 1.

    Raises:
        ValueError: the patterns can not be shown.
        OutputError: the file can not be written.
    """
    made = sent(geometry, designs)
    places = made.geometry.leds.values.tolist()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    for row, time in enumerate(made.times.tolist()):
        for led in made.lit(row):
            table.writerow([row, led, *places[led], int(made.codes[row, led]), f"{time:.9g}"])
    write_file(with_ending(path, ".csv"), text.getvalue(), force=True)
