"""RecBole's filters of rows, with settings that they understand.

Input: a dataset whose files have been read. Output: the same dataset without the rows that its settings leave out, in
the order of the file; or `ConfigError`, where RecBole fails, or leaves out other rows than those.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger

from recbole.data.dataset import SequentialDataset
from recbole.utils import FeatureType

from recbole_tiger.errors import ConfigError
from recbole_tiger.settings.field import is_interval

#: Keys that name columns.
_OF_COLUMNS = ("val_interval", "threshold", "normalize_field", "alias_of_user_id", "alias_of_item_id")


def filtered(original: Callable, dataset) -> None:
    """RecBole's ``Dataset._data_filtering``.

    Raises:
        ConfigError: for a column that is not loaded, and values of `val_interval` that its column cannot have.
    """
    config = dataset.config
    for key in _OF_COLUMNS:
        for field in config[key] or ():
            if field not in dataset.field2type:
                raise ConfigError(
                    f"{key}: the column '{field}' is not loaded, but {', '.join(dataset.field2type)} are; list it in "
                    "load_col under the file that has it, or correct the name"
                )
    for field, wanted in (config["val_interval"] or {}).items():
        kind, says = dataset.field2type[field], f"val_interval {field}={wanted!r}"
        if kind is FeatureType.FLOAT and not (isinstance(wanted, str) and is_interval(wanted)):
            raise ConfigError(f"{says}: of a float column give an interval such as [3,inf)")
        if kind is FeatureType.TOKEN and not (isinstance(wanted, list) and all(isinstance(x, str) for x in wanted)):
            raise ConfigError(f"{says}: of a token column give a list of texts such as ['a', 'b']")
        if kind not in (FeatureType.FLOAT, FeatureType.TOKEN):
            raise ConfigError(f"{says}: it is a {kind.value} column; rows are left out by float and token columns only")
    if config["threshold"] and isinstance(dataset, SequentialDataset):
        getLogger().warning(
            f"threshold={config['threshold']} has no effect: sequential models read no labels; use val_interval to "
            "leave out rows"
        )
    original(dataset)


def without_repeats(_original: Callable, dataset) -> None:
    """A user's first or last interaction with each item (`rm_dup_inter`); RecBole's ``Dataset._remove_duplication``.

    RecBole sorts all rows by time first, which puts those of one moment in another order than that of the file.
    """
    keep, feat = dataset.config["rm_dup_inter"], dataset.inter_feat
    if keep is not None:
        ordered = feat.sort_values(dataset.time_field, kind="stable") if dataset.time_field in feat else feat
        repeated = ordered.duplicated([dataset.uid_field, dataset.iid_field], keep=keep)
        feat.drop(repeated.index[repeated], inplace=True)
