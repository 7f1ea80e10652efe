"""Recipes: what the command line reads, checked so that an error names the line to mend."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from labrecon import tomlfile
from labrecon.errors import RecipeError
from labrecon.tomlfile import Document, Key

if TYPE_CHECKING:
    from labrecon.instrument import Instrument

__all__ = [
    "CalibrateTable",
    "Compare",
    "OpenTable",
    "OutputTable",
    "Prepare",
    "PriorTable",
    "QualityTable",
    "Recipe",
    "SolverTable",
    "Table",
    "UncertaintyTable",
    "Written",
    "find_document",
    "load_recipe",
    "nearest",
    "validated",
]


class Table(BaseModel):
    """A table with fixed keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OpenTable(Table):
    """A table whose other keys are options of the thing it names."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that labrecon does not use itself."""
        return dict(self.model_extra or {})


class Prepare(OpenTable):
    """``[[prepare]]``: a preparation step of the instrument and its options."""

    step: str
    skip: bool = Field(default=False, description="leave the step out")


class SolverTable(OpenTable):
    """``[solver]``: the algorithm, its limits, and options of its constructor."""

    name: str = "fista"
    start: Literal["zero", "initial"] = Field(
        default="zero", description="first estimate: zeros, or the operator's own (FBP, adjoint)"
    )
    iterations: int = Field(default=100, ge=1)
    tolerance: float | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, gt=0)
    check_every: int = Field(default=10, ge=1)
    objective: bool = Field(default=True, description="record the objective at each check")
    batch: int | None = Field(
        default=None,
        ge=1,
        description="elements of a stack to solve at a time; by default as many as fit",
    )
    memory: float | None = Field(
        default=None,
        gt=0,
        description="GiB that the solve of a stack may take; by default 80 % of what is free",
    )


class PriorTable(OpenTable):
    """``[prior]``: what is known about the object."""

    name: str = "zero"
    weight: float | None = Field(default=None, ge=0)
    relative_weight: float | None = Field(
        default=None,
        ge=0,
        description="weight as a fraction of max|gradient of the data term at zero|",
    )

    @model_validator(mode="after")
    def _one_weight(self) -> Self:
        if self.weight is not None and self.relative_weight is not None:
            raise ValueError("give weight or relative_weight, not both")
        return self


class CalibrateTable(Table):
    """``[calibrate]``: nuisances of the operator that are estimated jointly with the object."""

    nuisances: list[str] = Field(default=[], description="names, of which none is no calibration")
    method: Literal["projection", "alternating"] = Field(
        default="projection",
        description="before the solve, with the object eliminated by a quadratic prior; or between "
        "the steps of the solver, whatever its prior",
    )
    bounds: dict[str, list[float]] = Field(
        default={}, description="lowest and highest value of a nuisance, in its unit"
    )
    weight: float | None = Field(
        default=None,
        ge=0,
        description="of the quadratic prior of the calibration; by default from the object's size",
    )
    inner: int = Field(default=100, ge=1, description="conjugate-gradient iterations of a solve")
    iterations: int = Field(default=20, ge=1, description="projection: steps at most")
    scan: int = Field(
        default=0, ge=0, description="projection: values between the bounds that are tried first"
    )
    after: int = Field(default=2, ge=0, description="alternating: steps in the object before")
    every: int = Field(default=1, ge=1, description="alternating: steps in the object between")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name, pair in self.bounds.items():
            if len(pair) != 2 or not all(map(math.isfinite, pair)) or not pair[0] < pair[1]:
                raise ValueError(f"bounds of {name} are two finite numbers, low < high; got {pair}")
        if self.scan and not self.bounds:
            raise ValueError("a scan needs bounds of the nuisances")
        return self


class QualityTable(Table):
    """``[quality]``: what is measured of the result besides its residual."""

    split: bool | str = Field(
        default=False,
        description="deal the acquisitions along this axis of the data into two halves, "
        "reconstruct each, and find the resolution up to which they agree (two more solves); "
        "true for the axis that the instrument names",
    )
    threshold: Literal["half-bit", "1/7", "1/2"] = Field(
        default="half-bit", description="of the Fourier shell correlation that is resolution"
    )

    @field_validator("split", mode="before")
    @classmethod
    def _one_message(cls, value: object) -> object:
        if not isinstance(value, bool | str):
            raise ValueError("expected true, false or the name of an axis")
        return value


class UncertaintyTable(Table):
    """``[uncertainty]``: error bars on the reconstruction."""

    method: Literal["auto", "none", "bootstrap", "ensemble", "posterior"] = Field(
        default="auto",
        description="what the deviation is from; by default what the model was calibrated with "
        "(`labrecon intervals`), or a sampler's own samples, or none",
    )
    level: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of samples to be covered; by default that of the calibration, or 0.9",
    )
    draws: int | None = Field(
        default=None,
        ge=2,
        description="data sets of the bootstrap; by default those of the calibration, or 20",
    )
    members: list[str] = Field(
        default=[], description="run folders of the other networks of an ensemble"
    )
    calibration: str | None = Field(
        default=None, description="file of `labrecon intervals`; by default that of the model"
    )


