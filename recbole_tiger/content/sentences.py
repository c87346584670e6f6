"""From the columns of the `.item` file to one sentence per item (paper, sections 3.1 and 4.1.3).

In comes the file as text; out goes a list of sentences in the order of the item ids, empty columns left out
cleanly. The paper names title, price, brand and category for Amazon; the same code serves movies and whatever
else has text columns.
"""

from __future__ import annotations

import csv
import html
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

#: Columns read as item text where `content_fields` names none, in this order, with the words before them.
DEFAULT_FIELDS: dict[str, str] = {
    "title": "Title",
    "movie_title": "Title",
    "book_title": "Title",
    "item_name": "Title",
    "name": "Title",
    "price": "Price",
    "brand": "Brand",
    "author": "Author",
    "categories": "Categories",
    "category": "Category",
    "release_year": "Year",
    "year": "Year",
    "class": "Genres",
    "genres": "Genres",
    "genre": "Genre",
}
_TITLES = frozenset(name for name, label in DEFAULT_FIELDS.items() if label == "Title")
_PATHS = frozenset({"categories", "category"})
_TYPES = frozenset({"token", "token_seq", "float", "float_seq"})

_QUOTED = re.compile(r'"((?:[^"]|"")*)"', re.DOTALL)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Soft hyphens, zero-width spaces, marks of writing direction: invisible, but tokens of their own to an
# encoder.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff]")
# 'Skin Care', "Men's": the sets of names in RecBole's own Amazon files.
_LIST_OF_NAMES = re.compile(r"""(?:'[^']*'|"[^"]*")(?:\s*,\s*(?:'[^']*'|"[^"]*"))*""")
_NAME_IN_LIST = re.compile(r"""'([^']*)'|"([^"]*)\"""")


def read_item_table(
    path_to_item_file: str | Path, field_separator: str = "\t", encoding: str = "utf-8"
) -> pd.DataFrame:
    """Read an atomic `.item` file as text, one row per line of the file.

    Quotes are ordinary characters, since titles are full of inches and nicknames, except that a field which
    starts *and* ends with a double quote, with every quote between them doubled, is unquoted, as CSV writers
    produce it. A line with too many fields is read once more with quotes that may hide a separator.

    Args:
        path_to_item_file: the file; its first line holds `name:type` for each column.
        field_separator: between fields (RecBole's `field_separator`).
        encoding: of the file (RecBole's `encoding`).

    Returns:
        a frame of `str` (empty fields are ""), columns without ":type"; the types are in
        `frame.attrs["types"]`.

    Raises:
        ValueError: no such file, wrong encoding, a header that is none, a line with another number of fields.
    """
    path = Path(path_to_item_file)
    try:
        with open(path, encoding=encoding, newline="") as file:
            text = file.read()
    except FileNotFoundError:
        raise ValueError(
            f"there is no item file {path}: Semantic IDs are made from item text, so add it, or set "
            "content_encoder=precomputed and content_file"
        ) from None
    except (UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"{path} cannot be read with encoding={encoding} ({error}): set encoding") from error
    lines = [line[:-1] if line.endswith("\r") else line for line in text.removeprefix("\ufeff").split("\n")]
    types = _header(path, lines[0], field_separator)
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        fields = [_unquote(field) for field in line.split(field_separator)]
        if len(fields) > len(types) and len(field_separator) == 1:
            fields = next(csv.reader([line], delimiter=field_separator))
        if len(fields) != len(types):
            raise ValueError(
                f"{path}, line {number}, has {len(fields)} fields where the header names {len(types)}: is "
                f"there a separator ({field_separator!r}) or a line break inside a field?"
            )
        rows.append(fields)
    table = pd.DataFrame(rows, columns=list(types), dtype=str)
    table.attrs["types"] = types
    return table


def _header(path: Path, line: str, field_separator: str) -> dict[str, str]:
    types: dict[str, str] = {}
    for column in line.split(field_separator):
        name, _, kind = _unquote(column).strip().partition(":")
        if not name or kind not in _TYPES:
            raise ValueError(
                f"{path}: its first line must hold 'name:type' columns ({', '.join(sorted(_TYPES))}) "
                f"separated by field_separator={field_separator!r}, but has {column!r}"
            )
        if name in types:
            raise ValueError(f"{path}: column {name!r} stands twice in its first line")
        types[name] = kind
    return types


