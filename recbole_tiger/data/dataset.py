"""RecBole's sequential dataset with Semantic IDs, an exact time order, and vectorised prefix augmentation.

Comes in: atomic files and a ``Config``. Goes out: RecBole's train/validation/test datasets, whose items also have a
Semantic ID table, and every user's whole sequence for masking seen items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction

from recbole_tiger.config import ConfigError, check_settings
from recbole_tiger.preprocessing import prepare_semantic_ids

#: Ties are shuffled with one fixed seed, so that all models and all seeds of a table see the same order.
TIE_SEED = 0


@dataclass(frozen=True)
class UserSequences:
    """All interactions of every user in time order.

    Attributes:
        items: [n_interactions] internal item numbers, grouped by user.
        start: [n_users + 1] user u's items are ``items[start[u]:start[u + 1]]``; user 0 is padding.
    """

    items: np.ndarray
    start: np.ndarray

    def held_out_of_training(self) -> np.ndarray:
        """[n_users] how many of each user's last items RecBole's leave-one-out keeps from training.

        Two, but a sequence of 3 gives up its last item only, and a shorter one none.
        """
        return np.clip(np.diff(self.start) - 2, 0, 2)

    def seen_before(self, users: np.ndarray, held_out: int) -> np.ndarray:
        """Items of each user but the last ``held_out``: [B, longest] padded with 0."""
        begin = self.start[users]
        end = np.maximum(self.start[users + 1] - held_out, begin)
        width = int((end - begin).max()) if len(users) else 0
        index = begin[:, None] + np.arange(width)
        inside = index < end[:, None]
        return np.where(inside, self.items[np.where(inside, index, 0)], 0)


def order_interactions(dataset) -> UserSequences:
    """Put the interactions of a dataset that is not yet built into their final order, for any model.

    The sort happens here, on the full-precision timestamps: RecBole turns them into 32-bit floats (64 seconds apart
    for today's clock) before it sorts, which makes ties where there are none. Real ties keep the file's order, or are
    shuffled with a fixed seed (`tie_order`).

    Raises:
        ConfigError: without a user, item or time column, or with too few interactions for leave-one-out.
    """
    feat, config = dataset.inter_feat, dataset.config
    for field, key in ((dataset.uid_field, "USER_ID_FIELD"), (dataset.iid_field, "ITEM_ID_FIELD")):
        if field not in feat:
            raise ConfigError(f"{key}='{field}' is not a column of {dataset.dataset_name}.inter; columns: {list(feat)}")
    if dataset.time_field not in feat:
        raise ConfigError(
            f"TIME_FIELD='{dataset.time_field}' is not loaded from {dataset.dataset_name}.inter (columns: {list(feat)}); "
            "the protocol is time-ordered: name the time column and list it under load_col inter"
        )
    if config["tie_order"] == "shuffle":
        feat = feat.iloc[np.random.default_rng(TIE_SEED).permutation(len(feat))]
    dataset.inter_feat = feat.sort_values(dataset.time_field, kind="stable").reset_index(drop=True)

    users = dataset.inter_feat[dataset.uid_field].to_numpy()
    by_user = np.argsort(users, kind="stable")
    counts = np.bincount(users, minlength=dataset.user_num)
    if (counts >= 3).sum() == 0:
        raise ConfigError(
            f"dataset='{dataset.dataset_name}' has no user with 3 interactions after filtering ({len(users)} interactions "
            "in all); leave-one-out needs one each for training, validation and test: lower user_inter_num_interval or "
            "item_inter_num_interval, or bring more data"
        )
    return UserSequences(
        items=dataset.inter_feat[dataset.iid_field].to_numpy()[by_user],
        start=np.concatenate([[0], np.cumsum(counts)]),
    )


class TIGERDataset(SequentialDataset):
    """A sequential dataset that makes its items' Semantic IDs when it is loaded (the preprocessing hook).

    Attributes:
        semantic_ids (recbole_tiger.preprocessing.PreparedIDs): table, quantizer, scaler and report.
        sequences (UserSequences): every user's interactions in time order.
    """

    def __init__(self, config):
        check_settings(config)
        super().__init__(config)
        self.sequences = order_interactions(self)
        items = [str(item) for item in self.field2id_token[self.iid_field][1:]]
        # A checkpoint brings its own IDs; they hold for exactly the items that it was trained on.
        given = getattr(config, "checkpoint_semantic_ids", None)
        if given is not None and list(given.table.items[1:]) != items:
            raise ConfigError(
                f"dataset='{self.dataset_name}' has other items than the checkpoint was trained on "
                f"({len(items)} here, {given.table.n_items} there, or in another order); use the data of that run"
            )
        self.semantic_ids = given or prepare_semantic_ids(config, items)

    def data_augmentation(self):
        """Every prefix of a user's sequence with its next item, as RecBole's loops make them, in one gather."""
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        self.sort(by=[self.uid_field, self.time_field], ascending=True)
        users = self.inter_feat[self.uid_field].numpy()
        row = np.arange(len(users))
        is_first = np.r_[True, users[1:] != users[:-1]]
        first = np.maximum.accumulate(np.where(is_first, row, 0))
        target = row[~is_first]
        start = np.maximum(first[target], target - self.max_item_list_len)
        length = target - start

        index = start[:, None] + np.arange(self.max_item_list_len)
        inside = torch.from_numpy(index < target[:, None])
        index = torch.from_numpy(np.minimum(index, len(users) - 1))
        augmented = {self.item_list_length_field: torch.from_numpy(length)}
        for field in self.inter_feat:
            if field == self.uid_field:
                continue
            value = self.inter_feat[field]
            mask = inside.reshape(inside.shape + (1,) * (value.dim() - 1))
            augmented[getattr(self, f"{field}_list_field")] = torch.where(mask, value[index], value.new_zeros(()))
        examples = self.inter_feat[target]
        examples.update(Interaction(augmented))
        self.inter_feat = examples
