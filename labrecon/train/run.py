"""A training from objects to a run folder with model, logs, provenance and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labrecon import posing
from labrecon.clock import Watcher
from labrecon.errors import LabreconError, ObjectsError, RecipeError, TrainingError
from labrecon.fitting.processes import Processes
from labrecon.instrument import Instrument
from labrecon.io.checkpoints import CheckpointFolder
from labrecon.io.logs import CsvLog, TensorBoardLog
from labrecon.io.plain import dumps
from labrecon.learner import FitResult, Learner, fit
from labrecon.learners.self_supervised import SelfSupervised
from labrecon.noise import Noise
from labrecon.operator import Operator
from labrecon.plugins import Host
from labrecon.reconstructor import Reconstructor
from labrecon.report.page import page_or_warning
from labrecon.report.parameters import learned
from labrecon.report.training import render_training
from labrecon.solvers.trained import with_unit_noise
from labrecon.train.data import TrainingData, from_objects
from labrecon.train.folder import RunFolder
from labrecon.train.measured_once import measured_once
from labrecon.train.order import Order, place_order
from labrecon.train.outcome import provenance_of, save, summary, training_report
from labrecon.train.pairs import from_pairs
from labrecon.train.scans import from_scans
from labrecon.train.worth import beside, judged, warn_if_worse

__all__ = ["TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What `train` made.

    Attributes:
        output: the run folder.
        summary: what ``--json`` prints: paths, status, steps, metrics of each method, timings.
        warnings: what went wrong without stopping it.
        already_done: the run was finished before, and nothing was done now.
    """

    output: Path
    summary: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    already_done: bool = False


def train(
    instrument: str | Instrument,
    out: str | Path,
    *,
    network: str | None = None,
    objects: str | Path | None = None,
    scans: str | Path | None = None,
    recipe: str | Path | Mapping[str, Any] = "train",
    overrides: Iterable[str] = (),
    geometry: str | Path | None = None,
    scan: str | Path | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
    host: Host | None = None,
) -> TrainResult:
    """Train a network for an instrument; the same call goes on with a run that was stopped.

    A run that goes on, however it was stopped, ends with the bits of one that ran through. The
    run folder holds ``model.safetensors`` and ``model.json`` (for ``labrecon recon --model``),
    ``recipe.toml``, ``checkpoints``, ``log.csv``, ``tensorboard``, ``provenance.json`` and
    ``report.html``. Under ``torchrun`` several processes train together.

    Args:
        instrument: a registered name, or an instrument.
        out: the run folder: a new one, or one to go on with.
        network: a registered network; by default the recipe's.
        objects: folder of objects; by default the instrument simulates them.
        scans: folder of measured scans, each with an object of the same file name; or alone, for
            a learner that needs no truth.
        recipe: a TOML file, a name from ``instrument.recipes()``, or values.
        overrides: dotted assignments on top of the recipe: ``"fit.epochs=20"``.
        geometry: JSON file of the acquisition; by default the instrument's example.
        scan: a measured file whose geometry is taken.
        device: a torch device, or ``"auto"`` for the first GPU if there is one.
        watcher: is told of the progress.
        host: plugin host; the process's own by default.

    Raises:
        RecipeError: recipe, name or option; or the run was started with others; exit code 2.
        ObjectsError, ScanError: objects or scans can not be read, or do not fit; 3.
        TrainingError: a loss that is not finite, memory; 4.
        OutputError: the folder is taken or can not be written; 5.
        Interrupted: Ctrl-C; 130.
    """
    out = Path(out)
    order = place_order(
        instrument,
        network=network,
        objects=objects,
        scans=scans,
        recipe=recipe,
        overrides=overrides,
        geometry=geometry,
        scan=scan,
        device=device,
        watcher=watcher,
        host=host,
    )
    processes = Processes(order.device)
    order.device = processes.device
    with order.clock("operator"):
        operator = posing.make_operator(
            order.instrument, order.geometry, order.recipe.operator, order.device
        )
    noise = order.instrument.noise(order.geometry).to(order.device)
    with order.clock("objects"):
        data = _data(order, operator, noise)
    with order.clock("network"):
        made = _network(order, data)
        learner = order.learner(order.in_mode(made), operator, noise)
        _check_scans(order, learner, data)
    facts = _facts(order, data)
    run = RunFolder.open(out, order.recipe.plain(), facts) if processes.first else RunFolder(out)
    done = processes.agree(run.done if processes.first else None)
    if not processes.first:
        # A further process writes nothing.
        status = "done" if done else _fit(order, data, learner, run).status
        return TrainResult(out, {"status": status}, already_done=done)
    if done:
        told = run.provenance()
        return TrainResult(out, summary(out, told), told.get("warnings", []), already_done=True)
    with run.at_work():
        return _carry_out(order, data, operator, made, learner, run)


