"""The typical value of objects that nobody has seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from labrecon.errors import ObjectsError
from labrecon.learners.self_supervised import MeasuredScan
from labrecon.train.recipe import TrainRecipe

__all__ = ["typical_value"]

#: Quantile of the first estimates: noise and streaks reach further than the object.
TYPICAL = 0.99


def typical_value(recipe: TrainRecipe, scans: Sequence[MeasuredScan]) -> float:
    """The mean over slices of a high quantile of the operator's first estimate; or the recipe's.

    Raises:
        ObjectsError: the first estimates are zero, or not finite.
    """
    if recipe.network.scale is not None:
        return recipe.network.scale
    found = []
    for scan in scans:
        seen = scan.trained_on.data if scan.gain is None else scan.gain * scan.trained_on.data
        with torch.no_grad():
            first = scan.problem.operator.initial(seen).abs().flatten(1)
        rank = max(1, round(TYPICAL * first.shape[1]))
        found += first.kthvalue(rank).values.double().tolist()
    typical = sum(found) / len(found)
    if not 0 < typical < float("inf"):
        raise ObjectsError(
            f"the operator's first estimates have a typical value of {typical}: say what objects "
            f"have ({recipe.where('network')}: network.scale)"
        )
    return typical
