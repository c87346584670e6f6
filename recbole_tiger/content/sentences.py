"""From the columns of the `.item` file to one sentence per item (paper, sections 3.1 and 4.1.3).

Input: the item table (`columns`). Output: sentences in the order of the item ids, without the parts that are empty.
The paper names title, price, brand and category for Amazon; the same code serves movies and whatever else has text.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from recbole_tiger.content.columns import (
    DEFAULT_FIELDS,
    TITLES,
    column_names,
    column_text,
    require_column,
    rows_of,
    text_columns,
)


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
    left out where the item has nothing there. `columns` says how each type of column is read.

    A template such as `{title} by {brand}` replaces all that. There every field owns the words before it and the
    punctuation that follows it directly, the last field all that follows; where a field is empty they go with it:
    `{title} ({brand}), {price}` without a brand gives "Soap, $5.99".

    Args:
        table: from `read_item_table`.
        item_ids: the items wanted, in the order wanted.
        item_id_field: the column of `table` that holds the ids.
        fields: columns to use without a template, in this order; None for those of `DEFAULT_FIELDS` that the table has.
        template: text with `{column}` in it, or None.
        seq_separator: between the tokens of a `token_seq` (RecBole's `seq_separator`).

    Raises:
        ValueError: naming `content_fields` for a column that is missing or empty for all items and for items
            without any text, `content_template` for a template that cannot be filled; and for items that are
            not in the file, or twice.
    """
    rows = rows_of(table, item_ids, item_id_field)
    pieces = [] if template is None else _parse_template(template, table, item_id_field)
    names = [piece.field for piece in pieces] or _chosen_fields(table, item_id_field, fields)
    texts = {field: column_text(table, rows, field, seq_separator) for field in names}
    key = "content_template" if pieces else "content_fields"
    _check_texts(texts, item_ids, key, text_columns(table, item_id_field))
    per_item = (dict(zip(texts, values, strict=True)) for values in zip(*texts.values(), strict=True))
    return [_fill(pieces, values) if pieces else _join(values) for values in per_item]


def item_titles(
    table: pd.DataFrame, item_ids: Sequence[str], item_id_field: str, *, seq_separator: str = " "
) -> list[str]:
    """What to call each item on a page: its title, or its id where it has none.

    Raises:
        ValueError: for items that are not in the file.
    """
    rows = rows_of(table, item_ids, item_id_field)
    for field in table.columns:
        if field in TITLES:
            texts = column_text(table, rows, field, seq_separator)
            return [text or str(item) for text, item in zip(texts, item_ids, strict=True)]
    return [str(item) for item in item_ids]


def category_paths(
    table: pd.DataFrame, item_ids: Sequence[str], item_id_field: str, field: str, *, seq_separator: str = " "
) -> list[list[str]]:
    """The categories of each item from the coarsest to the finest, [] where it has none.

    Paths keep their order. Lists without one (genres, sets of names) are sorted by how many items carry a
    name, so that the first is the most general and the last the most particular.

    Raises:
        ValueError: naming the column if it is not there, or items that are not in the file.
    """
    rows = rows_of(table, item_ids, item_id_field)
    require_column(table, item_id_field, field, "the category column")
    paths = column_names(table, rows, field, seq_separator)
    if all(ordered for _, ordered in paths):
        return [names for names, _ in paths]
    carried = Counter(name for names, _ in paths for name in set(names))
    return [
        names if ordered else sorted(dict.fromkeys(names), key=lambda name: (-carried[name], name))
        for names, ordered in paths
    ]


def _chosen_fields(table: pd.DataFrame, item_id_field: str, fields: Sequence[str] | None) -> list[str]:
    if fields is None:
        fields = [field for field in DEFAULT_FIELDS if field in table.columns and field != item_id_field]
        if not fields:
            raise ValueError(
                "content_fields: the item file has none of the text columns known by name "
                f"({', '.join(DEFAULT_FIELDS)}): name some of {text_columns(table, item_id_field)}"
            )
        return fields
    fields = [fields] if isinstance(fields, str) else list(fields)
    if not fields:
        raise ValueError(f"content_fields is empty: name some of {text_columns(table, item_id_field)}")
    for field in fields:
        require_column(table, item_id_field, field, "content_fields")
    if len(set(fields)) < len(fields):
        raise ValueError(f"content_fields names a column twice: {fields}")
    return fields


def _check_texts(texts: dict[str, list[str]], item_ids: Sequence[str], key: str, columns: str) -> None:
    """Raise a ValueError for a column or an item that has no text."""
    for field, column in texts.items():
        if column and not any(column):
            raise ValueError(
                f"{key}: column {field!r} of the item file is empty for all {len(item_ids)} items: leave it out "
                f"(there are {columns})"
            )
    empty = [str(item) for item, *values in zip(item_ids, *texts.values(), strict=True) if not any(values)]
    if empty:
        raise ValueError(
            f"{key}: {len(empty)} of {len(item_ids)} items have no text in {', '.join(texts)} (such as "
            f"{', '.join(empty[:3])}): name further columns of {columns}, or remove these items"
        )


def _join(values: dict[str, str]) -> str:
    labels = {field: DEFAULT_FIELDS.get(field) or field.replace("_", " ").capitalize() for field in values}
    parts = [f"{labels[field]}: {value}" for field, value in values.items() if value]
    return " ".join(part if part[-1] in ".!?" else f"{part}." for part in parts)


@dataclass
class _Piece:
    """One field of a template with the text that it owns."""

    before: str
    field: str
    after: str = ""


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
                f"{text_columns(table, item_id_field)}"
            )
        if form or conversion:
            raise ValueError(f"content_template={template!r}: write {{{field}}} without a format")
        if pieces:  # ")." and the like belong to the field before them, " by " to the field after
            rest = re.sub(r"^[^\w\s]+", "", literal)
            pieces[-1].after, literal = literal.removesuffix(rest), rest
        pieces.append(_Piece(literal, field))
        literal = ""
    if not pieces:
        raise ValueError(
            f"content_template={template!r} names no column: use some of {text_columns(table, item_id_field)}, "
            "such as '{title} by {brand}'"
        )
    pieces[-1].after = literal
    return pieces


def _fill(pieces: list[_Piece], values: dict[str, str]) -> str:
    parts = [part for p in pieces if values[p.field] for part in (p.before, values[p.field], p.after)]
    # What is left of the template at the ends goes; an item's own text stays as it is.
    parts[0], parts[-1] = parts[0].lstrip(" ,;:|/>-–—"), parts[-1].rstrip(" ,;:|/<-–—")
    return " ".join("".join(parts).split())
