"""Semantic IDs as JSON, `{item_id: [codes]}`: a path and items in, codes out, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recbole_tiger.datasets.bad_rows import shorten
from recbole_tiger.datasets.record_reader import read_json_object
from recbole_tiger.io import atomic_write_text, make_folder

#: A level has fewer codes, however few items there are: each has a row of the model's embeddings.
MOST_CODES = 1 << 20


def read_codes(path: str | Path, items: Sequence[str]) -> NDArray[np.int64]:
    """The codes of these items, int64 `[n_items, columns]`; items in the file that are not asked for are left out.

    Raises:
        ValueError: no such file, not JSON, an item missing or there twice, rows of different lengths, or codes that
            are not whole numbers from 0 to below `MOST_CODES` (or twice the number of items).
    """
    content = read_json_object(path, f"semantic_id_file={path}", "must hold one object {item_id: [codes]}")
    missing = [item for item in items if item not in content]
    if missing:
        raise ValueError(
            f"semantic_id_file={path} has no ID for {len(missing)} of {len(items)} items, "
            f"such as {', '.join(missing[:3])}."
        )
    rows, most = [content[item] for item in items], max(MOST_CODES, 2 * len(items))
    for item, row in zip(items, rows, strict=True):
        if not isinstance(row, list) or not row:
            raise ValueError(f"semantic_id_file={path}: item {item} needs a list of codes, got {shorten(row, 80)}.")
        if len(row) != len(rows[0]):
            raise ValueError(
                f"semantic_id_file={path}: item {item} has {len(row)} codes, item {items[0]} has {len(rows[0])}; "
                "all must have the same number."
            )
        # type(), because True is an instance of int
        if any(type(code) is not int or code < 0 for code in row):
            raise ValueError(
                f"semantic_id_file={path}: item {item} has {shorten(row, 80)}; codes must be whole numbers from 0."
            )
        if max(row) >= most:
            raise ValueError(
                f"semantic_id_file={path}: item {item} has {shorten(row, 80)}, so a level of more than {most:,} codes "
                f"for {len(items):,} items; number the codes of a level from 0 without gaps."
            )
    return np.array(rows, dtype=np.int64).reshape(len(rows), -1)


def write_codes(path: str | Path, items: Sequence[str], codes: NDArray[np.int64], overwrite: bool = False) -> None:
    """Writes the codes `[n_items, columns]`, one item per line.

    Raises:
        ValueError: another file stands there and `overwrite` is False.
    """
    path = Path(path)
    lines = (f"{json.dumps(item)}: {json.dumps(row)}" for item, row in zip(items, codes.tolist(), strict=True))
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    if path.exists() and not overwrite:
        if path.is_file() and path.read_bytes() == text.encode():
            return
        raise ValueError(f"semantic_id_file={path} exists and differs: choose another name or overwrite it.")
    make_folder(path.parent)
    atomic_write_text(path, text)
