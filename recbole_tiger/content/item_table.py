"""The `.item` file as text: an atomic file in, a frame of strings with the types of its columns out."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from recbole_tiger.datasets.atomic_reader import read_atomic

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