class OutputTable(OpenTable):
    """``[output]``: the volume's format and the options of its writer."""

    format: str = "hdf5"


class Compare(Table):
    """``[[compare]]``: a further reconstruction, shown beside the main one in the report.

    Its steps follow the main ones; a table that is absent is taken from the main recipe.
    """

    title: str
    prepare: list[Prepare] = []
    operator: dict[str, Any] | None = None
    solver: SolverTable | None = None
    prior: PriorTable | None = None


class Written(Table):
    """A recipe of any kind, which knows where its keys were written."""

    _document: Document = PrivateAttr(default_factory=lambda: Document("the recipe", {}))

    def where(self, *key: str | int) -> str:
        """Where a key was written, for messages."""
        return self._document.where(key)

    def plain(self) -> dict[str, Any]:
        """The recipe as plain values, without what was left at its default of nothing."""
        return self.model_dump(mode="json", exclude_none=True)


W = TypeVar("W", bound=Written)


class Recipe(Written):
    """Everything that decides how a scan is reconstructed."""

    seed: int = 0
    prepare: list[Prepare] = []
    operator: dict[str, Any] = {}
    solver: SolverTable = SolverTable()
    prior: PriorTable = PriorTable()
    calibrate: CalibrateTable = CalibrateTable()
    quality: QualityTable = QualityTable()
    uncertainty: UncertaintyTable = UncertaintyTable()
    output: OutputTable = OutputTable()
    compare: list[Compare] = []


def load_recipe(
    source: str | Path | Mapping[str, Any],
    instrument: Instrument,
    overrides: Iterable[str] = (),
) -> Recipe:
    """The recipe in a TOML file, of an instrument by name, or given as a mapping.

    Args:
        source: path of a ``.toml`` file, a name from ``instrument.recipes()``, or values.
        instrument: whose named recipes are looked up.
        overrides: dotted assignments such as ``solver.iterations=50``.

    Raises:
        RecipeError: unknown recipe, invalid TOML, unknown key or impossible value; the message
            names the file, the line, the key and the nearest valid key.
    """
    return validated(Recipe, find_document(source, instrument, "recon"), overrides)


def validated(kind: type[W], document: Document, overrides: Iterable[str] = ()) -> W:
    """A document, with overrides, as a recipe of some kind.

    Raises:
        RecipeError: see `load_recipe`.
    """
    document = tomlfile.override(document, overrides)
    try:
        recipe = kind.model_validate(document.values)
    except ValidationError as error:
        told = [_explain(document, item, kind) for item in error.errors()]
        raise RecipeError("\n".join(told)) from None
    recipe._document = document
    return recipe


def find_document(
    source: str | Path | Mapping[str, Any], instrument: Instrument, task: str
) -> Document:
    """The values of a recipe; nothing where ``source`` is the task and the instrument has none.

    Raises:
        RecipeError: unknown recipe, a file that can not be read, or invalid TOML.
    """
    if isinstance(source, Mapping):
        return Document("the recipe", dict(source))
    known = instrument.recipes()
    if str(source) in known:
        name = f"recipe {str(source)!r} of {instrument.name!r}"
        return Document(name, dict(known[str(source)]))
    path = Path(source)
    if path.suffix == ".toml" or path.is_file():
        return tomlfile.read(path)
    if source == task:
        return Document("the default recipe", {})
    raise RecipeError(
        f"there is no recipe {str(source)!r}: it is neither a file nor a recipe of "
        f"{instrument.name!r}{nearest(str(source), known)}; it has "
        f"{', '.join(sorted(known)) or 'none'}"
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the nearest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _explain(document: Document, item: Any, kind: type[BaseModel]) -> str:
    key: Key = tuple(item["loc"])
    table = ".".join(map(str, key[:-1]))
    name = str(key[-1]) if key else ""
    at = f"[{table}]" if table else "the recipe"
    if item["type"] == "extra_forbidden":
        keys = list(_model_at(kind, key[:-1]).model_fields)
        return (
            f"{document.where(key)}: {at} has no key {name!r}{nearest(name, keys)}; "
            f"its keys are {', '.join(keys)}"
        )
    if item["type"] == "missing":
        return f"{document.where(key[:-1])}: {at} needs a {name!r}"
    message = item["msg"].removeprefix("Value error, ")
    given = "" if isinstance(item["input"], dict | BaseModel) else f", got {item['input']!r}"
    return f"{document.where(key)}: {'.'.join(map(str, key)) or 'recipe'}: {message}{given}"


def _model_at(kind: type[BaseModel], key: Key) -> type[BaseModel]:
    """The table that stands at a key."""
    for name in key:
        if isinstance(name, str):
            found = _tables_in(kind.model_fields[name].annotation)
            kind = next(found, kind)
    return kind


def _tables_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The tables that a field may hold: ``Prepare`` in ``list[Prepare]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables_in(argument)