def _data(order: Order, operator: Operator, noise: Noise) -> TrainingData:
    recipe, instrument, device = order.recipe, order.instrument, order.device
    if order.pairs:
        make = from_scans if order.without_truth else from_pairs
        return make(recipe, instrument, order.pairs, operator, device)
    try:
        data = from_objects(recipe, instrument, order.geometry, operator, noise, device)
        if order.without_truth:
            data = measured_once(data, recipe, instrument, operator, noise, device)
        return data
    except ValueError as error:
        # Objects that the noise can not be of (negative counts), or of the wrong space.
        raise ObjectsError(f"the objects can not be measured: {error}") from error


def _facts(order: Order, data: TrainingData) -> dict[str, Any]:
    """What decides the result beside the recipe."""
    return {
        "instrument": order.instrument.name,
        "geometry": order.geometry.model_dump(mode="json"),
        "objects": data.digest,
    }


def _network(order: Order, data: TrainingData) -> Reconstructor:
    problem = data.example
    if order.recipe.data_term == "unit":
        problem = with_unit_noise(problem)
    return order.network(problem, data.scale)


def _check_scans(order: Order, learner: Learner, data: TrainingData) -> None:
    """Raise where the learner can not be trained on one of the scans."""
    if not isinstance(learner, SelfSupervised):
        return
    try:
        for scan in data.scans:
            learner.check(scan.trained_on)
    except ValueError as error:
        raise RecipeError(
            f"{order.recipe.where('learner')}: the learner {order.recipe.learner.name!r}: {error}"
        ) from error


def _carry_out(
    order: Order,
    data: TrainingData,
    operator: Operator,
    network: Reconstructor,
    learner: Learner,
    run: RunFolder,
) -> TrainResult:
    order.warnings += data.warnings
    untrained = learned(network)
    before = judged("before training", order, data, network)
    with order.clock("train"):
        result = _fit(order, data, learner, run)
    network.eval()
    with order.clock("write"):
        model = save(order, data, operator, network, run)
    with order.clock("compare"):
        methods = [judged(f"{order.recipe.network.name} (trained)", order, data, network), before]
        warn_if_worse(order, methods[0], before)
        methods += beside(order, data)
    provenance = provenance_of(order, data, result, methods, model)
    with order.clock("report"):
        now = learned(network)
        shown = training_report(order, data, provenance, methods, untrained, now, run)
        page = page_or_warning(lambda: render_training(shown), order.warnings)
        run.write("report.html", page)
    provenance["timings_seconds"] = order.clock.rounded()
    run.write("provenance.json", dumps(provenance))
    return TrainResult(run.path, summary(run.path, provenance), order.warnings)


def _fit(order: Order, data: TrainingData, learner: Learner, run: RunFolder) -> FitResult:
    config = order.recipe.config
    steps = -(-len(data.train) // config.batch_size) * (config.epochs or 1)
    total = config.steps or steps

    def show(step: int, record: dict[str, float]) -> None:
        order.host.fit_step(step, record)
        if order.clock.watcher is not None:
            order.clock.watcher.step("training", {"step": float(step), **record}, total)

    logs = [CsvLog(run.path / "log.csv"), TensorBoardLog(run.path / "tensorboard")]
    try:
        return fit(
            learner,
            data.train,
            config,
            validation=data.validation,
            callbacks=[*logs, show],
            checkpoints=CheckpointFolder(run.path / "checkpoints", tell=order.warnings.append),
            device=order.device,
        )
    except LabreconError:
        raise
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        # A network that can not treat the operator, or whose gradient would be wrong.
        raise TrainingError(f"training {order.recipe.network.name}: {error}") from error
