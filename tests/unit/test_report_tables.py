"""The table writer: what stands in a cell changes no structure, in Markdown, LaTeX, CSV and on a terminal."""

import csv
import io
import re

import pytest

from recbole_tiger.report.tables import (
    csv_table,
    latex_table,
    latex_text,
    markdown_table,
    markdown_text,
    text_table,
)

EVIL = "a|b <!--<script> \\ ~ ^ _ {x} & % $ # ±"


def test_text_is_shown_as_it_is():
    assert (
        markdown_text("a|b<i>&") == r"a\|b&lt;i&gt;&amp;"
        and markdown_text("SASRec[n_layers=1]") == "SASRec[n_layers=1]"
    )
    assert latex_text(r"\~^|<") == r"\textbackslash{}\textasciitilde{}\^{}\textbar{}\ensuremath{<}"
    assert latex_text("a_b{c}&%$#±") == r"a\_b\{c\}\&\%\$\#$\pm$"


@pytest.mark.parametrize(
    ("write", "escaped", "bar"),
    [(markdown_table, markdown_text, r"(?<!\\)\|"), (latex_table, latex_text, r"(?<!\\)&")],
)
def test_every_row_has_as_many_cells_as_the_header(write, escaped, bar):
    table = write([escaped(EVIL), "n"], [[escaped(EVIL), "1"], ["b", "22"]], "lr")
    rows = [line for line in table.splitlines() if line.endswith(("|", r"\\"))]
    assert len({len(re.findall(bar, line)) for line in rows}) == 1 and len(rows) >= 3
    assert "<!--" not in table


def test_numbers_are_aligned_right():
    assert text_table(["m", "n"], [["a", "1"], ["b", "22"]], "lr").splitlines()[2] == "a      1"
    lines = markdown_table(["m", "n"], [["a", "1"], ["b", "22"]], "lr").splitlines()
    assert re.fullmatch(r"\|:-+\|-+:\|", lines[1]) and lines[2].endswith(" 1 |")
    assert r"\begin{tabular}{lr}" in latex_table(["m", "n"], [["a", "1"]], "lr")


def test_a_table_without_rows_is_its_header():
    assert text_table(["m", "n"], [], "lr").splitlines()[0].split() == ["m", "n"]


def test_a_heading_of_latex_stands_above_all_columns():
    lines = latex_table(["m", "n"], [["a", "1"]], "lr", "Both").splitlines()
    assert lines[1:4] == [r"\toprule", r"\multicolumn{2}{l}{Both} \\", r"\midrule"]
    assert [sum(rule in line for line in lines) for rule in (r"\midrule", r"\bottomrule", "hline")] == [2, 1, 0]


def test_a_spreadsheet_runs_nothing_and_reads_every_number():
    formulas = ["=1+2", "+SUM(A1)", "-x", "@cmd", "\t=1"]
    records = [{"model": formula, "value": -0.5, "text": "-1.5e-3", "none": None} for formula in formulas]
    read = list(csv.DictReader(io.StringIO(csv_table([*records, {"model": "a=b", "more": 1}]))))
    assert [row["model"] for row in read] == [*(f"'{formula}" for formula in formulas), "a=b"]
    assert read[0]["value"] == "-0.5" and read[0]["text"] == "-1.5e-3" and read[0]["none"] == ""
    assert read[5]["more"] == "1" and read[0]["more"] == ""
