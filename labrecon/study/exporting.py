"""What a study writes for the instrument: design, geometry, and what exporters make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from labrecon.errors import OutputError
from labrecon.io.atomic import write_file
from labrecon.io.plain import dumps
from labrecon.plugins import resolve
from labrecon.study.recipe import DesignRecipe
from labrecon.study.subject import Subject, Values
from labrecon.train.order import Order

__all__ = ["export"]


def export(order: Order, subject: Subject, values: Values, run: Path) -> list[str]:
    """``design.json``, ``geometry.json`` and what the instrument's exporters write.

    Args:
        order: what was asked for; its warnings are added to.
        subject: what was designed.
        values: the designs, hardened.
        run: folder of the study; with several numbers of acquisitions a folder in it is taken.

    Returns:
        The files, relative to ``run``.

    Raises:
        OutputError: the design breaks a limit of the hardware, or a file can not be written.
    """
    recipe, instrument = order.recipe, order.instrument
    assert isinstance(recipe, DesignRecipe)
    folder = run
    if len(recipe.design.exposures) > 1:
        folder = run / f"exposures-{subject.count}"
        folder.mkdir(exist_ok=True)
    given = {name: value.cpu() for name, value in values.items()}
    sets = subject.experiment.designs
    broken = {
        name: {rule: str(v) for rule, v in sets[name].violations(value).items()}
        for name, value in values.items()
    }
    subset = recipe.design.subset
    chosen = {} if not subset else {subset: given["members"].nonzero()[:, 0].tolist()}
    told = {
        "instrument": instrument.name,
        "designs": {name: value.tolist() for name, value in given.items()},
        "chosen": chosen,
        "violations": broken,
        "budget": _budget(order, subject, given),
    }
    write_file(folder / "design.json", dumps(told), force=True)
    written = [folder / "design.json"]
    if any(broken.values()):
        rules = "; ".join(f"{n}: {r} {v}" for n, b in broken.items() for r, v in b.items())
        raise OutputError(
            f"the learned design can not be realised and is not exported ({rules}); design.json in "
            f"{folder} says by how much"
        )
    geometry: Any = subject.geometry
    try:
        designed = instrument.designed(geometry, given)
    except ValueError as error:
        order.warnings.append(f"geometry.json is not written: {error}")
        if subset:
            return _relative(written, run)
    else:
        write_file(folder / "geometry.json", designed.model_dump_json(), force=True)
        written.append(folder / "geometry.json")
        if subset:
            # What is chosen is in the geometry now.
            geometry, given = designed, {}
    if not instrument.exporters:
        order.warnings.append(f"{instrument.name} has no exporter: only design.json is written")
    for name, exporter in instrument.exporters.items():
        try:
            resolve(exporter)(geometry, given, folder / name)
        except ValueError as error:
            order.warnings.append(f"the exporter {name} writes nothing: {error}")
        written += [path for path in folder.iterdir() if path.name.partition(".")[0] == name]
    return _relative(written, run)


def _relative(written: list[Path], run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in written)


def _budget(order: Order, subject: Subject, given: dict[str, Tensor]) -> dict[str, str]:
    try:
        return dict(order.instrument.budget(subject.geometry, given))
    except (KeyError, ValueError) as error:
        # A lab's own words must not cost the design.
        order.warnings.append(f"the budget is not told: {type(error).__name__}: {error}")
        return {}
