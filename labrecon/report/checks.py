"""The page of `labrecon check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labrecon import __version__
from labrecon.report.page import environment

if TYPE_CHECKING:
    from labrecon.testing import Report

__all__ = ["render_checks"]


def render_checks(report: Report) -> str:
    """The outcomes as a self-contained page, failures first."""
    order = ("failed", "warned", "passed", "skipped")
    outcomes = sorted(report.outcomes, key=lambda outcome: order.index(outcome.status))
    template = environment().get_template("checks.html.j2")
    return template.render(report=report, outcomes=outcomes, version=__version__)
