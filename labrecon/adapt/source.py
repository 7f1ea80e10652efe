"""What is known of the trained network before it is adapted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["FITS", "doubts"]

#: χ² between which a reconstruction agrees with its scan.
FITS = (0.25, 4.0)


def doubts(run: Path) -> list[str]:
    """What the training itself warned of, and a χ² of its own scans that is far from 1.

    A model that came without its provenance has none.
    """
    try:
        told: dict[str, Any] = json.loads((run / "provenance.json").read_text("utf-8"))
    except (OSError, ValueError):
        return []
    found = [f"{run} itself: {warning}" for warning in told.get("warnings", [])]
    methods = told.get("methods") or [{}]
    chi2 = methods[0].get("metrics", {}).get("chi2")
    if isinstance(chi2, float) and chi2 > FITS[1]:
        found.append(
            f"{run} itself fits the scans of its own training with χ² {chi2:.3g} only, expected "
            "about 1"
        )
    return found
