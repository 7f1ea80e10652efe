"""One reconstruction under way: what was asked, refused here if it can not be, before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from labrecon import plugins, posing
from labrecon.clock import Clock, Watcher
from labrecon.instrument import Instrument
from labrecon.interruption import Checkpoint, check_not_interrupted
from labrecon.io.atomic import check_output
from labrecon.io.call import path_of
from labrecon.io.model import load_model
from labrecon.operator_cache import OperatorCache
from labrecon.plan import Plan, Writer, find_instrument, make_plans, make_writer
from labrecon.plugins import Host
from labrecon.recipe import Recipe, load_recipe

__all__ = ["Job", "assemble_job", "open_job"]


@dataclass
class Job:
    """What is asked for, and what has been noted on the way.

    Attributes:
        instrument: whose scan it is.
        source: the scan's file, or a word for one in memory.
        out: folder to make.
        recipe: as written.
        plans: the recipe's reconstructions, the main one first.
        writer: of the volume.
        device: where to compute.
        host: the plugins.
        clock: seconds per stage.
        force: replace an earlier output.
        checkpoint: the interrupted run that is resumed.
        other_geometry: whether a model may be used on a geometry that it was not trained for.
        asked: the instrument as it was named: registered, or ``"module:Class"``.
        thumbnail: write a small picture beside the volume.
        operators: kept from scans before.
        warnings: what went wrong without stopping it.
    """

    instrument: Instrument
    source: str
    out: Path
    recipe: Recipe
    plans: list[Plan]
    writer: Writer
    device: torch.device
    host: Host
    clock: Clock
    force: bool
    checkpoint: Checkpoint | None
    other_geometry: bool = False
    asked: str = ""
    thumbnail: bool = False
    operators: OperatorCache = field(default_factory=OperatorCache)
    warnings: list[str] = field(default_factory=list)

    def tell(self, event: str, **told: Any) -> None:
        """Tell all plugins of an event, and note those that fail at it."""
        failures = self.host.call(event, **told)
        self.warnings += [f"a plugin failed at {event}: {why}" for why in failures]

    def another(self, source: str, out: Path) -> Job:
        """The same reconstruction of another scan, with the operators that there are.

        Raises:
            OutputError: ``out`` is taken.
        """
        check_output(out, force=self.force)
        clock = Clock(watcher=self.clock.watcher)
        return replace(self, source=source, out=out, clock=clock, checkpoint=None, warnings=[])


def open_job(
    instrument: str | Instrument,
    source: str,
    out: str | Path,
    *,
    recipe: str | Path | Mapping[str, Any],
    overrides: Iterable[str],
    device: str,
    force: bool,
    watcher: Watcher | None,
    host: Host | None,
    resume: bool = False,
    model: str | Path | None = None,
    other_geometry: bool = False,
) -> Job:
    """Resolve and check everything that can be checked before any long work.

    With a model, and unless another recipe is asked for, scans are prepared as in its training.

    Raises:
        RecipeError: instrument, recipe, names or options; or there is nothing to resume.
        ModelError: the model can not be read, or was trained for another instrument.
        OutputError: ``out`` is taken, or an interrupted run waits beside it.
        ReconstructionError: there is no such device.
    """
    out = Path(out)
    checkpoint = None
    if resume:
        checkpoint = Checkpoint.load(out)
        recipe = checkpoint.told["recipe"]
    job = assemble_job(
        instrument,
        recipe=recipe,
        overrides=overrides,
        device=device,
        force=force,
        watcher=watcher,
        host=host,
        model=model,
        other_geometry=other_geometry,
    )
    check_output(out, force=force)
    if not resume:
        check_not_interrupted(out, force=force)
    return replace(job, source=source, out=out, checkpoint=checkpoint)


def assemble_job(
    instrument: str | Instrument,
    *,
    recipe: str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    device: str = "auto",
    force: bool = False,
    watcher: Watcher | None = None,
    host: Host | None = None,
    model: str | Path | None = None,
    other_geometry: bool = False,
) -> Job:
    """Like `open_job`, for scans that are not known yet: see `Job.another`."""
    host = host or plugins.host()
    asked = instrument if isinstance(instrument, str) else path_of(instrument)
    if isinstance(instrument, str):
        instrument = find_instrument(instrument, host)
    trained = None if model is None else load_model(Path(model))
    if trained is not None:
        trained.require_instrument(instrument.name)
        if recipe == "recon":
            card = trained.card
            recipe = {"seed": card.seed, "prepare": card.prepare, "operator": card.operator}
    loaded = load_recipe(recipe, instrument, overrides)
    plans = make_plans(loaded, instrument, host, trained)
    return Job(
        instrument,
        "",
        Path(),
        loaded,
        plans,
        make_writer(loaded, host),
        posing.pick_device(device),
        host,
        Clock(watcher=watcher),
        force,
        None,
        other_geometry,
        asked,
    )
