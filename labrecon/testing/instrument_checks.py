"""Checks of an instrument: description, geometry, objects, simulation, files."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon.instrument import Scan
from labrecon.plugins import resolve
from labrecon.testing.bench import Bench, check, instrument_of, relative
from labrecon.testing.finding import Finding


@check("description", instrument=True)
def description(bench: Bench) -> Iterator[Finding]:
    """Name, title, units, and everything that is named by a dotted path is there."""
    instrument = instrument_of(bench)
    if not isinstance(getattr(instrument, "name", None), str) or not instrument.name:
        yield Finding("failed", "the instrument has no name", advice='name = "…" in the class')
        return
    for table in ("readers", "exporters", "steps"):
        for name, value in getattr(instrument, table).items():
            try:
                resolve(value)
            except (ImportError, AttributeError, ValueError) as error:
                yield Finding(
                    "failed",
                    f"{table}[{name!r}] = {value!r} can not be loaded: {error}",
                    advice="write it as 'package.module:attribute', and install what it imports",
                )
                return
    missing = [word for word in ("title", "unit", "data_unit") if not getattr(instrument, word)]
    if missing:
        yield Finding(
            "warned",
            f"no {', '.join(missing)}",
            advice="they label reports and listings; a dimensionless quantity has unit '1'",
        )
    else:
        yield Finding("passed", f"{instrument.title}; object in {instrument.unit}")


@check("geometry", instrument=True)
def geometry(bench: Bench) -> Iterator[Finding]:
    """A geometry survives JSON, and says what its numbers mean."""
    instrument, model = instrument_of(bench), instrument_of(bench).Geometry
    example = bench.geometry
    if not isinstance(example, model):
        yield Finding(
            "failed",
            f"example() returns a {type(example).__name__}, Geometry is {model.__name__}",
            advice="return an instance of Geometry",
        )
        return
    try:
        again = model.model_validate_json(example.model_dump_json())
    except Exception as raised:
        yield Finding(
            "failed",
            f"does not survive JSON: {type(raised).__name__}: {raised}",
            advice="use numbers, strings, lists and tuples; arrays go into tuples of floats",
        )
        return
    if again != example:
        lost = [k for k, v in dict(example).items() if getattr(again, k, None) != v]
        yield Finding(
            "failed",
            f"JSON changes {', '.join(lost) or 'it'}",
            advice="fields that are computed or excluded must come back the same",
        )
        return
    x = bench.point()
    with torch.no_grad():
        error = relative(instrument.operator(again).to(bench.device)(x), bench.operator(x))
    if error > bench.exact:
        told = "the operator of the geometry read back differs"
        advice = "the geometry must hold all that the operator needs"
        yield Finding("failed", told, error, bench.exact, advice)
        return
    if unknown := [name for name in instrument.noise_fields if name not in model.model_fields]:
        told = f"noise_fields names {', '.join(unknown)}, which the geometry has not"
        yield Finding("failed", told, advice="names of fields of Geometry")
        return
    looked_at = [name for name in instrument.noise_fields if _changes_images(bench, name, x)]
    if looked_at:
        yield Finding(
            "failed",
            f"the operator looks at {', '.join(looked_at)}, which noise_fields denies",
            advice="take it out of noise_fields: scans that differ in it would share an operator",
        )
        return
    bare = [name for name, info in model.model_fields.items() if not info.description]
    if bare:
        yield Finding(
            "warned",
            f"no description, so no unit, of: {', '.join(bare)}",
            advice='Field(…, description="pixel size in mm")',
        )
    if _accepts_anything(model, example):
        yield Finding(
            "warned",
            "a misspelt field is ignored without a word",
            advice='model_config = ConfigDict(extra="forbid")',
        )
    yield Finding("passed", "comes back from JSON as it was")


def _changes_images(bench: Bench, name: str, x: Tensor) -> bool:
    """Whether another value of a number, or of a list of numbers, changes what is predicted."""
    instrument, value = instrument_of(bench), getattr(bench.geometry, name)
    if isinstance(value, int | float):
        other: object = type(value)(2 * value + 1)
    elif isinstance(value, tuple | list) and all(isinstance(v, int | float) for v in value):
        other = type(value)(2 * v + 1 for v in value)
    else:
        return False
    changed = bench.geometry.model_copy(update={name: other})
    with torch.no_grad():
        operator = instrument.operator(changed).to(bench.device)
        return not torch.equal(operator(x), bench.operator(x))


def _accepts_anything(model: type[BaseModel], example: BaseModel) -> bool:
    try:
        model.model_validate({**example.model_dump(), "a_field_that_nobody_has": 1})
    except ValueError:
        return False
    return True


@check("objects", instrument=True)
def objects(bench: Bench) -> Iterator[Finding]:
    """Sample objects are in the domain, finite, in range, different, and repeatable."""
    instrument, space = instrument_of(bench), bench.operator.domain
    x = instrument.objects(bench.geometry, 3, bench.generator(70))
    again = instrument.objects(bench.geometry, 3, bench.generator(70))
    low, high = instrument.limits
    advice = f"return (n, {', '.join(space.axes)}) of {space.dtype}"
    if x.shape != (3, *space.shape) or x.dtype != space.dtype:
        yield Finding("failed", f"objects(n=3) gives {tuple(x.shape)} {x.dtype}", advice=advice)
    elif not bool(torch.isfinite(x).all()):
        yield Finding("failed", "objects are not finite", advice="look for a division by zero")
    elif not torch.equal(x, again):
        yield Finding("failed", "one seed gives different objects",
                      advice="draw all random numbers from the generator given")  # fmt: skip
    elif torch.equal(x[0], x[1]) and torch.equal(x[1], x[2]):
        yield Finding("failed", "all objects are the same",
                      advice="draw a new object for each of n from the generator")  # fmt: skip
    elif not bool(x.any()):
        yield Finding("failed", "objects are zero", advice="they should look like your samples")
    elif not x.is_complex() and _outside(x, low, high):
        yield Finding(
            "failed",
            f"objects from {float(x.min()):.4g} to {float(x.max()):.4g}, limits {low} to {high}",
            advice="mend the objects, or the class attribute limits",
        )
    else:
        size = x.abs() if x.is_complex() else x
        told = f"from {float(size.min()):.4g} to {float(size.max()):.4g} {instrument.unit}"
        yield Finding("passed", told.rstrip())


def _outside(x: Tensor, low: float | None, high: float | None) -> bool:
    return (low is not None and float(x.min()) < low) or (
        high is not None and float(x.max()) > high
    )


@check("simulation", instrument=True)
def simulation(bench: Bench) -> Iterator[Finding]:
    """A simulated scan is one that the instrument itself would accept."""
    scan, again = bench.simulate(80), bench.simulate(80)
    if not isinstance(scan, Scan):
        yield Finding("failed", f"simulate returns a {type(scan).__name__}",
                      advice="return a labrecon.Scan")  # fmt: skip
        return
    if not bool(torch.isfinite(scan.data).all()):
        yield Finding("failed", "the data are not finite", advice="see the checks spaces and noise")
        return
    if not torch.equal(scan.data, again.data):
        yield Finding("failed", "one seed gives different scans",
                      advice="draw all random numbers from the generator given")  # fmt: skip
        return
    try:
        scan.noise.check(scan.data)
    except ValueError as error:
        yield Finding("failed", f"the noise refuses its own data: {error}",
                      advice="mend Noise.check or Noise.sample")  # fmt: skip
        return
    yield Finding("passed", f"data {tuple(scan.data.shape)}, the same from one seed")
