"""Rows from JSON, Python literals, CSV, TSV and Parquet; `ast`, `json` and `csv` are the oracles."""

import ast
import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_tiger.datasets.bad_rows import BadRows
from recbole_tiger.datasets.record_reader import TextFormat, file_format, parse_literal, parse_record, read_records
from recbole_tiger.errors import PreparationError, RowError

QUIET = TextFormat(progress=False)

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
tricky_texts = st.text(alphabet="'\"\\,:{}[]u abN1é\t", max_size=12)


@given(st.dictionaries(st.text(max_size=5) | tricky_texts, plain_values | tricky_texts, max_size=4))
@settings(max_examples=300, deadline=None)
def test_literals_mean_what_python_says_they_mean(record):
    text = repr(record)
    assert parse_literal(text) == ast.literal_eval(text) == record
    assert parse_record(json.dumps(record)) == record
    assert parse_record(json.dumps(record, ensure_ascii=False)) == record


@pytest.mark.parametrize(
    "text, expected",
    [
        ("{'title': \"it's\", 'price': 5.99}", {"title": "it's", "price": 5.99}),
        ("{u'title': u'caf\\xe9', u'ok': True, u'none': None}", {"title": "café", "ok": True, "none": None}),
        ("{'a': 'tab\there'}", {"a": "tab\there"}),  # not strict JSON, a Python literal
        ('{"a": "\\ud83d"}', {"a": "\ud83d"}),  # half a surrogate pair: `clean` removes it
        ("{'a': 'I love u'}", {"a": "I love u"}),
        ("{'a': \"x', 'b': 'y\"}", {"a": "x', 'b': 'y"}),  # with its quotes exchanged it would be JSON, but other JSON
        ("{'a': 'x\\ty'}", {"a": "x\ty"}),
        ("{'a': 'x' 'y'}", {"a": "xy"}),
        ('{"a": NaN}', None),
    ],
)
def test_quirks_of_raw_lines(text, expected):
    record = parse_record(text)
    if expected is None:
        assert record["a"] != record["a"]
    else:
        assert record == expected


@pytest.mark.parametrize(
    "text",
    [
        "{'a': __import__('os').getcwd()}",
        "{'a': 1",
        "[1, 2]",
        "just text",
        "'text'",
        "{1, 2}",
        "{'a': [" + "[" * 200_000 + "]" * 200_000 + "]}",
        "{[]: 1}",
    ],
)
def test_what_is_no_record_is_no_record_and_is_not_executed(text):
    with pytest.raises(RowError):
        parse_record(text)


def test_json_lines_give_the_named_values_and_none_for_missing_ones(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"b": 1, "a": "x"}\n\n{"a": [1]}\n')
    assert list(read_records(path, ["a", "b"], BadRows(), QUIET)) == [(1, ("x", 1)), (3, ([1], None))]


def test_a_json_array_is_not_json_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}, {"a": 2}]\n')
    with pytest.raises(PreparationError, match=r"a.json, line 1: not one object per line"):
        list(read_records(path, ["a"], BadRows(), QUIET))


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\ufeff", exclude_categories=["Cc"]), max_size=8)


@given(st.lists(st.tuples(cells, cells | st.just('a "b"\n, c'), cells), max_size=6))
@settings(max_examples=100, deadline=None)
def test_csv_reads_what_the_csv_module_writes(tmp_path_factory, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("x", "y", "z"), *rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="\n")
    found = list(read_records(path, ["z", "x", "y"], BadRows(), QUIET))
    assert [values for _, values in found] == [(z, x, y) for x, y, z in rows]
    # A record's line is the one on which it begins.
    begins = 2
    for (line, _), row in zip(found, rows, strict=True):
        assert line == begins
        begins += 1 + "".join(row).count("\n")


def test_csv_rows_that_cannot_be_read_are_named_or_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('u,i,t\n1,2,3\n1,2\n"a"b,2,3\n1,2,3,4\n5,"6\n6",7\n')
    with pytest.raises(PreparationError, match=r"a.csv, line 3: wrong number of columns: 2 instead of 3"):
        list(read_records(path, ["u"], BadRows(), QUIET))
    bad = BadRows("skip")
    assert list(read_records(path, ["u", "i"], bad, QUIET)) == [(2, ("1", "2")), (6, ("5", "6\n6"))]
    assert bad.counts == {"wrong number of columns": 2, "not a row of separated cells": 1}
    assert any("line 4" in example for example in bad.examples)


def test_an_unbalanced_quote_costs_its_own_line_only(tmp_path):
    path = tmp_path / "a.csv"
    lines = ["u,i", "1,2", '3,"4', "5,6", '7,"8"', '9,"a', "b,c"]
    path.write_text("\n".join(lines) + "\n")
    bad = BadRows("skip")
    found = list(read_records(path, ["u", "i"], bad, QUIET))
    # Line 3 is closed by the quote of line 5, which makes no row of it; then line 5 has its chance.
    assert found == [(2, ("1", "2")), (4, ("5", "6")), (5, ("7", "8")), (7, ("b", "c"))]
    assert bad.counts == {"not a row of separated cells": 2}


def test_an_unbalanced_quote_at_the_end_is_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('u,i\n1,2\n3,"4\n')
    with pytest.raises(PreparationError, match="line 3: not a row of separated cells"):
        list(read_records(path, ["u"], BadRows(), QUIET))


def test_separators_headers_and_quoting(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('1\t"7 inch\n2\tb\n')
    text = TextFormat(header=False, progress=False)
    assert list(read_records(path, ["1", "0"], BadRows(), text)) == [(1, ('"7 inch', "1")), (2, ("b", "2"))]
    path.write_text('u;i\n1;"a;b"\n')
    text = TextFormat(separator=";", progress=False)
    assert list(read_records(path, ["i"], BadRows(), text)) == [(2, ("a;b",))]
    for options, message in (
        ({"separator": "::"}, "one character"),
        ({"quoting": "all"}, "quoting='all'"),
        ({"encodings": ("klingon",)}, "encoding='klingon'"),
    ):
        with pytest.raises(PreparationError, match=message):
            TextFormat(**options)


def test_unknown_column_and_unknown_ending(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user,item\n1,2\n")
    with pytest.raises(PreparationError, match="no column time; its columns are user, item"):
        list(read_records(path, ["user", "time"], BadRows(), QUIET))
    path.write_text("user,item,time,time\n1,2,3,4\n")
    assert list(read_records(path, ["user"], BadRows(), QUIET)) == [(2, ("1",))]
    with pytest.raises(PreparationError, match="a.csv has more than one column time: rename"):
        list(read_records(path, ["user", "time"], BadRows(), QUIET))
    with pytest.raises(PreparationError, match="'.xlsx' does not say what the file holds"):
        file_format("a.xlsx")
    assert file_format("a.json.gz") == "json"


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"u": ["a", "b"], "t": [1, None], "c": [["x", "y"], []]}), path)
    assert list(read_records(path, ["c", "u", "t", "u"], BadRows(), QUIET)) == [
        (1, (["x", "y"], "a", 1, "a")),
        (2, ([], "b", None, "b")),
    ]
    with pytest.raises(PreparationError, match="no column x; its columns are u, t, c"):
        list(read_records(path, ["x"], BadRows(), QUIET))
    (tmp_path / "b.parquet").write_bytes(b"u,t\n1,2\n")
    with pytest.raises(PreparationError, match="it is not a Parquet file"):
        list(read_records(tmp_path / "b.parquet", ["u"], BadRows(), QUIET))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PreparationError, match="damaged Parquet file"):
        list(read_records(path, ["u"], BadRows(), QUIET))
