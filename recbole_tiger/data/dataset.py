"""RecBole's sequential dataset with Semantic IDs, an exact time order, and rows that are computed when they are read.

Input: atomic files and a ``Config``. Output: RecBole's train/validation/test datasets, whose items also have a Semantic
ID table, and every user's whole sequence with its split, for masking seen items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset

from recbole_tiger.data.prefixes import PrefixInteraction, PrefixRows
from recbole_tiger.data.split import PHASES, Split, make_split, positions
from recbole_tiger.distributed.topology import check_processes
from recbole_tiger.errors import ConfigError
from recbole_tiger.models import model_spec
from recbole_tiger.settings.validate import check_settings
from recbole_tiger.tokenization import prepare_semantic_ids

#: Ties are shuffled with one fixed seed, so that all models and all seeds of a table see the same order.
TIE_SEED = 0


@dataclass(frozen=True)
class UserSequences:
    """All interactions of every user in time order.

    Attributes:
        items: [n_interactions] internal item numbers, grouped by user.
        start: [n_users + 1] user u's items are ``items[start[u]:start[u + 1]]``; user 0 is padding.
        split: which of them train, and which are the targets of validation and test.
    """

    items: np.ndarray
    start: np.ndarray
    split: Split

    def training_items(self) -> np.ndarray:
        """[n] items of all interactions that train."""
        return self.items[self._trains()]

    def training_interactions(self) -> tuple[np.ndarray, np.ndarray]:
        """Items [n], counted from 0, and users [n] of all interactions that train, in the order of user and time."""
        trains = self._trains()
        return self.items[trains] - 1, np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))[trains]

    def _trains(self) -> np.ndarray:
        length = np.diff(self.start)
        return positions(length) < np.repeat(self.split.n_training, length)

    def seen_before(self, users: np.ndarray, phase: str) -> np.ndarray:
        """Items of each user before the target of a phase ("valid" or "test"): [B, longest] padded with 0."""
        begin = self.start[users]
        end = begin + self.split.targets[phase][users]
        width = int((end - begin).max()) if len(users) else 0
        index = begin[:, None] + np.arange(width)
        inside = index < end[:, None]
        return np.where(inside, self.items[np.where(inside, index, 0)], 0)


def order_interactions(dataset) -> UserSequences:
    """Put the interactions of a dataset that is not yet built into their final order and split them, for any model.

    The sort happens here, on the full-precision timestamps as they were read (``dataset.times``): RecBole turns them
    into 32-bit floats (64 seconds apart for today's clock) before it sorts, which makes ties where there are none. Real
    ties keep the file's order, or are shuffled with a fixed seed (`tie_order`).

    Raises:
        ConfigError: without a user, item or time column, or with interactions that the split cannot divide.
    """
    feat, config = dataset.inter_feat, dataset.config
    for field, key in ((dataset.uid_field, "USER_ID_FIELD"), (dataset.iid_field, "ITEM_ID_FIELD")):
        if field not in feat:
            raise ConfigError(f"{key}='{field}' is not a column of {dataset.dataset_name}.inter; columns: {list(feat)}")
    if dataset.time_field not in feat:
        raise ConfigError(
            f"TIME_FIELD='{dataset.time_field}' is not loaded from {dataset.dataset_name}.inter (columns: "
            f"{list(feat)}); the protocol is time-ordered: name the time column and list it under load_col inter"
        )
    order = np.arange(len(feat))
    if config["tie_order"] == "shuffle":
        order = np.random.default_rng(TIE_SEED).permutation(len(feat))
    order = order[np.argsort(dataset.times[order], kind="stable")]
    users = feat[dataset.uid_field].to_numpy()[order]
    order = order[np.argsort(users, kind="stable")]
    start = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=dataset.user_num))])
    # RecBole's own sorts, by user and by time, are stable: of rows in this order they make these sequences.
    dataset.inter_feat = feat.take(order)
    dataset.inter_feat.index = range(len(order))
    dataset.times = dataset.times[order]
    try:
        split = make_split(config["eval_args"]["split"], dataset.times, start)
    except ConfigError as error:
        raise ConfigError(f"dataset='{dataset.dataset_name}': {error}") from error
    return UserSequences(items=dataset.inter_feat[dataset.iid_field].to_numpy(), start=start, split=split)


def build_phases(build: Callable, dataset) -> list:
    """RecBole's train, validation and test datasets of a sequential dataset, each with its name in ``phase``.

    Leave-one-out is RecBole's own. For a global temporal split a row (a prefix of a user's sequence with its next item)
    goes where its next item goes.

    Args:
        build: RecBole's ``SequentialDataset.build``.
        dataset: one that is not yet built.
    """
    is_temporal = "temporal" in dataset.config["eval_args"]["split"]
    if not hasattr(dataset, "sequences") and (is_temporal or model_spec(dataset.config["model"]).ours):
        dataset.sequences = order_interactions(dataset)  # a run that RecBole's own run_recbole has started
    if not is_temporal:
        phases = build(dataset)
    else:
        split = dataset.sequences.split
        dataset._change_feat_format()  # rows of each user in time order, one for every interaction but the first
        n_rows = np.maximum(np.diff(dataset.sequences.start) - 1, 0)
        user = np.repeat(np.arange(len(n_rows)), n_rows)
        target = 1 + positions(n_rows)
        rows = [target < split.n_training[user], *(target == split.targets[phase][user] for phase in PHASES[1:])]
        dataset._drop_unused_col()
        phases = [dataset.copy(dataset.inter_feat[torch.from_numpy(np.flatnonzero(kept))]) for kept in rows]
    for name, phase in zip(PHASES, phases, strict=True):
        phase.phase = name
    return phases


class FeatureDataset(SequentialDataset):
    """RecBole's dataset for models that read item features, with the interactions and items of all other models.

    RecBole leaves out interactions with an item that has no row in the ``.item`` file, and lists items that have a row
    but no interaction: data that models without features do not have. Here the first have empty features, and the
    second are left out.
    """

    def _filter_inter_by_user_or_item(self):
        """Every interaction stays."""

    def _filter_by_field_value(self):
        """With the items that `val_interval` leaves out go their interactions."""
        items = None if self.item_feat is None else self.item_feat[self.iid_field]
        super()._filter_by_field_value()
        if items is not None:
            gone = items.drop(self.item_feat.index)
            self.inter_feat.drop(self.inter_feat.index[self.inter_feat[self.iid_field].isin(gone)], inplace=True)

    def _data_filtering(self):
        super()._data_filtering()
        if self.item_feat is not None:
            known = self.item_feat[self.iid_field].isin(self.inter_feat[self.iid_field].unique())
            if not known.any():
                raise ConfigError(
                    f"dataset='{self.dataset_name}': no item of the interactions has a row in "
                    f"{self.dataset_name}.item; '{self.iid_field}' must name the same items in both files"
                )
            self.item_feat = self.item_feat[known].reset_index(drop=True)


class PrefixDataset(SequentialDataset):
    """A sequential dataset in the exact time order, which keeps every user's sequence once.

    Its rows are those of RecBole's augmentation, every prefix of a sequence with its next item, in RecBole's order, but
    each is computed when it is read (see ``data/prefixes.py``).

    Attributes:
        sequences (UserSequences): every user's interactions in time order.
    """

    def __init__(self, config):
        check_settings(config)
        check_processes(config, distributable=False)
        super().__init__(config)
        self.sequences = order_interactions(self)

    def _filter_by_inter_num(self):
        """RecBole counts the interactions of every user and item in Python, even where the interval keeps them all."""
        intervals = (self.config["user_inter_num_interval"], self.config["item_inter_num_interval"])
        if any(interval not in (None, "[0,inf)") for interval in intervals):
            super()._filter_by_inter_num()

    def data_augmentation(self):
        """Every prefix of a user's sequence with its next item: the rows of RecBole's loops, none of them stored."""
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        start = torch.from_numpy(self.sequences.start)
        is_first = torch.zeros(len(self.inter_feat), dtype=torch.bool)
        is_first[start[:-1][start.diff() > 0]] = True
        flat = self.inter_feat.interaction
        rows = PrefixRows(
            flat=flat,
            start=start,
            target=torch.arange(len(is_first))[~is_first],
            max_length=self.max_item_list_len,
            user_field=self.uid_field,
            length_field=self.item_list_length_field,
            list_fields={field: getattr(self, f"{field}_list_field") for field in flat if field != self.uid_field},
        )
        self.inter_feat = PrefixInteraction(rows)

    def build(self):
        """The three phases, see :func:`build_phases`."""
        return build_phases(PrefixDataset._leave_one_out, self)

    def _leave_one_out(self):
        """RecBole's leave-one-out of rows in time order, without its loops over users and rows.

        As there, the last row of a user is for the test if it is not the only one, the one before for validation if it
        is not the first, and users stand in the order of their first rows.
        """
        self._change_feat_format()
        self._drop_unused_col()
        start, length = self.sequences.start, np.diff(self.sequences.start)
        users = np.flatnonzero(length >= 2)
        times = self.inter_feat.rows.flat[self.time_field].numpy()[start[users] + 1]  # of their first rows
        users = users[np.argsort(times.reshape(len(users), -1)[:, 0], kind="stable")]
        # Every user's rows stand together, one less than there are interactions.
        end = np.cumsum(np.maximum(length - 1, 0))[users]
        first, held_out = end - (length[users] - 1), (length - self.sequences.split.n_training)[users]
        n_kept = end - held_out - first
        train = np.repeat(first - (np.cumsum(n_kept) - n_kept), n_kept) + np.arange(n_kept.sum())
        parts = (train, end[held_out == 2] - 2, end[held_out >= 1] - 1)
        return [self.copy(self.inter_feat[torch.from_numpy(part)]) for part in parts]


class TIGERDataset(PrefixDataset):
    """A dataset that makes its items' Semantic IDs when it is loaded (the preprocessing hook).

    Attributes:
        semantic_ids (recbole_tiger.tokenization.TokenizedCatalogue): table, quantizer, scaler and report.
    """

    def __init__(self, config):
        super().__init__(config)
        items = [str(item) for item in self.field2id_token[self.iid_field][1:]]
        # A checkpoint brings its own IDs; they hold for exactly the items that it was trained on.
        given = getattr(config, "checkpoint_semantic_ids", None)
        if given is not None and list(given.table.items[1:]) != items:
            raise ConfigError(
                f"dataset='{self.dataset_name}' has other items than the checkpoint was trained on "
                f"({len(items)} here, {given.table.n_items} there, or in another order); use the data of that run"
            )
        if given is None:
            given = prepare_semantic_ids(config, items, self.sequences.training_interactions())
        self.semantic_ids = given
