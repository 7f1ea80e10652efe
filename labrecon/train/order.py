"""One training as it was asked for, checked before any long work."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from labrecon import plugins, posing, reading, tomlfile
from labrecon.clock import Clock, Watcher
from labrecon.errors import RecipeError
from labrecon.instrument import Instrument, Scan
from labrecon.io.provenance import collect, hash_inputs
from labrecon.learner import Learner
from labrecon.networks import Unrolled
from labrecon.noise import Noise
from labrecon.operator import Operator
from labrecon.plan import Plan, find_instrument, get
from labrecon.plugins import Host
from labrecon.problem import Problem
from labrecon.recipe_options import check_options, option_names, require_options
from labrecon.reconstructor import Reconstructor
from labrecon.train.classical import classical_plan
from labrecon.train.pairs import read_pairs
from labrecon.train.recipe import TrainRecipe, resolve_train_recipe, train_document

__all__ = ["Order", "place_order"]


@dataclass
class Order:
    """What is asked for, and what has been noted on the way.

    Attributes:
        instrument: that the network is for.
        recipe: as resolved.
        plan: preparation, operator and the classical solver beside the network.
        geometry: of the acquisition.
        pairs: files of scan and object, and scans, where measured scans are trained on; no file
            of an object where truths are unknown.
        device: where to compute.
        host: the plugins.
        clock: seconds per stage.
        make_network: the registered factory.
        make_learner: the registered factory.
        warnings: what went wrong without stopping it.
    """

    instrument: Instrument
    recipe: TrainRecipe
    plan: Plan
    geometry: BaseModel
    pairs: list[tuple[Path, Path | None, Scan]]
    device: torch.device
    host: Host
    clock: Clock
    make_network: Callable[..., Reconstructor]
    make_learner: Callable[..., Learner]
    warnings: list[str] = field(default_factory=list)

    def network(self, problem: Problem, scale: float) -> Reconstructor:
        """The untrained network for problems like this one.

        Raises:
            RecipeError: the network refuses an option, or the operator.
        """
        table = self.recipe.network
        given: dict[str, Any] = {"scale": scale, "seed": self.recipe.seed}
        given |= self.host.for_factory(self.make_network)
        options = self.network_options
        try:
            made = self.make_network(problem, **given, **options)
        except (TypeError, ValueError, KeyError) as error:
            raise RecipeError(
                f"{self.recipe.where('network')}: the network {table.name!r}: {error}"
            ) from error
        return made.to(self.device)

    @property
    def network_options(self) -> dict[str, Any]:
        """What the factory is given, without a mode of memory that it does not know."""
        options = self.recipe.network.options
        known = option_names(self.make_network)
        if known is not None and "memory" not in known:
            options.pop("memory", None)
        return options

    @property
    def all_options(self) -> dict[str, Any]:
        """Those, and what the factory takes by default today: it may take something else later."""
        usual = {
            p.name: p.default
            for p in inspect.signature(self.make_network).parameters.values()
            if p.name not in ("problem", "scale", "seed", "host") and _in_json(p.default)
        }
        return {**usual, **self.network_options}

    def in_mode(self, network: Reconstructor) -> Reconstructor:
        """The network, with the same parameters, in the mode of memory that it is trained in.

        Raises:
            RecipeError: it is not unrolled, or can not be trained so.
        """
        options = self.recipe.network.options
        if "memory" not in options or "memory" in self.network_options:
            return network
        where, mode = self.recipe.where("network", "memory"), options["memory"]
        modes = ("store", "checkpoint", "invert")
        if not isinstance(network, Unrolled) or mode not in modes:
            raise RecipeError(
                f"{where}: network.memory is one of {', '.join(modes)}, for an unrolled network; "
                f"got {mode!r} for {self.recipe.network.name!r}"
            )
        try:
            return network.variant(network.depth, mode)
        except TypeError as error:
            raise RecipeError(f"{where}: network.memory: {error}") from error

    def provenance(self, inputs: Iterable[Path], **found: Any) -> dict[str, Any]:
        """What was asked for, of which files and in how many seconds, and what was found."""
        return collect(
            host=self.host,
            inputs=hash_inputs(inputs),
            device=self.device,
            timings=self.clock.seconds,
            instrument=self.instrument.name,
            geometry=self.geometry,
            recipe=self.recipe.plain(),
            seed=self.recipe.seed,
            **found,
            warnings=self.warnings,
        )

    @property
    def without_truth(self) -> bool:
        """Whether the learner is one for which scans suffice: it, or its factory, says so."""
        return bool(getattr(self.make_learner, "without_truth", False))

    def learner(self, network: Reconstructor, operator: Operator, noise: Noise) -> Learner:
        """What is trained.

        Raises:
            RecipeError: the learner refuses an option, or the network.
        """
        table = self.recipe.learner
        given: dict[str, Any] = {}
        if "acquisitions" in inspect.signature(self.make_learner).parameters:
            given["acquisitions"] = self.instrument.acquisitions
        try:
            return self.make_learner(network, operator, noise, **given, **table.options)
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"{self.recipe.where('learner')}: the learner {table.name!r}: {error}"
            ) from error


def place_order(
    instrument: str | Instrument,
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
    task: str = "train",
    kind: type[TrainRecipe] = TrainRecipe,
) -> Order:
    """Resolve and check everything that can be checked before any long work.

    Raises:
        RecipeError: a name, an option or a value that nobody knows; or two geometries.
        ObjectsError: the folders can not be read.
        ScanError: a scan can not be read or prepared.
        ReconstructionError: there is no such device.
    """
    host = host or plugins.host()
    if isinstance(instrument, str):
        instrument = find_instrument(instrument, host)
    overrides = list(overrides)
    document = train_document(recipe, instrument, task)
    _drop_usual(document, instrument, network, overrides)
    if network is not None:
        told = f"--network {network}"
        document = tomlfile.with_value(document, ("network", "name"), network, told)
    for name, folder in (("objects", objects), ("scans", scans)):
        if folder is not None:
            path, told = str(Path(folder).absolute()), f"--{name} {folder}"
            document = tomlfile.with_value(document, ("data", name), path, told)
    loaded = resolve_train_recipe(document, overrides, kind)
    plan = classical_plan(loaded, instrument, host)
    names = loaded.network, loaded.learner
    make_network = get(host, "networks", names[0].name, loaded.where("network", "name"))
    filled: tuple[str, ...] = ("problem", "scale", "seed", "host")
    options = {key: value for key, value in names[0].options.items() if key != "memory"}
    check_options(make_network, options, filled, loaded, ("network",))
    require_options(make_network, names[0].name, {*options, *filled}, loaded, ("network",))
    make_learner = get(host, "learners", names[1].name, loaded.where("learner", "name"))
    filled = ("network", "operator", "noise", "acquisitions")
    check_options(make_learner, names[1].options, filled, loaded, ("learner",))
    clock = Clock(watcher=watcher)
    chosen = posing.pick_device(device)
    with clock("read"):
        pairs: list[tuple[Path, Path | None, Scan]] = []
        if loaded.data.scans is not None:
            alone = bool(getattr(make_learner, "without_truth", False))
            pairs = read_pairs(loaded, instrument, plan, host, without_truth=alone)
        found = _geometry(instrument, plan, geometry, scan, pairs, host)
    return Order(
        instrument, loaded, plan, found, pairs, chosen, host, clock, make_network, make_learner
    )


def _in_json(value: Any) -> bool:
    """Whether a card gives the value back: not for ``Parameter.empty``, functions, infinities."""
    if isinstance(value, list | tuple):
        return all(map(_in_json, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)


def _drop_usual(
    document: tomlfile.Document, instrument: Instrument, network: str | None, overrides: list[str]
) -> None:
    """Leave out the instrument's own options of a network where another one is asked for."""
    usual = instrument.recipes().get("train", {}).get("network")
    pairs = [word.partition("=") for word in overrides]
    named = [value.strip(" '\"") for key, _, value in pairs if key.strip() == "network.name"]
    chosen = [name for name in (network, *named) if name is not None]
    held = document.values.get("network")
    if usual and chosen and held == usual and chosen[-1] != usual["name"]:
        document.values["network"] = {}


def _geometry(
    instrument: Instrument,
    plan: Plan,
    geometry: str | Path | None,
    scan: str | Path | None,
    pairs: list[tuple[Path, Path | None, Scan]],
    host: Host,
) -> BaseModel:
    given = [
        name
        for name, there in (("--geometry", geometry), ("--scan", scan), ("--scans", pairs))
        if there
    ]
    if len(given) > 1:
        raise RecipeError(f"{' and '.join(given)} each give a geometry: take one of them")
    if pairs:
        return pairs[0][2].geometry
    if geometry is not None:
        return instrument.assumed(reading.read_geometry(instrument, Path(geometry)))
    if scan is not None:
        read = reading.read(instrument, Path(scan), host)
        return reading.prepare(instrument, read, plan).geometry
    return instrument.example()
