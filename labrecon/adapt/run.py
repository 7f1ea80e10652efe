"""An adaptation from a trained network and new scans to a run folder of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from labrecon.adapt.judging import Judged, judged, warn_of
from labrecon.adapt.made import Made, adapted, card_of
from labrecon.adapt.order import Order, place_order
from labrecon.adapt.recipe import load_adapt_recipe
from labrecon.adapt.report import render_adaptation
from labrecon.adapt.training import trained
from labrecon.clock import Watcher
from labrecon.instrument import Instrument
from labrecon.io.model import SavedModel, save_model
from labrecon.io.plain import dumps, plain
from labrecon.io.provenance import collect, hash_inputs
from labrecon.learner import FitResult
from labrecon.networks.calibrated import Calibrated
from labrecon.operator import Operator
from labrecon.plugins import Host
from labrecon.reconstructor import Reconstructor
from labrecon.report.page import page_or_warning
from labrecon.train.folder import RunFolder

__all__ = ["AdaptResult", "adapt"]


@dataclass(frozen=True)
class AdaptResult:
    """What `adapt` made.

    Attributes:
        output: the run folder.
        summary: what ``--json`` prints: paths, status, what each way makes of the scans, timings.
        warnings: what went wrong without stopping it.
        already_done: the run was finished before, and nothing was done now.
    """

    output: Path
    summary: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    already_done: bool = False


def adapt(
    run: str | Path,
    scans: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    method: str | None = None,
    calibrate: Iterable[str] = (),
    objects: str | Path | None = None,
    recipe: str | Path | Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
    instrument: str | Instrument | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
    tell: Callable[[str], None] | None = None,
    host: Host | None = None,
) -> AdaptResult:
    """Adapt a trained network to scans of an instrument that is not what it was in training.

    The run folder is one as `labrecon.train.train` makes it, for ``labrecon recon --model``; the
    parent's stays as it is. The same call goes on with one that was stopped.

    - "rr": reuse and regularise. The network, unchanged, is the prior of a reconstruction with the
      new operator: no training, some ten times the work per scan.
    - "pp": the network is changed by the scans alone, without truths, and is as fast as before. By
      default it is fine-tuned towards what "rr" makes of them; parametrise and perturb as published
      is ``misfit = "chi2"``.
    - "rr+": both: what "rr" iterates is tuned on the scans.
    - "transfer": its supervised training goes on with few scans whose objects are known.

    Args:
        run: folder of the trained network.
        scans: files, folders of them, or patterns.
        out: the run folder: a new one, or one to go on with.
        method: see above; by default the recipe's ("rr").
        calibrate: nuisances of the operator that are found from the scans beside it.
        objects: for "transfer": folder of objects, paired with scans by file name.
        recipe: a TOML file or values; see `AdaptRecipe`.
        overrides: dotted assignments on top of it: ``"fit.steps=400"``.
        instrument: where it is found, unless a plugin registers it.
        device: a torch device, or ``"auto"`` for the first GPU if there is one.
        watcher: is told of the progress.
        tell: is given what is known of the trained network before the work begins, and what a
            fit is about to do.
        host: plugin host; the process's own by default.

    Raises:
        RecipeError: a key or value; nothing to adapt to; the run was started with others; exit 2.
        ModelError: the trained run is not done, damaged, or of other objects; 2.
        ScanError, ObjectsError: scans or objects can not be read, or do not fit; 3.
        TrainingError: a loss that is not finite, memory; 4.
        OutputError: the folder is taken or can not be written; 5.
        Interrupted: Ctrl-C; 130.
    """
    out = Path(out)
    given = [scans] if isinstance(scans, str | Path) else list(scans)
    loaded = load_adapt_recipe(recipe, overrides, method=method, calibrate=calibrate)
    order = place_order(
        run,
        given,
        loaded,
        objects=objects,
        instrument=instrument,
        device=device,
        watcher=watcher,
        tell=tell,
        host=host,
    )
    with order.clock("network"):
        made = adapted(order)
    # The objects, too: nothing may be calibrated on them later as if the network had not seen them.
    inputs = hash_inputs([*order.files, *order.truth_files])
    facts = {
        "parent": order.parent.card.sha256,
        "instrument": order.instrument.name,
        "geometry": order.geometry.model_dump(mode="json"),
        "files": [one["sha256"] for one in inputs],
    }
    folder = RunFolder.open(out, order.recipe.plain(), facts)
    if folder.done:
        told = folder.provenance()
        return AdaptResult(out, _summary(out, told), told.get("warnings", []), already_done=True)
    with folder.at_work():
        return _carry_out(order, made, folder, inputs)


def _carry_out(
    order: Order, made: Made, folder: RunFolder, inputs: list[dict[str, Any]]
) -> AdaptResult:
    begin = time.perf_counter()
    result: FitResult | None = None
    if order.recipe.trains:
        with order.clock("train"):
            result = trained(order, made, folder)
    seconds = time.perf_counter() - begin
    network = made.finished()
    with order.clock("compare"):
        ways = judged(order, network)
        warn_of(order, ways)
    with order.clock("write"):
        model = save_model(folder.path, card_of(order, made, network), network)
    provenance = _provenance(order, network, result, seconds, ways, model, inputs)
    with order.clock("report"):
        page = page_or_warning(lambda: render_adaptation(order, ways, provenance), order.warnings)
        folder.write("report.html", page)
    provenance["warnings"] = plain(order.warnings)
    provenance["timings_seconds"] = order.clock.rounded()
    folder.write("provenance.json", dumps(provenance))
    return AdaptResult(folder.path, _summary(folder.path, provenance), order.warnings)


def _provenance(
    order: Order,
    network: Reconstructor,
    result: FitResult | None,
    seconds: float,
    ways: list[Judged],
    model: SavedModel,
    inputs: list[dict[str, Any]],
) -> dict[str, Any]:
    parent, recipe = order.parent, order.recipe
    found = network.nuisances if isinstance(network, Calibrated) else {}
    training: dict[str, Any] = {"status": "nothing to train", "steps": 0, "seconds": 0.0}
    if result is not None:
        best = None if result.best is None else result.best.step
        training = {"status": result.status, "steps": result.steps, "seconds": seconds}
        training |= {"best_step": best, "last": result.last}
    return collect(
        host=order.host,
        inputs=inputs,
        device=order.device,
        timings=order.clock.seconds,
        instrument=order.instrument.name,
        geometry=order.geometry,
        recipe=recipe.plain(),
        seed=recipe.seed,
        parent={"run": str(parent.folder.absolute()), "sha256": parent.card.sha256},
        method=recipe.method,
        differences=order.differences,
        calibrated={name: value.tolist() for name, value in found.items()},
        calibration=[line for name in found for line in _found(order.operator, name, found[name])],
        model=model.told(),
        training=training,
        ways=[way.told() for way in ways],
        warnings=order.warnings,
    )


def _found(operator: Operator, name: str, value: Tensor) -> list[dict[str, Any]]:
    """Each number that was calibrated, with its value before, which the operator has again."""
    feasible = operator.nuisances[name]
    rows = zip(
        operator.labels_of(name),
        value.flatten().tolist(),
        operator.get_parameter(name).flatten().tolist(),
        strict=True,
    )
    unit = "" if feasible is None else feasible.unit
    return [
        {"label": label, "value": now, "start": start, "unit": unit} for label, now, start in rows
    ]


def _summary(out: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("instrument", "parent", "method", "differences", "model", "training")
    told: dict[str, Any] = plain({name: provenance[name] for name in kept})
    told |= plain(
        {name: provenance[name] for name in ("calibrated", "ways", "warnings", "timings_seconds")}
    )
    told["calibration"] = provenance.get("calibration", [])
    return {
        "status": told["training"]["status"],
        "output": str(out),
        "report": str(out / "report.html"),
        **told,
    }
