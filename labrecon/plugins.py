"""The plugin host: what a plugin can add, and who has added what.

A plugin is a module (or object) with `hookimpl` functions, announced by an entry point in the
group ``labrecon``. Hooks return ``{name: factory or "module:attribute"}``; a dotted path costs
nothing until the thing is used. labrecon's own priors, solvers and operators are registered
through the same hooks (`labrecon.builtin`).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import itertools
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pluggy

__all__ = [
    "CONTRACT",
    "ConflictError",
    "Host",
    "PluginReport",
    "UnknownNameError",
    "hookimpl",
    "hookspec",
    "host",
]

GROUP = "labrecon"
#: Version of the interfaces a plugin is written against. A plugin may state the version it needs
#: as a module attribute ``LABRECON_CONTRACT``; a different major number is refused.
CONTRACT = (1, 0)

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

Registry = Mapping[str, Any]


class ConflictError(ValueError):
    """Two plugins register one name."""


class UnknownNameError(KeyError):
    """No plugin registers this name."""

    def __str__(self) -> str:
        return str(self.args[0])


class Hooks:
    """Everything a plugin can do; each hook returns ``{name: factory or "module:attribute"}``."""

    @hookspec
    def labrecon_instruments(self) -> Registry:  # type: ignore[empty-body]
        """Instruments: subclasses of `labrecon.instrument.Instrument`."""

    @hookspec
    def labrecon_operators(self) -> Registry:  # type: ignore[empty-body]
        """Operators that recipes and other plugins may build by name."""

    @hookspec
    def labrecon_priors(self) -> Registry:  # type: ignore[empty-body]
        """Priors: called with the options of the recipe's ``[prior]`` table."""

    @hookspec
    def labrecon_solvers(self) -> Registry:  # type: ignore[empty-body]
        """Solvers: called with the options of ``[solver]`` and, if they take it, ``prior=``."""

    @hookspec
    def labrecon_networks(self) -> Registry:  # type: ignore[empty-body]
        """Named networks built from a solver, a prior and learnable parameters."""

    @hookspec
    def labrecon_learners(self) -> Registry:  # type: ignore[empty-body]
        """Learners: what `fit` trains."""

    @hookspec
    def labrecon_feasible_sets(self) -> Registry:  # type: ignore[empty-body]
        """Feasible sets of acquisition parameters."""

    @hookspec
    def labrecon_readers(self) -> Registry:  # type: ignore[empty-body]
        """Readers of formats for an instrument: ``{"ct/my-format": Reader}``."""

    @hookspec
    def labrecon_writers(self) -> Registry:  # type: ignore[empty-body]
        """Volume writers: ``writer(path, volume, info)``."""

    @hookspec
    def labrecon_metrics(self) -> Registry:  # type: ignore[empty-body]
        """Metrics: ``metric(estimate, truth) -> float``."""

    @hookspec
    def labrecon_commands(self) -> Registry:  # type: ignore[empty-body]
        """Commands of the command line: a function that typer can wrap."""

    @hookspec
    def labrecon_report_sections(self) -> Registry:  # type: ignore[empty-body]
        """Sections of the report: ``section(context) -> HTML``."""

    @hookspec
    def labrecon_scan_started(self, path: str, recipe: Mapping[str, Any]) -> None:
        """A scan is about to be read and reconstructed."""

    @hookspec
    def labrecon_scan_finished(self, path: str, output: str, summary: Mapping[str, Any]) -> None:
        """A scan has been reconstructed and written."""

    @hookspec
    def labrecon_scan_failed(self, path: str, error: BaseException) -> None:
        """A scan could not be reconstructed."""

    @hookspec
    def labrecon_fit_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A training step is done."""


@dataclass(frozen=True)
class PluginReport:
    """One plugin as `labrecon plugins` shows it."""

    name: str
    distribution: str
    version: str
    status: str
    detail: str = ""
    trace: str = ""


class Host:
    """Finds plugins, loads what they offer when it is asked for, and reports what is broken.

    A plugin that can not be imported, or whose hook raises, is reported and left out; it never
    stops the program. Two plugins that register one name are an error that names both, raised
    when that name is used.
    """

    def __init__(self, *, discover: bool = True) -> None:
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(Hooks)
        self.reports: dict[str, PluginReport] = {}
        self.add("builtin", importlib.import_module("labrecon.builtin"))
        if discover:
            for entry in importlib.metadata.entry_points(group=GROUP):
                self._load(entry)

    def _load(self, entry: importlib.metadata.EntryPoint) -> None:
        distribution = entry.dist.name if entry.dist else "unknown"
        version = entry.dist.version if entry.dist else ""
        try:
            plugin = entry.load()
        except Exception as error:
            self.reports[entry.name] = _failed(entry.name, distribution, version, error)
            return
        self.add(entry.name, plugin, distribution, version)

    def add(
        self, name: str, plugin: Any, distribution: str = "labrecon", version: str = ""
    ) -> None:
        """Register a plugin module or object under ``name``; what is wrong goes to `reports`."""
        if name in self.reports:
            # The one that was there first stays as it is; the other is reported beside it.
            error = ConflictError(
                f"a plugin called {name!r} is there already, of {self.reports[name].distribution}; "
                f"rename the entry point of {distribution}, or uninstall one"
            )
            labels = (f"{name}#{i}" for i in itertools.count(2))
            label = next(each for each in labels if each not in self.reports)
            self.reports[label] = _failed(label, distribution, version, error)
            return
        try:
            needed = tuple(getattr(plugin, "LABRECON_CONTRACT", CONTRACT))
            if needed[0] != CONTRACT[0] or needed > CONTRACT:
                detail = f"written for contract {needed}, this labrecon has {CONTRACT}"
                report = PluginReport(name, distribution, version, "incompatible", detail)
                self.reports[name] = report
                return
            self.manager.register(plugin, name=name)
            self.manager.check_pending()
        except Exception as error:
            if self.manager.is_registered(plugin):
                self.manager.unregister(plugin)
            self.reports[name] = _failed(name, distribution, version, error)
            return
        self.reports[name] = PluginReport(name, distribution, version, "ready")

    def names(self, kind: str) -> dict[str, str]:
        """Registered names of a kind (``"solvers"``) and the plugin each comes from.

        A name in conflict is listed with all its plugins; `get` refuses it.
        """
        offered = self._collect(kind)
        return {name: ", ".join(plugin for plugin, _ in found) for name, found in offered.items()}

    def get(self, kind: str, name: str) -> Any:
        """What is registered as ``name``, imported now if it was a dotted path.

        Raises:
            UnknownNameError: nothing is registered under the name; the nearest is suggested.
            ConflictError: two plugins register it.
        """
        offered = self._collect(kind)
        if name not in offered:
            near = difflib.get_close_matches(name, offered, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            known = ", ".join(sorted(offered)) or "none"
            raise UnknownNameError(f"no {kind[:-1]} is called {name!r}{hint}; there are {known}")
        plugins = [plugin for plugin, _ in offered[name]]
        if len(plugins) > 1:
            raise ConflictError(
                f"the plugins {' and '.join(map(repr, plugins))} both register the {kind[:-1]} "
                f"{name!r}; uninstall one, or rename it there"
            )
        return resolve(offered[name][0][1])

    def offers(self, kind: str, name: str) -> list[Any]:
        """What plugins registered as ``name``, not imported: factories or dotted paths."""
        return [value for _, value in self._collect(kind).get(name, [])]

    def call(self, event: str, **told: Any) -> list[str]:
        """Tell all plugins of an event; a plugin that fails is reported, not raised."""
        failures = []
        for implementation in getattr(self.manager.hook, event).get_hookimpls():
            try:
                accepted = {key: told[key] for key in implementation.argnames}
                implementation.function(**accepted)
            except Exception as error:
                failures.append(f"{implementation.plugin_name}: {error!r}")
        return failures

    def _collect(self, kind: str) -> dict[str, list[tuple[str, Any]]]:
        hook = getattr(self.manager.hook, f"labrecon_{kind}")
        found: dict[str, list[tuple[str, Any]]] = {}
        for implementation in hook.get_hookimpls():
            plugin = implementation.plugin_name
            try:
                offered = dict(implementation.function())
            except Exception as error:
                known = self.reports[plugin]
                self.reports[plugin] = _failed(plugin, known.distribution, known.version, error)
                continue
            for name, value in offered.items():
                found.setdefault(name, []).append((plugin, value))
        return found


def resolve(value: Any) -> Any:
    """The object behind a dotted path ``"module:attribute"``; anything else as it is."""
    if not isinstance(value, str):
        return value
    module, _, attribute = value.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _failed(name: str, distribution: str, version: str, error: BaseException) -> PluginReport:
    trace = "".join(traceback.format_exception(error))
    detail = f"{type(error).__name__}: {error}"
    return PluginReport(name, distribution, version, "failed", detail, trace)


@cache
def host() -> Host:
    """The process's plugin host, made when it is first asked for."""
    return Host()
