"""The recipe of a design study: what `labrecon design` reads, and what its folder keeps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from labrecon.recipe import Table
from labrecon.train.recipe import LearnerTable, TrainRecipe

__all__ = ["DesignRecipe", "DesignTable", "EvaluationTable"]


class DesignLearnerTable(LearnerTable):
    """``[learner]``: how designs are learned."""

    name: str = "design"


class DesignTable(Table):
    """``[design]``: what is learned, and how."""

    names: list[str] = Field(default=[], description="designs of the operator; all by default")
    method: Literal["gradient", "exchange", "greedy"] = Field(
        default="gradient", description="exchange and greedy are for choices of k among n"
    )
    exposures: list[Annotated[int, Field(ge=1)]] = Field(
        default=[], description="numbers of acquisitions that are studied, one after the other"
    )
    subset: str = Field(
        default="", description="axis of the data of which so many members are chosen; '' for none"
    )
    relaxation: Literal["relaxed", "straight-through"] = "relaxed"
    starts: int = Field(default=3, ge=1, description="learned from so many starts")
    rate: float | None = Field(
        default=None, gt=0, description="learning rate of the designs, if not that of [fit]"
    )
    jitter: dict[str, float | str] = Field(
        default={}, description="deviations of nuisances in the data that are learned from"
    )
    rounds: int = Field(default=200, ge=1, description="swaps that an exchange tries")
    batch: int = Field(default=4, ge=1, description="objects by which a swap is judged")
    candidates: int | None = Field(
        default=None, ge=1, description="members that a greedy choice tries each time; all"
    )
    control: bool = Field(
        default=True,
        description="learn once more, with the objects of the others as truths: the gain must go",
    )


class EvaluationTable(Table):
    """``[evaluation]``: how designs are judged, beside ``[classical]``, which reconstructs."""

    random: int = Field(default=5, ge=1, description="random designs that are compared with")
    robustness: dict[str, list[float]] = Field(
        default={}, description="sizes by which a nuisance is off, unknown to the reconstruction"
    )


class DesignRecipe(TrainRecipe):
    """Everything that decides what comes out of a design study."""

    learner: DesignLearnerTable = DesignLearnerTable()
    design: DesignTable = DesignTable()
    evaluation: EvaluationTable = EvaluationTable()
