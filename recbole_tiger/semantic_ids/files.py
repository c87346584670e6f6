"""Semantic IDs as JSON, `{item_id: [codes]}`: a path and items in, codes out, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_tiger.io import atomic_write_text


def read_codes(path: str | Path, items: Sequence[str]) -> NDArray[np.int64]:
    """The codes of these items, int64 `[n_items, columns]`; items in the file that are not asked for are left out.

    Raises:
        ValueError: no such file, not JSON, items missing, rows of different lengths, or codes that are not whole
            numbers from 0.
    """
    content = _content(Path(path))
    missing = [item for item in items if item not in content]
    if missing:
        raise ValueError(
            f"semantic_id_file={path} has no ID for {len(missing)} of {len(items)} items, "
            f"such as {', '.join(missing[:3])}."
        )
    rows = [content[item] for item in items]
    for item, row in zip(items, rows, strict=True):
        if not isinstance(row, list) or not row:
            raise ValueError(f"semantic_id_file={path}: item {item} needs a list of codes, got {row!r}.")
        if len(row) != len(rows[0]):
            raise ValueError(
                f"semantic_id_file={path}: item {item} has {len(row)} codes, item {items[0]} has {len(rows[0])}; "
                "all must have the same number."
            )
        # type(), because True is an instance of int
        if any(type(code) is not int or code < 0 for code in row):
            raise ValueError(f"semantic_id_file={path}: item {item} has {row!r}; codes must be whole numbers from 0.")
    return np.array(rows, dtype=np.int64).reshape(len(rows), -1)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"semantic_id_file={path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"semantic_id_file={path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"semantic_id_file={path} must hold one object {{item_id: [codes]}}.")
    return content


def write_codes(path: str | Path, items: Sequence[str], codes: NDArray[np.int64], overwrite: bool = False) -> None:
    """Writes the codes `[n_items, columns]`, one item per line.

    Raises:
        ValueError: another file stands there and `overwrite` is False.
    """
    path = Path(path)
    lines = (f"{json.dumps(item)}: {json.dumps(row)}" for item, row in zip(items, codes.tolist(), strict=True))
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    if path.exists() and not overwrite:
        if path.read_text(encoding="utf-8") == text:
            return
        raise ValueError(f"semantic_id_file={path} exists and differs: choose another name or overwrite it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, text)
