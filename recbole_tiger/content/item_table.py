"""The `.item` file as text: an atomic file in, a frame of strings with the types of its columns out."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pandas as pd

_TYPES = frozenset({"token", "token_seq", "float", "float_seq"})
_QUOTED = re.compile(r'"((?:[^"]|"")*)"', re.DOTALL)


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
        a frame of `str` (empty fields are ""), columns without ":type"; the types are in `frame.attrs["types"]`.

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
