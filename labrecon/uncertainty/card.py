"""``intervals.json``: for what intervals were calibrated, and what they cover."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from labrecon.errors import RecipeError
from labrecon.io.model import SpaceCard, unequal_fields
from labrecon.operator import Operator
from labrecon.plan import Plan

__all__ = [
    "INTERVALS",
    "IntervalsCard",
    "LevelRow",
    "Member",
    "StratumRow",
    "fingerprint",
    "load_intervals",
    "made_by",
]

INTERVALS = "intervals.json"
#: What a solver's table says of time and memory, and not of the result.
_NO_MATTER = {"seconds", "check_every", "objective", "batch", "memory"}


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LevelRow(_Row):
    """A level, its factor, and what is covered on objects that had no part in the factor."""

    level: float
    factor: float
    coverage: float
    error: float | None
    lowest: float
    half_width: float

    @property
    def covered(self) -> str:
        """Coverage in per cent, with its standard error."""
        error = 0.0 if self.error is None else 100 * self.error
        # An error that rounds to 0.0 would read as none.
        digits = f"{error:.1f}" if error >= 0.05 else f"{error:.1g}"
        return f"{100 * self.coverage:.1f}{f' ± {digits}' if error else ''} %"


class StratumRow(_Row):
    """Coverage among samples of one kind."""

    name: str
    coverage: float
    half_width: float


class Member(_Row):
    """A trained network of an ensemble."""

    run: str
    sha256: str


class IntervalsCard(_Row):
    """What ``intervals.json`` says.

    Attributes:
        instrument: its name.
        title: of the reconstruction.
        fingerprint: of what makes it, see `fingerprint`.
        reconstruction: the same in full, see `made_by`; nothing in older files.
        method: of the heuristic deviation.
        draws: of the bootstrap.
        members: of the ensemble, the main network apart.
        geometry: of the acquisition.
        domain: of the objects.
        range: of the data.
        objects: where they are from.
        unit: of their values, and of half-widths.
        scatter: least and largest of the simulated data, see `labrecon.uncertainty.scatter`; None
            where the noise level is not known.
        calibrated_on: number of objects that the factors are from.
        measured_on: number of objects that coverage was measured on.
        levels: factors and coverage.
        strata_level: of the strata.
        strata: coverage by kinds of samples.
        versions: of what made it.
    """

    format: Literal["labrecon intervals 1"] = "labrecon intervals 1"
    instrument: str
    title: str
    fingerprint: str
    reconstruction: dict[str, Any] = {}
    method: Literal["bootstrap", "ensemble", "posterior"]
    draws: int
    members: tuple[Member, ...] = ()
    geometry: dict[str, Any]
    domain: SpaceCard
    range: SpaceCard
    objects: str
    unit: str = ""
    scatter: tuple[float, float] | None = None
    calibrated_on: int
    measured_on: int
    levels: tuple[LevelRow, ...]
    strata_level: float
    strata: tuple[StratumRow, ...]
    versions: dict[str, Any] = {}

    def at(self, level: float) -> LevelRow | None:
        """The row of a level; None where it was not calibrated."""
        return next((row for row in self.levels if abs(row.level - level) < 1e-9), None)

    def differences(
        self, geometry: BaseModel, operator: Operator, tolerances: Mapping[str, float]
    ) -> list[str]:
        """What of an acquisition is not as in the calibration; nothing where it fits."""
        now = json.loads(geometry.model_dump_json())
        found = [name for name, _, _ in unequal_fields(self.geometry, now, tolerances)]
        spaces = {"object": (self.domain, operator.domain), "data": (self.range, operator.range)}
        found += [what for what, (old, new) in spaces.items() if SpaceCard.of(new) != old]
        return found


def made_by(plan: Plan) -> dict[str, Any]:
    """What turns data into an estimate, as plain values: network, or solver and prior; nuisances.

    Preparation is not in it: it makes the data that are calibrated for.
    """
    told: dict[str, Any] = {"operator": plan.operator}
    if plan.calibrate.nuisances:
        told["calibrate"] = plan.calibrate.model_dump(mode="json")
    if plan.model is not None:
        # The same weights in another network, such as more iterations, are another estimate.
        decides = {"network", "options", "scale", "data_term", "sha256"}
        told["model"] = plan.model.card.model_dump(mode="json", include=decides)
    else:
        told["solver"] = plan.solver.model_dump(mode="json", exclude=_NO_MATTER)
        told["prior"] = plan.prior.model_dump(mode="json")
    plain: dict[str, Any] = json.loads(json.dumps(told, sort_keys=True, default=str))
    return plain


def fingerprint(plan: Plan) -> str:
    """A hash of `made_by`."""
    text = json.dumps(made_by(plan), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_intervals(path: Path) -> IntervalsCard:
    """Read calibrated intervals.

    Raises:
        RecipeError: there are none, or the file is damaged.
    """
    try:
        return IntervalsCard.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(
            f"there are no calibrated intervals in {path}; `labrecon intervals` makes them"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} can not be read: {error}") from error
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise RecipeError(f"{path} holds no calibrated intervals, or is damaged: {told}") from error
