"""RecBole's features as the strict reader of atomic files reads them, in place of RecBole's own reading.

Input: a dataset that is being loaded, and the path of an atomic file. Output: the frame for RecBole: one row
per line, ids and words such as `NA` as they are written, and NaN in no column of ids or times.
"""

from __future__ import annotations

from logging import getLogger
from typing import Any

import numpy as np
import pandas as pd
from recbole.utils import FeatureSource, FeatureType

from recbole_tiger.content.columns import unquote
from recbole_tiger.datasets.atomic_fields import Field
from recbole_tiger.datasets.atomic_reader import AtomicTable, read_atomic, read_fields
from recbole_tiger.errors import ConfigError


def load_features(_original, dataset, path: str, source) -> pd.DataFrame | None:
    """The columns of an atomic file that `load_col` and `unload_col` ask for; for RecBole's ``Dataset._load_feat``.

    What the rest of RecBole asks about them (types, sources, lengths) is entered in the dataset.

    Raises:
        AtomicFileError: for a file that is no atomic file, with the line.
        ConfigError: for a `load_col` that leaves out the ids.
    """
    config, (wanted, unwanted) = dataset.config, dataset._get_load_and_unload_col(source)
    if wanted == set():
        return None
    separator, encoding = config["field_separator"], config["encoding"] or "utf-8"
    ids = _id_columns(dataset, source)
    names = [field.name for field in read_fields(path, separator, encoding)]
    kept = {name for name in names if (wanted is None or name in wanted) and name not in (unwanted or ())}
    left_out = [name for name in ids if name in names and name not in kept]
    key = "unload_col" if wanted is None else "load_col"
    if left_out:
        raise ConfigError(f"{key}={dict(config[key])!r} leaves out {', '.join(left_out)} of {path}: load the ids too")
    if missing := sorted({*(wanted or ()), *(unwanted or ())}.difference(names)):
        getLogger().warning(f"{key}: {path} has no column {', '.join(missing)}; its columns: {', '.join(names)}")
    time = dataset.time_field if source is FeatureSource.INTERACTION else None
    show, seq_separator = bool(config["show_progress"]), config["seq_separator"]
    table = read_atomic(path, ids, time, separator, encoding, show, seq_separator=seq_separator, keep=kept, coded=True)
    for note in table.notes:
        getLogger().warning(note)
    columns = {}
    for field in table.fields:
        if field.name in kept:
            _register(dataset, field, source)
            columns[field.name] = _column(dataset, table, field)
    if not columns:
        getLogger().warning(f"{path}: load_col or unload_col leave no column to load; its columns: {', '.join(names)}")
        return None
    return pd.DataFrame(columns)


def _id_columns(dataset, source) -> tuple[str, ...]:
    """The columns of a file that name users or items."""
    users, items = dataset.uid_field, dataset.iid_field
    by_source = {FeatureSource.INTERACTION: (users, items), FeatureSource.USER: (users,), FeatureSource.ITEM: (items,)}
    return tuple(name for name in by_source.get(source, ()) if name is not None)


def _register(dataset, field: Field, source) -> None:
    """What RecBole keeps of a column; not for `.link` files, which are tables of names."""
    if source == "link":
        return
    dataset.field2source[field.name] = source
    dataset.field2type[field.name] = FeatureType(field.type)
    if not field.type.endswith("seq"):
        dataset.field2seqlen[field.name] = 1
    if field.type.startswith("float"):
        dataset.field2bucketnum[field.name] = 2


def _column(dataset, table: AtomicTable, field: Field) -> pd.Series:
    """A column as RecBole has it: NaN for an empty cell, which RecBole fills in, and arrays for sequences.

    Ids are categories: RecBole's passes over ten million texts would take longer than reading them.
    """
    if field.name in table.ids:
        found = table.ids[field.name]
        names = pd.Index(np.array(found.names, dtype=object), dtype=object)
        return pd.Series(pd.Categorical.from_codes(found.codes, names))
    cells: Any = table.columns.pop(field.name)
    if field.type != "float":  # as item text is read
        cells = np.fromiter(map(unquote, cells), dtype=object, count=len(cells))
    if field.type.endswith("_seq"):
        return pd.Series(_sequences(dataset, field, cells), dtype=object)
    empty = np.isnan(cells) if field.type == "float" else cells == ""
    if field.type == "token":
        cells[empty] = np.nan
    elif empty.any():
        getLogger().warning(
            f"{table.path}: {int(empty.sum()):,} empty cells of {field} are filled with the column's mean."
        )
    return pd.Series(cells, dtype=cells.dtype)


def number_ids(original, dataset, columns: list[tuple]) -> None:
    """RecBole's ``Dataset._remap`` of columns in one space of numbers; of categories it sees each name once.

    Args:
        original: RecBole's method.
        columns: frame, field and type of each.
    """
    seen, coded = [], []
    for feat, field, kind in columns:
        values = feat[field].array
        if isinstance(values, pd.Categorical):
            codes, used = _renumbered(values.codes)
            names = pd.DataFrame({field: values.categories.to_numpy()[used]}, dtype=object)
            coded.append((feat, field, codes, names))
            feat = names
        seen.append((feat, field, kind))
    original(dataset, seen)
    for feat, field, codes, names in coded:
        feat[field] = names[field].to_numpy()[codes]


def _renumbered(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes numbered by first appearance, and those that are used; as read they are so already, unless filtered."""
    highest = np.maximum.accumulate(codes)
    if len(codes) and codes[0] == 0 and (np.diff(highest) <= 1).all():
        return codes, np.arange(highest[-1] + 1)
    return pd.factorize(codes)


def _sequences(dataset, field: Field, cells: np.ndarray) -> list[np.ndarray]:
    """The parts of each cell, at most `seq_len` of them."""
    separator, config = dataset.config["seq_separator"], dataset.config
    number = field.type == "float_seq"
    parts: list[Any] = [list(filter(None, cell.split(separator))) for cell in cells]
    sequences = [np.array(list(map(float, each)) if number else each) for each in parts]
    longest = max(map(len, sequences))
    limit = (config["seq_len"] or {}).get(field.name)
    dataset.field2seqlen[field.name] = longest if limit is None else min(limit, longest)
    return sequences if limit is None else [sequence[:limit] for sequence in sequences]
