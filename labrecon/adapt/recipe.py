"""The recipe of an adaptation: what `labrecon adapt` reads, and what its run folder keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from labrecon import tomlfile
from labrecon.errors import RecipeError
from labrecon.fitting import FitConfig
from labrecon.recipe import Table, Written, validated
from labrecon.tomlfile import Document

__all__ = ["AdaptRecipe", "FitTable", "Method", "load_adapt_recipe"]

Method = Literal["rr", "rr+", "pp", "transfer"]


class FitTable(Table):
    """``[fit]``: how what is trained is trained."""

    steps: int = Field(default=200, ge=1)
    batch_size: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    nuisance_rate: float = Field(default=1e-2, gt=0, description="of what is calibrated")
    validate_every: int = Field(default=10, ge=1, description="steps between validations")
    patience: int = Field(default=5, ge=1, description="validations without a better one")
    seconds: float | None = Field(default=None, gt=0)


class AdaptRecipe(Written):
    """Everything that decides what comes out of an adaptation."""

    seed: int = 0
    method: Method = "rr"
    coupling: float = Field(default=0.1, gt=0, description="λ of R&R, for ‖A‖ = 1")
    iterations: int = Field(default=10, ge=1, description="of R&R")
    misfit: Literal["reused", "sure", "chi2"] | None = Field(
        default=None,
        description="of P&P and R&R+: what R&R makes of the scans is imitated (P&P's default), "
        "Stein's risk (R&R+'s), or χ² as published, stopped at `stop`",
    )
    stop: float = Field(default=1.0, gt=0, description="χ² at which misfit = 'chi2' stops")
    anchor: float = Field(default=1e-3, ge=0, description="μ of μ‖θ − θ₀‖²")
    calibrate: list[str] = Field(
        default_factory=list, description="nuisances of the operator that are found, too"
    )
    validation: float = Field(
        default=0.2, gt=0, lt=1, description="fraction of the slices that decides when to stop"
    )
    fit: FitTable = FitTable()

    @property
    def trains(self) -> bool:
        """Whether anything is trained: R&R itself is not."""
        return self.method != "rr" or bool(self.calibrate)

    @property
    def measure(self) -> Literal["reused", "sure", "chi2"]:
        """The misfit, or the method's own."""
        if self.method == "rr":
            return "chi2"
        # What R&R makes of the scans says nothing of a calibration that it does not have.
        if self.misfit is not None:
            return self.misfit
        return "reused" if self.method == "pp" and not self.calibrate else "sure"

    @property
    def by_discrepancy(self) -> bool:
        """Whether training stops where the scans fit within their noise."""
        return self.measure == "chi2" and self.method in ("pp", "rr+")

    @property
    def config(self) -> FitConfig:
        """How `labrecon.fit` trains."""
        table = self.fit
        # By discrepancy, the last weights are those that fit the noise level.
        last = self.by_discrepancy
        return FitConfig(
            steps=table.steps,
            batch_size=table.batch_size,
            learning_rate=table.learning_rate,
            validate_every=table.validate_every,
            patience=None if last else table.patience,
            keep="last" if last else "best",
            seconds=table.seconds,
            seed=self.seed,
        )


def load_adapt_recipe(
    source: str | Path | Mapping[str, Any] | None,
    overrides: Iterable[str] = (),
    *,
    method: str | None = None,
    calibrate: Iterable[str] = (),
) -> AdaptRecipe:
    """The recipe in a TOML file, or given as a mapping; None for the defaults.

    Args:
        source: path, values, or None.
        overrides: dotted assignments such as ``fit.steps=400``.
        method: in place of the recipe's.
        calibrate: names of nuisances, in place of the recipe's.

    Raises:
        RecipeError: unknown key or impossible value; the message names the line.
    """
    if source is None or isinstance(source, Mapping):
        document = Document("the recipe", dict(source or {}))
    else:
        document = tomlfile.read(Path(source))
    if method is not None:
        document = tomlfile.with_value(document, ("method",), method, f"--method {method}")
    names = list(calibrate)
    if names:
        told = f"--calibrate {' '.join(names)}"
        document = tomlfile.with_value(document, ("calibrate",), names, told)
    recipe = validated(AdaptRecipe, document, overrides)
    if recipe.calibrate and recipe.method == "transfer":
        raise RecipeError(
            f"{recipe.where('calibrate')}: transfer learning calibrates nothing: take rr, rr+ or "
            "pp, or calibrate first and train on the calibrated scans"
        )
    if recipe.misfit == "reused" and (recipe.method != "pp" or recipe.calibrate):
        raise RecipeError(
            f"{recipe.where('misfit')}: misfit = 'reused' imitates R&R with a known operator: it "
            "is for method pp, without calibrate; take 'sure' or 'chi2'"
        )
    return recipe
