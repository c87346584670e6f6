"""The one table writer: text, Markdown, LaTeX and CSV that stay whole whatever stands in a cell.

Input: header and cells. Output: text. ``columns`` has a letter for each column, as in LaTeX: ``l`` for left,
``r`` for right.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import LATEX_ESCAPE_RULES, tabulate

_SIDES = {"l": "left", "r": "right"}
_LATEX = str.maketrans({**LATEX_ESCAPE_RULES, "|": r"\textbar{}", "±": r"$\pm$"})
#: What a spreadsheet takes for the beginning of a formula.
_FORMULA = tuple("=+-@\t\r")
_NUMBER = re.compile(r"[-+−]?[\d,]*\.?\d+(?:[eE][-+]?\d+)?\s?%?|[-–—]|")


@dataclass(frozen=True)
class Table:
    """A table with what stands above it; a page aligns its numbers right, a text by `columns`.

    Attributes:
        rows: cells, already formatted where it matters.
        note: smaller, below the title.
        columns: a letter for each column; "" for left everywhere.
        folded: a page shows its title, and the rest after a click.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    note: str = ""
    columns: str = ""
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """For each column whether all of it is numbers; never the first, which holds names."""
        return [
            column > 0 and all(_NUMBER.fullmatch(str(row[column]).strip()) for row in self.rows)
            for column in range(len(self.header))
        ]


def text_table(header: Sequence[str], rows: Sequence[Sequence[Any]], columns: str = "", **style: Any) -> str:
    """A table for a terminal, its cells as they are; `style` is for `tabulate`."""
    return _table(header, rows, columns, "simple", **style)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], columns: str = "") -> str:
    """A table of cells that are Markdown, made with :func:`markdown_text`."""
    return _table(header, rows, columns, "pipe")


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], columns: str, heading: str = "") -> str:
    """A ``tabular`` with the rules of booktabs, of cells that are LaTeX, made with :func:`latex_text`.

    Args:
        heading: LaTeX for a line above the header, over all columns.
    """
    table = _table(header, rows, columns, "latex_raw")
    top = r"\toprule"
    if heading:
        top += f"\n\\multicolumn{{{len(columns)}}}{{l}}{{{heading}}} \\\\\n\\midrule"
    for rule in (top, r"\midrule", r"\bottomrule"):
        table = table.replace(r"\hline", rule, 1)
    return table


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], columns: str, form: str, **style: Any) -> str:
    align = [_SIDES[column] for column in columns or "l" * len(header)] if rows else None
    return tabulate(rows, headers=header, tablefmt=form, colalign=align, disable_numparse=True, **style)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: it opens no HTML and ends no cell."""
    return html.escape(text, quote=False).replace("|", r"\|")


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return text.translate(_LATEX)


def csv_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV, with a column for each key of any of them.

    Text that a spreadsheet would run as a formula gets an apostrophe before it; numbers stay.
    """
    sheet = io.StringIO()
    names = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.DictWriter(sheet, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _csv_cell(value) for name, value in record.items()} for record in records)
    return sheet.getvalue()


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
