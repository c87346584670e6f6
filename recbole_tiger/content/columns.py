"""The `.item` file as a table of texts, and its columns as text: one for each of the items wanted.

How a column is read depends on its type:

* `token`: the text itself, HTML entities resolved, control characters removed, white space collapsed;
* `token_seq`: titles are words joined by blanks. `categories` and `category` are paths, joined by " > ", all
  others lists, joined by ", "; in both `_` stands for a blank inside a token. A list of quoted names
  (`'Skin Care', 'Beauty'`, as RecBole's own Amazon files have it) has no order and is joined by ", ";
* `float`: `price` as "$5.99", other whole numbers without ".0".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from recbole_tiger.datasets.atomic_reader import read_atomic
from recbole_tiger.datasets.normalize import resolve_entities

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
TITLES = frozenset(name for name, label in DEFAULT_FIELDS.items() if label == "Title")
_PATHS = frozenset({"categories", "category"})

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Soft hyphens, zero-width spaces, marks of writing direction: invisible, but tokens of their own to an encoder.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff]")
# 'Skin Care', "Men's": the sets of names in RecBole's own Amazon files.
_LIST_OF_NAMES = re.compile(r"""(?:'[^']*'|"[^"]*")(?:\s*,\s*(?:'[^']*'|"[^"]*"))*""")
_NAME_IN_LIST = re.compile(r"""'([^']*)'|"([^"]*)\"""")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"', re.DOTALL)


def read_item_table(
    path_to_item_file: str | Path,
    field_separator: str = "\t",
    encoding: str = "utf-8",
    *,
    id_field: str | None = None,
    seq_separator: str = " ",
) -> pd.DataFrame:
    """Read an atomic `.item` file as text, one row per line of the file.

    Quotes are ordinary characters, since titles are full of inches and nicknames, except that a text which
    starts *and* ends with a double quote, with every quote between them doubled, is unquoted, as CSV writers
    produce it. An id is never unquoted: it is the same text in the `.inter` file.

    Args:
        path_to_item_file: the file; its first line holds `name:type` for each column.
        field_separator: between fields (RecBole's `field_separator`).
        encoding: of the file (RecBole's `encoding`).
        id_field: the column of the ids, which must be there; None if the file is read without them.
        seq_separator: between the parts of a cell (RecBole's `seq_separator`).

    Returns:
        a frame of `str` (empty fields are ""), columns without ":type"; the types are in `frame.attrs["types"]`, and
        what was altered in `frame.attrs["notes"]`.

    Raises:
        AtomicFileError: a file that is no atomic file, with the line.
        ValueError: no such file.
    """
    path = Path(path_to_item_file)
    if not path.is_file():
        raise ValueError(
            f"there is no item file {path}: Semantic IDs are made from item text, so add it, or set "
            "content_encoder=precomputed and content_file"
        )
    ids = () if id_field is None else (id_field,)
    read = read_atomic(
        path, ids, None, field_separator, encoding, progress=False, seq_separator=seq_separator, as_text=True
    )
    columns = {name: cells if name in ids else list(map(unquote, cells)) for name, cells in read.columns.items()}
    table = pd.DataFrame(columns, dtype=str)
    table.attrs["types"] = {field.name: field.type for field in read.fields}
    table.attrs["notes"] = read.notes
    return table


def unquote(text: str) -> str:
    """A text without the quotes that CSV writers put around it; any other text as it is."""
    if len(text) > 1 and text[0] == '"' == text[-1] and (inner := _QUOTED.fullmatch(text)):
        return inner.group(1).replace('""', '"')
    return text


