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
import importlib.util
import inspect
import itertools
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pluggy

from labrecon import __version__
from labrecon.discovery import imported_within, is_installed, licence_of, pip_command
from labrecon.hookspecs import GROUP, Hooks, Registry, hookimpl, hookspec

__all__ = [
    "CONTRACT",
    "ConflictError",
    "Host",
    "PluginReport",
    "Registry",
    "UnknownNameError",
    "hookimpl",
    "hookspec",
    "host",
]

#: Version of the interfaces a plugin is written against. A plugin may state the version it needs
#: as a module attribute ``LABRECON_CONTRACT``; a different major number is refused.
CONTRACT = (1, 0)
#: Seconds that importing a plugin may take, unless ``LABRECON_PLUGIN_TIMEOUT`` says otherwise.
TIMEOUT = 20.0


class ConflictError(ValueError):
    """Two plugins register one name."""


class UnknownNameError(KeyError):
    """No plugin registers this name."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class PluginReport:
    """One plugin as `labrecon plugins` shows it.

    Attributes:
        name: of its entry point.
        distribution: the package it comes in.
        version: of that package.
        status: "ready"; "incomplete" (a package that it needs is missing); "failed"; "slow" (its
            import takes too long); "incompatible".
        detail: why it is not ready, and what to do.
        trace: traceback of what it raised.
        contract: the version of labrecon's interfaces that it says it is written for.
        licence: of its package.
        hooks: that it implements.
        hardware: that it says it needs.
    """

    name: str
    distribution: str
    version: str
    status: str
    detail: str = ""
    trace: str = ""
    contract: str = ""
    licence: str = ""
    hooks: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()


class Host:
    """Finds plugins, loads what they offer when it is asked for, and reports what is broken.

    A plugin that can not be imported, takes too long for it, or whose hook raises, is reported and
    left out; it never stops the program. Two plugins that register one name are an error that
    names both, raised when that name is used; ``plugin:name`` says which is meant.

    A plugin module may state ``LABRECON_CONTRACT`` (the version of the interfaces it is written
    for), ``LABRECON_REQUIRES`` (``{module: what pip installs}``) and ``LABRECON_HARDWARE``
    (``("CUDA GPU",)``).
    """

    def __init__(self, *, discover: bool = True, timeout: float | None = None) -> None:
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(Hooks)
        self.reports: dict[str, PluginReport] = {}
        told = os.environ.get("LABRECON_PLUGIN_TIMEOUT", "")
        self.timeout = timeout or (float(told) if told.replace(".", "", 1).isdigit() else TIMEOUT)
        builtin = importlib.import_module("labrecon.builtin")
        self.add("builtin", builtin, "labrecon", __version__, "BSD-3-Clause")
        if discover:
            for entry in importlib.metadata.entry_points(group=GROUP):
                self._load(entry)

    def _load(self, entry: importlib.metadata.EntryPoint) -> None:
        package = entry.dist.name if entry.dist else "unknown"
        version = entry.dist.version if entry.dist else ""
        licence = licence_of(entry.dist)
        try:
            plugin = imported_within(entry.load, self.timeout)
        except TimeoutError as error:
            # What it was doing then is worth a look.
            report = PluginReport(entry.name, package, version, "slow", str(error), licence=licence)
            self.reports[entry.name] = report
            return
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed = _failed(PluginReport(entry.name, package, version, "failed"), error)
            if isinstance(error, ModuleNotFoundError) and error.name:
                command = pip_command(error.name, entry.dist)
                failed = replace(failed, detail=f"{failed.detail}; {command}")
            self.reports[entry.name] = replace(failed, licence=licence)
            return
        self.add(entry.name, plugin, package, version, licence)

    def add(
        self,
        name: str,
        plugin: Any,
        distribution: str = "labrecon",
        version: str = "",
        licence: str = "",
    ) -> None:
        """Register a plugin module or object under ``name``; what is wrong goes to `reports`."""
        report = PluginReport(name, distribution, version, "ready", licence=licence)
        if name in self.reports:
            # The one that was there first stays as it is; the other is reported beside it.
            error = ConflictError(
                f"a plugin called {name!r} is there already, of {self.reports[name].distribution}; "
                f"rename the entry point of {distribution}, or uninstall one"
            )
            labels = (f"{name}#{i}" for i in itertools.count(2))
            label = next(each for each in labels if each not in self.reports)
            self.reports[label] = _failed(replace(report, name=label), error)
            return
        try:
            self.reports[name] = self._registered(report, plugin)
        except Exception as error:
            if self.manager.is_registered(plugin):
                self.manager.unregister(plugin)
            self.reports[name] = _failed(report, error)

    def _registered(self, report: PluginReport, plugin: Any) -> PluginReport:
        stated = getattr(plugin, "LABRECON_CONTRACT", None)
        if stated is not None and not _is_version(stated):
            raise ValueError(
                f"LABRECON_CONTRACT is {stated!r}, expected two whole numbers: {CONTRACT}"
            )
        needed = CONTRACT if stated is None else tuple(stated)
        told = "not stated" if stated is None else ".".join(map(str, needed))
        report = replace(report, contract=told)
        if needed[0] != CONTRACT[0] or needed > CONTRACT:
            have = ".".join(map(str, CONTRACT))
            older = needed < CONTRACT
            detail = f"written for contract {told}, this labrecon has {have}: install " + (
                f"a newer {report.distribution}" if older else "a newer labrecon"
            )
            return replace(report, status="incompatible", detail=detail)
        self.manager.register(plugin, name=report.name)
        self.manager.check_pending()
        callers = self.manager.get_hookcallers(plugin) or []
        hooks = tuple(caller.name.removeprefix(f"{GROUP}_") for caller in callers)
        report = replace(
            report, hooks=hooks, hardware=tuple(getattr(plugin, "LABRECON_HARDWARE", ()))
        )
        for module, package in getattr(plugin, "LABRECON_REQUIRES", {}).items():
            if not is_installed(module):
                detail = f'needs the package {module!r}: pip install "{package}"'
                return replace(report, status="incomplete", detail=detail)
        return report

    def names(self, kind: str) -> dict[str, str]:
        """Registered names of a kind (``"solvers"``) and the plugin each comes from.

        A name in conflict is listed with all its plugins; `get` refuses it.
        """
        offered = self._collect(kind)
        return {name: ", ".join(plugin for plugin, _ in found) for name, found in offered.items()}

    def get(self, kind: str, name: str) -> Any:
        """What is registered as ``name``, imported now if it was a dotted path.

        Args:
            kind: "solvers", "priors", ….
            name: as registered, or ``plugin:name``.

        Raises:
            UnknownNameError: nothing is registered under the name; the nearest is suggested.
            ConflictError: two plugins register it.
        """
        offered = self._collect(kind)
        owner, _, own = name.partition(":")
        if owner in self.reports and own:
            mine = {key: [f for f in found if f[0] == owner] for key, found in offered.items()}
            offered = {f"{owner}:{key}": found for key, found in mine.items() if found}
        if name not in offered:
            near = difflib.get_close_matches(name, offered, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            known = ", ".join(sorted(offered)) or "none"
            raise UnknownNameError(f"no {kind[:-1]} is called {name!r}{hint}; there are {known}")
        plugins = [plugin for plugin, _ in offered[name]]
        if len(plugins) > 1:
            raise ConflictError(
                f"the plugins {' and '.join(map(repr, plugins))} both register the {kind[:-1]} "
                f"{name!r}; say {' or '.join(repr(f'{plugin}:{name}') for plugin in plugins)}"
            )
        return resolve(offered[name][0][1])

    def for_factory(self, make: Callable[..., Any]) -> dict[str, Host]:
        """``{"host": self}`` for a factory with a parameter of that name, else nothing."""
        return {"host": self} if "host" in inspect.signature(make).parameters else {}

    def offers(self, kind: str, name: str) -> list[Any]:
        """What plugins registered as ``name``, not imported: factories or dotted paths."""
        return [value for _, value in self._collect(kind).get(name, [])]

    def fit_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell plugins of a training step: a callback of `labrecon.fit`."""
        self.call("labrecon_fit_step", step=step, metrics=dict(metrics))

    def call(self, event: str, **told: Any) -> list[str]:
        """Tell all plugins of an event; a plugin that fails is reported, not raised."""
        failures = []
        for implementation in getattr(self.manager.hook, event).get_hookimpls():
            try:
                accepted = {key: told[key] for key in implementation.argnames}
                implementation.function(**accepted)
            except (Exception, SystemExit) as error:
                failures.append(f"{implementation.plugin_name}: {error!r}")
        return failures

    def veto(
        self, path: str, recipe: Mapping[str, Any]
    ) -> tuple[tuple[str, str] | None, list[str]]:
        """The first plugin that wants a scan skipped and its reason, and which plugins failed."""
        told = {"path": path, "recipe": recipe}
        failures = []
        for implementation in self.manager.hook.labrecon_scan_veto.get_hookimpls():
            name = str(implementation.plugin_name)
            try:
                reason = implementation.function(**{k: told[k] for k in implementation.argnames})
            except (Exception, SystemExit) as error:
                failures.append(f"a plugin failed at labrecon_scan_veto: {name}: {error!r}")
                continue
            if reason:
                return (name, str(reason)), failures
        return None, failures

    def _collect(self, kind: str) -> dict[str, list[tuple[str, Any]]]:
        hook = getattr(self.manager.hook, f"labrecon_{kind}")
        found: dict[str, list[tuple[str, Any]]] = {}
        for implementation in hook.get_hookimpls():
            plugin = implementation.plugin_name
            try:
                offered = dict(implementation.function())
                wrong = [name for name in offered if not isinstance(name, str)]
                if wrong:
                    raise TypeError(f"labrecon_{kind} returned the name {wrong[0]!r}, no text")
            except (Exception, SystemExit) as error:
                self.reports[plugin] = _failed(self.reports[plugin], error)
                continue
            for name, value in offered.items():
                found.setdefault(name, []).append((plugin, value))
        return found


def resolve(value: Any) -> Any:
    """The object behind a dotted path ``"module:attribute"``; anything else as it is."""
    if not isinstance(value, str):
        return value
    module, _, attribute = value.partition(":")
    if not module or not attribute:
        raise ValueError(f"{value!r} is no dotted path: expected 'module:attribute'")
    return getattr(importlib.import_module(module), attribute)


def _is_version(value: Any) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) == len(CONTRACT)
        and all(isinstance(number, int) for number in value)
    )


def _failed(report: PluginReport, error: BaseException) -> PluginReport:
    trace = "".join(traceback.format_exception(error))
    detail = f"{type(error).__name__}: {error}"
    return replace(report, status="failed", detail=detail, trace=trace)


@cache
def host() -> Host:
    """The process's plugin host, made when it is first asked for."""
    return Host()
