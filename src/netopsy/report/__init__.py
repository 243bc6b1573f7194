"""The report: Results in, self-contained HTML pages out. Imports no torch."""

from netopsy.report.pages import write_report

__all__ = ["write_report"]
