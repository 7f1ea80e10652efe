"""Everything that a plugin can add: the hooks, with an example of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pluggy

__all__ = ["EVENTS", "GROUP", "Hooks", "Registry", "hookimpl", "hookspec"]

#: Entry-point group, and name of the plugin manager.
GROUP = "labrecon"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

Registry = Mapping[str, Any]


class Hooks:
    """The hooks, all of them optional; a plugin module defines those it needs.

    Those that register return ``{name: thing}``. A thing is a class or function, or the dotted path
    ``"package.module:attribute"`` of one, which costs nothing until it is used. Two plugins that
    register one name are told apart as ``plugin:name``.
    """

    @hookspec
    def labrecon_instruments(self) -> Registry:  # type: ignore[empty-body]
        """Instruments: subclasses of `labrecon.instrument.Instrument`.

        Example:
            ```python
            @hookimpl
            def labrecon_instruments():
                return {"spectrometer": "mylab.instrument:Spectrometer"}
            ```
        """

    @hookspec
    def labrecon_operators(self) -> Registry:  # type: ignore[empty-body]
        """Operators that other plugins may build by name: subclasses of `labrecon.Operator`.

        Example:
            ```python
            @hookimpl
            def labrecon_operators():
                return {"radon": "mylab.radon:Radon"}
            ```
        """

    @hookspec
    def labrecon_priors(self) -> Registry:  # type: ignore[empty-body]
        """Priors: called with the options of the recipe's ``[prior]`` table.

        Example:
            ```python
            @hookimpl
            def labrecon_priors():
                return {"spectra": "mylab.priors:SmoothSpectra"}  # [prior] name = "spectra"
            ```
        """

    @hookspec
    def labrecon_solvers(self) -> Registry:  # type: ignore[empty-body]
        """Solvers: called with the options of ``[solver]`` and, if they take it, ``prior=``.

        Example:
            ```python
            @hookimpl
            def labrecon_solvers():
                return {"kaczmarz": "mylab.solvers:Kaczmarz"}  # [solver] name = "kaczmarz"
            ```
        """

    @hookspec
    def labrecon_networks(self) -> Registry:  # type: ignore[empty-body]
        """Networks for `labrecon train`: ``make(problem, *, scale, seed, **options)``.

        A factory returns a `labrecon.reconstructor.Reconstructor` for problems like the one given.
        It is called again where a trained network is loaded, so that the same options must give
        tensors of the same names and shapes. ``scale`` is the typical size of object values. A
        parameter ``host`` gets the plugin host.

        Example:
            ```python
            @hookimpl
            def labrecon_networks():
                return {"ours": "mylab.networks:make_ours"}  # labrecon train … --network ours
            ```
        """

    @hookspec
    def labrecon_learners(self) -> Registry:  # type: ignore[empty-body]
        """Learners for `labrecon train`: ``make(network, operator, noise, **options)``.

        They are subclasses of `labrecon.Learner`, or functions that return one, whose batches are
        those of `labrecon.learners.ObjectSamples` or `PairSamples`; the options stand in
        ``[learner]``. One with an attribute ``without_truth = True`` is given measured scans alone:
        its batches are those of `labrecon.learners.self_supervised.ScanSamples`. A parameter
        ``acquisitions`` is filled with the instrument's axis of what is measured one by one.

        Example:
            ```python
            @hookimpl
            def labrecon_learners():
                return {"dark-field": "mylab.learners:DarkField"}  # [learner] name = "dark-field"
            ```
        """

    @hookspec
    def labrecon_feasible_sets(self) -> Registry:  # type: ignore[empty-body]
        """Feasible sets of acquisition parameters: subclasses of `labrecon.design.FeasibleSet`.

        Example:
            ```python
            @hookimpl
            def labrecon_feasible_sets():
                return {"stage": "mylab.stage:StageLimits"}
            ```
        """

    @hookspec
    def labrecon_readers(self) -> Registry:  # type: ignore[empty-body]
        """Readers that add a file format to an instrument, called ``instrument/format``.

        Example:
            ```python
            @hookimpl
            def labrecon_readers():
                return {"ct/our-beamline": "mylab.readers:BeamlineReader"}
            ```
        """

    @hookspec
    def labrecon_writers(self) -> Registry:  # type: ignore[empty-body]
        """Volume writers: ``writer(path, volume, info, **options)`` returns the path it wrote.

        ``path`` has no suffix; ``info`` holds title, axes, voxel
        size, unit, provenance and the geometry of the acquisition.

        Example:
            ```python
            @hookimpl
            def labrecon_writers():
                return {"nrrd": "mylab.writers:write_nrrd"}  # [output] format = "nrrd"
            ```
        """

    @hookspec
    def labrecon_metrics(self) -> Registry:  # type: ignore[empty-body]
        """Metrics: ``metric(estimate, truth)`` returns a number.

        Example:
            ```python
            @hookimpl
            def labrecon_metrics():
                return {"largest_error": lambda x, truth: float((x - truth).abs().max())}
            ```
        """

    @hookspec
    def labrecon_findings(self) -> Registry:  # type: ignore[empty-body]
        """What a result says in numbers or a word: ``findings(data)`` returns ``{name: value}``.

        ``data`` is a `labrecon.report.ReportData`. The values are numbers or text; ``{}`` where
        there are none, such as for other instruments. They are shown by `labrecon recon`, at the
        top of the report and as columns of a batch, and kept in summary and provenance.

        Example:
            ```python
            @hookimpl
            def labrecon_findings():
                return {"Spectral lines": "mylab.report:count_lines"}  # {"lines": 7}
            ```
        """

    @hookspec
    def labrecon_commands(self) -> Registry:  # type: ignore[empty-body]
        """Commands of the command line: a function that typer can wrap, or a ``typer.Typer``.

        Example:
            ```python
            @hookimpl
            def labrecon_commands():
                return {"upload": "mylab.commands:upload"}  # labrecon upload …
            ```
        """

    @hookspec
    def labrecon_report_sections(self) -> Registry:  # type: ignore[empty-body]
        """Sections of the report: ``section(data)`` returns HTML, or "" where it has none.

        ``data`` is a `labrecon.report.ReportData`: instrument, scan, outcomes, provenance. Escape
        what comes from a file.

        Example:
            ```python
            @hookimpl
            def labrecon_report_sections():
                return {"Spectral lines": "mylab.report:lines_found"}
            ```
        """

    @hookspec
    def labrecon_scan_started(self, path: str, recipe: Mapping[str, Any]) -> None:
        """A scan is about to be read and reconstructed.

        Example:
            ```python
            @hookimpl
            def labrecon_scan_started(path, recipe):
                logbook.write(f"{path}: {recipe['solver']['name']}")
            ```
        """

    @hookspec
    def labrecon_scan_finished(self, path: str, output: str, summary: Mapping[str, Any]) -> None:
        """A scan has been reconstructed and written.

        Example:
            ```python
            @hookimpl
            def labrecon_scan_finished(output, summary):
                archive.copy(output, quality=summary["chi2"])
            ```
        """

    @hookspec
    def labrecon_scan_failed(self, path: str, error: BaseException) -> None:
        """A scan could not be reconstructed.

        Example:
            ```python
            @hookimpl
            def labrecon_scan_failed(path, error):
                pager.send(f"{path}: {error}")
            ```
        """

    @hookspec
    def labrecon_scan_veto(self, path: str, recipe: Mapping[str, Any]) -> str | None:
        """Whether a scan of a batch is to be skipped: the reason, or None.

        Asked in the main process just before a worker would get the scan.

        Example:
            ```python
            @hookimpl
            def labrecon_scan_veto(path):
                return "an alignment scan" if "align" in path else None
            ```
        """

    @hookspec
    def labrecon_batch_started(self, output: str, scans: int) -> None:
        """A batch begins, or goes on; ``scans`` are known so far.

        Example:
            ```python
            @hookimpl
            def labrecon_batch_started(output, scans):
                chat.post(f"{scans} scans: file://{output}/index.html")
            ```
        """

    @hookspec
    def labrecon_batch_finished(self, output: str, counts: Mapping[str, int]) -> None:
        """A batch has come to its end, or was stopped; how many scans are in each state.

        Example:
            ```python
            @hookimpl
            def labrecon_batch_finished(output, counts):
                chat.post(f"{counts['done']} done, {counts['failed']} failed: {output}")
            ```
        """

    @hookspec
    def labrecon_fit_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A training step is done.

        Example:
            ```python
            @hookimpl
            def labrecon_fit_step(step, metrics):
                tracker.log(metrics, step=step)
            ```
        """


#: Hooks that are told of something, and return nothing.
EVENTS = (
    "labrecon_scan_started",
    "labrecon_scan_finished",
    "labrecon_scan_failed",
    "labrecon_batch_started",
    "labrecon_batch_finished",
    "labrecon_fit_step",
)
