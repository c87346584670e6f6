"""Cells: what is written must come back through RecBole's reader, the Python engine of `pandas.read_csv`."""

import io
import math
from datetime import date, datetime, timezone

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_tiger.datasets.normalize import (
    WORDS_READ_AS_MISSING,
    category_tokens,
    check_identifier,
    clean_text,
    identifier,
    number,
    parse_price,
    price_cell,
    sequence_cell,
    split_title_year,
    timestamp,
)
from recbole_tiger.errors import RowError


def as_recbole_reads(cells):
    """The cells of one column after a round trip through a file."""
    text = "x:token\tcell:token\n" + "".join(f"{i}\t{cell}\n" for i, cell in enumerate(cells))
    table = pd.read_csv(io.StringIO(text), delimiter="\t", dtype=str, engine="python")
    return table["cell:token"].tolist()


raw_texts = st.text(max_size=30) | st.text(alphabet="\"'<>&;ab \t\n\r\\/!-#x2", max_size=30)


@given(st.lists(raw_texts, min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_every_cleaned_text_survives_recbole(texts):
    cells = [clean_text(text) for text in texts]
    for cell in cells:
        assert cell == " ".join(cell.split()) and not cell.startswith('"')
        cell.encode("utf-8")
    expected = [None if not cell or cell in WORDS_READ_AS_MISSING else cell for cell in cells]
    found = as_recbole_reads(cells)
    assert [None if isinstance(cell, float) else cell for cell in found] == expected


@given(st.lists(st.text(max_size=12) | st.sampled_from(sorted(WORDS_READ_AS_MISSING)), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_every_accepted_id_survives_recbole(names):
    accepted = []
    for name in names:
        try:
            accepted.append(check_identifier(name))
        except RowError:
            continue
    if accepted:
        assert as_recbole_reads(accepted) == accepted


def test_the_words_that_pandas_reads_as_missing_are_all_known():
    from pandas._libs.parsers import STR_NA_VALUES

    assert set(STR_NA_VALUES) - {""} <= WORDS_READ_AS_MISSING


@pytest.mark.parametrize(
    "raw, expected",
    [
        (None, ""),
        (float("nan"), ""),
        (12, "12"),
        ("  Nail\tPolish \r\n Red ", "Nail Polish Red"),
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("caf&eacute; &#233;&#xE9; it&#39s &amp;amp;lt;", "café éé it's <"),
        ("Do&not touch salt&region, oven&microwave;", "Do&not touch salt&region, oven&microwave;"),
        ("<b>Bold</b> move", "Bold move"),
        ("&lt;b&gt;Bold&lt;/b&gt; move", "Bold move"),
        ("3 < 5 > 2", "3 < 5 > 2"),
        ("a<br/>b<!-- hidden --> c", "a b c"),
        ("<script>var aPageStart = 1;</script>Lamp", "Lamp"),
        ("Lamp<style>.a{color:red}", "Lamp"),
        ('a<script async>x</script> b<style type="css">.c', "a b"),
        ("Shoe <style 3> blue, a <style guide", "Shoe blue, a <style guide"),
        ("zero\u200bwidth\ufeff and \u2028line", "zero width and line"),
        ("half \ud83d pair", "half pair"),
        ("non\xa0breaking", "non breaking"),
        ('"Hello" world', "“Hello” world"),
        ('7" tablet', '7" tablet'),
        ('"open', "“open"),
        (["First part.", None, "<i>Second</i>"], "First part. Second"),
        ([], ""),
    ],
)
def test_text(raw, expected):
    assert clean_text(raw) == expected


@pytest.mark.parametrize(
    "raw, expected",
    [
        (5.99, 5.99),
        (0, 0.0),
        ("$5.99", 5.99),
        ("$5.99 - $12.00", 5.99),
        ("$12.00-$5.99", 5.99),
        ("from $1,299.00", 1299.0),
        ("from 12.99", 12.99),
        ("1,234,567", 1234567.0),
        ("12,99 €", 12.99),
        ("1.299,50 €", 1299.5),
        ("EUR 12.5", 12.5),
        ("US$ 3", 3.0),
        ("Free To Play", 0.0),
        ("Free", 0.0),
        ("&pound;4.50", None),
        ("£4.50", 4.5),
        (None, None),
        ("None", None),
        ("—", None),
        ("", None),
        (True, None),
        (-1, None),
        (math.inf, None),
        (math.nan, None),
        ("1,23,4", None),
        (".a-box-inner{background-color:#fff}#alohaBuyBoxWidget .x{width:180px}", None),
        ("call us", None),
    ],
)
def test_price(raw, expected):
    if raw == "&pound;4.50":
        expected = 4.5  # entities are resolved first
    assert parse_price(raw) == expected


def test_price_cells_have_two_decimals():
    assert [price_cell(raw) for raw in (5.9, "$12", None)] == ["5.90", "12.00", ""]


@pytest.mark.parametrize(
    "raw, options, expected",
    [
        ([["Beauty", "Makeup", "Nail Polish"]], {}, ["Beauty", "Makeup", "Nail_Polish"]),
        (
            [["Toys", "Puzzles"], ["Toys", "Games", "Board Games"]],
            {},
            ["Toys", "Puzzles", "Games", "Board_Games"],
        ),
        ([["Toys", "Puzzles"], ["Toys", "Games"]], {"paths": "first"}, ["Toys", "Puzzles"]),
        (["Tools &amp; Home", "Lamps\t", "", None], {}, ["Tools_&_Home", "Lamps"]),
        ("Home|Lamps and more|LED", {}, ["Home", "Lamps_and_more", "LED"]),
        ("Home > Lamps", {"separator": ">"}, ["Home", "Lamps"]),
        ("Home|Lamps", {"separator": ""}, ["Home|Lamps"]),
        (['"Quoted" name'], {}, ["“Quoted”_name"]),
        (None, {}, []),
        (5, {}, ["5"]),  # as it is in a list
        (math.nan, {}, []),
        ({}, {}, []),
        ([], {}, []),
    ],
)
def test_categories(raw, options, expected):
    assert category_tokens(raw, **options) == expected


def test_a_sequence_cell_that_recbole_would_read_as_missing_counts_as_empty():
    assert sequence_cell(["None"]) == ""
    assert sequence_cell(["None", "more"]) == "None more"
    assert sequence_cell([]) == ""


@pytest.mark.parametrize(
    "raw, expected",
    [
        ("Toy Story (1995)", ("Toy Story", "1995")),
        ("Usual Suspects, The (1995)", ("Usual Suspects, The", "1995")),
        ("Fugitive, The (a.k.a. (x)) (1993) ", ("Fugitive, The (a.k.a. (x))", "1993")),
        ("Doctor Who (2005–)", ("Doctor Who", "2005")),
        ("Series (1994-2004)", ("Series", "1994")),
        ("unknown", ("unknown", "")),
        ("2001 (not a year)", ("2001 (not a year)", "")),
    ],
)
def test_title_and_year(raw, expected):
    assert split_title_year(raw) == expected


@pytest.mark.parametrize("raw, expected", [("a b", "a b"), (17, "17"), (17.0, "17"), ("017", "017")])
def test_identifiers(raw, expected):
    assert identifier(raw, "user") == expected


# Whole numbers above 2**53 have lost digits on their way through a float: two ids may have become one.
@pytest.mark.parametrize("raw", [None, math.nan, 1.5, True, ["a"], math.inf, float(2**53), -1.2e18])
def test_what_is_no_identifier(raw):
    with pytest.raises(RowError):
        identifier(raw, "user")


@pytest.mark.parametrize("name", ["", "  ", "a\tb", "a\nb", '"a', "NA", "null", "[PAD]", "a\ud800", "a\u2028b"])
def test_ids_that_cannot_be_written(name):
    with pytest.raises(RowError):
        check_identifier(name)


def test_ids_lose_outer_blanks_only():
    assert check_identifier(" a b \r") == "a b"


def test_numbers_and_times():
    assert number(" 1.5 ", "t") == 1.5
    for raw in ("1_000", "", None, "nan", "inf", True, "12:30", [1], 10**400):
        with pytest.raises(RowError, match="t is not a number"):
            number(raw, "t")
    assert timestamp("1400000000", None, "t") == 1_400_000_000
    assert timestamp("2017-06-17", "%Y-%m-%d", "t") == datetime(2017, 6, 17, tzinfo=timezone.utc).timestamp()
    assert timestamp(date(1970, 1, 2), None, "t") == timestamp(datetime(1970, 1, 2), None, "t") == 86_400
    with pytest.raises(RowError, match="not a time of the form %Y-%m-%d: '17.6.2017'"):
        timestamp("17.6.2017", "%Y-%m-%d", "t")
