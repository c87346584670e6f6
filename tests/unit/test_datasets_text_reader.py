"""Reading raw text: Python's own gzip module is the oracle; then damage of every kind."""

import gzip
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_tiger.datasets import text_reader
from recbole_tiger.datasets.bad_rows import BadRows
from recbole_tiger.datasets.text_reader import read_lines
from recbole_tiger.errors import PreparationError


def read(path, policy="error", **options):
    bad = BadRows(policy)
    return list(read_lines(path, bad, progress=False, **options)), bad


@given(
    members=st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20), max_size=8),
        min_size=1,
        max_size=4,
    ),
    block=st.integers(1, 64),
)
@settings(max_examples=60, deadline=None)
def test_gzip_members_of_any_size_read_like_the_gzip_module(tmp_path_factory, members, block):
    path = tmp_path_factory.mktemp("lines") / "data.json.gz"
    with path.open("wb") as stream:
        for member in members:
            stream.write(gzip.compress("".join(line + "\n" for line in member).encode()))
    original, text_reader.BLOCK_BYTES = text_reader.BLOCK_BYTES, block
    try:
        found, _ = read(path)
    finally:
        text_reader.BLOCK_BYTES = original
    with gzip.open(path, "rb") as stream:
        expected = [line.decode() for line in stream.read().split(b"\n")]
    if expected[0].startswith("\ufeff"):
        expected[0] = expected[0][1:]
    kept = [(i, line) for i, line in enumerate(expected, 1) if line.strip(" \t\x0b\x0c")]
    assert found == kept


def test_windows_line_ends_byte_order_mark_and_empty_lines(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\r\n  \n\nb\r\nlast")
    notes = Counter()
    found, _ = read(path, notes=notes)
    assert found == [(1, "a"), (5, "b"), (6, "last")]
    assert notes == {"empty lines": 3}


def test_mixed_encodings_are_read_and_counted_on_request(tmp_path):
    path = tmp_path / "data.txt"
    path.write_bytes("Café\n".encode() + "Café\n".encode("latin-1") + b"plain\n")
    with pytest.raises(PreparationError, match=r"data.txt, line 2: not utf-8 text.*bad_rows=skip"):
        read(path)
    found, bad = read(path, policy="skip")
    assert found == [(1, "Café"), (3, "plain")]
    assert bad.counts == {"not utf-8 text": 1}
    notes = Counter()
    found, _ = read(path, encodings=("utf-8", "latin-1"), notes=notes)
    assert found == [(1, "Café"), (2, "Café"), (3, "plain")]
    assert notes == {"lines in latin-1": 1}


@pytest.mark.parametrize("damage", ["cut off", "flipped", "garbage after the end"])
def test_damaged_gzip_has_a_line_number_and_keeps_what_came_before(tmp_path, damage):
    first = gzip.compress(b"one\ntwo\n")
    second = gzip.compress(b"".join(b"%d\n" % (i * 7919 % 100003) for i in range(5000)))
    path = tmp_path / "data.json.gz"
    content = {
        "cut off": first + second[: len(second) // 2],
        "flipped": first + second[:40] + b"\xff" * 40 + second[80:],
        "garbage after the end": first + b"not gzip",
    }[damage]
    path.write_bytes(content)
    with pytest.raises(PreparationError, match=r"data.json.gz, line \d+: damaged gzip stream"):
        read(path)
    found, bad = read(path, policy="skip")
    assert found[:2] == [(1, "one"), (2, "two")]
    assert sum(bad.counts.values()) == 1
    if damage == "cut off":
        assert 2 < len(found) < 5002
        assert found[-1][1] == str((len(found) - 3) * 7919 % 100003)  # the last line is whole


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.json.gz", b'{"a": 1}\n', "named .gz but holds"),
        ("a.json.gz", b"<!DOCTYPE html>", "named .gz but holds a web page"),
        ("a.json", gzip.compress(b"x", mtime=0), "is a gzip file"),
        ("a.csv", b"PK\x03\x04rest", "zip archive: unpack"),
        ("a.csv", b"PAR1rest", "Parquet file"),
        ("a.csv", "a,b".encode("utf-16"), "UTF-16"),
        ("a.csv", b"<!doctype html><html>", "web page"),
        ("a.csv", b"<HTML><body>", "web page"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PreparationError, match=message):
        read(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(PreparationError, match="is not a file"):
            read(path)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.csv").write_text("a,b\n")
    monkeypatch.setattr(text_reader.Path, "open", refused)  # root may read any real file
    with pytest.raises(PreparationError, match=r"a.csv cannot be read: Permission denied\."):
        read(tmp_path / "a.csv")


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_reader, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(text_reader, "BLOCK_BYTES", 10)
    path = tmp_path / "a.csv"
    path.write_bytes(b"x" * 1000)
    with pytest.raises(PreparationError, match="is it a text of lines"):
        read(path)


def test_unknown_policy():
    with pytest.raises(PreparationError, match="bad_rows='ignore'.*error, skip"):
        BadRows("ignore")