def _unquote(field: str) -> str:
    if len(field) > 1 and field[0] == '"' == field[-1] and (inner := _QUOTED.fullmatch(field)):
        return inner.group(1).replace('""', '"')
    return field


def build_sentences(
    table: pd.DataFrame,
    item_ids: Sequence[str],
    item_id_field: str,
    fields: Sequence[str] | None,
    template: str | None,
    *,
    seq_separator: str = " ",
) -> list[str]:
    """Write one sentence for each item.

    Without a template a sentence reads `Title: … Price: $5.99. Brand: … Categories: a > b > c.`, each part
    left out where the item has nothing there. How a column is read depends on its type:

    * `token`: the text itself, HTML entities resolved, control characters removed, white space collapsed;
    * `token_seq`: titles are words joined by blanks. `categories` and `category` are paths, joined by " > ",
      all others lists, joined by ", "; in both `_` stands for a blank inside a token. A list of quoted names
      (`'Skin Care', 'Beauty'`, as RecBole's own Amazon files have it) has no order and is joined by ", ";
    * `float`: `price` as "$5.99", other whole numbers without ".0"; NaN is empty.

    A template such as `{title} by {brand}` replaces all that. There every field owns the words before it and
    the punctuation that follows it directly, the last field all that follows; where a field is empty they go
    with it. Then separators left over at the two ends are trimmed. `{title} ({brand}), {price}` without a
    brand gives "Soap, $5.99".

    Args:
        table: from `read_item_table`.
        item_ids: the items wanted, in the order wanted.
        item_id_field: the column of `table` that holds the ids.
        fields: columns to use, in this order; None for those of `DEFAULT_FIELDS` that the table has. Not
            consulted where there is a template.
        template: text with `{column}` in it, or None.
        seq_separator: between the tokens of a `token_seq` (RecBole's `seq_separator`).

    Returns:
        n sentences, in the order of `item_ids`.

    Raises:
        ValueError: naming `content_fields` for a column that is missing or empty for all items and for items
            without any text, `content_template` for a template that cannot be filled; and for items that are
            not in the file, or twice.
    """
    rows = _rows_of(table, item_ids, item_id_field)
    if template is not None:
        pieces = _parse_template(template, table, item_id_field)
        fields = list(dict.fromkeys(piece.field for piece in pieces))
        key = "content_template"
    else:
        fields = _chosen_fields(table, item_id_field, fields)
        key = "content_fields"
    texts = {field: _column_text(table, rows, field, seq_separator) for field in fields}
    if len(rows):
        for field, column in texts.items():
            if not any(column):
                raise ValueError(
                    f"{key}: column {field!r} of the item file is empty for all {len(rows)} items: leave it "
                    f"out (there are {_columns(table, item_id_field)})"
                )
    per_item = list(zip(*texts.values(), strict=True))
    empty = [str(item) for item, values in zip(item_ids, per_item, strict=True) if not any(values)]
    if empty:
        raise ValueError(
            f"{key}: {len(empty)} of {len(rows)} items have no text in {', '.join(fields)} (such as "
            f"{_examples(empty)}): name further columns of {_columns(table, item_id_field)}, or remove these "
            "items"
        )
    if template is not None:
        return [_fill(pieces, dict(zip(fields, values, strict=True))) for values in per_item]
    labels = [DEFAULT_FIELDS.get(field) or field.replace("_", " ").capitalize() for field in fields]
    return [_join(labels, values) for values in per_item]


def item_titles(
    table: pd.DataFrame, item_ids: Sequence[str], item_id_field: str, *, seq_separator: str = " "
) -> list[str]:
    """What to call each item on a page: its title, or its id where it has none.

    Raises:
        ValueError: for items that are not in the file.
    """
    rows = _rows_of(table, item_ids, item_id_field)
    for field in table.columns:
        if field in _TITLES:
            texts = _column_text(table, rows, field, seq_separator)
            return [text or str(item) for text, item in zip(texts, item_ids, strict=True)]
    return [str(item) for item in item_ids]


