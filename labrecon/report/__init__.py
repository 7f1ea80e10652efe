"""The report of a reconstruction: one HTML file with everything inside."""

from labrecon.report.data import ReportData
from labrecon.report.page import render

__all__ = ["ReportData", "render"]
