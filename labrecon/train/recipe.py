"""The recipe of a training: what `labrecon train` reads, and what a run folder keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from labrecon.errors import RecipeError
from labrecon.fitting import FitConfig
from labrecon.instrument import Instrument
from labrecon.recipe import (
    CalibrateTable,
    OpenTable,
    Prepare,
    PriorTable,
    SolverTable,
    Table,
    Written,
    find_document,
    nearest,
    validated,
)
from labrecon.tomlfile import Document

__all__ = [
    "ClassicalTable",
    "DataTable",
    "LearnerTable",
    "NetworkTable",
    "TrainRecipe",
    "load_train_recipe",
    "resolve_train_recipe",
    "train_document",
]


class NetworkTable(OpenTable):
    """``[network]``: a registered network, and options of its factory."""

    name: str = "unrolled"
    scale: float | None = Field(
        default=None, gt=0, description="typical object value; by default found from the objects"
    )


class DataTable(Table):
    """``[data]``: what is trained on."""

    objects: str | None = Field(
        default=None, description="folder of objects; by default the instrument simulates them"
    )
    scans: str | None = Field(
        default=None,
        description="folder of measured scans: paired with objects by file name, or alone for a "
        "learner that needs no truth",
    )
    count: int = Field(default=200, ge=2, description="number of simulated objects")
    dataset: str | None = Field(
        default=None, description="array of an HDF5 or .npz file that holds several"
    )
    unit: float = Field(
        default=1.0, gt=0, description="what a file's 1 is in the instrument's unit"
    )
    validation: float = Field(
        default=0.1, gt=0, lt=1, description="fraction of the objects that is never trained on"
    )
    flips: bool = Field(default=False, description="turn objects around at random")


class LearnerTable(OpenTable):
    """``[learner]``: how it is trained, and options of the learner (loss, data term, …)."""

    name: str = "supervised"


class ClassicalTable(Table):
    """``[classical]``: the solver that stands beside the network in the report.

    The prior's weight is found on objects that were trained on.
    """

    solver: SolverTable | None = None
    prior: PriorTable | None = None
    calibrate: CalibrateTable = CalibrateTable()
    objects: int = Field(default=4, ge=1, description="objects on which the weight is found")
    skip: bool = Field(default=False, description="leave the comparison out")


class TrainRecipe(Written):
    """Everything that decides what comes out of a training."""

    seed: int = 0
    prepare: list[Prepare] = Field(default_factory=list)
    operator: dict[str, Any] = Field(default_factory=dict)
    network: NetworkTable = NetworkTable()
    data: DataTable = DataTable()
    learner: LearnerTable = LearnerTable()
    fit: dict[str, Any] = Field(default_factory=dict)
    classical: ClassicalTable = ClassicalTable()

    @property
    def config(self) -> FitConfig:
        """How `labrecon.fit` trains; the recipe's seed, unless ``[fit]`` has its own."""
        usual: dict[str, Any] = {"seed": self.seed, "batch_size": 8}
        if "steps" not in self.fit:
            usual["epochs"] = 50
        return FitConfig(**{**usual, **self.fit})

    @property
    def data_term(self) -> Literal["unit", "noise"]:
        """The data term that the network was given."""
        return "noise" if self.learner.options.get("data_term") == "noise" else "unit"


def load_train_recipe(
    source: str | Path | Mapping[str, Any],
    instrument: Instrument,
    overrides: Iterable[str] = (),
) -> TrainRecipe:
    """The training recipe in a TOML file, of an instrument by name, or given as a mapping.

    What it does not say about preparation, operator and network is taken from the instrument's
    recipe ``"train"``, or else ``"recon"``, so that scans reach the network as they would reach
    any solver.

    Raises:
        RecipeError: unknown recipe, key or value; the message names the file, the line and the
            nearest valid key.
    """
    return resolve_train_recipe(train_document(source, instrument), overrides)


def train_document(
    source: str | Path | Mapping[str, Any], instrument: Instrument, task: str = "train"
) -> Document:
    """The values of a training recipe, before overrides are applied and names are checked."""
    document = find_document(source, instrument, task)
    recipes = instrument.recipes()
    # What tells an operator how often it will be applied is not that of a single inversion.
    usual = {**recipes.get("recon", {}), **recipes.get("train", {})}
    for name in ("prepare", "operator", *(["network"] if task == "train" else [])):
        if name in usual:
            document.values.setdefault(name, usual[name])
    return document


T = TypeVar("T", bound=TrainRecipe)


def resolve_train_recipe(
    document: Document,
    overrides: Iterable[str] = (),
    kind: type[T] = TrainRecipe,  # type: ignore[assignment]
) -> T:
    """The checked recipe of a document; see `load_train_recipe`."""
    recipe = validated(kind, document, overrides)
    _check_fit(recipe)
    if kind is TrainRecipe and _learns_numbers(recipe.network):
        # Adam's steps change a logarithm by the learning rate: 1e-3 would need fifty epochs.
        usual: dict[str, Any] = {"learning_rate": 2e-2, "schedule": "cosine"}
        if "steps" not in recipe.fit:
            usual["epochs"] = 4
        recipe = recipe.model_copy(update={"fit": {**usual, **recipe.fit}})
        _check_fit(recipe)
    return recipe


def _learns_numbers(network: NetworkTable) -> bool:
    """Whether a few numbers are learned, each by its logarithm: few large steps suffice."""
    prior, learn = (network.options.get(key) for key in ("prior", "learn"))
    numbers = learn is None or (
        isinstance(learn, list) and all(each in ("step_size", "prior.weight") for each in learn)
    )
    return network.name == "unrolled" and prior in (None, "tv") and numbers


_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


def _check_fit(recipe: TrainRecipe) -> None:
    fields = {field.name: field for field in dataclasses.fields(FitConfig)}
    types = get_type_hints(FitConfig)
    for name, value in recipe.fit.items():
        where = recipe.where("fit", name)
        if name not in fields:
            raise RecipeError(
                f"{where}: [fit] has no key {name!r}{nearest(name, fields)}; its keys are "
                f"{', '.join(fields)}"
            )
        try:
            TypeAdapter(types[name], config=_STRICT).validate_python(value)
        except ValidationError as error:
            told = error.errors()[0]["msg"]
            raise RecipeError(f"{where}: fit.{name}: {told}, got {value!r}") from None
    try:
        recipe.config  # noqa: B018
    except ValueError as error:
        raise RecipeError(f"{recipe.where('fit')}: fit: {error}") from error