def category_paths(
    table: pd.DataFrame,
    item_ids: Sequence[str],
    item_id_field: str,
    field: str,
    *,
    seq_separator: str = " ",
) -> list[list[str]]:
    """The categories of each item from the coarsest to the finest, for the report on Semantic IDs.

    Paths keep their order. Lists without one (genres, sets of names) are sorted by how many items carry a
    name, so that the first is the most general and the last the most particular.

    Returns:
        for each item a list of names, [] where it has none.

    Raises:
        ValueError: naming the column if it is not there, or items that are not in the file.
    """
    rows = _rows_of(table, item_ids, item_id_field)
    _require(table, item_id_field, field, "the category column")
    values = table[field].to_numpy()[rows].tolist()
    if _kind(table, field) not in ("path", "list"):
        return [[text] if (text := _clean(value)) else [] for value in values]
    parts = [_parts(table, field, value, seq_separator) for value in values]
    if all(ordered for _, ordered in parts):
        return [names for names, _ in parts]
    carried = Counter(name for names, _ in parts for name in set(names))
    return [
        names if ordered else sorted(dict.fromkeys(names), key=lambda name: (-carried[name], name))
        for names, ordered in parts
    ]


# ------------------------------------------------------------------------------------- which rows and columns


def _rows_of(table: pd.DataFrame, item_ids: Sequence[str], item_id_field: str) -> list[int]:
    """Row numbers of the items."""
    if item_id_field not in table.columns:
        raise ValueError(
            f"ITEM_ID_FIELD: the item file has no column {item_id_field!r}; it has {', '.join(table.columns)}"
        )
    row_of: dict[str, int] = {}
    twice: dict[str, None] = {}
    for row, item in enumerate(table[item_id_field].tolist()):
        if row_of.setdefault(item, row) != row:
            twice[item] = None
    missing = [str(item) for item in item_ids if str(item) not in row_of]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(item_ids)} items are not in the item file (such as "
            f"{_examples(missing)}): add them, or filter their interactions out"
        )
    twice_wanted = [str(item) for item in item_ids if str(item) in twice]
    if twice_wanted:
        raise ValueError(
            f"{len(twice_wanted)} items have more than one line in the item file (such as "
            f"{_examples(twice_wanted)}): keep one of each"
        )
    return [row_of[str(item)] for item in item_ids]


def _chosen_fields(table: pd.DataFrame, item_id_field: str, fields: Sequence[str] | None) -> list[str]:
    if fields is None:
        fields = [field for field in DEFAULT_FIELDS if field in table.columns and field != item_id_field]
        if not fields:
            raise ValueError(
                "content_fields: the item file has none of the text columns known by name "
                f"({', '.join(DEFAULT_FIELDS)}): name some of {_columns(table, item_id_field)}"
            )
        return fields
    fields = [fields] if isinstance(fields, str) else list(fields)
    if not fields:
        raise ValueError(f"content_fields is empty: name some of {_columns(table, item_id_field)}")
    for field in fields:
        _require(table, item_id_field, field, "content_fields")
    if len(set(fields)) < len(fields):
        raise ValueError(f"content_fields names a column twice: {fields}")
    return fields


def _require(table: pd.DataFrame, item_id_field: str, field: str, key: str) -> None:
    if field not in table.columns:
        raise ValueError(f"{key}: the item file has no column {field!r}; it has {_columns(table, item_id_field)}")


def _columns(table: pd.DataFrame, item_id_field: str) -> str:
    return ", ".join(field for field in table.columns if field != item_id_field) or "no column beside the ids"


def _examples(items: list[str]) -> str:
    return ", ".join(items[:3])


# -------------------------------------------------------------------------------------------- columns to text


def _clean(text: str) -> str:
    """Resolve HTML entities, drop control characters, collapse white space."""
    # Again and again, for those escaped twice: Amazon's titles hold "&amp;quot;".
    while "&" in text and (resolved := _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)) != text:
        text = resolved
    if not text.isprintable():  # most text is, and needs no search
        text = _INVISIBLE.sub("", _CONTROL.sub(" ", text))
    return " ".join(text.split())


