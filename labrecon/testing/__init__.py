"""The conformance suite: what every operator and instrument must keep, as named checks.

``labrecon check NAME`` runs it; a lab's own tests call it:

    import pytest
    from labrecon import testing

    @pytest.mark.parametrize("check", testing.checks(MyInstrument()), ids=str)
    def test_conforms(check):
        check()
"""

from labrecon.testing.bench import Bench, Check
from labrecon.testing.entry import check_instrument, check_operator, checks
from labrecon.testing.finding import ConformanceError, Finding, Outcome, Report
from labrecon.testing.runner import BoundCheck
from labrecon.testing.suite import SUITE

__all__ = [
    "SUITE",
    "Bench",
    "BoundCheck",
    "Check",
    "ConformanceError",
    "Finding",
    "Outcome",
    "Report",
    "check_instrument",
    "check_operator",
    "checks",
]
