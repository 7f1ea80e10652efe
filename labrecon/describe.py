"""What a file holds, or what a registered thing is and takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from labrecon import reading
from labrecon.calibration.listing import calibratable
from labrecon.errors import RecipeError, ScanError
from labrecon.experiment import Experiment
from labrecon.instrument import Instrument, Scan
from labrecon.io.plain import brief
from labrecon.plan import find_instrument, get
from labrecon.plugins import Host, resolve
from labrecon.recipe import nearest

__all__ = ["Description", "describe", "describe_file", "offered", "recipe_of"]

Rows = Mapping[str, str]

_KINDS = (
    "instruments",
    "solvers",
    "priors",
    "operators",
    "feasible_sets",
    "networks",
    "learners",
    "readers",
    "writers",
    "metrics",
    "report_sections",
    "findings",
    "commands",
)


#: What labrecon gives to a factory, and no recipe sets there.
_GIVEN = {
    "learners": ("network", "operator", "noise", "acquisitions"),
    "networks": ("seed",),
    "solvers": ("prior",),
}


@dataclass(frozen=True)
class Description:
    """A name, what kind of thing it is, and tables of what is to be said."""

    name: str
    kind: str
    text: str = ""
    parts: Mapping[str, Rows] = field(default_factory=dict)


def offered() -> tuple[str, ...]:
    """The kinds of things that plugins register."""
    return _KINDS


def describe(name: str, host: Host, instrument: str | None = None) -> Description:
    """Describe a file, or an instrument, solver, prior, … by its registered name.

    Args:
        name: a path or a name; a file wins.
        host: where names are looked up.
        instrument: read the file as one of this instrument; by default all are asked.

    Raises:
        RecipeError: nothing has the name, and there is no such file.
        ScanError: nobody recognises the file, or it is damaged.
    """
    path = Path(name)
    if path.exists():
        return describe_file(path, host, instrument)
    if ":" in name and name.partition(":")[0] not in host.reports:
        return _describe_instrument(find_instrument(name, host), f"instrument of {name}")
    known: dict[str, str] = {}
    for kind in _KINDS:
        names = host.names(kind)
        if name in names:
            return _describe_name(kind, name, names[name], host)
        known |= dict.fromkeys(names, kind)
    raise RecipeError(
        f"{name!r} is neither a file here nor a registered name{nearest(name, known)}; "
        "`labrecon plugins -v` lists all names"
    )


def describe_file(path: Path, host: Host, instrument: str | None = None) -> Description:
    """What a reader finds in a scan's file, what it assumes, and what it ignores."""
    names = [instrument] if instrument else list(host.names("instruments"))
    missing, refused = [], []
    for name in names:
        try:
            candidate = find_instrument(name, host)
            return _describe_scan(path, candidate, reading.read(candidate, path, host))
        except RecipeError as error:
            if instrument:
                raise
            missing.append(f"{name} ({error})")
        except ScanError as error:
            if instrument:
                raise
            refused.append(f"{name}: {error}")
    unasked = f"; not asked: {', '.join(missing)}" if missing else ""
    told = "".join(f"\n  {each}" for each in refused)
    raise ScanError(f"no instrument reads {path}{unasked}{told}")


def _describe_scan(path: Path, instrument: Instrument, scan: Scan) -> Description:
    arrays = {"data": scan.data, "weights": scan.weights, "truth": scan.truth, **scan.calibration}
    return Description(
        str(path),
        f"scan of the instrument {instrument.name!r}",
        instrument.title,
        {
            "Found": scan.found,
            "Assumed": scan.assumed,
            "Ignored": scan.ignored,
            "Arrays": {
                name: f"{tuple(array.shape)} {str(array.dtype).removeprefix('torch.')}"
                for name, array in arrays.items()
                if array is not None
            },
            "Geometry": {
                key: brief(value) for key, value in dict(scan.geometry).items() if value is not None
            },
            "Nuisances": {
                "to calibrate": f"those that `labrecon describe {instrument.name}` lists"
            },
            "Source": {key: brief(value) for key, value in scan.provenance.items()},
        },
    )


def _describe_name(kind: str, name: str, owner: str, host: Host) -> Description:
    title = f"{kind[:-1].replace('_', ' ')} of the plugin {owner!r}"
    if kind == "instruments":
        return _describe_instrument(find_instrument(name, host), title)
    found = get(host, kind, name, "describe")
    text = inspect.getdoc(found) or ""
    return Description(name, title, text, {"Options": _options(found, _GIVEN.get(kind, ()))})


def _describe_instrument(instrument: Instrument, title: str) -> Description:
    example = instrument.example()
    operator = instrument.operator(example)
    experiment = Experiment(operator, instrument.noise(example))
    return Description(
        instrument.name,
        title,
        "\n\n".join(filter(None, (instrument.title, inspect.getdoc(type(instrument)) or ""))),
        {
            "Geometry": _fields(instrument.Geometry),
            "Operator": {
                "example": f"{_space(operator.domain)} to {_space(operator.range)}",
                "linear": "yes" if operator.linear else "no",
                **{f"option {k}": v for k, v in _options(instrument.operator).items()},
            },
            "Designs": {key: type(value).__name__ for key, value in experiment.designs.items()},
            "Nuisances": calibratable(instrument),
            "Readers": {key: _first_line(value) for key, value in instrument.readers.items()},
            "Exporters": {key: _first_line(value) for key, value in instrument.exporters.items()},
            "Steps": {key: _step(value) for key, value in instrument.steps.items()},
            "Recipes": {key: _recipe(value) for key, value in instrument.recipes().items()},
        },
    )


def recipe_of(instrument: Instrument, name: str) -> Mapping[str, Any]:
    """One of an instrument's recipes, to be written to a file and changed.

    Raises:
        RecipeError: it has none of the name.
    """
    known = instrument.recipes()
    if name not in known:
        raise RecipeError(
            f"{instrument.name!r} has no recipe {name!r}{nearest(name, known)}; it has "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    return known[name]


def _fields(model: type[BaseModel]) -> Rows:
    rows = {}
    for key, info in model.model_fields.items():
        kind = getattr(info.annotation, "__name__", str(info.annotation))
        default = "" if info.is_required() else f" [{info.get_default(call_default_factory=True)}]"
        rows[key] = f"{info.description or kind}{default}"
    return rows


def _options(factory: Callable[..., Any], given: tuple[str, ...] = ()) -> Rows:
    skipped = ("self", "geometry", "scan", "path", "volume", "info", "problem", "host", *given)
    parameters = inspect.signature(factory).parameters.values()
    return {
        p.name: "required" if p.default is p.empty else f"default {p.default!r}"
        for p in parameters
        if p.name not in skipped and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def _space(space: Any) -> str:
    axes = zip(space.axes, space.shape, strict=True)
    return " × ".join(f"{axis} {size}" for axis, size in axes)


def _first_line(value: Any) -> str:
    found = resolve(value)
    documented = found if inspect.isroutine(found) or isinstance(found, type) else type(found)
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _step(value: Any) -> str:
    options = ", ".join(f"{k} ({v})" for k, v in _options(resolve(value)).items())
    return f"{_first_line(value)}{f' Options: {options}' if options else ''}"


def _recipe(values: Mapping[str, Any]) -> str:
    steps = " → ".join(str(step.get("step")) for step in values.get("prepare", ()))
    solver = values.get("solver", {}).get("name", "fista")
    prior = values.get("prior", {}).get("name")
    return " → ".join(filter(None, (steps, f"{solver} with {prior}" if prior else solver)))