def _kind(table: pd.DataFrame, field: str) -> Literal["text", "words", "path", "list", "price", "number"]:
    kind = table.attrs.get("types", {}).get(field, "token")
    if kind == "token":
        return "text"
    if kind == "float":
        return "price" if field == "price" else "number"
    if kind == "token_seq" and field in _TITLES:
        return "words"
    return "path" if kind == "token_seq" and field in _PATHS else "list"


def _column_text(table: pd.DataFrame, rows: list[int], field: str, seq_separator: str) -> list[str]:
    """The text of one column for each of the items, "" where there is none."""
    read = _reader(table, field, seq_separator)
    values = table[field].to_numpy()[rows].tolist()
    text_of = {value: read(value) for value in dict.fromkeys(values)}  # brands and categories come again and again
    return [text_of[value] for value in values]


def _reader(table: pd.DataFrame, field: str, seq_separator: str) -> Callable[[str], str]:
    """The function that turns a field of this column into text."""
    kind = _kind(table, field)
    if kind == "text":
        return _clean
    if kind == "words":
        return lambda value: _clean(value.replace(seq_separator, " "))
    if kind in ("price", "number"):
        return lambda value: _number(value, field, kind)

    def read_names(value: str) -> str:
        names, ordered = _parts(table, field, value, seq_separator)
        return (" > " if ordered else ", ").join(names)

    return read_names


def _parts(table: pd.DataFrame, field: str, value: str, seq_separator: str) -> tuple[list[str], bool]:
    """The names in a field that holds several, and whether they are a path from coarse to fine."""
    if _LIST_OF_NAMES.fullmatch(value.strip()):
        names = [_clean(single or double) for single, double in _NAME_IN_LIST.findall(value)]
        return [name for name in names if name], False
    names = [_clean(token.replace("_", " ")) for token in value.split(seq_separator)]
    return [name for name in names if name], _kind(table, field) == "path"


def _number(value: str, field: str, kind: str) -> str:
    value = value.strip()
    if not value:
        return ""
    try:
        number = float(value)
    except ValueError:
        raise ValueError(
            f"column {field!r} of the item file is of type float but holds {value!r}: make it a token column"
        ) from None
    if not math.isfinite(number):
        return ""
    if kind == "price":
        return f"${number:.2f}"
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else value


# -------------------------------------------------------------------------------------------------- sentences


def _join(labels: list[str], values: Sequence[str]) -> str:
    parts = [f"{label}: {value}" for label, value in zip(labels, values, strict=True) if value]
    return " ".join(part if part[-1] in ".!?" else f"{part}." for part in parts)


class _Piece:
    """One field of a template with the text that it owns."""

    def __init__(self, before: str, field: str):
        self.before, self.field, self.after = before, field, ""


def _parse_template(template: str, table: pd.DataFrame, item_id_field: str) -> list[_Piece]:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"content_template={template!r} cannot be read ({error}): write columns as {{title}}"
        ) from None
    pieces: list[_Piece] = []
    literal = ""
    for text, field, form, conversion in parsed:
        literal += text
        if field is None:  # an escaped brace, or the end
            continue
        if field not in table.columns:
            raise ValueError(
                f"content_template={template!r}: there is no column {field!r}; there are "
                f"{_columns(table, item_id_field)}"
            )
        if form or conversion:
            raise ValueError(f"content_template={template!r}: write {{{field}}} without a format")
        if pieces:  # ")." and the like belong to the field before them, " by " to the field after
            pieces[-1].after = re.match(r"[^\w\s]*", literal).group()
            literal = literal[len(pieces[-1].after) :]
        pieces.append(_Piece(literal, field))
        literal = ""
    if not pieces:
        raise ValueError(
            f"content_template={template!r} names no column: use some of {_columns(table, item_id_field)}, "
            "such as '{title} by {brand}'"
        )
    pieces[-1].after = literal
    return pieces


def _fill(pieces: list[_Piece], values: dict[str, str]) -> str:
    text = "".join(f"{piece.before}{values[piece.field]}{piece.after}" for piece in pieces if values[piece.field])
    return " ".join(text.split()).lstrip(" ,;:|/>-–—").rstrip(" ,;:|/<-–—")