def rows_of(table: pd.DataFrame, item_ids: Sequence[str], item_id_field: str) -> list[int]:
    """Row numbers of the items.

    Raises:
        ValueError: no such id column, items that are not in the table or in it twice.
    """
    if item_id_field not in table.columns:
        raise ValueError(
            f"ITEM_ID_FIELD: the item file has no column {item_id_field!r}; it has {', '.join(table.columns)}"
        )
    wanted = [str(item) for item in item_ids]
    ids = table[item_id_field]
    row_of, twice = dict(zip(ids, range(len(ids)), strict=True)), set(ids[ids.duplicated()])
    if missing := [item for item in wanted if item not in row_of]:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} items are not in the item file (such as "
            f"{', '.join(missing[:3])}): add them, or filter their interactions out"
        )
    if repeated := [item for item in wanted if item in twice]:
        raise ValueError(
            f"{len(repeated)} items have more than one line in the item file (such as "
            f"{', '.join(repeated[:3])}): keep one of each"
        )
    return [row_of[item] for item in wanted]


def require_column(table: pd.DataFrame, item_id_field: str, field: str, key: str) -> None:
    """Raise a ValueError that names `key` if the table has no column `field`."""
    if field not in table.columns:
        raise ValueError(f"{key}: the item file has no column {field!r}; it has {text_columns(table, item_id_field)}")


def text_columns(table: pd.DataFrame, item_id_field: str) -> str:
    """The columns beside the ids, for a message."""
    return ", ".join(field for field in table.columns if field != item_id_field) or "no column except the ids"


def column_text(table: pd.DataFrame, rows: list[int], field: str, seq_separator: str) -> list[str]:
    """The text of one column for each of the rows, "" where there is none."""
    kind, values = _kind(table, field), table[field].to_numpy()[rows].tolist()
    text_of = {value: _text(kind, value, seq_separator) for value in dict.fromkeys(values)}  # brands repeat
    return [text_of[value] for value in values]


def column_names(table: pd.DataFrame, rows: list[int], field: str, seq_separator: str) -> list[tuple[list[str], bool]]:
    """The names in one column for each of the rows, and whether they are a path from coarse to fine."""
    kind, values = _kind(table, field), table[field].to_numpy()[rows].tolist()
    if kind not in ("path", "list"):
        return [([text] if (text := _clean(value)) else [], True) for value in values]
    return [_names(kind, value, seq_separator) for value in values]


def _clean(text: str) -> str:
    """Resolve HTML entities, drop control characters, collapse white space."""
    text = resolve_entities(text, _ENTITY)
    if not text.isprintable():  # most text is, and needs no search
        text = _INVISIBLE.sub("", _CONTROL.sub(" ", text))
    return " ".join(text.split())


def _kind(table: pd.DataFrame, field: str) -> Literal["text", "words", "path", "list", "price", "number"]:
    kind = table.attrs.get("types", {}).get(field, "token")
    if kind == "token":
        return "text"
    if kind == "float":
        return "price" if field == "price" else "number"
    if kind == "token_seq" and field in TITLES:
        return "words"
    return "path" if kind == "token_seq" and field in _PATHS else "list"


def _text(kind: str, value: str, seq_separator: str) -> str:
    """A cell of a column of this kind as text."""
    if kind in ("path", "list"):
        names, ordered = _names(kind, value, seq_separator)
        return (" > " if ordered else ", ").join(names)
    if kind in ("text", "words"):
        return _clean(value.replace(seq_separator, " ") if kind == "words" else value)
    if not (value := value.strip()):
        return ""
    number = float(value)  # finite, since the reader of the file has checked it
    if kind == "price":
        return f"${number:.2f}"
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else value


def _names(kind: str, value: str, seq_separator: str) -> tuple[list[str], bool]:
    """The names in a field that holds several, and whether they are a path from coarse to fine."""
    if _LIST_OF_NAMES.fullmatch(value.strip()):
        names = [_clean(single or double) for single, double in _NAME_IN_LIST.findall(value)]
        return [name for name in names if name], False
    names = [_clean(token.replace("_", " ")) for token in value.split(seq_separator)]
    return [name for name in names if name], kind == "path"
