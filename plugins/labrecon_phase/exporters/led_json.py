"""Patterns as the JSON file that `TiffLedReader` reads beside the images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from labrecon.io.atomic import write_file
from labrecon_phase.exporters.designed import sent, with_ending
from labrecon_phase.readers.sidecar import described, read_sidecar

__all__ = ["LedJsonExporter", "export_led_json"]


class LedJsonExporter:
    """``NAME.json``: ``led_list`` and ``exposures`` with LEDs by index, code and brightness.

    ``code`` is what the controller is sent, ``brightness`` the part of the highest, and
    ``relative_time`` the duration with which the light of each exposure is 1; that of an LED is the
    product of the two. Fill in ``exposure_ms`` and put the file beside the images that were
    taken.
    """

    def __call__(self, geometry: BaseModel, designs: Mapping[str, Tensor], path: Path) -> None:
        """Write the design.

        Raises:
            ValueError: the patterns can not be shown.
            OutputError: the file can not be written.
        """
        made = sent(geometry, designs)
        highest = made.geometry.levels - 1
        shots = []
        for row, time in enumerate(made.times.tolist()):
            codes = made.codes[row].tolist()
            shot: dict[str, Any] = {
                "leds": [
                    {"index": i, "code": codes[i], "brightness": codes[i] / highest}
                    for i in made.lit(row)
                ],
                "relative_time": time,
            }
            shots.append(shot)
        # Images will be raw, of a camera that is still to be described.
        told = described(made.geometry, shots, quantity="intensity", electrons=None, sigma=None)
        write_file(with_ending(path, ".json"), told, force=True)

    def read(self, path: Path) -> dict[str, Tensor]:
        """What was written: patterns that sum to 1."""
        return {"patterns": read_sidecar(path).patterns({})}


export_led_json = LedJsonExporter()
