"""What runs and benchmarks look like to people: tables for the screen, and a page of runs."""

from gdiff.report.screen import (
    cell,
    duration,
    info_table,
    metrics_table,
    printable,
    processors,
    rows_table,
    runs_table,
    show,
    sweep_table,
    table,
    version_of,
)

__all__ = [
    "cell",
    "duration",
    "info_table",
    "metrics_table",
    "printable",
    "processors",
    "rows_table",
    "runs_table",
    "show",
    "sweep_table",
    "table",
    "version_of",
]
