"""The report of a dataset check as one page: warnings, numbers, histograms.

Input: the dictionary of `datasets.check.check_dataset`. Output: an HTML file that needs no network.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from recbole_tiger.datasets.normalize import EARLIEST_CLOCK, MILLISECONDS
from recbole_tiger.datasets.validation_text import report_rows
from recbole_tiger.io import atomic_write_text, make_folder
from recbole_tiger.report import pages
from recbole_tiger.report.figures import bars

LABELS = 6  # of an axis, at most about
OVER_TIME = "interactions over time"


def write_html(report: dict, path: str | Path) -> Path:
    """Write a report to an HTML file, with the plotting library inside (some 5 MB)."""
    figures = []
    for name, histogram in report["histograms"].items():
        edges, counts = histogram["edges"], histogram["counts"]
        over_time = name == OVER_TIME
        if over_time:
            labels, counted, x_title = _time_labels(edges), "interactions", "beginning of the bin"
        else:
            labels, counted, x_title = _count_labels(edges), f"{name.rpartition(' ')[2]}s", name
        plot = bars(labels, {counted: counts}, x_title=x_title, y_title=counted)
        plot.update_xaxes(dtick=-(-len(counts) // LABELS), tickangle=0)
        plot.update_layout(bargap=0.06)
        if over_time and edges[0] < EARLIEST_CLOCK:
            name = "interactions by position"
        note = "the bins widen" if not over_time and edges[-1] - edges[0] >= len(edges) else ""
        figures.append(pages.Figure(plot, title=name[:1].upper() + name[1:], note=note, wide=over_time))
    page = pages.page(
        f"Dataset check: {report['dataset']}",
        [
            pages.Section("Warnings", report["warnings"] or "None."),
            pages.Section("Numbers", parts=[pages.Table(("", ""), report_rows(report))]),
            pages.Section("Histograms", parts=figures),
        ],
    )
    path = Path(path)
    make_folder(path.parent)
    atomic_write_text(path, page)
    return path


def _count_labels(edges: list[int]) -> list[str]:
    return [str(a) if b - a == 1 else f"{a}–{b - 1}" for a, b in zip(edges[:-1], edges[1:], strict=True)]


def _time_labels(edges: list[float]) -> list[str]:
    """The beginning of each bin: a position, a moment, or, where the bins are days and more long, a day."""
    if edges[0] < EARLIEST_CLOCK:
        return [f"{edge:.0f}" if edges[-1] - edges[0] >= len(edges) else f"{edge:.10g}" for edge in edges[:-1]]
    unit = 1000 if edges[-1] > MILLISECONDS else 1
    form = "%Y-%m-%d" if edges[1] - edges[0] >= 86_400 * unit else "%Y-%m-%d %H:%M:%S"
    return [datetime.fromtimestamp(edge / unit, tz=timezone.utc).strftime(form) for edge in edges[:-1]]
