"""What a calibration found, as its card: factors, and what they cover on further objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel

from labrecon.errors import ObjectsError
from labrecon.io.model import SpaceCard
from labrecon.io.provenance import versions
from labrecon.job import Job
from labrecon.operator import Operator
from labrecon.uncertainty.asked import Asked
from labrecon.uncertainty.card import (
    IntervalsCard,
    LevelRow,
    Member,
    StratumRow,
    fingerprint,
    made_by,
)
from labrecon.uncertainty.conformal import (
    CalibrationError,
    conformal_factor,
    fewest_objects,
)
from labrecon.uncertainty.coverage import coverage, strata
from labrecon.uncertainty.heldout import HeldOut
from labrecon.uncertainty.looked import Looked

__all__ = ["card_of"]

#: Calibrated beside the level that is asked for, where there are objects enough.
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)


def card_of(
    job: Job,
    asked: Asked,
    geometry: BaseModel,
    operator: Operator,
    held: HeldOut,
    looked: Sequence[Looked],
) -> IntervalsCard:
    """The card of a calibration.

    Args:
        job: of the reconstruction.
        asked: the method.
        geometry: of the acquisition.
        operator: likewise.
        held: the objects.
        looked: at each of them, those to calibrate on first.

    Raises:
        ObjectsError: too few objects, or NaN.
    """
    used, rest = looked[: len(held.calibrate)], looked[len(held.calibrate) :]
    calibration = torch.stack([each.score for each in used])
    fresh = torch.stack([each.score for each in rest])
    stated = torch.stack([each.stated for each in rest])
    rows = []
    for level in sorted({*LEVELS, asked.level}):
        if len(used) < fewest_objects(level):
            continue
        try:
            factor = conformal_factor(calibration, level)
        except CalibrationError as error:
            raise ObjectsError(str(error)) from error
        found = coverage(fresh, factor)
        rows.append(
            LevelRow(
                level=level,
                factor=factor,
                coverage=found.share,
                error=found.error if len(rest) > 1 else None,
                lowest=found.lowest,
                half_width=factor * float(stated.mean()),
            )
        )
    kinds = strata(
        fresh,
        next(row.factor for row in rows if row.level == asked.level),
        stated,
        value=torch.stack([each.value for each in rest]),
        gradient=torch.stack([each.gradient for each in rest]),
        width=stated,
    )
    plan = job.plans[0]
    scatter = [each.scatter for each in looked if each.scatter is not None]
    return IntervalsCard(
        instrument=job.instrument.name,
        title=plan.title,
        fingerprint=fingerprint(plan),
        reconstruction=made_by(plan),
        method=asked.method,  # type: ignore[arg-type]
        draws=asked.draws,
        members=tuple(
            Member(run=str(m.folder.absolute()), sha256=m.card.sha256)
            for m in (member.model for member in asked.members)
            if m is not None
        ),
        geometry=geometry.model_dump(mode="json"),
        domain=SpaceCard.of(operator.domain),
        range=SpaceCard.of(operator.range),
        objects=held.told,
        unit=job.instrument.unit,
        scatter=(min(scatter), max(scatter)) if scatter else None,
        calibrated_on=len(used),
        measured_on=len(rest),
        levels=tuple(rows),
        strata_level=asked.level,
        strata=tuple(
            StratumRow(name=s.name, coverage=s.share, half_width=s.half_width) for s in kinds
        ),
        versions=versions(job.host),
    )
